//! `--calibrate TEXT` of `flashmill pack`: the importance file of a model over a text.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flashmill_engine::EngineOptions;
use flashmill_lab::calibrate::{CalibrateOptions, calibrate};
use sha2::{Digest as _, Sha256};

use crate::progress::Progress;
use crate::terminal::note;

/// Runs the model over the text and gives the importance file, which lies beside `out`. Its name tells model and text apart, so that
/// a run that goes on after an interruption finds what an earlier one made.
pub(super) fn calibrated(model: &Path, out: &Path, text: &Path, ram_bytes: Option<u64>) -> Result<PathBuf> {
    let path = importance_path(model, out, text)
        .with_context(|| format!("cannot read the text to calibrate with, {}", text.display()))?;
    if path.exists() {
        note!("note: {} is there from an earlier run and is used", path.display());
        return Ok(path);
    }
    let cannot = || format!("cannot read the text to calibrate with, {}", text.display());
    let mut file = File::open(text).with_context(cannot)?;
    let n_bytes = file.metadata().with_context(cannot)?.len();
    let engine = EngineOptions { ram_bytes, ..EngineOptions::default() };
    let options = CalibrateOptions { engine, ..CalibrateOptions::default() };
    let mut bar = Progress::of_many_bytes("calibrating");
    let calibration = calibrate(model, &mut file, &options, &mut |n_read| bar.set(n_read, n_bytes))?;
    drop(bar);
    let name = text.file_name().unwrap_or_default().to_string_lossy();
    calibration.write(&path, &name)?;
    let (n_unused, n_experts) = calibration.unused_experts();
    let unused = match n_unused {
        0 => String::new(),
        n => format!("; {n} of {n_experts} experts were never picked, their scales follow the range"),
    };
    note!("calibrated on {} tokens into {}{unused}", calibration.n_tokens(), path.display());
    Ok(path)
}

/// `OUT.imatrix-12345678.gguf`.
fn importance_path(model: &Path, out: &Path, text: &Path) -> io::Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(std::fs::canonicalize(model)?.as_os_str().as_encoded_bytes());
    hash.update([0]);
    let mut file = File::open(text)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let digits: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".imatrix-{digits}.gguf"));
    Ok(out.with_file_name(name))
}
