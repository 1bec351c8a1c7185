//! Two settings against each other, in alternating runs, until the evidence is beyond the noise or not worth more.

use std::fmt;

use super::Failure;
use crate::statistics::{Interval, center};

/// When a difference is believed.
///
/// A machine is slower in some minutes than in others, by more than what settings differ by. So runs come in pairs, one of each setting,
/// and what is looked at is the ratio within each pair ([`center`], by ranks: some runs are slowed down much more than others). Who
/// begins a pair is as in the sequence of Thue and Morse (A B, B A, B A, A B, ..), whose beginnings favour neither: not by a speed that
/// drifts, and not by one that comes and goes.
///
/// - Kept: the lower bound of the ratio, which the truth is below with probability [`Rule::alpha`] at most, is above 1. The looks together
///   keep a challenger that is no faster with probability `alpha` times their number at most (Bonferroni).
/// - Discarded: a bound that the truth is above with probability [`Rule::despair`] is below what is worth having; this may lose a small
///   gain, and never keeps a loss. After four pairs already, if the challenger is the slower one in each.
/// - After the last look: discarded, within the noise.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Numbers of pairs after which is looked, rising; [`MIN_PAIRS`] at the least.
    pub looks: [usize; 4],
    /// How often one look may keep what is no faster.
    pub alpha: f64,
    /// How sure it need not be that a challenger is not worth more runs.
    pub despair: f64,
    /// What is worth having, as a share.
    pub min_gain: f64,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule { looks: [6, 12, 24, 48], alpha: 0.05, despair: 0.1, min_gain: 0.03 }
    }
}

/// What an experiment decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The challenger is the incumbent from now on.
    Kept,
    /// It is not.
    Discarded,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Faster beyond the noise.
    Faster,
    /// Slower beyond the noise.
    Slower,
    /// Not faster by what is worth having.
    NotFaster,
    /// Undecided after the last look.
    WithinNoise,
    /// It loses more than it may, and was not timed.
    LosesTooMuch,
    /// A run ended in another way than with a result.
    Failed(String),
    /// The incumbent does not run any more, and the challenger does.
    IncumbentFailed(String),
    /// The time was over before it was decided.
    OutOfTime,
}

/// Pairs after which a challenger may be found slower, before the first look.
const EARLY: usize = 4;

/// The fewest pairs at a look: five differ the same way by chance too often.
pub const MIN_PAIRS: usize = 6;

impl Rule {
    /// The same with no more than `pairs` pairs of runs, [`MIN_PAIRS`] at the least.
    pub fn up_to(self, pairs: usize) -> Rule {
        Rule { looks: self.looks.map(|look| look.min(pairs).max(MIN_PAIRS)), ..self }
    }

    /// The most pairs of runs.
    pub fn max_pairs(&self) -> usize {
        self.looks[self.looks.len() - 1]
    }

    /// The most while there is something that was not tried at all: the first two looks.
    pub fn first_pairs(&self) -> usize {
        self.looks[1]
    }

    /// Whether the challenger has the first run of pair number `pair`, counted from 0.
    pub fn challenger_begins(pair: usize) -> bool {
        !pair.count_ones().is_multiple_of(2)
    }

    /// The logarithm of the challenger's speed over the incumbent's, run by run.
    pub fn gain(&self, incumbent: &[f64], challenger: &[f64]) -> Interval {
        ratio(incumbent, challenger, 1.0 - 2.0 * self.alpha)
    }

    /// What as many runs of each, in tokens a second, mean, of which there will be `most` at most; `None`: measure another pair.
    pub fn judge(&self, incumbent: &[f64], challenger: &[f64], most: usize) -> Option<(Verdict, Why)> {
        let n = challenger.len();
        let is_look = self.looks.contains(&n);
        if !is_look && n != EARLY {
            return None;
        }
        let doubtful = ratio(incumbent, challenger, 1.0 - 2.0 * self.despair);
        if doubtful.high < 0.0 {
            return Some((Verdict::Discarded, Why::Slower));
        }
        if !is_look {
            return None;
        }
        if self.gain(incumbent, challenger).low > 0.0 {
            return Some((Verdict::Kept, Why::Faster));
        }
        if doubtful.high < self.min_gain.ln_1p() {
            return Some((Verdict::Discarded, Why::NotFaster));
        }
        (n >= most).then_some((Verdict::Discarded, Why::WithinNoise))
    }
}

fn ratio(incumbent: &[f64], challenger: &[f64], confidence: f64) -> Interval {
    let ln = |speed: &f64| speed.max(f64::MIN_POSITIVE).ln();
    let ratios: Vec<f64> = challenger.iter().zip(incumbent).map(|(new, old)| ln(new) - ln(old)).collect();
    center(&ratios, confidence)
}

impl Verdict {
    /// As in journals.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Kept => "kept",
            Verdict::Discarded => "discarded",
        }
    }
}

impl From<&Failure> for Why {
    fn from(failure: &Failure) -> Why {
        Why::Failed(failure.to_string())
    }
}

const FAILED: &str = "failed: ";
const INCUMBENT_FAILED: &str = "the incumbent failed: ";

/// The reasons that are one text.
const FIXED: [(Why, &str); 6] = [
    (Why::Faster, "faster beyond the noise"),
    (Why::Slower, "slower beyond the noise"),
    (Why::NotFaster, "not faster by what is worth having"),
    (Why::WithinNoise, "within the noise"),
    (Why::LosesTooMuch, "loses too much"),
    (Why::OutOfTime, "out of time"),
];

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Failed(what) => write!(f, "{FAILED}{what}"),
            Why::IncumbentFailed(what) => write!(f, "{INCUMBENT_FAILED}{what}"),
            fixed => f.write_str(FIXED.iter().find(|(why, _)| why == fixed).map_or("", |(_, text)| text)),
        }
    }
}

impl Why {
    /// Reads what was displayed.
    pub(super) fn read(text: &str) -> Option<Why> {
        let fixed = FIXED.iter().find(|(_, name)| *name == text).map(|(why, _)| why.clone());
        let failed = || text.strip_prefix(FAILED).map(|what| Why::Failed(what.to_owned()));
        let incumbent =
            || text.strip_prefix(INCUMBENT_FAILED).map(|what| Why::IncumbentFailed(what.to_owned()));
        fixed.or_else(failed).or_else(incumbent)
    }
}
