//! Flags: as they are typed ([`LowArgs`]), and as they are meant ([`Mode`]).

mod hi;
mod low;
mod size;

pub(crate) use hi::{
    ChatOptions, InspectOptions, LogitsOptions, Mode, PlanOptions, ReplayOptions, RunOptions, Slots,
    TalkOptions, TraceOptions,
};
pub(crate) use low::LowArgs;
