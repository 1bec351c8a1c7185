//! The header of a safetensors file. The first eight bytes of the input are the length that the file claims to have, 0 for
//! the input's own; the rest is the file's start. What is accepted lies inside the file (the callee asserts it).
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((len, file)) = input.split_first_chunk::<8>() else { return };
    let file_len = match u64::from_le_bytes(*len) {
        0 => file.len() as u64,
        len => len,
    };
    let _ = fuzzing::safetensors_header(file, file_len);
});
