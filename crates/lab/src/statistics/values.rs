//! Numbers, case by case.

use super::Interval;
use super::distributions::{normal_quantile, student_quantile};
use crate::random::SplitMix64;

/// The mean of independent `values`: Student's interval. For two ways of doing the same cases, `values` are the differences. `None` for
/// fewer than two values, which say nothing of their spread.
///
/// The interval of few values holds if they are near normal: ratios of times are, as logarithms.
pub fn mean(values: &[f64], confidence: f64) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let estimate = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - estimate).powi(2)).sum::<f64>() / (n - 1.0);
    let half = student_quantile(0.5 + 0.5 * confidence, n - 1.0) * (variance / n).sqrt();
    Some(Interval { estimate, low: estimate - half, high: estimate + half })
}

/// Samples up to this size in all have the exact distribution of the rank sum; larger ones are normal enough.
const MAX_EXACT: usize = 50;

/// How much larger `second` is than `first`, two independent samples of one shape: the estimate of Hodges and Lehmann, which is the median
/// of all differences, and the bounds that belong to the rank sum test of Mann and Whitney (J. L. Hodges and E. L. Lehmann, "Estimates of
/// location based on rank tests", 1963). A few values far off do not move it. Where the samples are too small for the confidence, the
/// bounds are infinite.
///
/// # Panics
/// If a sample is empty.
pub fn shift(first: &[f64], second: &[f64], confidence: f64) -> Interval {
    assert!(!first.is_empty() && !second.is_empty(), "a shift between samples with values");
    let mut differences: Vec<f64> = second.iter().flat_map(|b| first.iter().map(move |a| b - a)).collect();
    differences.sort_unstable_by(f64::total_cmp);
    let n = differences.len();
    let middle = 0.5 * (differences[(n - 1) / 2] + differences[n / 2]);
    let outside = rank_sums_below(first.len(), second.len(), 0.5 - 0.5 * confidence);
    match outside {
        0 => Interval { estimate: middle, low: f64::NEG_INFINITY, high: f64::INFINITY },
        k => Interval { estimate: middle, low: differences[k - 1], high: differences[n - k] },
    }
}

/// How many values 0, 1, .. of Mann and Whitney's U for samples of `n` and `m` together have a probability of `p` at most.
fn rank_sums_below(n: usize, m: usize, p: f64) -> usize {
    let n_values = n * m + 1;
    if n + m > MAX_EXACT {
        let (n, m) = (n as f64, m as f64);
        let spread = (n * m * (n + m + 1.0) / 12.0).sqrt();
        let below = 0.5 * n * m + normal_quantile(p) * spread + 0.5;
        return (below.floor().max(0.0) as usize).min(n_values / 2);
    }
    // The counts are the coefficients of the product of (1 - x^(m + i)) / (1 - x^i), whole numbers below 2^53.
    let mut counts = vec![0.0; n_values];
    counts[0] = 1.0;
    for i in 1..=n {
        for k in (m + i..n_values).rev() {
            counts[k] -= counts[k - m - i];
        }
        for k in i..n_values {
            counts[k] += counts[k - i];
        }
    }
    let all: f64 = counts.iter().sum();
    let mut sum = 0.0;
    counts
        .iter()
        .take_while(|&&count| {
            sum += count;
            sum <= p * all * (1.0 + 1e-12)
        })
        .count()
}

/// Samples that [`bootstrap`] draws: the bounds of 95 % then move by some hundredth of the interval from seed to seed.
const N_SAMPLES: usize = 4000;

/// Any `statistic` of independent `values`, such as a percentile: the percentile interval of the bootstrap (B. Efron, "Bootstrap
/// methods: another look at the jackknife", 1979). The same seed gives the same interval. It is too narrow for fewer than some 20
/// values, and for percentiles beyond which only a few lie.
///
/// # Panics
/// If there are no values, or the statistic is no number.
pub fn bootstrap(
    values: &[f64],
    confidence: f64,
    seed: u64,
    statistic: impl Fn(&mut [f64]) -> f64,
) -> Interval {
    assert!(!values.is_empty(), "a bootstrap of no values");
    let mut random = SplitMix64(seed);
    let mut sample = values.to_vec();
    let estimate = statistic(&mut sample);
    let mut draw = || {
        for value in &mut sample {
            *value = values[random.below(values.len() as u64) as usize];
        }
        statistic(&mut sample)
    };
    let mut drawn: Vec<f64> = (0..N_SAMPLES).map(|_| draw()).collect();
    assert!(drawn.iter().all(|value| !value.is_nan()), "a statistic is a number");
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| drawn[(share * (N_SAMPLES - 1) as f64).round() as usize];
    Interval { estimate, low: at(0.5 - 0.5 * confidence), high: at(0.5 + 0.5 * confidence) }
}
