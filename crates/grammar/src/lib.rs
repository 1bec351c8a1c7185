//! Forms that answers must have: JSON of a schema, any JSON object, a regular expression, a Lark grammar, tool calls.
//!
//! Between what a user asks for and the engine's [`Constraint`](flashmill_engine::Constraint): [`Grammars`] is made once a model,
//! compiles a [`Form`], and a form starts as many constraints as there are answers. llguidance computes the masks.
//!
//! ```no_run
//! # use flashmill_engine::Engine;
//! # use flashmill_grammar::{GrammarError, Grammars, ToolChoice};
//! # fn example(engine: &Engine, tools: &serde_json::Value, in_thought: bool) -> Result<(), GrammarError> {
//! let grammars = Grammars::new(engine.tokenizer(), &engine.defaults().eos_ids, engine.template())?;
//! let form = grammars.tool_calls(tools, &ToolChoice::Required, true)?;
//! let constraint = form.start(in_thought);
//! # Ok(())
//! # }
//! ```
//!
//! A form holds for the answer: what the model thinks, between `<think>` and `</think>`, is free. End tokens are allowed
//! where the form is complete, and only there.

mod compile;
mod error;
mod follow;
mod grammars;
mod limits;
mod marker;
mod tools;
mod vocabulary;

pub use error::GrammarError;
pub use grammars::{Form, Grammars, ToolChoice};
pub use tools::CallForm;
