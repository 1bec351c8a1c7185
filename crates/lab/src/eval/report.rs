//! What an evaluation found: one type, from which JSON, Markdown and HTML are written.

mod markdown;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::arm::ArmFacts;
use super::kld::{Compared, Divergence};
use super::suite::Outcome;
use crate::statistics;

/// The confidence of every interval, and what a test must pass to be believed.
pub const CONFIDENCE: f64 = 0.95;

/// A rise of the perplexity below this share is called small: no reader of answers could tell.
pub const SMALL_RISE: f64 = 0.01;

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
    },
}

impl Comparison {
    /// Something is worse than in the first arm, beyond what chance gives.
    pub fn is_loss(&self) -> bool {
        match *self {
            Comparison::Perplexity { low, high, .. } => low > 1.0 && high > 1.0 + SMALL_RISE,
        }
    }
}

impl Finding {
    /// Of all cases of a suite; `None` if there are none.
    pub(super) fn of(outcomes: &[Outcome]) -> Option<Finding> {
        match outcomes.first()? {
            Outcome::Text { .. } => {
                let (mut n_tokens, mut sum) = (0, 0.0);
                for (tokens, nll) in outcomes.iter().filter_map(text) {
                    n_tokens += tokens;
                    sum += nll;
                }
                let nll = sum / n_tokens as f64;
                Some(Finding::Perplexity { n_tokens, nll, perplexity: nll.exp() })
            }
            Outcome::Compared(_) => {
                let windows: Vec<Compared> = outcomes.iter().filter_map(compared).cloned().collect();
                Divergence::of(&windows).map(Finding::Divergence)
            }
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
                let n_tokens: usize = windows.iter().map(|((tokens, _), _)| tokens).sum();
                // The mean of these is the difference of the means of all tokens.
                let scale = windows.len() as f64 / n_tokens as f64;
                let differences: Vec<f64> =
                    windows.iter().map(|((_, first), (_, other))| (other - first) * scale).collect();
                let interval = statistics::mean(&differences, CONFIDENCE)?;
                Some(Comparison::Perplexity {
                    ratio: interval.estimate.exp(),
                    low: interval.low.exp(),
                    high: interval.high.exp(),
                })
            }
            Outcome::Compared(_) => None,
        }
    }
}

fn text(outcome: &Outcome) -> Option<(usize, f64)> {
    match outcome {
        Outcome::Text { tokens, nll } => Some((*tokens, *nll)),
        Outcome::Compared(_) => None,
    }
}

fn compared(outcome: &Outcome) -> Option<&Compared> {
    match outcome {
        Outcome::Compared(compared) => Some(compared),
        Outcome::Text { .. } => None,
    }
}
