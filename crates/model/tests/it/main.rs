//! The forward pass against Hugging Face transformers (golden) and against itself (to the bit).

#![allow(clippy::print_stdout, reason = "the distances to the goldens are worth a look")]

mod failing_disk;
mod fixture;
mod golden;
mod observe;
mod read_once;
mod rearranged;
mod same_bits;
mod same_text;

// How a GGUF file is written from the weights of another form.
#[allow(dead_code, reason = "the tests of checkpoint use all of it")]
#[path = "../../../checkpoint/tests/it/gguf_support.rs"]
mod gguf_support;
#[allow(dead_code, reason = "the tests of checkpoint use all of it")]
#[path = "../../../checkpoint/tests/it/support.rs"]
mod support;
