//! Flags: as they are typed ([`LowArgs`]), and as they are meant ([`Mode`]).

mod engine;
mod eval;
mod hi;
mod low;
mod pack;
mod serve;
mod size;
mod tune;

pub(crate) use eval::{EvalFlags, Out, SuiteName, is_logits};
pub(crate) use hi::{
    BenchFlags, ChatOptions, Format, InspectOptions, LogitsOptions, Mode, PlanOptions, PullFlags,
    ReplayOptions, RunOptions, Slots, Subject, TalkOptions, TraceOptions,
};
pub(crate) use low::LowArgs;
pub(crate) use pack::{Calibrate, PackCommand};
pub(crate) use serve::{PromptCache, ServeOptions};
pub(crate) use tune::{LossFlags, MaxLoss, TuneFlags};
