//! The loop: propose, measure, decide, write down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::child::Failure;
use super::duel::{Rule, Verdict, Why};
use super::grid::Grid;
use super::journal::{Experiment, Journal};
use super::search::{Challenger, Point, Search};
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
    /// What was the winner, and did not stand the comparison with the start; with the reason.
    pub dropped: Vec<(Vec<Setting>, Why)>,
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
    let mut search = Search::new(tuner.grid, tuner.start.clone(), tuner.predict, tuner.rule);
    past.iter().for_each(|experiment| search.decide(experiment));
    let start = tuner.grid.settings(&tuner.start);
    let mut bench = Bench::new(tuner, surface, &past);
    let mut done = past;
    let mut note = |search: &mut Search<'_>, done: &mut Vec<Experiment>, experiment: Experiment| {
        search.decide(&experiment);
        journal.append(&experiment)?;
        tell(&experiment);
        done.push(experiment);
        Ok::<(), TuneError>(())
    };
    let best = loop {
        while let Some(Challenger { point, pairs }) = search.challenger() {
            // What is left must do for a comparison of the winner with the start.
            let deadline = tuner.limit - bench.check_seconds();
            if (tuner.elapsed)() >= deadline {
                break;
            }
            let incumbent = tuner.grid.settings(search.incumbent());
            let experiment = bench.duel(&incumbent, &tuner.grid.settings(&point), pairs, deadline)?;
            note(&mut search, &mut done, experiment)?;
        }
        let best = tuner.grid.settings(search.incumbent());
        let is_check = |last: &Experiment| is_between(last, &start, &best) && last.why != Why::OutOfTime;
        if best == start || done.last().is_some_and(is_check) || (tuner.elapsed)() >= tuner.limit {
            break best;
        }
        let n_dropped = search.dropped().len();
        let experiment = bench.duel(&start, &best, tuner.rule.max_pairs(), tuner.limit)?;
        note(&mut search, &mut done, experiment)?;
        // A winner that does not stand it is dropped, and the one before it is the winner.
        if search.dropped().len() == n_dropped {
            break best;
        }
    };
    let last = done.iter().rev().find(|experiment| is_between(experiment, &start, &best));
    let dropped = search.dropped().iter();
    Ok(Outcome {
        gain: last.filter(|_| best != start).and_then(|last| last.gain),
        tok_per_s: done.iter().rev().find_map(|experiment| speed(experiment, &best)),
        dropped: dropped.map(|(point, why)| (tuner.grid.settings(point), why.clone())).collect(),
        n_experiments: done.len(),
        n_runs: done.iter().map(Experiment::n_runs).sum(),
        is_complete: search.challenger().is_none(),
        best,
        start,
    })
}

fn is_between(experiment: &Experiment, incumbent: &[Setting], challenger: &[Setting]) -> bool {
    experiment.incumbent == incumbent && experiment.challenger == challenger
}

fn within(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
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
    /// The losses' bounds, by the settings that they depend on: the mean, and what it is at most.
    losses: HashMap<String, [f64; 2]>,
    /// Of all runs.
    seconds: f64,
    n_runs: usize,
}

/// The two of a duel.
const INCUMBENT: usize = 0;
const CHALLENGER: usize = 1;

impl<'a, 'b> Bench<'a, 'b> {
    /// A bench that knows the losses of `past`.
    fn new(tuner: &'a Tuner<'a>, surface: &'b mut dyn Surface, past: &[Experiment]) -> Bench<'a, 'b> {
        let mut bench = Bench { tuner, surface, losses: HashMap::new(), seconds: 0.0, n_runs: 0 };
        for experiment in past {
            let key = bench.lossy(&experiment.challenger);
            bench.losses.extend(key.zip(experiment.loss));
        }
        bench
    }

    /// What the shortest comparison that can be sure takes.
    fn check_seconds(&self) -> f64 {
        let each = self.seconds / self.n_runs.max(1) as f64;
        (2 * self.tuner.rule.looks[0]) as f64 * each
    }

    /// Measures `pairs` pairs of runs at most, until the rule decides or the deadline is over.
    fn duel(
        &mut self,
        incumbent: &[Setting],
        challenger: &[Setting],
        pairs: usize,
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
        (experiment.verdict, experiment.why) = match self.refused(&mut experiment, deadline)? {
            Some(why) => (Verdict::Discarded, why),
            None => self.alternate(&mut experiment, pairs, deadline)?,
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

    /// The settings of those that the loss depends on; `None` if all answers are those of the start.
    fn lossy(&self, settings: &[Setting]) -> Option<String> {
        let start = self.tuner.grid.settings(&self.tuner.start);
        let changes_answers = |setting: &&Setting| setting.is_lossy() && !start.contains(setting);
        if !settings.iter().any(|setting| changes_answers(&setting)) {
            return None;
        }
        // What is in the cache, and so what is given up for it, depends on everything.
        let depends_on_cache = settings.iter().any(|setting| matches!(setting, Setting::CacheAware(1..)));
        let counts = |setting: &&Setting| depends_on_cache || changes_answers(setting);
        Some(settings.iter().filter(counts).map(Setting::to_string).collect::<Vec<_>>().join(" "))
    }

    /// Why the challenger may not be what it is, before it is timed: it loses more than it may.
    fn refused(&mut self, experiment: &mut Experiment, deadline: f64) -> Result<Option<Why>, TuneError> {
        let Some(key) = self.lossy(&experiment.challenger) else { return Ok(None) };
        let Some(max_loss) = self.tuner.max_loss else { return Ok(Some(Why::LosesTooMuch)) };
        let left = deadline - (self.tuner.elapsed)();
        let loss = match self.losses.get(&key) {
            Some(loss) => *loss,
            None if left <= 0.0 => return Ok(Some(Why::OutOfTime)),
            None => match self.surface.loss(&experiment.challenger, within(left)) {
                Ok(loss) => [loss.estimate, loss.high],
                Err(Failure::Interrupted) => return Err(TuneError::Interrupted),
                Err(Failure::Hung { .. }) if (self.tuner.elapsed)() >= deadline => {
                    return Ok(Some(Why::OutOfTime));
                }
                Err(failure) => return Ok(Some(Why::from(&failure))),
            },
        };
        self.losses.insert(key, loss);
        experiment.loss = Some(loss);
        // The bound and not the mean: it must be sure.
        Ok((loss[1] > max_loss || loss[1].is_nan()).then_some(Why::LosesTooMuch))
    }

    /// Runs in pairs, in the order of the rule.
    fn alternate(
        &mut self,
        experiment: &mut Experiment,
        pairs: usize,
        deadline: f64,
    ) -> Result<(Verdict, Why), TuneError> {
        loop {
            let pair = experiment.challenger_runs.len();
            let order =
                if Rule::challenger_begins(pair) { [CHALLENGER, INCUMBENT] } else { [INCUMBENT, CHALLENGER] };
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
            let [old, new] = [&experiment.incumbent_runs, &experiment.challenger_runs];
            if let Some(verdict) = self.tuner.rule.judge(old, new, pairs) {
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
