//! The forward pass against Hugging Face transformers (golden) and against itself (to the bit).

#![allow(clippy::print_stdout, reason = "the distances to the goldens are worth a look")]

mod fixture;
mod golden;
mod observe;
mod rearranged;
mod same_bits;
