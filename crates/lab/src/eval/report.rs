//! What an evaluation found: one type, from which JSON, Markdown and HTML are written.

mod html;
mod markdown;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::arm::ArmFacts;
use super::kld::{Compared, Divergence};
use super::suite::{Judged, Outcome, Speed};
use crate::statistics::{self, Pairs};

/// The confidence of every interval, and what a test must pass to be believed.
pub const CONFIDENCE: f64 = 0.95;

/// A rise of the perplexity below this share is called small: no reader of answers could tell.
pub const SMALL_RISE: f64 = 0.01;

/// A token whose log-likelihood changed by more than this, in nats, is called changed.
pub const CHANGED_NATS: f64 = 0.5;

/// Everything that an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model, as the user named it.
    pub model: String,
    /// The program that measured.
    pub program: String,
    /// How each suite was run.
    pub about: BTreeMap<String, String>,
    /// What was found of the first arm, the model as stored with its own number of experts.
    pub suites: BTreeMap<String, Finding>,
    /// Every arm, the first one too.
    pub arms: Vec<ArmReport>,
}

/// What was found of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its name.
    pub name: String,
    /// Its weights, in words.
    pub weights: String,
    /// What a token costs.
    #[serde(flatten)]
    pub facts: ArmFacts,
    /// Bytes of weights that a token uses, experts and trunk together.
    pub bytes_per_token: u64,
    /// By the names of the suites.
    pub suites: BTreeMap<String, Finding>,
    /// Beside the first arm, case by case.
    pub against_first: BTreeMap<String, Comparison>,
    /// No suite shows a loss against the first arm; none for the first arm itself, and where nothing was compared.
    pub is_safe: Option<bool>,
}

/// What one suite found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finding {
    /// Of a text.
    Perplexity {
        /// Tokens that count.
        n_tokens: usize,
        /// Mean negative log-likelihood of a token, in nats.
        nll: f64,
        /// Its exponential.
        perplexity: f64,
    },
    /// Against a reference.
    Divergence(Divergence),
    /// Answers, right or wrong.
    Accuracy(Accuracy),
    /// How fast.
    Speed(Speed),
}

/// Answers of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The share of right ones, 0 to 1.
    pub accuracy: f64,
    /// The same with its bounds.
    pub right: Share,
    /// By category, in the order of the first case of each.
    pub categories: Vec<(String, Share)>,
    /// Calls that a tool takes, of all calls.
    pub valid_calls: Share,
    /// Answers that were cut off.
    pub n_cut: usize,
}

/// Good ones among some, and the bounds of their share: Wilson's interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Good ones.
    pub n_good: usize,
    /// All.
    pub n: usize,
    /// The lower bound, 0 to 1.
    pub low: f64,
    /// The upper bound, 0 to 1.
    pub high: f64,
}

impl Share {
    /// Of so many.
    pub fn of(n_good: usize, n: usize) -> Share {
        let interval = statistics::wilson(n_good, n, CONFIDENCE);
        Share { n_good, n, low: interval.low, high: interval.high }
    }

    /// 0 to 1; 0 if there are none.
    pub fn share(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.n_good as f64 / self.n as f64 }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |x: f64| 100.0 * x;
        let (share, low, high) = (percent(self.share()), percent(self.low), percent(self.high));
        write!(f, "{share:.1} % ({low:.1} to {high:.1})")
    }
}

/// One arm beside the first, on the same cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Comparison {
    /// Perplexities.
    Perplexity {
        /// This arm's over the first arm's.
        ratio: f64,
        /// The bounds of the ratio: Student's interval of the differences of windows.
        low: f64,
        /// See `low`.
        high: f64,
        /// Root mean square of what the log-likelihoods of tokens changed by, in nats: exactly 0 with the same weights. A rise and a fall do
        /// not make up for each other as in the ratio, so that an error shows here that moves tokens both ways.
        change_rms_nats: f64,
        /// Share of tokens that changed by more than [`CHANGED_NATS`], 0 to 1.
        changed: f64,
    },
    /// Answers, case by case.
    Accuracy {
        /// Right in the first arm only.
        n_lost: usize,
        /// Right in this arm only.
        n_won: usize,
        /// Cases.
        n: usize,
        /// McNemar's exact test.
        p_value: f64,
        /// The share of right answers less that of the first arm, -1 to 1, and its bounds: Tango's interval.
        difference: f64,
        /// A loss of more than this would have shown.
        low: f64,
        /// See `low`.
        high: f64,
    },
}

