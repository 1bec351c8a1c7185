//! Random reads of a model's own files, through the store as the model reads them: a layer's misses at once, then a wait.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use flashmill_engine::cost::ReadSpeed;
use flashmill_engine::{Checkpoint, ReaderKind};
use flashmill_layout::{Extent, FileId};
use flashmill_store::{Files, Order, Records, Store, StoreError, StoreOptions};

use crate::random::SplitMix64;

/// Bytes of a read: a matrix of a small expert, and whole large ones.
const SIZES: [u64; 2] = [512 << 10, 4 << 20];

/// Reads that are asked for at once.
const DEPTHS: [usize; 3] = [1, 4, 16];

/// Seconds for each size and depth.
const SECONDS: f64 = 0.25;

/// The speeds of `reader` on the files of `checkpoint`, nothing of them cached; none of sizes for which the files are too small.
pub(super) fn speeds(checkpoint: &Checkpoint, reader: ReaderKind) -> Result<Vec<ReadSpeed>, StoreError> {
    let paths: Vec<_> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
    let files = Arc::new(Files::open(&paths)?);
    let mut speeds = Vec::new();
    for bytes in SIZES {
        let mut extents = Vec::new();
        for (file, entry) in checkpoint.files().iter().enumerate() {
            let extent = |at| Extent { file: FileId(file as u32), offset: at * bytes, len: bytes };
            extents.extend((0..entry.len / bytes).map(extent));
        }
        if extents.len() < 4 * DEPTHS[DEPTHS.len() - 1] {
            continue;
        }
        for depth in DEPTHS {
            let Some(gb_per_s) = speed(&files, &extents, reader, depth)? else { return Ok(Vec::new()) };
            speeds.push(ReadSpeed { bytes, depth, gb_per_s });
        }
    }
    Ok(speeds)
}

/// GB/s of reads of `extents` in random order, each once, so that none comes from the page cache; `None` if the system refuses io_uring
/// where that was asked for by its name.
fn speed(
    files: &Arc<Files>,
    extents: &[Extent],
    reader: ReaderKind,
    depth: usize,
) -> Result<Option<f64>, StoreError> {
    files.forget_cached();
    let mut records = Records::new();
    records.push_layer(1, extents.to_vec());
    let slot_bytes = 2 * depth as u64 * (extents[0].len + 8192);
    let options = StoreOptions { reader, slot_bytes, ..StoreOptions::default() };
    let mut store = Store::open(files.clone(), records, &options)?;
    if reader == ReaderKind::Uring && !store.reader_name().starts_with("io_uring") {
        return Ok(None);
    }
    let mut random = SplitMix64(extents[0].len + depth as u64);
    let mut order: Vec<u32> = (0..extents.len() as u32).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let begun = Instant::now();
    for picks in order.chunks_exact(depth) {
        if begun.elapsed().as_secs_f64() > SECONDS {
            break;
        }
        let mut fetch = store.fetch(0, picks, Order::Arrival)?;
        while let Some((_, lease)) = fetch.next()? {
            black_box(lease.part(0)[0]);
        }
    }
    Ok(Some(store.stats().bytes_read as f64 / begun.elapsed().as_secs_f64() / 1e9))
}
