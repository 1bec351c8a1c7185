//! Text in, text out: the library that programs link to.
//!
//! The text side: [`Tokenizer`] and [`ChatTemplate`] turn messages into tokens, [`Sampler`] chooses tokens, and [`OutputStream`]
//! turns them into thoughts, answer and tool calls.

mod chat;
mod error;
mod json_file;
pub mod machine;
pub mod sampling;
mod stops;
mod stream;
pub mod template;
pub mod thinking;
pub mod tokenizer;
pub mod tool_calls;

pub use chat::{Content, Message, ToolCall};
pub use error::EngineError;
pub use sampling::{GenerationDefaults, Sampler, SamplingOptions};
pub use stops::StopMatcher;
pub use stream::{EndReason, OutputOptions, OutputStream, Piece};
pub use template::{ChatTemplate, Rendered, TemplateOptions};
pub use tokenizer::{TextPart, Tokenizer};
