//! `flashmill pack SOURCE OUT`: a model in the packed form.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use flashmill_engine::{EngineOptions, human_bytes};
use flashmill_lab::calibrate::{Calibration, CalibrationText, Event, Prepared, prepare};
use flashmill_pack::{PackOptions, PackPlan, PackReport};

use crate::flags::{Calibrate, PackCommand};
use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::terminal::note;

/// Packs and says what came out. An interrupt may come at any time: the same command goes on.
pub(crate) fn pack(command: &PackCommand) -> Result<ExitCode> {
    let source = ModelPath::find(&command.options.source)?;
    let options = PackOptions { source: source.path().to_owned(), ..command.options.clone() };
    let plan = flashmill_pack::plan(options.clone())?;
    let text = match &command.calibrate {
        Calibrate::On(path) => Some(CalibrationText::File(path.clone())),
        Calibrate::FewBits if plan.gains_by_importance() => Some(CalibrationText::BuiltIn),
        Calibrate::FewBits | Calibrate::Never => None,
    };
    if text.is_none() && command.ram_bytes.is_some() {
        bail!("--ram is the most memory of calibrating, which is not done here; leave it out");
    }
    let report = match text {
        Some(text) => {
            let prepared = calibrated(options, &text, command.ram_bytes)?;
            warn(&prepared.plan);
            let report = with_bar(|progress| Ok(prepared.pack(progress)?))?;
            say(command, &prepared.plan, &report)
        }
        None => {
            warn(&plan);
            let report = with_bar(|progress| Ok(flashmill_pack::pack(&plan, progress)?))?;
            say(command, &plan, &report)
        }
    };
    report.context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// The plan with an importance file, which is made if it is not there.
fn calibrated(options: PackOptions, text: &CalibrationText, ram_bytes: Option<u64>) -> Result<Prepared> {
    let engine = EngineOptions { ram_bytes, ..EngineOptions::default() };
    let mut bar = match text {
        CalibrationText::BuiltIn => Progress::of_parts("calibrating"),
        CalibrationText::File(_) => Progress::of_many_bytes("calibrating"),
    };
    let mut made = None;
    let prepared = prepare(options, text, &engine, &mut |event| match event {
        Event::Calibrating { done, total } => bar.set(done, total),
        Event::Made(path, calibration) => {
            made = Some(match text {
                CalibrationText::BuiltIn => tokens_of(calibration),
                CalibrationText::File(_) => format!("{} into {}", tokens_of(calibration), path.display()),
            });
        }
        Event::Found(path) => note!("note: {} is there from an earlier run and is used", path.display()),
        Event::CannotRun(error) => {
            note!("note: packed without calibrating, since the model does not run: {error}")
        }
    })?;
    drop(bar);
    if let Some(made) = made {
        note!("calibrated on {made}");
    }
    Ok(prepared)
}

/// What was read, and what it did not reach.
fn tokens_of(calibration: &Calibration) -> String {
    let (n_unused, n_experts) = calibration.unused_experts();
    let unused = match n_unused {
        0 => String::new(),
        n => format!(" ({n} of {n_experts} experts were never picked, and are packed as without)"),
    };
    format!("{} tokens{unused}", calibration.n_tokens())
}

fn with_bar(pack: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> Result<PackReport>) -> Result<PackReport> {
    let progress = Mutex::new(Progress::of_many_bytes("packing"));
    pack(&|done, total| progress.lock().unwrap_or_else(PoisonError::into_inner).set(done, total))
}

fn say(command: &PackCommand, plan: &PackPlan, report: &PackReport) -> io::Result<()> {
    let mut out = io::stdout();
    let recipe = plan.recipe();
    let resumed = match report.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} of it written before", human_bytes(bytes)),
    };
    writeln!(
        out,
        "packed {} into {}: {}{resumed} (experts {}; trunk {})",
        recipe.source,
        command.options.out.display(),
        human_bytes(report.bytes),
        recipe.experts,
        recipe.trunk
    )?;
    if command.timing { write!(out, "{}", timing(report)) } else { Ok(()) }
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
