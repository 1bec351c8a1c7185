//! Backends against the naive truth, against each other, and against vectors made with other programs.

mod cpu;
mod mistakes;
mod reference;
mod vectors;
