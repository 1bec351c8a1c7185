//! The program as a whole: exit codes, what goes to standard output and what to standard error, and faults.

// A test that cannot run here says so.
#![allow(clippy::print_stderr)]

mod bench;
mod chat;
mod demo;
mod faults;
mod gguf;
mod inspect;
mod logits;
mod pack;
mod pull;
mod run;
mod support;
mod trace;
