//! How far a model's predictions are from a reference's: the Kullback-Leibler divergence of each next token's distribution,
//! `sum p ln(p / q)` in nats with the reference as `p`, and whether both hold the same token for the likeliest.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use flashmill_engine::{EngineError, EngineOptions, Model};
use serde::{Deserialize, Serialize};

use super::EvalError;
use super::reference::{Reference, Writer};
use super::text::{self, log_sum_exp};

/// Divergences after each token of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// In nats.
    pub kld: Vec<f32>,
    /// The likeliest tokens are the same.
    pub same_top: Vec<bool>,
}

/// Divergences of a whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Predictions that were compared.
    pub n: usize,
    /// In nats.
    pub mean: f64,
    /// Half of them are at most this.
    pub median: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// 99.9 % are at most this.
    pub p999: f64,
    /// The largest.
    pub max: f64,
    /// Share of predictions with the same likeliest token, 0 to 1.
    pub same_top: f64,
    /// By position in the window.
    pub by_position: Vec<Bucket>,
}

/// Divergences at some positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// The first position.
    pub from: usize,
    /// Behind the last.
    pub to: usize,
    /// Predictions that were compared.
    pub n: usize,
    /// In nats.
    pub mean: f64,
    /// Share of predictions with the same likeliest token.
    pub same_top: f64,
}

/// The divergence of `q` from `p`, both as logits; exactly 0 if they are equal. A token that `p` excludes (-inf) adds nothing; not finite
/// if `q` excludes one that `p` does not, or if either has something that is no number.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_sum, q_sum) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        if p == f32::NEG_INFINITY {
            return 0.0;
        }
        let log_p = f64::from(p) - p_sum;
        log_p.exp() * (log_p - (f64::from(q) - q_sum))
    };
    let sum = p.iter().zip(q).map(term).sum::<f64>();
    // Rounding may leave a hair below zero. (`max` would make 0 of what is no number.)
    if sum < 0.0 { 0.0 } else { sum }
}

/// The number of the largest value, the first one of equals.
fn top(logits: &[f32]) -> usize {
    let mut best = 0;
    for (at, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = at;
        }
    }
    best
}

/// Compares the model's predictions in the `index`-th window of `reference` with those that are there.
pub(super) fn compare(
    model: &mut Model,
    reference: &mut Reference,
    index: usize,
    stop: &AtomicBool,
) -> Result<Compared, EvalError> {
    let begin = index * reference.window();
    let end = reference.tokens().len().min(begin + reference.window());
    let tokens = reference.tokens()[begin..end].to_vec();
    let mut compared = Compared::default();
    let mut row = Vec::new();
    text::read(model, &tokens, 0, stop, &mut |at, logits| {
        reference.row(begin + at, &mut row)?;
        let kld = divergence(&row, logits);
        if !kld.is_finite() {
            return Err(EvalError::NotFinite { position: begin + at });
        }
        compared.kld.push(kld as f32);
        compared.same_top.push(top(&row) == top(logits));
        Ok(())
    })?;
    Ok(compared)
}

/// Runs the model at `path` over `tokens` in windows and writes its logits to `out`.
pub(super) fn write_reference(
    path: &Path,
    engine: &EngineOptions,
    tokens: &[u32],
    window: usize,
    out: &Path,
    stop: &AtomicBool,
) -> Result<(), EvalError> {
    let (_, mut model) = text::open(path, engine, window)?;
    let vocab_size = model.spec().vocab_size;
    check_tokens(tokens, vocab_size)?;
    let mut writer = Writer::create(out, tokens, window, vocab_size)?;
    for tokens in tokens.chunks(window) {
        text::read(&mut model, tokens, 0, stop, &mut |_, logits| writer.row(logits))?;
    }
    writer.finish()
}

/// All tokens are the model's.
pub(super) fn check_tokens(tokens: &[u32], n_vocab: usize) -> Result<(), EvalError> {
    match tokens.iter().find(|&&token| token as usize >= n_vocab) {
        Some(&token) => Err(EngineError::UnknownToken { token, n_vocab }.into()),
        None => Ok(()),
    }
}

