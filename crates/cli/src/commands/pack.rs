//! `flashmill pack SOURCE OUT`: a model in the packed form.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use flashmill_engine::human_bytes;
use flashmill_pack::{PackOptions, PackPlan, PackReport};

use super::calibrate::calibrated;
use crate::flags::PackCommand;
use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::terminal::note;

/// Packs and says what came out. An interrupt may come at any time: the same command goes on.
pub(crate) fn pack(command: &PackCommand) -> Result<ExitCode> {
    let source = ModelPath::find(&command.options.source)?;
    let mut options = PackOptions { source: source.path().to_owned(), ..command.options.clone() };
    if let Some((text, ram_bytes)) = &command.calibrate {
        options.importance = Some(calibrated(source.path(), &options.out, text, *ram_bytes)?);
    }
    let plan = flashmill_pack::plan(options)?;
    warn(&plan);
    let progress = Mutex::new(Progress::of_many_bytes("packing"));
    let report = flashmill_pack::pack(&plan, &|done, total| {
        progress.lock().unwrap_or_else(PoisonError::into_inner).set(done, total);
    })?;
    drop(progress);
    let mut out = io::stdout();
    let recipe = plan.recipe();
    let resumed = match report.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} of it written before", human_bytes(bytes)),
    };
    let written = writeln!(
        out,
        "packed {} into {}: {}{resumed} (experts {}; trunk {})",
        recipe.source,
        command.options.out.display(),
        human_bytes(report.bytes),
        recipe.experts,
        recipe.trunk
    );
    written
        .and_then(|()| if command.timing { write!(out, "{}", timing(&report)) } else { Ok(()) })
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// What the choice of bits means.
pub(super) fn warn(plan: &PackPlan) {
    for (warning, count) in plan.warnings() {
        note!("note: {count} matrices: {warning}");
    }
}

/// Where the time went, each share of what all threads together had.
fn timing(report: &PackReport) -> String {
    let all = report.seconds * report.threads as f64;
    let share = |seconds: f64| if all > 0.0 { 100.0 * seconds / all } else { 0.0 };
    let shares = report.shares;
    let rest = (all - shares.read - shares.compute - shares.write).max(0.0);
    let rate = (report.bytes - report.resumed_bytes) as f64 / report.seconds.max(1e-9) / 1e6;
    format!(
        "{:.1} s on {} threads, {rate:.0} MB/s written\n\
         read {:.0} %, compute {:.0} %, write {:.0} %, waiting and flushing {:.0} %\n",
        report.seconds,
        report.threads,
        share(shares.read),
        share(shares.compute),
        share(shares.write),
        share(rest)
    )
}
