//! `--calibrate TEXT` of `flashmill pack`: the importance file of a model over a text.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flashmill_engine::EngineOptions;
use flashmill_lab::calibrate::{CalibrateOptions, calibrate};
use flashmill_pack::{PackOptions, PackPlan};
use sha2::{Digest as _, Sha256};

use crate::progress::Progress;
use crate::terminal::note;

/// Runs the model over the text and writes the importance file.
pub(super) fn calibrate_into(path: &Path, model: &Path, text: &Path, ram_bytes: Option<u64>) -> Result<()> {
    let cannot = || format!("cannot read the text to calibrate with, {}", text.display());
    let mut file = File::open(text).with_context(cannot)?;
    let n_bytes = file.metadata().with_context(cannot)?.len();
    let engine = EngineOptions { ram_bytes, ..EngineOptions::default() };
    let options = CalibrateOptions { engine, ..CalibrateOptions::default() };
    let mut bar = Progress::of_many_bytes("calibrating");
    let calibration = calibrate(model, &mut file, &options, &mut |n_read| bar.set(n_read, n_bytes))?;
    drop(bar);
    let name = text.file_name().unwrap_or_default().to_string_lossy();
    calibration.write(path, &name)?;
    let (n_unused, n_experts) = calibration.unused_experts();
    let unused = match n_unused {
        0 => String::new(),
        n => format!("; {n} of {n_experts} experts were never picked, their scales follow the range"),
    };
    note!("calibrated on {} tokens into {}{unused}", calibration.n_tokens(), path.display());
    Ok(())
}

/// The importance file beside the output, `OUT.imatrix-12345678.gguf`. Its name tells texts apart, and models with the lengths and
/// times of their weights, so that a run that goes on after an interruption finds what an earlier one made, and no other.
pub(super) fn importance_path(plan: &PackPlan, options: &PackOptions, text: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    let mut add_path = |path: &Path| -> io::Result<()> {
        let data = std::fs::metadata(path)?;
        hash.update(std::fs::canonicalize(path)?.as_os_str().as_encoded_bytes());
        hash.update(format!("\0{} {:?}\0", data.len(), data.modified()?));
        Ok(())
    };
    for path in plan.files() {
        add_path(path).with_context(|| format!("cannot look at {}", path.display()))?;
    }
    let mut add_text = || -> io::Result<u64> { io::copy(&mut File::open(text)?, &mut hash) };
    add_text().with_context(|| format!("cannot read the text to calibrate with, {}", text.display()))?;
    let out = &options.out;
    let digits: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".imatrix-{digits}.gguf"));
    Ok(out.with_file_name(name))
}
