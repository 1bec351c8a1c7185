//! What to try next: a climb from what is best so far, one option at a time, the most promising first.
//!
//! In a first round a challenger gets few pairs of runs, which find what is much better soon. What they left within the noise gets all of
//! them when nothing else is left, and so do values that are of use only together: threads that read, with a reader that has threads.

use std::collections::HashSet;

use super::duel::{Rule, Verdict, Why};
use super::grid::Grid;
use super::journal::Experiment;
use super::setting::Setting;

/// A place in a grid: for each option the number of its value.
pub type Point = Vec<usize>;

/// A value that was slower by this share at the least, sure within the noise, is not tried beside other settings.
const CLEAR_LOSS: f64 = 0.05;

/// The whole grid is looked over for the best prediction if it has no more points than this.
const MAX_POINTS: usize = 100_000;

/// A jump to the best prediction has to promise this much more.
const JUMP: f64 = 1.05;

/// The state of the search. It is that of the grid, the start and the experiments so far, and of nothing else.
pub struct Search<'a> {
    grid: &'a Grid,
    /// Tokens a second that are predicted, where they are.
    predict: &'a dyn Fn(&[Setting]) -> Option<f64>,
    rule: Rule,
    /// The start, and what was kept after it; the last one is the best so far.
    incumbents: Vec<Point>,
    tried: HashSet<Point>,
    /// Those that were within the noise with fewer runs than there may be.
    undecided: HashSet<Point>,
    /// Values that are not tried again, for each option.
    lost: Vec<Vec<bool>>,
    /// The point that is predicted to be the best.
    jump: Option<Point>,
    dropped: Vec<(Point, Why)>,
}

/// What to measure against the incumbent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenger {
    /// The settings.
    pub point: Point,
    /// The most pairs of runs.
    pub pairs: usize,
}

