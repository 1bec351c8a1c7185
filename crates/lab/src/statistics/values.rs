//! Numbers, case by case.

use super::Interval;
use super::distributions::student_quantile;
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

/// The middle of independent `values` that are spread evenly around it, such as differences of two runs of which either may be the slower
/// one by chance: the estimate of Hodges and Lehmann, which is the median of the means of all pairs of values, and the bounds that
/// belong to Wilcoxon's signed rank test, whose distribution is exact (J. L. Hodges and E. L. Lehmann, "Estimates of location based
/// on rank tests", 1963). A few values far off do not move it. Where the values are too few for the confidence, the bounds are infinite.
///
/// # Panics
/// If there are no values.
pub fn center(values: &[f64], confidence: f64) -> Interval {
    assert!(!values.is_empty(), "the middle of no values");
    let mean_with_each = |(at, a): (usize, &f64)| values[at..].iter().map(|b| 0.5 * (a + b)).collect();
    let mut means: Vec<f64> = values.iter().enumerate().flat_map::<Vec<f64>, _>(mean_with_each).collect();
    means.sort_unstable_by(f64::total_cmp);
    let n = means.len();
    let middle = 0.5 * (means[(n - 1) / 2] + means[n / 2]);
    match rank_sums_below(values.len(), 0.5 - 0.5 * confidence) {
        0 => Interval { estimate: middle, low: f64::NEG_INFINITY, high: f64::INFINITY },
        k => Interval { estimate: middle, low: means[k - 1], high: means[n - k] },
    }
}

/// How many values 0, 1, .. of Wilcoxon's signed rank sum of `n` values together have a probability of `p` at most.
fn rank_sums_below(n: usize, p: f64) -> usize {
    // Each rank is in the sum or not, alike often: the coefficients of the product of (1 + x^rank) / 2.
    let mut probabilities = vec![0.0; n * (n + 1) / 2 + 1];
    probabilities[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..probabilities.len()).rev() {
            let with = if sum >= rank { probabilities[sum - rank] } else { 0.0 };
            probabilities[sum] = 0.5 * (probabilities[sum] + with);
        }
    }
    let mut below = 0.0;
    let is_below = |&&probability: &&f64| {
        below += probability;
        below <= p * (1.0 + 1e-12)
    };
    probabilities.iter().take_while(is_below).count()
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
