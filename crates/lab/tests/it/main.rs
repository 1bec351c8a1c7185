//! Calibration against a naive computation.

mod calibrate;

// Reading what a description points at.
#[allow(dead_code, reason = "the tests of checkpoint use all of it")]
#[path = "../../../checkpoint/tests/it/support.rs"]
mod support;
