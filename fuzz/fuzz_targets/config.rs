//! `config.json`.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(error) = fuzzing::config(input) {
        assert!(error.to_string().contains("config.json"), "{error}");
    }
});
