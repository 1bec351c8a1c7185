//! `flashmill eval MODEL --suite NAME,..`: how good a model is, and what fewer bits or experts cost.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::machine;
use flashmill_lab::bench::BenchOptions;
use flashmill_lab::eval::{self as lab_eval, EvalOptions, Report, Suite, facts, read_text, tools};

use crate::demo::user_cache;
use crate::flags::{EvalFlags, Out, SuiteName, is_logits};
use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::model_path::ModelPath;
use crate::progress::Progress;
use crate::terminal::note;

/// Measures what an earlier run of the same command has not, and writes the report.
pub(crate) fn eval(flags: &EvalFlags) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let model = ModelPath::find(&flags.model)?;
    let work = work_dir(flags)?;
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let reference = flags.reference.as_deref().filter(|path| !is_logits(path));
    let reference = reference.map(ModelPath::find).transpose()?;
    let options = EvalOptions {
        model: model.path().to_owned(),
        name: flags.model.display().to_string(),
        engine: flags.engine.clone(),
        weights: flags.weights.clone(),
        experts: flags.experts.clone(),
        cache_aware: flags.cache_aware.clone(),
        suites: suites(flags, model.path(), reference.as_ref().map(ModelPath::path), &work)?,
        work,
        program: program(),
    };
    let mut bar = Progress::of_steps();
    let stop = interrupt.stop();
    let report = interrupt.during(|| {
        lab_eval::eval(&options, &stop, &mut |at| {
            bar.step(&format!("{}: {}", at.arm, at.suite), at.done, at.total);
        })
    });
    drop(bar);
    match report {
        Err(_) if interrupt.is_stopped() => {
            note!("interrupted; the same command goes on where it was");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        report => write(&report?, flags).map(|()| ExitCode::SUCCESS),
    }
}

/// The suites, in the order in which they were asked for.
fn suites(flags: &EvalFlags, model: &Path, reference: Option<&Path>, work: &Path) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    for name in &flags.suites {
        match name {
            SuiteName::Ppl => suites.push(Suite::ppl(tokens(flags, model)?, flags.window, flags.stride)),
            SuiteName::Kld => suites.push(kld(flags, model, reference, work)?),
            SuiteName::Tools => {
                let cases = flags.cases.as_deref().map_or_else(|| Ok(tools::built_in()), tools::read)?;
                suites.push(Suite::tools(cases, flags.ask));
            }
            SuiteName::Facts => {
                let path = flags.facts.as_deref();
                let path = path.context("--suite facts needs a file of questions; give one with --facts")?;
                suites.push(Suite::facts(facts::read(path)?, flags.ask));
            }
            SuiteName::Speed => {
                let bench = BenchOptions { contexts: vec![0], peaks: false, ..BenchOptions::default() };
                let host = machine::name().unwrap_or_default();
                suites.push(Suite::speed(bench, &flags.engine, &host));
            }
        }
    }
    Ok(suites)
}

fn tokens(flags: &EvalFlags, model: &Path) -> Result<Vec<u32>> {
    let text = flags.text.as_deref().context("no text; give one with --text")?;
    Ok(read_text(model, text, flags.text_options)?)
}

/// `reference` is a model to compare with, if one was named.
fn kld(flags: &EvalFlags, model: &Path, reference: Option<&Path>, work: &Path) -> Result<Suite> {
    if let (Some(file), None) = (&flags.reference, reference) {
        return Ok(Suite::kld_of_file(file)?);
    }
    if reference.is_none()
        && flags.weights.is_empty()
        && flags.experts.is_empty()
        && flags.cache_aware.is_empty()
    {
        bail!(
            "--suite kld has nothing to compare with; give --reference, or arms with --bits, --experts or --variant"
        );
    }
    let (tokens, of) = (tokens(flags, model)?, reference.unwrap_or(model));
    Ok(Suite::kld_of_model(tokens, flags.window, of, &flags.engine, work, reference.is_none())?)
}

fn work_dir(flags: &EvalFlags) -> Result<PathBuf> {
    let default = || user_cache().map(|cache| cache.join("eval"));
    flags.work.clone().or_else(default).context("there is no cache directory; name one with --work")
}

/// The program to the build: its version, and what tells one build of it from another.
fn program() -> String {
    let built = || -> io::Result<u64> {
        let modified = std::fs::metadata(std::env::current_exe()?)?.modified()?;
        Ok(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    };
    format!("flashmill {}, built {}", env!("CARGO_PKG_VERSION"), built().unwrap_or(0))
}

fn write(report: &Report, flags: &EvalFlags) -> Result<()> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let json = || -> Result<String> { Ok(serde_json::to_string_pretty(report)? + "\n") };
    if let Some(path) = &flags.markdown {
        write(path, report.markdown())?;
    }
    if let Some(path) = &flags.html {
        write(path, report.html())?;
    }
    let text = match &flags.json {
        Some(Out::Stdout) => json()?,
        Some(Out::File(path)) => {
            write(path, json()?)?;
            report.markdown()
        }
        None => report.markdown(),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
