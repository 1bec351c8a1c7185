//! `flashmill tune MODEL`: the settings with which a model is the fastest here, found by experiment.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use flashmill_engine::cost::MachineProfile;
use flashmill_engine::{
    BackendKind, Checkpoint, Engine, EngineOptions, KvKind, Plan, PolicyKind, Prefetch, ReaderKind, machine,
};
use flashmill_lab::eval::{TextOptions, read_text};
use flashmill_lab::tune::{
    Basis, Candidates, ChildSurface, Experiment, Journal, MIN_LOSS_TOKENS, Outcome, Rule, Run, Setting,
    Surface as _, TuneError, Tuner, Verdict, chart, tune as search,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::flags::{MaxLoss, TuneFlags};
use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::model_path::ModelPath;
use crate::terminal::note;
use crate::{profile, tuned};

/// The most time of the first run, which says what the others may take.
const FIRST_RUN: Duration = Duration::from_secs(300);

/// A run that takes as many times what the first one took, and this many seconds, has hung.
const PATIENCE: u32 = 5;
const LEAST_LIMIT: Duration = Duration::from_secs(30);

/// Searches, keeps the winner, and says what was found.
pub(crate) fn tune(flags: TuneFlags) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let model = ModelPath::find(&flags.model)?;
    let path = model.path();
    let text = flags.loss.as_ref().map(|loss| loss_text(path, loss)).transpose()?;
    let engine = EngineOptions { profile: None, ..flags.engine.clone() };
    let machine = Arc::new(profile::measured(path, &engine, false)?);
    let engine = EngineOptions { profile: Some(Arc::clone(&machine)), ..engine };
    let checkpoint = Checkpoint::open(path)?;
    let conditions = conditions(&flags, path, &checkpoint, &machine, text.as_deref())?;
    let basis = basis(&flags, &checkpoint, &machine, &Engine::plan_for(path, &engine)?)?;
    let (mut journal, basis, past) = Journal::open(&flags.results, &conditions, basis)?;
    // The budget may be a share of what is free just now, and experiments must not differ in it.
    let measured = EngineOptions { ram_bytes: Some(basis.ram_bytes), ..engine };
    let plan = Engine::plan_for(path, &measured)?;
    let candidates = Candidates::new(&checkpoint, &machine, &measured, &flags.given, &plan);
    let mut done = past.clone();
    if !past.is_empty() {
        note!("{} experiments in {}: going on from there", past.len(), flags.results.display());
    }
    let begun = Instant::now();
    let result = interrupt.during(|| {
        let mut surface = surface(&flags, path, &measured, &plan, &basis, &interrupt)?;
        let run = surface.run(&basis.start).map_err(TuneError::Start)?;
        (surface.limit, surface.loss_limit) = limits(&flags, begun.elapsed(), &run);
        let tuner = Tuner {
            grid: &basis.grid,
            start: basis
                .grid
                .point(&basis.start)
                .context("the settings to begin with are not in the grid")?,
            predict: &|settings| candidates.predict(settings),
            rule: Rule::default().up_to(flags.pairs),
            max_loss: flags.loss.as_ref().map(|loss| loss.most),
            now: &now,
            elapsed: &|| begun.elapsed().as_secs_f64(),
            limit: flags.time.as_secs_f64(),
            stop: &interrupt.stop(),
        };
        let outcome = search(&tuner, &mut surface, &mut journal, past, &mut |experiment| {
            note!("{}", line(experiment));
            done.push(experiment.clone());
        })?;
        anyhow::Ok(outcome)
    });
    let title = format!("{}: {} experiments", flags.model.display(), done.len());
    let drawn = std::fs::write(&flags.chart, chart(&title, &done));
    let drawn = drawn.with_context(|| format!("cannot write {}", flags.chart.display()));
    if interrupt.is_stopped() {
        note!("interrupted; the same command goes on where it was");
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    // What was found is kept, whatever becomes of its picture.
    finish(&flags, path, basis.ram_bytes, &result?)?;
    drawn?;
    Ok(ExitCode::SUCCESS)
}

/// The tokens on which losses are measured; too few say nothing, which is better known now than after the first runs.
fn loss_text(model: &Path, loss: &MaxLoss) -> Result<Vec<u32>> {
    let options = TextOptions { special_tokens: false, limit: Some(loss.n_tokens) };
    let tokens = read_text(model, &loss.text, options)?;
    if tokens.len() < MIN_LOSS_TOKENS {
        bail!(
            "--text {}: {} tokens, and a loss needs {MIN_LOSS_TOKENS}; give a longer text, or more --text-tokens",
            loss.text.display(),
            tokens.len()
        );
    }
    Ok(tokens)
}

/// What there is to try, with the memory that is free now, and what happens without flags.
fn basis(flags: &TuneFlags, checkpoint: &Checkpoint, machine: &MachineProfile, plan: &Plan) -> Result<Basis> {
    let candidates = Candidates::new(checkpoint, machine, &flags.engine, &flags.given, plan);
    let grid = candidates.grid(flags.loss.is_some());
    if grid.knobs.is_empty() {
        bail!("there is nothing to try: every option is given by a flag, or has only one value here");
    }
    let reader = if plan.reader() == ReaderKind::Auto { ReaderKind::Uring } else { plan.reader() };
    let start = candidates.start(&grid, reader);
    Ok(Basis { ram_bytes: plan.ram_bytes, context: plan.context, start, grid })
}

/// The most time of a run and of a comparison, when the first run of the start took `first`.
fn limits(flags: &TuneFlags, first: Duration, run: &Run) -> (Duration, Duration) {
    let tokens = flags.loss.as_ref().map_or(0, |loss| loss.n_tokens) as f64;
    // Two models are opened, and each decodes every token alone.
    let decoding = Duration::try_from_secs_f64(2.0 * tokens / run.decode_tok_per_s).unwrap_or(Duration::MAX);
    let loss = first.saturating_mul(2).saturating_add(decoding);
    let limit = |expected: Duration| LEAST_LIMIT.max(expected.saturating_mul(PATIENCE));
    (limit(first), limit(loss))
}

/// What results can be compared under.
fn conditions(
    flags: &TuneFlags,
    path: &Path,
    checkpoint: &Checkpoint,
    machine: &MachineProfile,
    text: Option<&[u32]>,
) -> Result<String> {
    let fingerprint = Engine::fingerprint(checkpoint).context("cannot read the model")?;
    let loss = flags.loss.as_ref().zip(text).map_or_else(String::new, |(loss, tokens)| {
        let mut hash = Sha256::new();
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        let hash: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!(", loss at most {} on {} tokens of {} ({hash})", loss.most, tokens.len(), loss.text.display())
    });
    let args: Vec<String> =
        engine_args(&flags.engine).iter().map(|arg| format!(" {}", arg.to_string_lossy())).collect();
    let or_usual = |value: Option<String>| value.unwrap_or_else(|| "as usual".to_owned());
    let runs = &flags.runs;
    Ok(format!(
        "version {}, model {} ({fingerprint:032x}), {} on {}, disk {:x}, budget {}, context {}, prompt {}, decode {}, patience {}, routing {}{loss}, flags{}, given {}",
        env!("CARGO_PKG_VERSION"),
        flags.model.display(),
        machine.backend,
        profile::host(),
        profile::disk_of(path),
        or_usual(flags.engine.ram_bytes.map(|bytes| bytes.to_string())),
        or_usual(flags.engine.context.map(|context| context.to_string())),
        runs.prompt_tokens,
        runs.decode_tokens,
        runs.patience,
        runs.routing.as_deref().unwrap_or("its own"),
        args.join(""),
        flags.given.join(" ")
    ))
}

/// This program as what is measured: `bench` for speed, `loss` for losses.
fn surface(
    flags: &TuneFlags,
    path: &Path,
    engine: &EngineOptions,
    plan: &Plan,
    basis: &Basis,
    interrupt: &Interrupt,
) -> Result<ChildSurface> {
    let mut engine = engine.clone();
    let is_tried = basis.start.iter().any(|setting| matches!(setting, Setting::Reader(_)));
    if !is_tried && !flags.given.contains(&"reader") {
        // The one that a run would take.
        engine.reader = plan.reader();
    }
    // The memory of the context that is planned for, although it is not filled.
    let context = ["--context".into(), basis.context.to_string().into()];
    let common: Vec<OsString> = engine_args(&engine).into_iter().chain(context).collect();
    let runs = &flags.runs;
    let mut bench: Vec<OsString> = vec!["bench".into(), path.into()];
    bench.extend(["--json", "--no-peaks", "--no-tuned", "--contexts", "0"].map(OsString::from));
    let numbers = [
        ("--prompt-tokens", runs.prompt_tokens),
        ("--decode-tokens", runs.decode_tokens),
        ("--patience", runs.patience),
    ];
    bench.extend(numbers.into_iter().flat_map(|(flag, n)| [flag.into(), n.to_string().into()]));
    bench.extend(runs.routing.iter().flat_map(|kind| ["--routing".into(), kind.into()]));
    bench.extend(common.iter().cloned());
    let mut loss: Vec<OsString> = vec!["loss".into(), path.into(), "--no-tuned".into()];
    if let Some(most) = &flags.loss {
        loss.extend(["--text".into(), most.text.clone().into()]);
        loss.extend(["--text-tokens".into(), most.n_tokens.to_string().into()]);
    }
    loss.extend(common);
    Ok(ChildSurface {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        bench,
        loss,
        limit: FIRST_RUN,
        loss_limit: FIRST_RUN,
        stop: interrupt.stop(),
    })
}

/// The flags that make these options, but for the context.
fn engine_args(engine: &EngineOptions) -> Vec<OsString> {
    let usual = EngineOptions::default();
    let number = |n: usize| n.to_string();
    let kv = match engine.kv {
        KvKind::F32 => "f32",
        KvKind::F16 => "f16",
        KvKind::Q8 => "q8",
    };
    let flags = [
        ("--ram", engine.ram_bytes.map(|bytes| bytes.to_string())),
        ("--threads", engine.threads.map(number)),
        ("--backend", (engine.backend == BackendKind::Reference).then(|| "reference".to_owned())),
        ("--level", engine.level.map(|level| level.to_string())),
        ("--kv", (engine.kv != usual.kv).then(|| kv.to_owned())),
        ("--experts", engine.experts_per_token.map(number)),
        ("--reader", (engine.reader != ReaderKind::Auto).then(|| engine.reader.to_string())),
        ("--depth", engine.depth.map(number)),
        ("--io-threads", engine.io_threads.map(number)),
        ("--cache-policy", (engine.policy != PolicyKind::default()).then(|| engine.policy.to_string())),
        ("--cache", engine.cache_bytes.map(|bytes| bytes.to_string())),
        ("--prompt-chunk", engine.max_chunk.map(number)),
        ("--cache-aware", (engine.cache_aware > 0.0).then(|| engine.cache_aware.to_string())),
        ("--prefetch", (engine.prefetch != Prefetch::default()).then(|| engine.prefetch.to_string())),
    ];
    let given = flags.into_iter().filter_map(|(flag, value)| Some([flag.into(), value?.into()]));
    given.flatten().collect()
}

/// Keeps the winner for later runs, and prints it.
fn finish(flags: &TuneFlags, path: &Path, ram_bytes: u64, outcome: &Outcome) -> Result<()> {
    let found = tuned::Tuned {
        settings: outcome.best.iter().map(ToString::to_string).collect(),
        model: flags.model.display().to_string(),
        when: now(),
        cores: machine::allowed_cores(),
        ram_bytes,
        tok_per_s: outcome.tok_per_s,
        gain: outcome.gain,
        max_loss: flags.loss.as_ref().map(|loss| loss.most),
        results: std::path::absolute(&flags.results).unwrap_or_else(|_| flags.results.clone()),
    };
    let kept = found.keep(path, &flags.engine);
    if let Err(error) = &kept {
        note!("warning: later runs will not use what was found: {error:#}");
    }
    let text = if flags.json {
        serde_json::to_string_pretty(&json!({
            "tuned": found,
            "dropped": outcome.dropped.iter().map(|(settings, why)| json!({
                "settings": settings.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "why": why.to_string(),
            })).collect::<Vec<_>>(),
            "start": outcome.start.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "experiments": outcome.n_experiments,
            "runs": outcome.n_runs,
            "is_complete": outcome.is_complete,
            "chart": flags.chart,
            "profile": kept.ok(),
        }))?
    } else {
        summary(flags, outcome)
    };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn summary(flags: &TuneFlags, outcome: &Outcome) -> String {
    let gain = match outcome.gain {
        _ if outcome.best == outcome.start => "nothing was faster beyond the noise, and stayed so".to_owned(),
        Some(gain) => format!("{} the speed of the usual settings", times(gain)),
        None => "there was no time to compare it with the usual settings".to_owned(),
    };
    let dropped: String = outcome
        .dropped
        .iter()
        .map(|(settings, why)| {
            format!("\ndropped  {}: {why}, when it was compared with the usual settings", listed(settings))
        })
        .collect();
    let left = if outcome.is_complete {
        "nothing is left to try"
    } else {
        "the time is over; the same command goes on where it was"
    };
    format!(
        "best     {}\nusual    {}\ngain     {gain}{dropped}\ndone     {} experiments, {} runs; {left}\nwritten  {}, {}; later runs of this model use the best settings unless --no-tuned is given",
        listed(&outcome.best),
        listed(&outcome.start),
        outcome.n_experiments,
        outcome.n_runs,
        flags.results.display(),
        flags.chart.display()
    )
}

fn listed(settings: &[Setting]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// One experiment: `kept       1.23 times (1.10 to 1.40)  depth=8 (was 32): faster beyond the noise, 8 runs, 41 s`.
fn line(experiment: &Experiment) -> String {
    let gain = experiment.gain.map_or_else(|| "-".to_owned(), times);
    let mark = if experiment.verdict == Verdict::Kept { "kept" } else { "discarded" };
    let loss = experiment
        .loss
        .map_or_else(String::new, |[mean, high]| format!(", loss {mean:.4}, {high:.4} at most"));
    format!(
        "{mark:<10} {gain:<28} {}: {}{loss}, {} runs, {:.0} s",
        experiment.change(),
        experiment.why,
        experiment.n_runs(),
        experiment.seconds
    )
}

/// `1.23 times (1.10 to 1.40)`; without bounds where there are none yet.
fn times([gain, low, high]: [f64; 3]) -> String {
    match high.is_finite() && low > -1.0 {
        true => format!("{:.2} times ({:.2} to {:.2})", 1.0 + gain, 1.0 + low, 1.0 + high),
        false => format!("{:.2} times", 1.0 + gain),
    }
}

/// The time in UTC, to the second.
fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
}
