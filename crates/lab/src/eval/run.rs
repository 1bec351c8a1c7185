//! The run: every suite on every arm, case by case, with a journal of what is done.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use flashmill_engine::{Checkpoint, EngineError, EngineOptions};
use xxhash_rust::xxh3::xxh3_64;

use super::EvalError;
use super::arm::{self, Arm, ArmFacts, Files, Weights};
use super::journal::Journal;
use super::report::{ArmReport, Comparison, Finding, Report};
use super::suite::{Outcome, Suite};

/// What is evaluated.
pub struct EvalOptions {
    /// The model.
    pub model: PathBuf,
    /// What the user calls it.
    pub name: String,
    /// How it is opened; experts per token and cache-aware routing are the arms'.
    pub engine: EngineOptions,
    /// Arms of other weights than the stored ones.
    pub weights: Vec<Weights>,
    /// Arms of other numbers of experts than the model's own.
    pub experts: Vec<usize>,
    /// Arms with cache-aware routing that may give up this share of the router's choice, at the model's own number of experts.
    pub cache_aware: Vec<f64>,
    /// What is asked.
    pub suites: Vec<Suite>,
    /// Where the journal lies, and packed arms while they are measured.
    pub work: PathBuf,
    /// The program that measures, to the build: what another one has found is not taken over.
    pub program: String,
}

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The arm.
    pub arm: &'a str,
    /// The suite, or what is done to the arm's weights before, in words.
    pub suite: &'a str,
    /// Cases that are done, of all arms and suites; those of earlier runs too.
    pub done: usize,
    /// All cases.
    pub total: usize,
}

/// Runs everything that no earlier run has, and reports.
///
/// The first arm is always the model as stored, with its own number of experts; the others are each of `weights`, the stored ones
/// first, with its own number of experts and each of `experts`, then with each of `cache_aware`. What an arm of the latter answers depends on
/// what its cache holds, and so on the cases before, and on where a run was interrupted.
pub fn eval(
    options: &EvalOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, EvalError> {
    let arms = arms(options)?;
    fs::create_dir_all(&options.work)
        .map_err(|error| EvalError::Work { path: options.work.clone(), error })?;
    let model = arm::identity(&options.model)?;
    let mut run = Run {
        journal: Journal::open(&options.work.join(format!("{model:016x}.jsonl")))?,
        options,
        model,
        stop,
        n_done: 0,
        total: arms.len() * options.suites.iter().map(Suite::n_cases).sum::<usize>(),
        progress,
    };
    let mut reports: Vec<(ArmReport, Vec<Vec<Outcome>>)> = Vec::new();
    for group in arms.chunk_by(|a, b| a.weights == b.weights) {
        let dir = options.work.join(format!("arm-{:016x}", run.key(&group[0])?));
        let mut files = Files::new(&group[0].weights, &options.model, &options.engine, dir);
        for arm in group {
            let first = reports.first().map(|(_, outcomes)| &outcomes[..]);
            let report = run.arm(arm, &mut files, first)?;
            reports.push(report);
        }
    }
    let arms: Vec<ArmReport> = reports.into_iter().map(|(report, _)| report).collect();
    Ok(Report {
        model: options.name.clone(),
        program: options.program.clone(),
        about: options.suites.iter().map(|suite| (suite.name().to_owned(), suite.about())).collect(),
        suites: arms[0].suites.clone(),
        arms,
    })
}

/// All arms, those of the same weights together.
fn arms(options: &EvalOptions) -> Result<Vec<Arm>, EvalError> {
    let checkpoint = Checkpoint::open(&options.model).map_err(EngineError::from)?;
    let moe = checkpoint.spec().moe;
    let (own, most) = moe.map_or((0, 0), |moe| (moe.top_k, moe.n_experts));
    if let Some(&experts) = options.experts.iter().find(|&&experts| experts > most) {
        return Err(EvalError::TooManyExperts { experts, most });
    }
    let mut arms: Vec<Arm> = Vec::new();
    for weights in std::iter::once(&Weights::Stored).chain(&options.weights) {
        let experts =
            std::iter::once(own).chain(options.experts.iter().copied()).map(|experts| (experts, 0.0));
        let aware = options.cache_aware.iter().map(|&share| (own, share));
        for (experts, cache_aware) in experts.chain(aware) {
            let arm = Arm { weights: weights.clone(), experts, cache_aware };
            if !arms.contains(&arm) {
                arms.push(arm);
            }
        }
    }
    Ok(arms)
}

struct Run<'a, 'b> {
    options: &'a EvalOptions,
    journal: Journal,
    /// The number of the model's files.
    model: u64,
    stop: &'a AtomicBool,
    n_done: usize,
    total: usize,
    progress: &'a mut (dyn FnMut(Progress<'_>) + 'b),
}

