//! `model.safetensors.index.json`.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = fuzzing::index(input);
});
