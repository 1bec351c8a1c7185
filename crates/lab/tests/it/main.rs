//! Calibration against a naive computation.

#![allow(clippy::print_stdout, reason = "what calibration gains is worth a look")]

mod calibrate;

// Reading what a description points at.
#[allow(dead_code, reason = "the tests of checkpoint use all of it")]
#[path = "../../../checkpoint/tests/it/support.rs"]
mod support;
