//! How well a model does what it is asked: cases in JSON lines, scored exactly, by category.
//!
//! [`tools`] is about calling tools. A suite reads its cases from a file, asks the model greedily, and gives [`Score`]s.

mod arguments;
pub mod tools;

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

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
    /// The share of good ones, and the bounds between which it lies with 95 % confidence: Wilson's interval, which holds for few cases
    /// and near 0 and 1 too (E. B. Wilson, 1927). All of 0 to 1 if there are no cases.
    pub fn share(&self) -> (f64, [f64; 2]) {
        if self.n == 0 {
            return (0.0, [0.0, 1.0]);
        }
        const Z: f64 = 1.959_964;
        let (n, share) = (self.n as f64, self.n_good as f64 / self.n as f64);
        let scale = 1.0 + Z * Z / n;
        let middle = (share + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        (share, [(middle - half).max(0.0), (middle + half).min(1.0)])
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

    /// Values of R's binom::binom.confint(method = "wilson").
    #[test]
    fn intervals_are_wilsons() {
        for (n_good, n, low, high) in [
            (8, 10, 0.4901625, 0.9433178),
            (0, 10, 0.0, 0.2775328),
            (10, 10, 0.7224672, 1.0),
            (1, 1, 0.2065493, 1.0),
        ] {
            let (share, interval) = Score { name: String::new(), n_good, n }.share();
            assert!((share - n_good as f64 / n as f64).abs() < 1e-12);
            assert!(
                (interval[0] - low).abs() < 1e-6 && (interval[1] - high).abs() < 1e-6,
                "{n_good}/{n}: {interval:?}"
            );
        }
        assert_eq!(Score { name: String::new(), n_good: 0, n: 0 }.share().1, [0.0, 1.0]);
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
