//! How well a model does what it is asked: cases in JSON lines, scored exactly, by category.
//!
//! [`tools`] is about calling tools. A suite reads its cases from a file, asks the model greedily, and gives [`Score`]s.

mod arguments;
pub mod tools;

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::statistics::wilson;

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
    /// A form that cannot be compiled.
    #[error(transparent)]
    Grammar(#[from] flashmill_grammar::GrammarError),
    /// The model cannot answer.
    #[error(transparent)]
    Engine(#[from] flashmill_engine::EngineError),
}

/// Cases of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// What is counted.
    pub name: String,
    /// How many of them are as they should be.
    pub n_good: usize,
    /// How many there are.
    pub n: usize,
}

impl Score {
    /// The share of good ones, and the bounds between which it lies with 95 % confidence: Wilson's interval. All of 0 to 1 if there
    /// are no cases.
    pub fn share(&self) -> (f64, [f64; 2]) {
        let share = wilson(self.n_good, self.n, 0.95);
        (share.estimate, [share.low, share.high])
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (share, [low, high]) = self.share();
        let percent = |x: f64| 100.0 * x;
        let (share, low, high) = (percent(share), percent(low), percent(high));
        write!(f, "{}/{} = {share:.1} % ({low:.1} to {high:.1})", self.n_good, self.n)
    }
}

/// The longest line of a file of cases, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Reads cases, one a line; empty lines are passed over.
fn read_cases<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalError> {
    let cannot = |error| EvalError::Read { path: path.to_owned(), error };
    let mut file = io::BufReader::new(std::fs::File::open(path).map_err(cannot)?);
    let mut cases = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let n = io::Read::take(&mut file, MAX_LINE_BYTES).read_until(b'\n', &mut text).map_err(cannot)?;
        if n == 0 {
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
    fn a_score_says_how_sure_it_is() {
        let score = Score { name: String::new(), n_good: 8, n: 10 };
        assert_eq!(score.to_string(), "8/10 = 80.0 % (49.0 to 94.3)");
        assert_eq!(Score { name: String::new(), n_good: 0, n: 0 }.share(), (0.0, [0.0, 1.0]));
    }

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
