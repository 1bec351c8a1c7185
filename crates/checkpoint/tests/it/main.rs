//! Opens real and broken checkpoints.

mod configs;
mod damage;
mod fixtures;
mod forms;
mod mutations;
mod support;
