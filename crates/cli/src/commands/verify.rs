//! `flashmill verify MODEL`: every byte of a model is read and checked.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use flashmill_engine::human_bytes;

use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::terminal::note;

/// Failures that are listed; a damaged disk may give thousands.
const MAX_LISTED: usize = 20;

/// Says what was checked; an error that counts the failures, which are listed before it.
pub(crate) fn verify(model: &Path) -> Result<ExitCode> {
    let found = ModelPath::find(model)?;
    let progress = Mutex::new(Progress::of_many_bytes("verifying"));
    let report = flashmill_pack::verify(found.path(), &|done, total| {
        progress.lock().unwrap_or_else(PoisonError::into_inner).set(done, total);
    })?;
    drop(progress);
    for failure in report.failures.iter().take(MAX_LISTED) {
        note!("{}", crate::terminal::neutral(&failure.to_string()));
    }
    let n_failures = report.failures.len();
    if n_failures > 0 {
        bail!(
            "{n_failures} of {} records and weights of {} are damaged; fetch or pack the model again",
            report.n_checked,
            model.display()
        );
    }
    let what = match report.has_checksums {
        true => "agree with their checksums, and all scales and floats are finite",
        false => "can be read, and all scales and floats are finite (these files hold no checksums)",
    };
    let line = format!(
        "{}: {} records and weights, {}, {what}",
        model.display(),
        report.n_checked,
        human_bytes(report.bytes)
    );
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
