//! A plain read of memory.

use std::hint::black_box;
use std::time::Instant;

/// Memory that is read, larger than caches, if there is as much.
const BYTES: usize = 256 << 20;

/// GB/s of a plain read by `n_threads` threads, each its own share: the best of several rounds.
pub(crate) fn gb_per_s(n_threads: usize) -> f64 {
    let bytes = super::within_limits(BYTES);
    let words = vec![1u64; bytes / 8];
    let share = words.len().div_ceil(n_threads);
    let round = || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for words in words.chunks(share) {
                scope.spawn(move || black_box(sum(words)));
            }
        });
        bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
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
