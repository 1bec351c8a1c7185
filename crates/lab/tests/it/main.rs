//! Calibration against a naive computation, evaluation against transformers and planted errors, tuning on simulated machines.

#![allow(clippy::print_stdout, reason = "what calibration gains is worth a look")]

mod calibrate;
mod eval;
mod tune;

// Reading what a description points at.
#[allow(dead_code, reason = "the tests of checkpoint use all of it")]
#[path = "../../../checkpoint/tests/it/support.rs"]
mod support;
