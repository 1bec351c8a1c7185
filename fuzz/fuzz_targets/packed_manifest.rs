//! A packed model: the manifest, and the JSON of each file's header, with zero bytes between them. The files' lengths are those that
//! the headers' own offsets ask for.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut pieces = input.split(|&byte| byte == 0);
    let manifest = pieces.next().unwrap_or_default();
    let headers: Vec<&[u8]> = pieces.collect();
    let Ok(checkpoint) = fuzzing::packed(manifest, &headers) else { return };
    checkpoint.inspect();
    for layer in 0..checkpoint.spec().layers.len() {
        for extent in checkpoint.bundle_extents(layer) {
            let end = extent.offset.checked_add(extent.len).expect("an accepted extent's end fits 64 bits");
            assert!(end <= checkpoint.files()[extent.file.0 as usize].len, "{extent:?}");
        }
    }
});