impl Comparison {
    /// Something is worse than in the first arm, beyond what chance gives.
    pub fn is_loss(&self) -> bool {
        match *self {
            Comparison::Perplexity { low, high, .. } => low > 1.0 && high > 1.0 + SMALL_RISE,
            Comparison::Accuracy { n_lost, n_won, p_value, .. } => {
                n_lost > n_won && p_value < 1.0 - CONFIDENCE
            }
        }
    }
}

impl Finding {
    /// Of all cases of a suite; `None` if there are none.
    pub(super) fn of(outcomes: &[Outcome]) -> Option<Finding> {
        match outcomes.first()? {
            Outcome::Text { .. } => {
                let (mut n_tokens, mut sum) = (0, 0.0);
                for nlls in outcomes.iter().filter_map(text) {
                    n_tokens += nlls.len();
                    sum += total(nlls);
                }
                let nll = sum / n_tokens as f64;
                Some(Finding::Perplexity { n_tokens, nll, perplexity: nll.exp() })
            }
            Outcome::Compared(_) => {
                let windows: Vec<Compared> = outcomes.iter().filter_map(compared).cloned().collect();
                Divergence::of(&windows).map(Finding::Divergence)
            }
            Outcome::Judged(_) => Some(Finding::Accuracy(Accuracy::of(outcomes.iter().filter_map(judged)))),
            Outcome::Speed(speed) => Some(Finding::Speed(*speed)),
        }
    }
}

impl Accuracy {
    fn of<'a>(answers: impl Iterator<Item = &'a Judged>) -> Accuracy {
        let mut categories: Vec<(String, [usize; 2])> = Vec::new();
        let (mut n_calls, mut n_valid, mut n_cut) = (0, 0, 0);
        for answer in answers {
            let at = categories.iter().position(|(name, _)| *name == answer.category);
            let at = at.unwrap_or_else(|| {
                categories.push((answer.category.clone(), [0, 0]));
                categories.len() - 1
            });
            categories[at].1[0] += usize::from(answer.is_right);
            categories[at].1[1] += 1;
            n_calls += answer.n_calls;
            n_valid += answer.n_valid;
            n_cut += usize::from(answer.is_cut);
        }
        let sum = |which: usize| categories.iter().map(|(_, counts)| counts[which]).sum();
        let right = Share::of(sum(0), sum(1));
        let categories = categories.into_iter().map(|(name, [n_good, n])| (name, Share::of(n_good, n)));
        Accuracy {
            accuracy: right.share(),
            right,
            categories: categories.collect(),
            valid_calls: Share::of(n_valid, n_calls),
            n_cut,
        }
    }
}

impl Comparison {
    /// Of the same cases in the first arm and in another; `None` where that says nothing.
    pub(super) fn of(first: &[Outcome], other: &[Outcome]) -> Option<Comparison> {
        match first.first()? {
            Outcome::Text { .. } => {
                let windows: Vec<_> =
                    first.iter().filter_map(text).zip(other.iter().filter_map(text)).collect();
                let n_tokens: usize = windows.iter().map(|(first, _)| first.len()).sum();
                // The mean of these is the difference of the means of all tokens.
                let scale = windows.len() as f64 / n_tokens as f64;
                let differences: Vec<f64> =
                    windows.iter().map(|(first, other)| (total(other) - total(first)) * scale).collect();
                let interval = statistics::mean(&differences, CONFIDENCE)?;
                let changes = || {
                    let tokens = windows.iter().flat_map(|(first, other)| first.iter().zip(*other));
                    tokens.map(|(&first, &other)| f64::from(other) - f64::from(first))
                };
                let n_changed = changes().filter(|change| change.abs() > CHANGED_NATS).count();
                Some(Comparison::Perplexity {
                    ratio: interval.estimate.exp(),
                    low: interval.low.exp(),
                    high: interval.high.exp(),
                    change_rms_nats: (changes().map(|x| x * x).sum::<f64>() / n_tokens as f64).sqrt(),
                    changed: n_changed as f64 / n_tokens as f64,
                })
            }
            Outcome::Judged(_) => {
                let both = first.iter().filter_map(judged).zip(other.iter().filter_map(judged));
                let pairs: Pairs = both.map(|(first, other)| (first.is_right, other.is_right)).collect();
                let difference = pairs.difference(CONFIDENCE);
                Some(Comparison::Accuracy {
                    n_lost: pairs.first_only,
                    n_won: pairs.second_only,
                    n: pairs.n(),
                    p_value: pairs.p_value(),
                    difference: difference.estimate,
                    low: difference.low,
                    high: difference.high,
                })
            }
            Outcome::Compared(_) | Outcome::Speed(_) => None,
        }
    }
}

