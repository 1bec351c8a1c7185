//! Where requests wait for the worker.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{Job, SubmitError};

/// A bounded line, first come, first served.
pub(crate) struct Queue {
    max: usize,
    line: Mutex<Line>,
    wake: Condvar,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// No new jobs; running ones end here.
    end: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(max: usize) -> Queue {
        Queue { max, line: Mutex::default(), wake: Condvar::new() }
    }

    /// `seconds_per_job`: how soon places become free, for those who are refused.
    pub(crate) fn push(&self, job: Job, seconds_per_job: f64) -> Result<(), SubmitError> {
        let mut line = self.line();
        if line.end.is_some() {
            return Err(SubmitError::ShuttingDown);
        }
        // Those who have gone away leave their places.
        line.jobs.retain(|job| !job.cancelled.load(Ordering::Relaxed));
        let n_waiting = line.jobs.len();
        if n_waiting >= self.max {
            let seconds = (seconds_per_job * n_waiting as f64).clamp(1.0, 600.0).ceil();
            return Err(SubmitError::QueueFull {
                n_waiting,
                retry_after: Duration::from_secs(seconds as u64),
            });
        }
        line.jobs.push_back(job);
        drop(line);
        self.wake.notify_one();
        Ok(())
    }

    /// The next job that `fits`, if it is the first in line: nobody is overtaken.
    pub(crate) fn pop_if(&self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut line = self.line();
        line.jobs.retain(|job| !job.cancelled.load(Ordering::Relaxed));
        if fits(line.jobs.front()?) { line.jobs.pop_front() } else { None }
    }

    /// All that wait: at the end.
    pub(crate) fn drain(&self) -> Vec<Job> {
        self.line().jobs.drain(..).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.line().jobs.len()
    }

    /// Sleeps until there is a job or the end is near, `longest` at most.
    pub(crate) fn wait(&self, longest: Duration) {
        let line = self.line();
        if line.jobs.is_empty() && line.end.is_none() {
            // Poisoned or not, the worker looks for itself.
            drop(self.wake.wait_timeout(line, longest));
        }
    }

    /// No new jobs; running ones may go on until `deadline`.
    pub(crate) fn end(&self, deadline: Instant) {
        self.line().end = Some(deadline);
        self.wake.notify_all();
    }

    /// When running jobs must have ended, if the end was announced.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.line().end
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
