//! Measuring. So far: synthetic models of the real shapes, since weights of that size cannot be shipped with a test.

mod synthetic;

pub use synthetic::{LabError, Shape, SyntheticOptions, write_synthetic};
