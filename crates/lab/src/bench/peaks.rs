//! What the machine gives: a plain read of memory, and reads of the model's own files.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use flashmill_engine::{Checkpoint, EngineOptions};
use flashmill_layout::{Extent, FileId};
use flashmill_store::{Files, Order, Records, Store, StoreError, StoreOptions};

use super::Peaks;
use crate::random::SplitMix64;

/// Memory that is read, larger than caches.
const MEMORY_BYTES: usize = 256 << 20;

/// Bytes of one read of the disk.
const READ_BYTES: u64 = 4 << 20;

/// Reads of the disk that are in flight together.
const IN_FLIGHT: usize = 16;

/// Seconds for which the disk is read.
const DISK_SECONDS: f64 = 2.0;

pub(super) fn measure(checkpoint: &Checkpoint, options: &EngineOptions) -> Result<Peaks, StoreError> {
    Ok(Peaks { memory_gb_per_s: memory(options.n_threads()), disk_gb_per_s: disk(checkpoint, options)? })
}

/// GB/s of a plain read by `n_threads` threads, each its own share: the best of several rounds.
fn memory(n_threads: usize) -> f64 {
    let words = vec![1u64; MEMORY_BYTES / 8];
    let share = words.len().div_ceil(n_threads);
    let round = || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for words in words.chunks(share) {
                scope.spawn(move || black_box(sum(words)));
            }
        });
        MEMORY_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    (0..10).map(|_| round()).fold(0.0, f64::max)
}

fn sum(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<32>();
    let mut sums = [0u64; 32];
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// GB/s of random reads of the model's files with the reader that was asked for; none if they are too small to tell.
fn disk(checkpoint: &Checkpoint, options: &EngineOptions) -> Result<Option<f64>, StoreError> {
    let mut extents = Vec::new();
    for (file, entry) in checkpoint.files().iter().enumerate() {
        let n = entry.len / READ_BYTES;
        let extent = |at| Extent { file: FileId(file as u32), offset: at * READ_BYTES, len: READ_BYTES };
        extents.extend((0..n).map(extent));
    }
    let n = extents.len() as u64;
    if n < 4 * IN_FLIGHT as u64 {
        return Ok(None);
    }
    let paths: Vec<_> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
    let files = Arc::new(Files::open(&paths)?);
    files.forget_cached();
    let mut records = Records::new();
    records.push_layer(1, extents);
    let slot_bytes = 2 * IN_FLIGHT as u64 * (READ_BYTES + 8192);
    let store_options = StoreOptions { reader: options.reader, slot_bytes, ..StoreOptions::default() };
    let mut store = Store::open(files, records, &store_options)?;
    let mut random = SplitMix64(7);
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < DISK_SECONDS {
        let mut picks = Vec::with_capacity(IN_FLIGHT);
        while picks.len() < IN_FLIGHT {
            let pick = random.below(n) as u32;
            if !picks.contains(&pick) {
                picks.push(pick);
            }
        }
        let mut fetch = store.fetch(0, &picks, Order::Arrival)?;
        while let Some((_, lease)) = fetch.next()? {
            black_box(lease.part(0)[0]);
        }
    }
    Ok(Some(store.stats().bytes_from_device as f64 / begun.elapsed().as_secs_f64() / 1e9))
}
