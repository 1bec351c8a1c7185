//! The [`Backend`] trait, its scalar truth, and the CPU at every SIMD level. Numbers in, numbers out: no files, no text.

mod backend;
mod cpu;
mod reference;
#[cfg(feature = "suite")]
#[doc(hidden)]
pub mod suite;
mod team;

pub use backend::{
    Attend, Backend, Buffer, DeltaShape, Glu, KvKind, KvShape, Matrix, NormRotate, PAGE_TOKENS, Page, Picks,
    Segment, Term,
};
pub use cpu::{Cpu, CpuError, CpuOptions, Level, LevelError};
pub use reference::Reference;
