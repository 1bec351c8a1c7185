//! `flashmill bench MODEL|SHAPE`: speed, beside what the machine gives.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::human_bytes;
use flashmill_lab::bench::{BenchReport, bench as measure};
use flashmill_lab::{SyntheticOptions, write_synthetic, write_synthetic_gguf};
use tempfile::TempDir;

use crate::flags::{BenchFlags, Subject};
use crate::interrupt::{self, Interrupt};
use crate::model_path::ModelPath;
use crate::progress::Progress;

/// Measures, and prints a table or JSON.
pub(crate) fn bench(options: BenchFlags) -> Result<ExitCode> {
    let _interrupt = Interrupt::install()?;
    let mut bar = Progress::of_steps();
    let report = match &options.subject {
        Subject::Model(path) => {
            let model = ModelPath::find(path)?;
            let mut report =
                measure(model.path(), &options.bench, &mut |what, done, all| bar.step(what, done, all))?;
            report.model = path.display().to_string();
            report
        }
        Subject::Synthetic { options: synthetic, gguf, dir } => {
            let model = write(synthetic, *gguf, dir)?;
            let mut report =
                measure(model.path(), &options.bench, &mut |what, done, all| bar.step(what, done, all))?;
            report.model = name(synthetic, *gguf);
            report
        }
    };
    drop(bar);
    if let Some(path) = &options.chart {
        std::fs::write(path, report.svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = if options.json { json(&report)? } else { report.table() };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn json(report: &BenchReport) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

fn name(options: &SyntheticOptions, gguf: bool) -> String {
    let shape = &options.shape;
    let weights = if gguf { "GGUF, Q4_K".to_owned() } else { format!("MLX, {} bits", options.bits) };
    format!(
        "synthetic: {} layers of {} experts, {} a token, hidden size {}, {weights}",
        shape.n_layers, shape.n_experts, shape.top_k, shape.hidden_size
    )
}

/// Writes random weights into a directory that is removed in the end.
fn write(options: &SyntheticOptions, gguf: bool, dir: &Path) -> Result<TempDir> {
    let n_bytes = if gguf { options.gguf_bytes() } else { options.n_bytes() };
    if let Some(free) = flashmill_lab::free_bytes(dir)
        && free < n_bytes + n_bytes / 50
    {
        bail!(
            "{} has {} free, and the weights need {}; give --layers fewer than {} or another --dir",
            dir.display(),
            human_bytes(free),
            human_bytes(n_bytes),
            options.shape.n_layers
        );
    }
    let model = tempfile::Builder::new()
        .prefix("flashmill-bench-")
        .tempdir_in(dir)
        .with_context(|| format!("cannot write in {}", dir.display()))?;
    interrupt::remove_on_interrupt(model.path());
    let mut bar = Progress::of_bytes("writing random weights");
    let progress = &mut |done| bar.set(done, n_bytes);
    if gguf {
        write_synthetic_gguf(&model.path().join("synthetic.gguf"), options, progress)?;
    } else {
        write_synthetic(model.path(), options, progress)?;
    }
    Ok(model)
}
