//! The engine from outside.

mod gguf;
mod template;
mod text;
mod tokenizer;
