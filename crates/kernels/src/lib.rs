//! The [`Backend`] trait, its scalar truth, and the CPU at every SIMD level. Numbers in, numbers out: no files, no text.

mod backend;
mod reference;
#[cfg(feature = "suite")]
#[doc(hidden)]
pub mod suite;

pub use backend::{
    Attend, Backend, Buffer, DeltaShape, Glu, KvKind, KvShape, Matrix, NormRotate, PAGE_TOKENS, Page, Picks,
    Segment, Term,
};
pub use reference::Reference;
