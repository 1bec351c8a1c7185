//! Backends against the naive truth, against each other, and against vectors made with other programs.

mod allocation;
mod cpu;
#[cfg(unix)]
mod guard;
mod mistakes;
mod reference;
mod vectors;
