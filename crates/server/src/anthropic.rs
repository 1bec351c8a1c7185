//! Anthropic's API: pure translation, without HTTP and without a model.

pub mod messages;
mod reply;
