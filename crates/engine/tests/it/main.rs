//! The engine from outside.

mod gguf;
mod stream;
mod template;
mod text;
mod tokenizer;
