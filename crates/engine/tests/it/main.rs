//! The engine from outside.

mod gguf;
mod gguf_tokenizer;
mod session;
mod stream;
mod template;
mod text;
mod tokenizer;
