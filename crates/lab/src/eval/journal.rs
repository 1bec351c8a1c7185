//! What earlier runs have found, a line a case, so that a run that was ended at any moment goes on where it was.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arm::ArmFacts;
use super::suite::Outcome;
use super::{EvalError, MAX_LINE_BYTES};

/// What is known of one file of cases, settings and weights: its own number for each combination.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    cases: HashMap<(u64, usize), Outcome>,
    arms: HashMap<u64, ArmFacts>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Case {
        key: u64,
        case: usize,
        /// For people who read the file.
        about: String,
        outcome: Outcome,
    },
    Arm {
        key: u64,
        about: String,
        facts: ArmFacts,
    },
}

impl Journal {
    /// Opens or makes the journal at `path`, which nobody else may be using.
    pub(super) fn open(path: &Path) -> Result<Journal, EvalError> {
        let work = |error| EvalError::Work { path: path.to_owned(), error };
        let mut file = File::options().read(true).append(true).create(true).open(path).map_err(work)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(EvalError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(work(error)),
        }
        let (mut cases, mut arms) = (HashMap::new(), HashMap::new());
        let whole = read(&mut file, &mut |line| match line {
            Line::Case { key, case, outcome, .. } => drop(cases.insert((key, case), outcome)),
            Line::Arm { key, facts, .. } => drop(arms.insert(key, facts)),
        })
        .map_err(work)?;
        // A line that a kill cut off.
        file.set_len(whole).map_err(work)?;
        Ok(Journal { path: path.to_owned(), file, cases, arms })
    }

    /// What became of a case.
    pub(super) fn case(&self, key: u64, case: usize) -> Option<&Outcome> {
        self.cases.get(&(key, case))
    }

    /// What is known of an arm.
    pub(super) fn arm(&self, key: u64) -> Option<&ArmFacts> {
        self.arms.get(&key)
    }

    /// Keeps what became of a case.
    pub(super) fn add_case(
        &mut self,
        key: u64,
        case: usize,
        about: &str,
        outcome: Outcome,
    ) -> Result<(), EvalError> {
        self.write(&Line::Case { key, case, about: about.to_owned(), outcome: outcome.clone() })?;
        self.cases.insert((key, case), outcome);
        Ok(())
    }

    /// Keeps what is known of an arm.
    pub(super) fn add_arm(&mut self, key: u64, about: &str, facts: ArmFacts) -> Result<(), EvalError> {
        self.write(&Line::Arm { key, about: about.to_owned(), facts })?;
        self.arms.insert(key, facts);
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<(), EvalError> {
        let mut text = serde_json::to_vec(line).expect("numbers and strings");
        text.push(b'\n');
        self.file.write_all(&text).map_err(|error| EvalError::Work { path: self.path.clone(), error })
    }
}

/// Gives all whole lines to `take`, and the length of the file up to their end. A line that is none ends the file.
fn read(file: &mut File, take: &mut dyn FnMut(Line)) -> io::Result<u64> {
    file.rewind()?;
    let mut from = BufReader::new(file);
    let mut text = Vec::new();
    let mut whole = 0;
    loop {
        text.clear();
        let n = (&mut from).take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        match serde_json::from_slice(&text) {
            Ok(line) if text.ends_with(b"\n") => take(line),
            _ => return Ok(whole),
        }
        whole += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(nll: f32) -> Outcome {
        Outcome::Text { nlls: vec![nll; 3] }
    }

    #[test]
    fn what_was_kept_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let facts = ArmFacts { experts_per_token: 2, ..ArmFacts::default() };
        {
            let mut journal = Journal::open(&path).unwrap();
            assert!(matches!(Journal::open(&path), Err(EvalError::Busy { .. })));
            journal.add_case(u64::MAX, 3, "a", outcome(0.1)).unwrap();
            journal.add_arm(7, "b", facts).unwrap();
        }
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.case(u64::MAX, 3), Some(&outcome(0.1)));
        assert_eq!((journal.case(u64::MAX, 4), journal.arm(7)), (None, Some(&facts)));
    }

    #[test]
    fn a_line_that_was_cut_off_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        for case in 0..2 {
            Journal::open(&path).unwrap().add_case(1, case, "a", outcome(case as f32)).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        let line = bytes.len() / 2;
        for cut in [line + 1, bytes.len() - 1, line] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!((journal.case(1, 0), journal.case(1, 1)), (Some(&outcome(0.0)), None), "{cut}");
            journal.add_case(1, 1, "a", outcome(1.0)).unwrap();
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "written again");
        }
    }
}
