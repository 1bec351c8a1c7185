//! The header of a GGUF file, and the model it describes. The file is claimed to be a terabyte longer than the input, so that
//! inputs get past the check for truncation.
#![no_main]

use std::path::{Path, PathBuf};

use flashmill_checkpoint::Checkpoint;
use flashmill_checkpoint::gguf::{Gguf, GgufFile, read_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let exact = read_header(Path::new("fuzz.gguf"), input, input.len() as u64);
    if let Err(error) = exact {
        assert!(error.to_string().starts_with("fuzz.gguf: "), "{error}");
    }
    let len = input.len() as u64 + (1 << 40);
    let Ok(header) = read_header(Path::new("fuzz.gguf"), input, len) else { return };
    let mut ends: Vec<(u64, u64)> = header.tensors.iter().map(|t| (t.offset, t.offset + t.len)).collect();
    ends.sort_unstable();
    for (i, &(begin, end)) in ends.iter().enumerate() {
        assert!(begin >= header.data_start && end <= len, "{begin}..{end} lies outside");
        assert!(i == 0 || ends[i - 1].1 <= begin, "{begin}..{end} overlaps another");
    }
    if let Ok(gguf) = Gguf::new(vec![GgufFile { path: PathBuf::from("fuzz.gguf"), len, header }]) {
        let Ok(checkpoint) = Checkpoint::of_gguf(&gguf) else { return };
        checkpoint.inspect();
        for layer in 0..checkpoint.spec().layers.len() {
            for extent in checkpoint.bundle_extents(layer) {
                assert!(extent.end() <= len, "{extent:?}");
            }
        }
    }
});
