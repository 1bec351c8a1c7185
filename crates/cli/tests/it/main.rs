//! The program as a whole: exit codes, what goes to standard output and what to standard error, and faults.

// A test that cannot run here says so.
#![allow(clippy::print_stderr)]

mod bench;
mod chat;
mod demo;
mod eval;
mod faults;
mod form;
mod gguf;
mod inspect;
mod logits;
mod pack;
mod pull;
mod pull_packed;
mod run;
mod serve;
mod support;
mod trace;
mod tune;

// A hub on this machine.
#[allow(dead_code, reason = "the tests of pull use all of it")]
#[path = "../../../pull/tests/it/server.rs"]
mod server;
