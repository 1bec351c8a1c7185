//! One module a mode.

mod bench;
mod chat;
mod eval;
mod inspect;
mod logits;
mod loss;
mod pack;
mod plan;
mod pull;
mod pull_packed;
mod replay;
mod run;
mod serve;
mod trace;
mod tune;
mod verify;

pub(crate) use bench::bench;
pub(crate) use chat::chat;
pub(crate) use eval::eval;
pub(crate) use inspect::inspect;
pub(crate) use logits::logits;
pub(crate) use loss::loss;
pub(crate) use pack::pack;
pub(crate) use plan::plan;
pub(crate) use pull::pull;
pub(crate) use replay::replay;
pub(crate) use run::run;
pub(crate) use serve::serve;
pub(crate) use trace::trace;
pub(crate) use tune::tune;
pub(crate) use verify::verify;