impl Run<'_, '_> {
    /// A number for everything that the outcomes of an arm depend on, the suite apart.
    fn key(&self, arm: &Arm) -> Result<u64, EvalError> {
        let weights = arm.weights_key()?;
        let settings = arm::settings(&arm.engine(&self.options.engine), arm.experts);
        Ok(xxh3_64(format!("{} {:x} {weights} {settings}", self.options.program, self.model).as_bytes()))
    }

    /// The files of the arm `name`, packed if they have to be.
    fn files_path(&mut self, name: &str, files: &mut Files<'_>) -> Result<PathBuf, EvalError> {
        let (done, total, progress) = (self.n_done, self.total, &mut self.progress);
        files.path(&mut |what, share| {
            let suite = format!("{what}, {:.0} %", 100.0 * share);
            progress(Progress { arm: name, suite: &suite, done, total });
        })
    }

    /// All suites on one arm; `first` are the outcomes of the first arm.
    fn arm(
        &mut self,
        arm: &Arm,
        files: &mut Files<'_>,
        first: Option<&[Vec<Outcome>]>,
    ) -> Result<(ArmReport, Vec<Vec<Outcome>>), EvalError> {
        let (name, key) = (arm.name(), self.key(arm)?);
        let facts = match self.journal.arm(key) {
            Some(facts) => *facts,
            None => {
                let facts = ArmFacts::of(&self.files_path(&name, files)?, arm.experts)?;
                self.journal.add_arm(key, &name, facts)?;
                facts
            }
        };
        let (mut outcomes, mut suites, mut against_first) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (index, suite) in self.options.suites.iter().enumerate() {
            let found = match suite.passes_over_base() && first.is_none() {
                true => Vec::new(),
                false => self.suite(arm, key, suite, files)?,
            };
            let firsts = first.map(|first| suite.parts(&first[index])).unwrap_or_default();
            for (part, (name, found)) in suite.parts(&found).into_iter().enumerate() {
                let comparison = firsts.get(part).and_then(|(_, first)| Comparison::of(first, &found));
                against_first.extend(comparison.map(|comparison| (name.clone(), comparison)));
                suites.extend(Finding::of(&found).map(|finding| (name, finding)));
            }
            outcomes.push(found);
        }
        let is_safe = (!against_first.is_empty()).then(|| !against_first.values().any(Comparison::is_loss));
        let (weights, bytes_per_token) = (arm.weights_name(), facts.bytes_per_token());
        Ok((ArmReport { name, weights, facts, bytes_per_token, suites, against_first, is_safe }, outcomes))
    }

    /// The outcomes of one suite, those that are missing measured.
    fn suite(
        &mut self,
        arm: &Arm,
        key: u64,
        suite: &Suite,
        files: &mut Files<'_>,
    ) -> Result<Vec<Outcome>, EvalError> {
        let name = arm.name();
        let about = format!("{name}: {}", suite.name());
        let key = xxh3_64(&[key.to_le_bytes(), suite.key().to_le_bytes()].concat());
        let missing: Vec<usize> =
            (0..suite.n_cases()).filter(|&case| self.journal.case(key, case).is_none()).collect();
        self.n_done += suite.n_cases() - missing.len();
        if !missing.is_empty() {
            let path = self.files_path(&name, files)?;
            let (n_done, total, progress) = (&mut self.n_done, self.total, &mut self.progress);
            let mut tell =
                |n_done| progress(Progress { arm: &name, suite: suite.name(), done: n_done, total });
            tell(*n_done);
            let engine = arm.engine(&self.options.engine);
            let journal = &mut self.journal;
            suite.score(&path, &engine, &missing, self.stop, &mut |case, outcome| {
                journal.add_case(key, case, &about, outcome)?;
                *n_done += 1;
                tell(*n_done);
                Ok(())
            })?;
        }
        let outcome = |case| self.journal.case(key, case).expect("scored").clone();
        Ok((0..suite.n_cases()).map(outcome).collect())
    }
}
