//! Flags: as they are typed ([`LowArgs`]), and as they are meant ([`Mode`]).

mod hi;
mod low;
mod size;

pub(crate) use hi::{ChatOptions, InspectOptions, LogitsOptions, Mode, PlanOptions, RunOptions, TalkOptions};
pub(crate) use low::LowArgs;
