//! Files whose every byte is known from its place, and stores over them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flashmill_layout::{Extent, FileId};
use flashmill_store::{Faults, Files, Lease, Order, ReaderKind, Records, Store, StoreError, StoreOptions};
use tempfile::TempDir;

/// Files of a checkpoint in a directory of their own, and which extents make a record.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) paths: Vec<PathBuf>,
    /// `[layer][bundle][part]`
    pub(crate) layers: Vec<Vec<Vec<Extent>>>,
}

/// The byte of a file at an offset.
pub(crate) fn byte_at(file: u32, offset: u64) -> u8 {
    let mut x = (offset / 8).wrapping_add(u64::from(file) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> (8 * (offset % 8))) as u8
}

/// The bytes of an extent.
pub(crate) fn bytes_of(extent: Extent) -> Vec<u8> {
    (extent.offset..extent.end()).map(|offset| byte_at(extent.file.0, offset)).collect()
}

pub(crate) fn extent(file: u32, offset: u64, len: u64) -> Extent {
    Extent { file: FileId(file), offset, len }
}

impl World {
    /// Files of the given lengths in the directory for temporary files, without records.
    pub(crate) fn new(lens: &[u64]) -> World {
        World::within(&std::env::temp_dir(), lens)
    }

    /// The same below a directory.
    pub(crate) fn within(parent: &Path, lens: &[u64]) -> World {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let mut paths = Vec::new();
        for (file, &len) in lens.iter().enumerate() {
            let path = dir.path().join(format!("model-{file}.bin"));
            File::create(&path).unwrap().write_all(&bytes_of(extent(file as u32, 0, len))).unwrap();
            paths.push(path);
        }
        World { dir, paths, layers: Vec::new() }
    }

    /// `n_bundles` records of two parts each, `bytes` bytes in all, one after the other in one file; parts of odd lengths.
    pub(crate) fn simple(n_bundles: u64, bytes: u64) -> World {
        let mut world = World::new(&[100 + n_bundles * bytes]);
        let split = (bytes / 3) | 1;
        let bundle = |at: u64| {
            let start = 100 + at * bytes;
            vec![extent(0, start, split), extent(0, start + split, bytes - split)]
        };
        world.layers.push((0..n_bundles).map(bundle).collect());
        world
    }

    /// `n_bundles` records of four parts of `bytes` bytes that lie far apart, as slices of stacked tensors do: four reads each.
    pub(crate) fn scattered(n_bundles: u64, bytes: u64) -> World {
        let stack = n_bundles * bytes + 20_000;
        let mut world = World::new(&[4 * stack]);
        let bundle = |at: u64| (0..4).map(|part| extent(0, 77 + part * stack + at * bytes, bytes)).collect();
        world.layers.push((0..n_bundles).map(bundle).collect());
        world
    }

    pub(crate) fn records(&self) -> Records {
        let mut records = Records::new();
        for bundles in &self.layers {
            let n_parts = bundles.first().map_or(0, Vec::len);
            records.push_layer(n_parts, bundles.concat());
        }
        records
    }

    pub(crate) fn floor_bytes(&self) -> u64 {
        Store::floor_bytes(&self.records())
    }

    pub(crate) fn open(&self, options: &StoreOptions) -> Store {
        self.open_faulty(options, None)
    }

    pub(crate) fn open_faulty(&self, options: &StoreOptions, faults: Option<Faults>) -> Store {
        let files = Arc::new(Files::open(&self.paths).unwrap());
        Store::open_faulty(files, self.records(), options, faults).unwrap()
    }

    /// Panics unless the lease holds what the files say.
    pub(crate) fn verify(&self, layer: usize, bundle: u32, lease: &Lease) {
        let extents = &self.layers[layer][bundle as usize];
        assert_eq!(lease.n_parts(), extents.len());
        for (part, &extent) in extents.iter().enumerate() {
            let same = lease.part(part) == bytes_of(extent);
            assert!(same, "layer {layer}, bundle {bundle}, part {part}: not the bytes of {extent:?}");
        }
    }

    /// Fetches, verifies each record and drops it before the next; returns the picks in the order they came.
    pub(crate) fn fetch(
        &self,
        store: &mut Store,
        layer: usize,
        picks: &[u32],
        order: Order,
    ) -> Result<Vec<u32>, StoreError> {
        let mut came = Vec::new();
        let mut fetch = store.fetch(layer, picks, order)?;
        while let Some((at, lease)) = fetch.next()? {
            self.verify(layer, picks[at], &lease);
            came.push(picks[at]);
        }
        Ok(came)
    }
}

/// Options with a reader, and memory for `n` slots of `slot_bytes`.
pub(crate) fn options(reader: ReaderKind, slot_bytes: u64) -> StoreOptions {
    StoreOptions { reader, slot_bytes, ..StoreOptions::default() }
}

pub(crate) fn sorted(mut picks: Vec<u32>) -> Vec<u32> {
    picks.sort_unstable();
    picks
}
