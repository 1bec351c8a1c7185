//! Measuring: speed beside what the machine gives, synthetic models of the real shapes, since weights of that size cannot be shipped
//! with a test, caches replayed on recorded routing, and the inputs of each matrix over some text.

pub mod bench;
pub mod calibrate;
pub mod eval;
mod gguf;
pub mod profile;
mod random;
pub mod replay;
pub mod routing;
pub mod statistics;
mod svg;
mod synthetic;
pub mod trace;
pub mod tune;

pub use synthetic::{LabError, Shape, SyntheticOptions, free_bytes, write_synthetic, write_synthetic_gguf};
