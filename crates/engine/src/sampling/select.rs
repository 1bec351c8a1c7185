//! Picking from many logits without sorting them all.

use std::cmp::Ordering;

use super::SamplingOptions;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Its logit; later its unnormalised probability.
    pub(super) value: f32,
}

/// Memory that is used again for each token.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    pub(super) candidates: Vec<Candidate>,
    bins: Vec<f64>,
}

/// Likeliest first, lower id first among equals.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.id.cmp(&b.id))
}

/// The index of the largest; the lowest of several.
pub(super) fn argmax(logits: &[f32]) -> u32 {
    // Two passes that vectorise are faster than one that compares and remembers.
    let largest = max(logits);
    logits.iter().position(|&x| x == largest).unwrap_or(0) as u32
}

pub(super) fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (rows, rest) = logits.as_chunks::<16>();
    for row in rows {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Draws a token by `u`, uniform in [0, 1). What it was drawn from stays in `scratch`.
pub(super) fn draw(logits: &[f32], options: &SamplingOptions, scratch: &mut Scratch, u: f64) -> u32 {
    let Scratch { candidates, bins } = scratch;
    let largest = max(logits);
    let k = if options.top_k == 0 { logits.len() } else { options.top_k.min(logits.len()) };

    candidates.clear();
    if k < logits.len() {
        keep_top_k(logits, k, candidates);
    } else {
        candidates.reserve_exact(logits.len());
        candidates.extend(logits.iter().enumerate().map(|(id, &value)| Candidate { id: id as u32, value }));
    }
    // Probabilities as multiples of the likeliest token's.
    let scale = 1.0 / options.temperature;
    for candidate in candidates.iter_mut() {
        candidate.value = ((candidate.value - largest) * scale).exp();
    }
    if options.top_p < 1.0 {
        keep_top_p(candidates, bins, options.top_p as f64);
    }
    if options.min_p > 0.0 {
        candidates.retain(|candidate| candidate.value >= options.min_p);
    }
    let total: f64 = candidates.iter().map(|candidate| candidate.value as f64).sum();
    let mut left = u * total;
    for candidate in candidates.iter() {
        left -= candidate.value as f64;
        if left < 0.0 {
            return candidate.id;
        }
    }
    // Rounding can leave a last crumb of `left`: it belongs to the last token that has any probability.
    let last = candidates.iter().rev().find(|candidate| candidate.value > 0.0);
    last.map_or_else(|| argmax(logits), |candidate| candidate.id)
}

/// The `k` largest, in order of likelihood.
fn keep_top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    // Room for k and as many again: when it is full, the lower half goes, and with it most of what is still to come.
    let room = (2 * k).max(64);
    candidates.reserve_exact(room);
    let mut lowest = f32::NEG_INFINITY;
    for (id, &value) in logits.iter().enumerate() {
        // One that equals the lowest has a higher id than k others.
        if value > lowest || candidates.len() < k {
            candidates.push(Candidate { id: id as u32, value });
            if candidates.len() == room {
                let (_, kth, _) = candidates.select_nth_unstable_by(k - 1, by_likelihood);
                lowest = kth.value;
                candidates.truncate(k);
            }
        }
    }
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, by_likelihood);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_likelihood);
}

/// More candidates than this are not sorted all.
const SORTED: usize = 1024;

/// The fewest of the likeliest that together have at least `top_p` of the whole. Values lie between 0 and 1.
fn keep_top_p(candidates: &mut Vec<Candidate>, bins: &mut Vec<f64>, top_p: f64) {
    let mut sum = 0.0;
    let mut n_certain = 0;
    let mut wanted = top_p * candidates.iter().map(|candidate| candidate.value as f64).sum::<f64>();
    if candidates.len() > SORTED {
        // Sums by magnitude tell in which bin the last one lies: everything above is in, everything below is out.
        bins.clear();
        bins.resize(bin(1.0) + 1, 0.0);
        for candidate in candidates.iter() {
            bins[bin(candidate.value)] += candidate.value as f64;
        }
        // Summed in another order than above, the whole may be a rounding less than wanted.
        wanted = wanted.min(bins.iter().rev().sum());
        let mut edge = bins.len() - 1;
        while edge > 0 && sum + bins[edge] < wanted {
            sum += bins[edge];
            edge -= 1;
        }
        candidates.retain(|candidate| bin(candidate.value) >= edge);
        for index in 0..candidates.len() {
            if bin(candidates[index].value) > edge {
                candidates.swap(index, n_certain);
                n_certain += 1;
            }
        }
    }
    candidates[n_certain..].sort_unstable_by(by_likelihood);
    for index in n_certain..candidates.len() {
        sum += candidates[index].value as f64;
        if sum >= wanted {
            candidates.truncate(index + 1);
            return;
        }
    }
}

/// The bin of a value between 0 and 1: its exponent and seven bits of its fraction.
fn bin(value: f32) -> usize {
    (value.to_bits() >> 16) as usize
}
