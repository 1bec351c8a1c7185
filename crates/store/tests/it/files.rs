//! Opening, other file systems, and files that change under the store.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use flashmill_store::{Files, Order, ReaderKind, Store, StoreError};

use crate::support::{World, bytes_of, extent, options, sorted};

#[test]
fn every_reader_reads_a_directory_on_disk() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    check_all_readers(|| World::within(directory, &[300_001]), "the target directory");
}

#[test]
#[cfg(target_os = "linux")]
fn every_reader_reads_a_directory_in_memory() {
    check_all_readers(|| World::within(Path::new("/dev/shm"), &[300_001]), "/dev/shm");
}

fn check_all_readers(world: impl Fn() -> World, place: &str) {
    for reader in ReaderKind::ALL {
        let mut world = world();
        // The last record ends with the file, which ends in the middle of a block.
        let bundle =
            |at: u64| vec![extent(0, 1 + at * 100_000, 60_000), extent(0, 60_001 + at * 100_000, 40_000)];
        world.layers.push((0..3).map(bundle).collect());
        let mut store = world.open(&options(reader, world.floor_bytes() * 2));
        let name = store.reader_name().to_owned();
        for order in [Order::Arrival, Order::Ascending] {
            let came = world.fetch(&mut store, 0, &[2, 0, 1], order);
            assert_eq!(sorted(came.unwrap()), [0, 1, 2], "{place}, {reader} as {name}");
        }
        if reader == ReaderKind::PageCache {
            assert!(name.contains("page cache"), "{name}");
            let stats = store.stats();
            assert_eq!(stats.bytes_from_device, stats.bytes_read, "no covers through the page cache");
        }
    }
}

#[test]
fn a_long_record_is_read_in_pieces() {
    let bytes = 9_000_000;
    for reader in ReaderKind::ALL {
        let world = World::simple(2, bytes);
        let mut store = world.open(&options(reader, world.floor_bytes()));
        assert_eq!(world.fetch(&mut store, 0, &[1, 0], Order::Ascending).unwrap(), [0, 1]);
        assert!(store.stats().reads >= 2 * bytes.div_ceil(2 << 20), "{}", store.stats().reads);
        assert_eq!(store.stats().bytes_read, 2 * bytes);
    }
}

#[test]
fn read_exact_brings_any_extent_and_names_what_is_outside() {
    let world = World::new(&[10_000_001, 10]);
    let files = Files::open(&world.paths).unwrap();
    assert_eq!((files.len(), files.file_len(flashmill_layout::FileId(1)).unwrap()), (2, 10));
    for extent in [extent(0, 0, 10_000_001), extent(0, 4097, 3), extent(1, 3, 7), extent(1, 10, 0)] {
        let mut bytes = vec![0; extent.len as usize];
        files.read_exact(extent, &mut bytes).unwrap();
        assert!(bytes == bytes_of(extent), "{extent:?}");
    }
    let error = files.read_exact(extent(1, 4, 7), &mut [0; 7]).unwrap_err().to_string();
    assert!(error.contains("model-1.bin") && error.contains("4+7") && error.contains("10 bytes"), "{error}");
    let error = files.read_exact(extent(2, 0, 1), &mut [0; 1]).unwrap_err().to_string();
    assert_eq!(error, "an extent names file 2, but only 2 files are open");
}

#[test]
fn what_cannot_be_opened_is_named() {
    let world = World::new(&[10]);
    let missing = world.dir.path().join("model-9.bin");
    let error = Files::open(&[world.paths[0].clone(), missing]).unwrap_err().to_string();
    assert!(error.contains("model-9.bin") && error.contains("cannot be opened"), "{error}");
    let error = Files::open(&[world.dir.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn an_extent_outside_its_file_is_refused_at_opening() {
    let mut world = World::new(&[5000]);
    for (offset, len) in [(4000, 1001), (u64::MAX - 10, 11), (5001, 0)] {
        world.layers = vec![vec![vec![extent(0, offset, len)]]];
        let files = Arc::new(Files::open(&world.paths).unwrap());
        let error = Store::open(files, world.records(), &options(ReaderKind::Auto, 1 << 20)).err().unwrap();
        assert!(matches!(error, StoreError::OutsideFile { file_len: 5000, .. }), "{error}");
    }
}

#[test]
fn a_file_that_shrinks_is_named_and_other_records_are_still_served() {
    for reader in ReaderKind::ALL {
        for order in [Order::Arrival, Order::Ascending] {
            let world = World::simple(8, 50_000);
            let mut store = world.open(&options(reader, 3 * world.floor_bytes()));
            assert_eq!(world.fetch(&mut store, 0, &[7], order).unwrap(), [7]);
            // In the middle of record 5, in the middle of a block.
            OpenOptions::new()
                .write(true)
                .open(&world.paths[0])
                .unwrap()
                .set_len(100 + 5 * 50_000 + 20_000)
                .unwrap();

            let picks = [2, 5, 6, 7, 1];
            let mut fetch = store.fetch(0, &picks, order).unwrap();
            let (mut came, mut errors) = (Vec::new(), Vec::new());
            loop {
                match fetch.next() {
                    Ok(Some((at, lease))) => {
                        world.verify(0, picks[at], &lease);
                        came.push(picks[at]);
                    }
                    Ok(None) => break,
                    Err(error) => errors.push(error),
                }
            }
            drop(fetch);
            // Record 7 was read while it was there.
            assert_eq!(sorted(came), [1, 2, 7], "{reader}");
            assert_eq!(errors.len(), 2, "{errors:?}");
            let half = |error: &StoreError| {
                matches!(error, StoreError::Short { offset: 250_100, wanted: 50_000, got: 20_000, .. })
            };
            assert!(errors.iter().any(half), "{reader}: {errors:?}");
            for error in &errors {
                assert!(error.to_string().contains("model-0.bin"), "{error}");
            }
            assert!(!store.resident(0, 5) && !store.resident(0, 6));
            assert_eq!(store.stats().failures, 2);
            let mut rest = world.fetch(&mut store, 0, &[4, 3, 0], order).unwrap();
            rest.sort_unstable();
            assert_eq!(rest, [0, 3, 4]);
        }
    }
}
