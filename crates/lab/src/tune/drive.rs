//! The loop: propose, measure, decide, write down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::child::Failure;
use super::duel::{Rule, Verdict, Why};
use super::grid::Grid;
use super::journal::{Experiment, Journal};
use super::search::{Point, Search};
use super::setting::Setting;
use super::{Run, Surface, TuneError};
use crate::statistics::Interval;

/// What is tuned, and how long.
pub struct Tuner<'a> {
    /// What may be tried.
    pub grid: &'a Grid,
    /// Where it begins.
    pub start: Point,
    /// Tokens a second that are predicted of settings, where they are.
    pub predict: &'a dyn Fn(&[Setting]) -> Option<f64>,
    /// What evidence is.
    pub rule: Rule,
    /// The most divergence from the model as it is, in nats, that settings may cost.
    pub max_loss: Option<f64>,
    /// The time of day, for the journal.
    pub now: &'a dyn Fn() -> String,
    /// Seconds since tuning began.
    pub elapsed: &'a dyn Fn() -> f64,
    /// Seconds that it may take.
    pub limit: f64,
    /// Set when nobody wants to go on.
    pub stop: &'a AtomicBool,
}

/// What tuning found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The winner.
    pub best: Vec<Setting>,
    /// Where it began.
    pub start: Vec<Setting>,
    /// How much faster the winner was than the start in a comparison of its own, less 1, with bounds; `None` if there was no time for it,
    /// or nothing was found.
    pub gain: Option<[f64; 3]>,
    /// The mean speed of the winner in the experiment that was its last.
    pub tok_per_s: Option<f64>,
    /// Experiments, earlier ones of the journal included.
    pub n_experiments: usize,
    /// Runs, likewise.
    pub n_runs: usize,
    /// Nothing is left to try.
    pub is_complete: bool,
}

/// Goes on from the experiments in `past` until nothing is left to try or the time is over. `tell` is shown each experiment when it is
/// written down.
pub fn tune(
    tuner: &Tuner<'_>,
    surface: &mut dyn Surface,
    journal: &mut Journal,
    past: Vec<Experiment>,
    tell: &mut dyn FnMut(&Experiment),
) -> Result<Outcome, TuneError> {
    let mut search = Search::new(tuner.grid, tuner.start.clone(), tuner.predict);
    past.iter().for_each(|experiment| search.decide(experiment));
    let start = tuner.grid.settings(&tuner.start);
    let mut bench = Bench { tuner, surface, losses: HashMap::new(), seconds: 0.0, n_runs: 0 };
    let mut done = past;
    let mut note = |search: &mut Search<'_>, done: &mut Vec<Experiment>, experiment: Experiment| {
        search.decide(&experiment);
        journal.append(&experiment)?;
        tell(&experiment);
        done.push(experiment);
        Ok::<(), TuneError>(())
    };
    while let Some(challenger) = search.challenger() {
        // What is left must do for a comparison of the winner with the start.
        let deadline = tuner.limit - bench.check_seconds();
        if (tuner.elapsed)() >= deadline {
            break;
        }
        let challenger = tuner.grid.settings(&challenger);
        let incumbent = tuner.grid.settings(search.incumbent());
        let experiment = bench.duel(&incumbent, &challenger, deadline)?;
        note(&mut search, &mut done, experiment)?;
    }
    let best = tuner.grid.settings(search.incumbent());
    let is_check = |experiment: &Experiment| experiment.incumbent == start && experiment.challenger == best;
    let is_checked = done.last().is_some_and(|last| is_check(last) && last.why != Why::OutOfTime);
    if best != start && !is_checked && (tuner.elapsed)() < tuner.limit {
        let experiment = bench.duel(&start, &best, tuner.limit)?;
        note(&mut search, &mut done, experiment)?;
    }
    let best = tuner.grid.settings(search.incumbent());
    let last = done.iter().rev().find(|experiment| is_check(experiment));
    Ok(Outcome {
        gain: last.filter(|_| best != start).and_then(|last| last.gain),
        tok_per_s: done.iter().rev().find_map(|experiment| speed(experiment, &best)),
        n_experiments: done.len(),
        n_runs: done.iter().map(Experiment::n_runs).sum(),
        is_complete: search.challenger().is_none(),
        best,
        start,
    })
}

/// The mean speed of `settings`, if they were measured in `experiment`.
fn speed(experiment: &Experiment, settings: &[Setting]) -> Option<f64> {
    let runs = if experiment.challenger == settings {
        &experiment.challenger_runs
    } else if experiment.incumbent == settings {
        &experiment.incumbent_runs
    } else {
        return None;
    };
    (!runs.is_empty()).then(|| runs.iter().sum::<f64>() / runs.len() as f64)
}

/// Where runs are made.
struct Bench<'a, 'b> {
    tuner: &'a Tuner<'a>,
    surface: &'b mut dyn Surface,
    /// Losses by the settings that change answers.
    losses: HashMap<String, Interval>,
    /// Of all runs.
    seconds: f64,
    n_runs: usize,
}

/// The two of a duel.
const INCUMBENT: usize = 0;
const CHALLENGER: usize = 1;

impl Bench<'_, '_> {
    /// What the shortest comparison that can be sure takes.
    fn check_seconds(&self) -> f64 {
        let each = self.seconds / self.n_runs.max(1) as f64;
        (2 * self.tuner.rule.looks[0]) as f64 * each
    }

