//! `flashmill bench MODEL|SHAPE`: speed, beside what the machine gives.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::human_bytes;
use flashmill_lab::bench::{self as lab_bench, BenchReport};
use flashmill_lab::{SyntheticOptions, write_synthetic, write_synthetic_gguf};
use flashmill_pack::PackOptions;
use tempfile::TempDir;

use crate::flags::{BenchFlags, Format, Subject};
use crate::interrupt::{self, Interrupt};
use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::tuned;

/// Measures, and prints a table or JSON.
pub(crate) fn bench(options: BenchFlags) -> Result<ExitCode> {
    let _interrupt = Interrupt::install()?;
    let mut bar = Progress::of_steps();
    let mut measure = |path: &Path| {
        let mut bench = options.bench.clone();
        tuned::use_kept(path, &mut bench.engine, &options.tuned);
        lab_bench::bench(path, &bench, &mut |what, done, all| bar.step(what, done, all))
    };
    let report = match &options.subject {
        Subject::Model(path) => {
            let model = ModelPath::find(path)?;
            BenchReport { model: path.display().to_string(), ..measure(model.path())? }
        }
        Subject::Synthetic { options: synthetic, format, dir } => {
            let model = write(synthetic, *format, dir)?;
            BenchReport { model: name(synthetic, *format), ..measure(&model.path().join(WEIGHTS))? }
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

fn name(options: &SyntheticOptions, format: Format) -> String {
    let shape = &options.shape;
    let weights = match format {
        Format::Gguf => "GGUF, Q4_K".to_owned(),
        Format::Mlx => format!("MLX, {} bits", options.bits),
        Format::Packed => format!("packed, {} bits", options.bits),
    };
    format!(
        "synthetic: {} layers of {} experts, {} a token, hidden size {}, {weights}",
        shape.n_layers, shape.n_experts, shape.top_k, shape.hidden_size
    )
}

/// The weights in the directory that [`write()`] makes.
const WEIGHTS: &str = "weights";

/// Writes random weights into a directory that is removed in the end.
fn write(options: &SyntheticOptions, format: Format, dir: &Path) -> Result<TempDir> {
    let n_bytes = if format == Format::Gguf { options.gguf_bytes() } else { options.n_bytes() };
    // The packed form is made of another.
    let n_needed = if format == Format::Packed { 2 * n_bytes } else { n_bytes };
    if let Some(free) = flashmill_lab::free_bytes(dir)
        && free < n_needed + n_needed / 50
    {
        bail!(
            "{} has {} free, and the weights need {}; give --layers fewer than {} or another --dir",
            dir.display(),
            human_bytes(free),
            human_bytes(n_needed),
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
    let weights = model.path().join(WEIGHTS);
    match format {
        Format::Gguf => write_synthetic_gguf(&weights, options, progress)?,
        Format::Mlx => write_synthetic(&weights, options, progress)?,
        Format::Packed => {
            let source = model.path().join("source");
            write_synthetic(&source, options, progress)?;
            pack(&source, &weights)?;
        }
    }
    Ok(model)
}

/// Packs `source` as it is stored, and removes it.
fn pack(source: &Path, out: &Path) -> Result<()> {
    let options = PackOptions { source: source.to_owned(), out: out.to_owned(), ..PackOptions::default() };
    flashmill_pack::pack(&flashmill_pack::plan(options)?, &|_, _| ())?;
    std::fs::remove_dir_all(source).with_context(|| format!("cannot remove {}", source.display()))
}
