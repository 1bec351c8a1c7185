//! Many extents at once, as a trunk is read.

use std::fs::File;

use flashmill_layout::Extent;
use flashmill_store::{Files, StoreError, Wanted};
use proptest::prelude::*;

use crate::support::{World, bytes_of, extent};

/// Reads the extents, and says what `progress` was told last.
fn read(files: &Files, extents: &[Extent], direct: bool) -> Result<(Vec<Vec<u8>>, u64), StoreError> {
    let mut memory: Vec<Vec<u8>> = extents.iter().map(|extent| vec![0xee; extent.len as usize]).collect();
    let wanted = extents.iter().zip(&mut memory).map(|(&extent, into)| Wanted { extent, into }).collect();
    let mut told = 0;
    files.read_many(wanted, direct, &mut |done| {
        assert!(done > told, "progress goes forward");
        told = done;
    })?;
    Ok((memory, told))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_is_the_files(
        places in prop::collection::vec((0u32..2, 0u64..5_000_000, 0u64..3_000_000), 0..12),
        direct in any::<bool>(),
    ) {
        let lens = [5_000_000, 1_234_567];
        let world = World::new(&lens);
        let extents: Vec<Extent> = places
            .into_iter()
            .map(|(file, offset, len)| {
                let end = lens[file as usize];
                extent(file, offset.min(end), len.min(end - offset.min(end)))
            })
            .collect();
        let files = Files::open(&world.paths).unwrap();
        let (memory, told) = read(&files, &extents, direct).unwrap();
        for (&extent, bytes) in extents.iter().zip(&memory) {
            prop_assert!(*bytes == bytes_of(extent), "{extent:?}");
        }
        prop_assert_eq!(told, extents.iter().map(|extent| extent.len).sum::<u64>());
    }
}

#[test]
fn the_first_thing_that_is_wrong_is_said() {
    let world = World::new(&[9_000_000]);
    let files = Files::open(&world.paths).unwrap();
    let all = [extent(0, 10, 4_000_000), extent(0, 4_000_010, 4_999_990)];
    for direct in [true, false] {
        let error = read(&files, &[all[0], extent(0, 8_999_999, 2)], direct).unwrap_err();
        assert!(matches!(error, StoreError::OutsideFile { offset: 8_999_999, len: 2, .. }), "{error}");
        assert!(read(&files, &all, direct).is_ok());
    }
    File::options().write(true).open(&world.paths[0]).unwrap().set_len(6_000_000).unwrap();
    for direct in [true, false] {
        let error = read(&files, &all, direct).unwrap_err();
        assert!(matches!(error, StoreError::Short { .. }), "{error}");
        assert!(error.to_string().contains("shrunk"), "{error}");
        // What is still there can be read.
        assert_eq!(read(&files, &all[..1], direct).unwrap().0[0], bytes_of(all[0]));
    }
}
