//! A whole checkpoint: a config and the JSON of one file's header, with a zero byte between them. The file's length is the one
//! that the header's own offsets ask for, so that inputs get past the check for truncation.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(at) = input.iter().position(|&byte| byte == 0) else { return };
    let (config, header) = (&input[..at], &input[at + 1..]);
    let start = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let Ok(checkpoint) = fuzzing::describe(config, &start, start.len() as u64 + last_offset(header)) else {
        return;
    };
    checkpoint.inspect();
    for layer in 0..checkpoint.spec().layers.len() {
        for extent in checkpoint.bundle_extents(layer) {
            assert!(extent.end() <= checkpoint.files()[extent.file.0 as usize].len, "{extent:?}");
        }
    }
});

/// The largest number that stands before a `]`.
fn last_offset(header: &[u8]) -> u64 {
    let digits = |end: usize| {
        let start = header[..end].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |at| at + 1);
        std::str::from_utf8(&header[start..end]).ok()?.parse::<u64>().ok()
    };
    let ends = header.iter().enumerate().filter(|(_, byte)| **byte == b']').map(|(at, _)| at);
    ends.filter_map(digits).filter(|&n| n < 1 << 40).max().unwrap_or(0)
}
