//! The forward pass against Hugging Face transformers (golden) and against itself (to the bit).

mod fixture;
mod golden;
mod same_bits;
