//! The engine from outside.

mod gguf;
mod gguf_tokenizer;
mod prompt;
mod serving;
mod session;
mod stream;
mod support;
mod template;
mod text;
mod tokenizer;
