//! Text in, text out: the library that programs link to.
//!
//! An [`Engine`] is an opened model, a [`Session`] one timeline of tokens on it, a [`Plan`] what opening it will take. The text
//! side: [`Tokenizer`] and [`ChatTemplate`] turn messages into tokens, [`Sampler`] chooses tokens, and [`OutputStream`] turns them
//! into thoughts, answer and tool calls.

mod chat;
pub mod cost;
mod engine;
mod error;
mod gguf_keys;
mod identity;
mod json_file;
pub mod machine;
mod opening;
mod options;
mod plan;
mod prompt;
pub mod sampling;
pub mod serving;
mod session;
mod stops;
mod stream;
pub mod template;
mod text_side;
pub mod thinking;
pub mod tokenizer;
pub mod tool_calls;

pub use chat::{Content, Message, ToolCall};
pub use engine::Engine;
pub use error::EngineError;
pub use opening::Opening;
pub use options::{BackendKind, EngineOptions};
pub use plan::{Choice, Plan, budget_bytes, human_bytes};
pub use prompt::Prompt;
pub use sampling::{Constraint, ConstraintError, GenerationDefaults, Sampler, SamplingOptions};
pub use serving::{Scheduler, SchedulerOptions};
pub use session::{Session, SessionStats};
pub use stops::StopMatcher;
pub use stream::{EndReason, OutputOptions, OutputStream, Piece};
pub use template::{ChatTemplate, Rendered, TemplateOptions};
pub use text_side::TextSide;
pub use tokenizer::{TextPart, Tokenizer};
pub use tool_calls::{ParsedCall, ToolSchemas};

// What the programs on top of the engine need of the crates below it, so that they depend on this one alone.
pub use flashmill_checkpoint::packed::Recipe;
pub use flashmill_checkpoint::{
    Checkpoint, CheckpointError, Family, FfnKind, Inspection, LayerKind, MixerKind, ModelSpec, Role,
};
pub use flashmill_kernels::{KvKind, Level, Picks};
pub use flashmill_model::{
    Model, ModelError, Observer, Overlap, Part, Prefetch, Route, Sequence, State, Swaps, Timing, Wanted,
};
pub use flashmill_store::{PolicyKind, ReaderKind, Stats as StoreStats};