impl<'a> Search<'a> {
    /// A search that begins at `start`, whose experiments are decided by `rule`.
    pub fn new(
        grid: &'a Grid,
        start: Point,
        predict: &'a dyn Fn(&[Setting]) -> Option<f64>,
        rule: Rule,
    ) -> Search<'a> {
        let lost = grid.knobs.iter().map(|knob| vec![false; knob.values.len()]).collect();
        let tried = HashSet::from([start.clone()]);
        let (undecided, dropped) = (HashSet::new(), Vec::new());
        let incumbents = vec![start];
        let mut search =
            Search { grid, predict, rule, incumbents, tried, undecided, lost, jump: None, dropped };
        search.jump = search.best_prediction();
        search
    }

    /// What is best so far.
    pub fn incumbent(&self) -> &Point {
        self.incumbents.last().expect("the start at the least")
    }

    /// What was best for a while, and did not stand a comparison with the start; with the reason.
    pub fn dropped(&self) -> &[(Point, Why)] {
        &self.dropped
    }

    /// What to measure against the incumbent; `None` when nothing is left.
    pub fn challenger(&self) -> Option<Challenger> {
        let with = |pairs: usize| move |point| Challenger { point, pairs };
        let jump = self.jump.clone().filter(|jump| self.is_open(jump));
        let open = || self.most_promising(self.neighbours().into_iter().filter(|point| self.is_open(point)));
        let first = jump.or_else(open).map(with(self.rule.first_pairs()));
        first.or_else(|| self.most_promising(self.second_round()).map(with(self.rule.max_pairs())))
    }

    /// The incumbent with another value of one option.
    fn neighbours(&self) -> Vec<Point> {
        let incumbent = self.incumbent();
        let mut points = Vec::new();
        for (knob, values) in self.grid.knobs.iter().enumerate() {
            if self.grid.matters(incumbent, knob) {
                let others = (0..values.values.len()).filter(|&value| value != incumbent[knob]);
                points.extend(others.map(|value| changed(incumbent, knob, value)));
            }
        }
        points
    }

    /// What is left when all neighbours were tried: those that few runs did not decide, and those beside which an option begins to matter,
    /// with its other values.
    fn second_round(&self) -> impl Iterator<Item = Point> + '_ {
        let begins = |point: &Point, knob: usize| {
            !self.grid.matters(self.incumbent(), knob) && self.grid.matters(point, knob)
        };
        let mut points = Vec::new();
        for point in self.neighbours() {
            for knob in (0..point.len()).filter(|&knob| begins(&point, knob)) {
                let others = (0..self.grid.knobs[knob].values.len()).filter(|&value| value != point[knob]);
                points.extend(others.map(|value| changed(&point, knob, value)));
            }
            if !self.is_lost(&point) && self.undecided.contains(&point) {
                points.push(point);
            }
        }
        points.into_iter().filter(|point| !self.tried.contains(point) || self.undecided.contains(point))
    }

    /// The first of equals: the options are in the order of what they usually matter.
    fn most_promising(&self, points: impl Iterator<Item = Point>) -> Option<Point> {
        let mut best: Option<(f64, Point)> = None;
        for point in points {
            let promise = self.promise(&point);
            if best.as_ref().is_none_or(|(most, _)| promise > *most) {
                best = Some((promise, point));
            }
        }
        best.map(|(_, point)| point)
    }

    /// Takes what an experiment found.
    pub fn decide(&mut self, experiment: &Experiment) {
        let point = |settings: &[Setting]| self.grid.point(settings);
        let (Some(challenger), Some(incumbent)) =
            (point(&experiment.challenger), point(&experiment.incumbent))
        else {
            return;
        };
        if experiment.why == Why::OutOfTime {
            return;
        }
        if challenger == *self.incumbent() {
            // A last comparison of the winner with the start.
            let is_worse = matches!(experiment.why, Why::Slower | Why::LosesTooMuch | Why::Failed(_));
            if is_worse && self.incumbents.len() > 1 {
                self.incumbents.pop();
                self.dropped.push((challenger, experiment.why.clone()));
            }
            return;
        }
        self.tried.insert(challenger.clone());
        if experiment.why == Why::WithinNoise && experiment.challenger_runs.len() < self.rule.max_pairs() {
            self.undecided.insert(challenger.clone());
        } else {
            self.undecided.remove(&challenger);
        }
        let mut changed = (0..challenger.len()).filter(|&knob| challenger[knob] != incumbent[knob]);
        let only = changed.next().filter(|_| changed.next().is_none());
        let is_hopeless = experiment.why == Why::LosesTooMuch || experiment.is_clear_loss(CLEAR_LOSS);
        match (experiment.verdict, only) {
            (Verdict::Kept, _) => self.incumbents.push(challenger),
            (Verdict::Discarded, Some(knob)) if is_hopeless => self.lost[knob][challenger[knob]] = true,
            (Verdict::Discarded, _) => {}
        }
    }

    fn is_open(&self, point: &Point) -> bool {
        !self.is_lost(point) && !self.tried.contains(point)
    }

    fn is_lost(&self, point: &Point) -> bool {
        point.iter().enumerate().any(|(knob, &value)| self.lost[knob][value])
    }

    /// How much faster than the incumbent it is predicted to be; 1 where nothing is known.
    fn promise(&self, point: &Point) -> f64 {
        let predict = |point: &Point| (self.predict)(&self.grid.settings(point));
        predict(point).zip(predict(self.incumbent())).map_or(1.0, |(point, incumbent)| point / incumbent)
    }

    /// The point that is predicted to be the fastest of those that differ from the start in what predictions know of, if it promises
    /// enough. Settings that change answers are left as they are: fewer experts are always predicted to be faster.
    fn best_prediction(&self) -> Option<Point> {
        if self.grid.n_points() > MAX_POINTS {
            return None;
        }
        let keeps_answers = |point: &Point| {
            let is_lossy = |(knob, &value): (usize, &usize)| {
                value != self.incumbent()[knob] && self.grid.knobs[knob].values[value].is_lossy()
            };
            !point.iter().enumerate().any(is_lossy)
        };
        let differences = |point: &Point| point.iter().zip(self.incumbent()).filter(|(a, b)| a != b).count();
        let mut best = (JUMP, usize::MAX, None);
        for point in self.grid.points().filter(keeps_answers) {
            let (promise, n) = (self.promise(&point), differences(&point));
            // What predictions say nothing of stays.
            if promise > best.0 + 1e-9 || (promise > best.0 - 1e-9 && best.2.is_some() && n < best.1) {
                best = (promise, n, Some(point));
            }
        }
        best.2
    }
}

fn changed(point: &Point, knob: usize, value: usize) -> Point {
    let mut point = point.clone();
    point[knob] = value;
    point
}