    /// Measures until the rule decides or the deadline is over.
    fn duel(
        &mut self,
        incumbent: &[Setting],
        challenger: &[Setting],
        deadline: f64,
    ) -> Result<Experiment, TuneError> {
        let begun = (self.tuner.elapsed)();
        let mut experiment = Experiment {
            when: String::new(),
            incumbent: incumbent.to_vec(),
            challenger: challenger.to_vec(),
            incumbent_runs: Vec::new(),
            challenger_runs: Vec::new(),
            gain: None,
            hit_rate: None,
            bytes_per_token: None,
            loss: None,
            seconds: 0.0,
            verdict: Verdict::Discarded,
            why: Why::OutOfTime,
        };
        (experiment.verdict, experiment.why) = match self.refused(&mut experiment)? {
            Some(why) => (Verdict::Discarded, why),
            None => self.alternate(&mut experiment, deadline)?,
        };
        let [a, b] = [&experiment.incumbent_runs, &experiment.challenger_runs];
        if !a.is_empty() && !b.is_empty() {
            let Interval { estimate, low, high } = self.tuner.rule.gain(a, b);
            experiment.gain = Some([estimate, low, high].map(f64::exp_m1));
        }
        experiment.when = (self.tuner.now)();
        experiment.seconds = (self.tuner.elapsed)() - begun;
        Ok(experiment)
    }

    /// Why the challenger may not be what it is, before it is timed: it loses more than it may.
    fn refused(&mut self, experiment: &mut Experiment) -> Result<Option<Why>, TuneError> {
        let is_changed = |setting: &&Setting| {
            setting.is_lossy() && !self.tuner.grid.settings(&self.tuner.start).contains(setting)
        };
        let lossy: Vec<String> =
            experiment.challenger.iter().filter(is_changed).map(Setting::to_string).collect();
        if lossy.is_empty() {
            return Ok(None);
        }
        let Some(max_loss) = self.tuner.max_loss else { return Ok(Some(Why::LosesTooMuch)) };
        let key = lossy.join(" ");
        let loss = match self.losses.get(&key) {
            Some(loss) => *loss,
            None => match self.surface.loss(&experiment.challenger) {
                Ok(loss) => loss,
                Err(Failure::Interrupted) => return Err(TuneError::Interrupted),
                Err(failure) => return Ok(Some(Why::from(&failure))),
            },
        };
        self.losses.insert(key, loss);
        experiment.loss = Some([loss.estimate, loss.high]);
        // The bound and not the mean: it must be sure.
        Ok((loss.high > max_loss || loss.high.is_nan()).then_some(Why::LosesTooMuch))
    }

    /// Runs in the order A B, B A, A B, ..
    fn alternate(&mut self, experiment: &mut Experiment, deadline: f64) -> Result<(Verdict, Why), TuneError> {
        loop {
            let n = experiment.challenger_runs.len();
            let order = if n.is_multiple_of(2) { [INCUMBENT, CHALLENGER] } else { [CHALLENGER, INCUMBENT] };
            for who in order {
                if (self.tuner.elapsed)() >= deadline {
                    return Ok((Verdict::Discarded, Why::OutOfTime));
                }
                match self.run(experiment, who)? {
                    Ok(run) => experiment.take(who, run),
                    Err(failure) if who == CHALLENGER => {
                        return Ok((Verdict::Discarded, Why::from(&failure)));
                    }
                    Err(_) => match self.run(experiment, INCUMBENT)? {
                        Ok(run) => experiment.take(INCUMBENT, run),
                        Err(failure) => return self.without_incumbent(experiment, &failure),
                    },
                }
            }
            let verdict = self.tuner.rule.judge(&experiment.incumbent_runs, &experiment.challenger_runs);
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
        }
    }

    /// The incumbent has failed twice: whoever runs is better.
    fn without_incumbent(
        &mut self,
        experiment: &mut Experiment,
        failure: &Failure,
    ) -> Result<(Verdict, Why), TuneError> {
        Ok(match self.run(experiment, CHALLENGER)? {
            Ok(run) => {
                experiment.take(CHALLENGER, run);
                (Verdict::Kept, Why::IncumbentFailed(failure.to_string()))
            }
            Err(failure) => (Verdict::Discarded, Why::from(&failure)),
        })
    }

    fn run(&mut self, experiment: &Experiment, who: usize) -> Result<Result<Run, Failure>, TuneError> {
        if self.tuner.stop.load(Ordering::SeqCst) {
            return Err(TuneError::Interrupted);
        }
        let settings = if who == INCUMBENT { &experiment.incumbent } else { &experiment.challenger };
        let begun = (self.tuner.elapsed)();
        let run = self.surface.run(settings);
        self.seconds += (self.tuner.elapsed)() - begun;
        self.n_runs += 1;
        match run {
            Err(Failure::Interrupted) => Err(TuneError::Interrupted),
            run => Ok(run),
        }
    }
}

impl Experiment {
    fn take(&mut self, who: usize, run: Run) {
        if who == INCUMBENT {
            self.incumbent_runs.push(run.decode_tok_per_s);
        } else {
            self.challenger_runs.push(run.decode_tok_per_s);
            self.hit_rate = Some(run.hit_rate);
            self.bytes_per_token = Some(run.bytes_per_token);
        }
    }
}
