//! What to try next: a climb from what is best so far, one option at a time, the most promising first.

use std::collections::HashSet;

use super::duel::{Verdict, Why};
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
    incumbent: Point,
    tried: HashSet<Point>,
    /// Values that are not tried again, for each option.
    lost: Vec<Vec<bool>>,
    /// The point that is predicted to be the best.
    jump: Option<Point>,
}

impl<'a> Search<'a> {
    /// A search that begins at `start`.
    pub fn new(grid: &'a Grid, start: Point, predict: &'a dyn Fn(&[Setting]) -> Option<f64>) -> Search<'a> {
        let lost = grid.knobs.iter().map(|knob| vec![false; knob.values.len()]).collect();
        let tried = HashSet::from([start.clone()]);
        let mut search = Search { grid, predict, incumbent: start, tried, lost, jump: None };
        search.jump = search.best_prediction();
        search
    }

    /// What is best so far.
    pub fn incumbent(&self) -> &Point {
        &self.incumbent
    }

    /// What to measure against the incumbent; `None` when nothing is left.
    pub fn challenger(&self) -> Option<Point> {
        if let Some(jump) = self.jump.as_ref().filter(|jump| self.is_open(jump)) {
            return Some(jump.clone());
        }
        let mut best: Option<(f64, Point)> = None;
        for (knob, values) in self.grid.knobs.iter().enumerate() {
            if !self.grid.matters(&self.incumbent, knob) {
                continue;
            }
            for value in 0..values.values.len() {
                let mut point = self.incumbent.clone();
                point[knob] = value;
                if !self.is_open(&point) {
                    continue;
                }
                let promise = self.promise(&point);
                // The first of equals: the options are in the order of what they usually matter.
                if best.as_ref().is_none_or(|(most, _)| promise > *most) {
                    best = Some((promise, point));
                }
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
        if challenger == self.incumbent {
            // A last comparison of the winner with the start.
            if experiment.why == Why::Slower {
                self.incumbent = incumbent;
            }
            return;
        }
        self.tried.insert(challenger.clone());
        let changed: Vec<usize> =
            (0..challenger.len()).filter(|&knob| challenger[knob] != incumbent[knob]).collect();
        let refuse = |lost: &mut Vec<Vec<bool>>, knob: usize| lost[knob][challenger[knob]] = true;
        match (experiment.verdict, &changed[..]) {
            (Verdict::Kept, _) => self.incumbent = challenger,
            (Verdict::Discarded, &[knob])
                if experiment.why == Why::LosesTooMuch || experiment.is_clear_loss(CLEAR_LOSS) =>
            {
                refuse(&mut self.lost, knob);
            }
            (Verdict::Discarded, _) => {}
        }
    }

    fn is_open(&self, point: &Point) -> bool {
        let is_lost = point.iter().enumerate().any(|(knob, &value)| self.lost[knob][value]);
        !is_lost && !self.tried.contains(point)
    }

    /// How much faster than the incumbent it is predicted to be; 1 where nothing is known.
    fn promise(&self, point: &Point) -> f64 {
        let predict = |point: &Point| (self.predict)(&self.grid.settings(point));
        predict(point).zip(predict(&self.incumbent)).map_or(1.0, |(point, incumbent)| point / incumbent)
    }

    /// The point that is predicted to be the fastest of those that differ from the start in what predictions know of, if it promises
    /// enough. Settings that change answers are left as they are: fewer experts are always predicted to be faster.
    fn best_prediction(&self) -> Option<Point> {
        if self.grid.n_points() > MAX_POINTS {
            return None;
        }
        let keeps_answers = |point: &Point| {
            let is_lossy = |(knob, &value): (usize, &usize)| {
                value != self.incumbent[knob] && self.grid.knobs[knob].values[value].is_lossy()
            };
            !point.iter().enumerate().any(is_lossy)
        };
        let differences = |point: &Point| point.iter().zip(&self.incumbent).filter(|(a, b)| a != b).count();
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