impl Divergence {
    /// Of all windows; `None` if nothing was compared.
    pub fn of(windows: &[Compared]) -> Option<Divergence> {
        let mut sorted: Vec<f32> = windows.iter().flat_map(|window| window.kld.iter().copied()).collect();
        sorted.sort_by(f32::total_cmp);
        let n = sorted.len();
        let max = f64::from(*sorted.last()?);
        // The nearest rank: the smallest value that the share does not exceed.
        let percentile = |per_mille: usize| f64::from(sorted[(n * per_mille).div_ceil(1000).max(1) - 1]);
        let all = bucket(windows, 0, usize::MAX);
        let longest = windows.iter().map(|window| window.kld.len()).max().unwrap_or(0);
        let mut by_position = Vec::new();
        let mut from = 0;
        while from < longest {
            let to = longest.min(if from == 0 { 16 } else { 4 * from });
            by_position.push(bucket(windows, from, to));
            from = to;
        }
        Some(Divergence {
            n,
            mean: all.mean,
            median: percentile(500),
            p99: percentile(990),
            p999: percentile(999),
            max,
            same_top: all.same_top,
            by_position,
        })
    }
}

/// The predictions at positions `from .. to` of every window.
fn bucket(windows: &[Compared], from: usize, to: usize) -> Bucket {
    let (mut n, mut sum, mut n_same) = (0, 0.0, 0);
    for window in windows {
        let range = from.min(window.kld.len())..to.min(window.kld.len());
        n += range.len();
        sum += window.kld[range.clone()].iter().map(|&kld| f64::from(kld)).sum::<f64>();
        n_same += window.same_top[range].iter().filter(|&&same| same).count();
    }
    let share = |x: f64| if n == 0 { 0.0 } else { x / n as f64 };
    Bucket { from, to, n, mean: share(sum), same_top: share(n_same as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_by_hand() {
        let logits = |p: [f64; 3]| p.map(|p| (p.ln() + 5.0) as f32);
        let (p, q) = ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]);
        // 0.5 ln 2 + 0 + 0.25 ln 0.5
        let expected = 0.25 * 2_f64.ln();
        assert!((divergence(&logits(p), &logits(q)) - expected).abs() < 1e-6);
        let row: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        assert_eq!(divergence(&row, &row), 0.0);
        let none = f32::NEG_INFINITY;
        assert_eq!(divergence(&[1.0, 1.0, none], &[2.0, 2.0, none]), 0.0);
        for (p, q) in
            [([1.0, f32::NAN], [1.0, 2.0]), ([1.0, 2.0], [1.0, f32::NAN]), ([1.0, 2.0], [1.0, none])]
        {
            assert!(!divergence(&p, &q).is_finite(), "{p:?} {q:?}");
        }
        assert!(!divergence(&[1.0, f32::INFINITY], &[1.0, 2.0]).is_finite());
        assert_eq!((top(&row[..3]), top(&[1.0, 3.0, 3.0])), (2, 1));
    }

    #[test]
    fn a_run_in_numbers() {
        let window = |kld: Vec<f32>| Compared { same_top: kld.iter().map(|&x| x < 0.5).collect(), kld };
        let first = window((0..20).map(|i| i as f32 / 20.0).collect());
        let second = window(vec![0.0; 4]);
        let found = Divergence::of(&[first, second]).unwrap();
        assert_eq!((found.n, found.max), (24, f64::from(0.95_f32)));
        assert!((found.mean - 9.5 / 24.0).abs() < 1e-6);
        assert_eq!(found.median, f64::from(7.0_f32 / 20.0));
        assert_eq!((found.p99, found.p999), (found.max, found.max));
        assert!((found.same_top - 14.0 / 24.0).abs() < 1e-12);
        let places: Vec<_> = found.by_position.iter().map(|b| (b.from, b.to, b.n)).collect();
        assert_eq!(places, [(0, 16, 20), (16, 20, 4)]);
        assert!((found.by_position[1].mean - 0.875).abs() < 1e-6);
        assert_eq!(Divergence::of(&[]), None);
    }
}
