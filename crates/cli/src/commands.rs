//! One module a mode.

mod chat;
mod inspect;
mod logits;
mod plan;
mod run;

pub(crate) use chat::chat;
pub(crate) use inspect::inspect;
pub(crate) use logits::logits;
pub(crate) use plan::plan;
pub(crate) use run::run;
