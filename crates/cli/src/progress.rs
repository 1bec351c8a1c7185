//! Progress bars: on a terminal only, and only for what takes a while.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// What is done sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

const BYTES: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}";
const PARTS: &str = "{msg} {bar:30} {percent} %, {eta} left";
const STEPS: &str = "{bar:30} {msg}";
const LONG: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const TOKENS: &str = "{msg} {bar:30} {pos} of {len} tokens, {speed}";

/// A bar on standard error that appears late and leaves nothing behind.
pub(crate) struct Progress {
    start: Instant,
    what: &'static str,
    template: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Counts bytes.
    pub(crate) fn of_bytes(what: &'static str) -> Progress {
        Progress { start: Instant::now(), what, template: BYTES, bar: None }
    }

    /// Counts bytes of what may take hours, and says how long it still takes.
    pub(crate) fn of_many_bytes(what: &'static str) -> Progress {
        Progress { start: Instant::now(), what, template: LONG, bar: None }
    }

    /// Counts tokens.
    pub(crate) fn of_tokens(what: &'static str) -> Progress {
        Progress { start: Instant::now(), what, template: TOKENS, bar: None }
    }

    /// Counts parts that mean nothing to people.
    pub(crate) fn of_parts(what: &'static str) -> Progress {
        Progress { start: Instant::now(), what, template: PARTS, bar: None }
    }

    /// Counts steps, each with a name of its own.
    pub(crate) fn of_steps() -> Progress {
        Progress { start: Instant::now(), what: "", template: STEPS, bar: None }
    }

    /// `done` of `total` steps are done, and now comes `what`.
    pub(crate) fn step(&mut self, what: &str, done: usize, total: usize) {
        self.set(done as u64, total as u64);
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.tick();
        }
    }

    /// `done` of `total` are done.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.start.elapsed() > PATIENCE && done < total {
            // Standard error; hidden if that is no terminal.
            let bar = ProgressBar::new(total).with_message(self.what).with_elapsed(self.start.elapsed());
            let speed = |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.0} tok/s", state.per_sec());
            };
            bar.set_style(
                ProgressStyle::with_template(self.template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .with_key("speed", speed),
            );
            // What was done before this run says nothing about its speed.
            bar.set_position(done);
            bar.reset_eta();
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [BYTES, LONG, TOKENS, PARTS, STEPS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
