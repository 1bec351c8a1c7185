//! `flashmill pack SOURCE OUT`: a model in the packed form.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use flashmill_engine::human_bytes;
use flashmill_pack::{PackOptions, PackPlan, PackReport};

use super::calibrate::{calibrate_into, importance_path};
use crate::flags::PackCommand;
use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::terminal::note;

/// Packs and says what came out. An interrupt may come at any time: the same command goes on.
pub(crate) fn pack(command: &PackCommand) -> Result<ExitCode> {
    let source = ModelPath::find(&command.options.source)?;
    let options = PackOptions { source: source.path().to_owned(), ..command.options.clone() };
    let (plan, report) = match &command.calibrate {
        Some((text, ram_bytes)) => plan_calibrated(options, text, *ram_bytes)?,
        None => (flashmill_pack::plan(options)?, None),
    };
    warn(&plan);
    let report = match report {
        Some(report) => report,
        None => run(&plan)?,
    };
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

/// The plan with an importance file, which is made if it is not there; or without one and a report, if nothing is left to do.
fn plan_calibrated(
    options: PackOptions,
    text: &Path,
    ram_bytes: Option<u64>,
) -> Result<(PackPlan, Option<PackReport>)> {
    let plan = flashmill_pack::plan(options.clone())?;
    let importance = importance_path(&plan, &options, text)?;
    if importance.exists() {
        note!("note: {} is there from an earlier run and is used", importance.display());
    } else {
        // The cheap checks first: the text may take hours.
        if let Some(report) = plan.check_to_calibrate(&importance)? {
            return Ok((plan, Some(report)));
        }
        calibrate_into(&importance, &options.source, text, ram_bytes)?;
    }
    let plan = flashmill_pack::plan(PackOptions { importance: Some(importance), ..options })?;
    Ok((plan, None))
}

fn run(plan: &PackPlan) -> Result<PackReport> {
    let progress = Mutex::new(Progress::of_many_bytes("packing"));
    Ok(flashmill_pack::pack(plan, &|done, total| {
        progress.lock().unwrap_or_else(PoisonError::into_inner).set(done, total);
    })?)
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
