//! A whole checkpoint: a config and the JSON of one file's header, with a zero byte between them. The file's length is the one
//! that the header's own offsets ask for, so that inputs get past the check for truncation.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(at) = input.iter().position(|&byte| byte == 0) else { return };
    let (config, header) = (&input[..at], &input[at + 1..]);
    let start = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let Ok(checkpoint) = fuzzing::describe(config, &start, start.len() as u64 + fuzzing::last_offset(header)) else {
        return;
    };
    checkpoint.inspect();
    for layer in 0..checkpoint.spec().layers.len() {
        for extent in checkpoint.bundle_extents(layer) {
            assert!(extent.end() <= checkpoint.files()[extent.file.0 as usize].len, "{extent:?}");
        }
    }
});
