//! A model over HTTP, in the words of OpenAI's and Anthropic's APIs.
//!
//! [`openai`] and [`anthropic`] translate: a body becomes a [`job::Job`], what happens then ([`answer::AnswerEvent`]) becomes the
//! API's own JSON. They know neither HTTP nor a model. What stands around them checks who asks, bounds what is asked, and hands jobs
//! to the engine's scheduler.

pub mod answer;
pub mod anthropic;
mod error;
mod feed;
mod forms;
mod http;
mod ids;
pub mod job;
mod metrics;
pub mod openai;
mod openapi;
mod options;
mod page;
mod read;
mod work;

pub use error::{ApiError, ErrorKind, ServerError, Shape};
pub use http::{Server, Stopper};
pub use options::{Limits, ServerOptions};
