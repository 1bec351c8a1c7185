//! The experiment loop: settings of a model on this machine, measured against each other until nothing that is left to try is better.
//!
//! ```text
//!           proposes            measures               decides
//! Search ──challenger──▶ duel ──pairs of runs──▶ Rule ──verdict──▶ Journal ──▶ Search
//!                         └── Surface: a child process, or a simulated one
//! ```
//!
//! [`Search`] is pure: what it proposes follows from the grid and the experiments so far, so that a journal that is read back goes on
//! where it ended. [`Rule`] says what evidence is. [`Surface`] is what is measured.

mod chart;
mod child;
mod drive;
mod duel;
mod grid;
mod journal;
mod loss;
mod search;
mod setting;

pub use chart::chart;
pub use child::{ChildSurface, ENDS_WITH_INPUT, Failure};
pub use drive::{Outcome, Tuner, tune};
pub use duel::{MIN_PAIRS, Rule, Verdict, Why};
pub use grid::{Candidates, Grid, Knob};
pub use journal::{Basis, Experiment, Journal};
pub use loss::{Loss, LossError, MIN_LOSS_TOKENS, loss};
pub use search::{Challenger, Point, Search};
pub use setting::{Setting, UnknownSetting};

use std::time::Duration;

use crate::statistics::Interval;

/// What is measured: a program, or a simulation of one.
pub trait Surface {
    /// One run with `settings`.
    fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure>;

    /// What `settings` lose against the model as it is: the mean divergence in nats, and the bounds of it, found `within` this time. Only
    /// asked where settings change answers.
    fn loss(&mut self, settings: &[Setting], within: Duration) -> Result<Interval, Failure>;
}

/// What one run gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Tokens decoded a second.
    pub decode_tok_per_s: f64,
    /// Prompt tokens read a second.
    pub prefill_tok_per_s: f64,
    /// Picks that were in a slot, 0 to 1.
    pub hit_rate: f64,
    /// Bytes from the device for each decoded token.
    pub bytes_per_token: f64,
}

/// Why tuning cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// The journal cannot be read or written.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Somebody else is at it.
    #[error("another `tune` is writing {}; wait for its end, or give another --results", path.display())]
    Busy {
        /// The journal.
        path: std::path::PathBuf,
    },
    /// A file of something else.
    #[error("{} is no journal of `tune`; give another --results", path.display())]
    NoJournal {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The journal is of something else.
    #[error(
        "{} has results of other conditions ({found} there, {expected} now); give another --results, or remove it",
        path.display()
    )]
    OtherJournal {
        /// The file.
        path: std::path::PathBuf,
        /// What its first line says.
        found: String,
        /// What it would say.
        expected: String,
    },
    /// A line that is no result.
    #[error("{}, line {line}: not a result: {what}; remove the line, or give another --results", path.display())]
    Line {
        /// The file.
        path: std::path::PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The settings to begin with cannot be measured.
    #[error("the settings to begin with cannot be measured: {0}; try `flashmill bench` with the same flags")]
    Start(Failure),
    /// Nobody wants to go on.
    #[error("interrupted")]
    Interrupted,
}
