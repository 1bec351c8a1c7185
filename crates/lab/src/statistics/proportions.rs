//! Shares of cases that are as they should be.

use super::Interval;
use super::distributions::{beta_share, bisect, normal_quantile};

/// The share of `n_good` among `n` cases: Wilson's interval, which holds for few cases and near 0 and 1 too (E. B. Wilson, "Probable
/// inference, the law of succession, and statistical inference", 1927). All of 0 to 1 if there are no cases.
pub fn wilson(n_good: usize, n: usize, confidence: f64) -> Interval {
    if n == 0 {
        return Interval { estimate: 0.0, low: 0.0, high: 1.0 };
    }
    let z = normal_quantile(0.5 + 0.5 * confidence);
    let (n, share) = (n as f64, n_good as f64 / n as f64);
    let scale = 1.0 + z * z / n;
    let middle = (share + z * z / (2.0 * n)) / scale;
    let half = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Interval { estimate: share, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// The same cases done in two ways: how many are good in both, in one of them, in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Good both times.
    pub both: usize,
    /// Good the first way only.
    pub first_only: usize,
    /// Good the second way only.
    pub second_only: usize,
    /// Good neither time.
    pub neither: usize,
}

impl FromIterator<(bool, bool)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (bool, bool)>>(outcomes: I) -> Pairs {
        let mut pairs = Pairs::default();
        for outcome in outcomes {
            *match outcome {
                (true, true) => &mut pairs.both,
                (true, false) => &mut pairs.first_only,
                (false, true) => &mut pairs.second_only,
                (false, false) => &mut pairs.neither,
            } += 1;
        }
        pairs
    }
}

impl Pairs {
    /// How many cases there are.
    pub fn n(&self) -> usize {
        self.both + self.first_only + self.second_only + self.neither
    }

    /// How likely a difference at least as large as this is if both ways are equally good: McNemar's exact two-sided test, which is the
    /// binomial test of the cases that differ (Q. McNemar, "Note on the sampling error of the difference between correlated
    /// proportions", 1947).
    pub fn p_value(&self) -> f64 {
        let (fewer, more) = (self.first_only.min(self.second_only), self.first_only.max(self.second_only));
        if fewer == more {
            return 1.0;
        }
        // P(X <= k) of Binomial(n, 1/2) is I_{1/2}(n - k, k + 1).
        (2.0 * beta_share(0.5, more as f64, fewer as f64 + 1.0)).min(1.0)
    }

    /// The share of good cases of the second way less that of the first: Tango's score interval, which holds for few cases and where
    /// nothing differs (T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    /// design", 1998). All of -1 to 1 if there are no cases.
    pub fn difference(&self, confidence: f64) -> Interval {
        if self.n() == 0 {
            return Interval { estimate: 0.0, low: -1.0, high: 1.0 };
        }
        let z = normal_quantile(0.5 + 0.5 * confidence);
        let estimate = (self.second_only as f64 - self.first_only as f64) / self.n() as f64;
        // The score falls as the difference that is assumed rises.
        Interval {
            estimate,
            low: bisect(-1.0, estimate, |difference| self.score(difference) > z),
            high: bisect(estimate, 1.0, |difference| self.score(difference) > -z),
        }
    }

    /// How many standard errors what was seen lies above an assumed `difference`; the shares that are free then are the likeliest.
    fn score(&self, difference: f64) -> f64 {
        let (n, up, down) = (self.n() as f64, self.second_only as f64, self.first_only as f64);
        let a = 2.0 * n;
        let b = (2.0 * n - up + down) * difference - up - down;
        let c = -down * difference * (1.0 - difference);
        let share_down = (((b * b - 4.0 * a * c).max(0.0)).sqrt() - b) / (2.0 * a);
        let variance = n * (2.0 * share_down + difference * (1.0 - difference));
        let above = up - down - n * difference;
        if variance <= 0.0 { above.signum() * f64::INFINITY } else { above / variance.sqrt() }
    }
}
