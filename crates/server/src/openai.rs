//! OpenAI's APIs: pure translation, without HTTP and without a model.

pub mod chat;
pub(crate) mod common;
pub mod completions;
pub mod responses;

pub use common::Common;
