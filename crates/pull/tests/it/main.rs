//! Pulls from a hub that misbehaves.

// The seeds of random tests are printed.
#![allow(clippy::print_stdout)]

mod faults;
mod kill;
mod layout;
mod refusals;
mod remote;
mod server;
