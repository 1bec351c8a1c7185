//! How good a model is, and what fewer bits or fewer experts cost: suites of cases, each scored on its own, on every arm.
//!
//! ```text
//! Suite: cases ──┐
//!                ├─ eval ──journal──▶ outcomes ──▶ Report ──▶ JSON, Markdown, HTML
//! Arm: how the model is opened ──┘
//! ```
//!
//! [`Suite::ppl`] and [`Suite::kld_of_model`] read a text; [`tools`] asks for tool calls, [`facts`] for what a model should know. Arms are compared with the first one case by
//! case.

mod answers;
mod arguments;
mod arm;
mod bfcl;
pub mod facts;
mod journal;
mod kld;
mod reference;
mod report;
mod run;
mod suite;
mod text;
pub mod tools;

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use answers::AskOptions;
pub use arm::{Arm, ArmFacts, Weights};
pub use bfcl::PossibleCall;
pub use kld::{Bucket, Compared, Divergence, divergence};
pub use reference::{Reference, ReferenceProblem};
pub use report::{ArmReport, CHANGED_NATS, CONFIDENCE, Comparison, Finding, Report, SMALL_RISE, Share};
pub use run::{EvalOptions, Progress, eval};
pub use suite::{Judged, Outcome, Speed, Suite, TextOptions, read_text};
pub use text::{Window, windows};

/// Why a suite cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The file of cases cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line that is no case.
    #[error("{}, line {line}: not a case of this suite: {error}", path.display())]
    Case {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// The file has no cases.
    #[error("{} has no cases", path.display())]
    NoCases {
        /// The file.
        path: PathBuf,
    },
    /// A file of the work directory cannot be used.
    #[error("cannot use {}: {error}; name another directory with --work", path.display())]
    Work {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another run has the journal.
    #[error("{} is in use by another evaluation of this model; wait for it, or name another directory with --work", path.display())]
    Busy {
        /// The journal.
        path: PathBuf,
    },
    /// A file of logits that is none.
    #[error("{} is no file of logits: {problem}; make one with `flashmill logits`", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: ReferenceProblem,
    },
    /// Logits of another vocabulary.
    #[error(
        "the reference has a vocabulary of {expected} tokens, this model one of {found}; compare models with the same tokenizer"
    )]
    OtherVocabulary {
        /// Of the reference.
        expected: usize,
        /// Of the model.
        found: usize,
    },
    /// A text without a token to predict.
    #[error("{} has no two tokens; give a longer text", path.display())]
    TextTooShort {
        /// The text.
        path: PathBuf,
    },
    /// A text beyond all reason.
    #[error("{} has {n_bytes} bytes, at most 1 GiB is read; give a part of it", path.display())]
    TextTooLong {
        /// The text.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
    },
    /// The model does not compute numbers.
    #[error("the logits after token {position} are not finite; check the model with `flashmill verify`")]
    NotFinite {
        /// The token, counted from 0.
        position: usize,
    },
    /// More experts than a layer has.
    #[error("{experts} experts a token, but a layer has {most}; give fewer with --experts")]
    TooManyExperts {
        /// Asked for.
        experts: usize,
        /// Of a layer.
        most: usize,
    },
    /// Ended from outside; what is done is kept.
    #[error("interrupted; the same command goes on where it was")]
    Interrupted,
    /// An arm cannot be packed.
    #[error("cannot pack an arm: {0}")]
    Pack(#[from] Box<flashmill_pack::PackError>),
    /// An arm cannot be calibrated.
    #[error("cannot calibrate an arm: {0}")]
    Calibrate(#[from] Box<crate::calibrate::CalibrateError>),
    /// A question of the leaderboard that this suite does not ask.
    #[error("{}, question {id:?}: {what}; give a file of single turns with its possible_answer/ beside it", path.display())]
    Bfcl {
        /// The file.
        path: PathBuf,
        /// The question.
        id: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The model cannot be asked.
    #[error("{} has no chat template, without which it cannot be asked; the suites ppl, kld and speed need none", dir.display())]
    NoTemplate {
        /// The model.
        dir: PathBuf,
    },
    /// The speed cannot be measured.
    #[error(transparent)]
    Bench(#[from] Box<crate::bench::BenchError>),
    /// A form that cannot be compiled.
    #[error(transparent)]
    Grammar(#[from] flashmill_grammar::GrammarError),
    /// The model cannot answer.
    #[error(transparent)]
    Engine(#[from] flashmill_engine::EngineError),
}

/// The longest line of a file of cases, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Reads cases, one a line; empty lines are passed over.
fn read_cases<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalError> {
    let file = std::fs::File::open(path).map_err(|error| EvalError::Read { path: path.to_owned(), error })?;
    parse_cases(path, io::BufReader::new(file))
}

/// The same of what is read from `file`, which errors call `path`.
fn parse_cases<T: DeserializeOwned>(path: &Path, mut file: impl BufRead) -> Result<Vec<T>, EvalError> {
    let mut cases = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let n = io::Read::take(&mut file, MAX_LINE_BYTES).read_until(b'\n', &mut text);
        if n.map_err(|error| EvalError::Read { path: path.to_owned(), error })? == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let case = serde_json::from_slice(&text);
        cases.push(case.map_err(|error| EvalError::Case { path: path.to_owned(), line, error })?);
    }
    match cases.is_empty() {
        true => Err(EvalError::NoCases { path: path.to_owned() }),
        false => Ok(cases),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cases.jsonl");
        std::fs::write(&path, "1\n\n2\nx\n").unwrap();
        let error = read_cases::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("line 4"), "{error}");
        std::fs::write(&path, "1\n\n2").unwrap();
        assert_eq!(read_cases::<u32>(&path).unwrap(), [1, 2]);
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read_cases::<u32>(&path), Err(EvalError::NoCases { .. })));
    }
}
