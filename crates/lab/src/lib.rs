//! Measuring: synthetic models of the real shapes, since weights of that size cannot be shipped with a test, and caches replayed on
//! recorded routing.

pub mod replay;
mod synthetic;
pub mod trace;

pub use synthetic::{LabError, Shape, SyntheticOptions, write_synthetic};
