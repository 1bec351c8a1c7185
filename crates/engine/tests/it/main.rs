//! The engine from outside.

mod gguf;
mod session;
mod stream;
mod template;
mod text;
mod tokenizer;