fn text(outcome: &Outcome) -> Option<&[f32]> {
    if let Outcome::Text { nlls } = outcome { Some(nlls) } else { None }
}

fn total(nlls: &[f32]) -> f64 {
    nlls.iter().map(|&nll| f64::from(nll)).sum()
}

fn compared(outcome: &Outcome) -> Option<&Compared> {
    if let Outcome::Compared(compared) = outcome { Some(compared) } else { None }
}

fn judged(outcome: &Outcome) -> Option<&Judged> {
    if let Outcome::Judged(judged) = outcome { Some(judged) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(category: &str, is_right: bool) -> Outcome {
        let category = category.to_owned();
        Outcome::Judged(Judged { category, is_right, n_calls: 2, n_valid: 1, is_cut: !is_right })
    }

    #[test]
    fn answers_are_counted_by_category() {
        let outcomes = [answer("a", true), answer("b", false), answer("a", false)];
        let Some(Finding::Accuracy(found)) = Finding::of(&outcomes) else { panic!("answers") };
        let counts: Vec<_> =
            found.categories.iter().map(|(name, share)| (name.as_str(), share.n_good, share.n)).collect();
        assert_eq!(counts, [("a", 1, 2), ("b", 0, 1)]);
        assert_eq!((found.right.n_good, found.right.n, found.n_cut), (1, 3, 2));
        assert_eq!((found.valid_calls.n_good, found.valid_calls.n), (3, 6));
        assert_eq!(Share::of(8, 10).to_string(), "80.0 % (49.0 to 94.3)");
        assert_eq!(Finding::of(&[]), None);
    }

    #[test]
    fn a_loss_is_what_chance_does_not_give() {
        let arm = |n_right: usize| -> Vec<Outcome> { (0..100).map(|i| answer("a", i < n_right)).collect() };
        let against = |n| Comparison::of(&arm(90), &arm(n)).unwrap();
        assert!(!against(85).is_loss() && against(84).is_loss() && !against(99).is_loss());
        let Comparison::Accuracy { n_lost, n_won, n, p_value, difference, low, high } = against(84) else {
            panic!("answers")
        };
        assert_eq!((n_lost, n_won, n), (6, 0, 100));
        assert!((p_value - 0.03125).abs() < 1e-9, "{p_value}");
        assert!((difference + 0.06).abs() < 1e-12 && low < -0.1 && high < -0.01, "{low} {high}");
    }

    #[test]
    fn perplexities_are_compared_window_by_window() {
        let arm = |factor: f32| -> Vec<Outcome> {
            let window = |i: i32| Outcome::Text { nlls: vec![factor * (1 + i % 3) as f32; 10] };
            (0..30).map(window).collect()
        };
        let Some(Comparison::Perplexity { ratio, low, high, change_rms_nats, changed }) =
            Comparison::of(&arm(1.0), &arm(1.1))
        else {
            panic!("perplexities")
        };
        assert!((ratio - 0.2_f64.exp()).abs() < 1e-6 && low > 1.15 && high < 1.3, "{ratio} {low} {high}");
        // Changes of 0.1, 0.2 and 0.3 nats.
        assert!((change_rms_nats - (0.14_f64 / 3.0).sqrt()).abs() < 1e-6, "{change_rms_nats}");
        assert_eq!(changed, 0.0);
        assert!(Comparison::of(&arm(1.0), &arm(1.1)).unwrap().is_loss());
        assert!(!Comparison::of(&arm(1.0), &arm(1.001)).unwrap().is_loss(), "too small to matter");
        assert!(!Comparison::of(&arm(1.0), &arm(0.9)).unwrap().is_loss());
    }

    /// What goes up here and down there leaves the ratio as it is.
    #[test]
    fn a_change_both_ways_is_a_change() {
        let arm = |change: f32| -> Vec<Outcome> {
            let nlls = (0..20).map(|i| 2.0 + if i % 2 == 0 { change } else { -change }).collect();
            vec![Outcome::Text { nlls }; 30]
        };
        let against = |change| match Comparison::of(&arm(0.0), &arm(change)) {
            Some(Comparison::Perplexity { ratio, change_rms_nats, changed, .. }) => {
                assert!((ratio - 1.0).abs() < 1e-6);
                (change_rms_nats, changed)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(against(0.0), (0.0, 0.0));
        assert_eq!(against(0.5), (0.5, 0.0));
        assert_eq!(against(0.75), (0.75, 1.0));
    }
}
