//! Opens real and broken checkpoints.

mod fixtures;
mod support;
