//! Opens real and broken checkpoints.

mod configs;
mod damage;
mod fixtures;
mod forms;
mod fp8;
mod gguf_header;
mod gguf_model;
mod gguf_support;
mod mutations;
mod packed;
mod support;
mod transposed;
