//! How many prompt tokens go into a pass while answers run.

use std::time::Duration;

/// A pass that carries prompt tokens should take no longer than this while answers wait for their next token.
const PASS: f64 = 0.4;

/// Each pass counts this much less than the next one.
const DECAY: f64 = 0.8;

/// Fewer tokens than this are not worth a pass.
const LEAST: usize = 32;

/// Running answers have the passes to themselves for this share of the time that prompts have taken.
const ANSWERS_SHARE: f64 = 1.0;

/// Learns what a pass costs, `fixed + per token * tokens`, and shares time between prompts and answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// Decayed sums over passes with prompt tokens: 1, n, n^2, t, n * t.
    sums: [f64; 5],
    /// Seconds that answers have to themselves before the next prompt chunk.
    owed: f64,
}

impl Pace {
    /// A pass with `n` prompt tokens took `time`; `answers`: others waited meanwhile.
    pub(crate) fn read(&mut self, n: usize, time: Duration, answers: bool) {
        let (n, t) = (n as f64, time.as_secs_f64());
        for (sum, new) in self.sums.iter_mut().zip([1.0, n, n * n, t, n * t]) {
            *sum = DECAY * *sum + new;
        }
        if answers {
            self.owed += ANSWERS_SHARE * t;
        }
    }

    /// A pass for answers alone took `time`.
    pub(crate) fn decoded(&mut self, time: Duration) {
        self.owed = (self.owed - time.as_secs_f64()).max(0.0);
    }

    /// Prompt tokens of the next pass, at most `most`; 0 if it is the answers' turn.
    pub(crate) fn chunk(&self, answers: bool, most: usize) -> usize {
        if !answers {
            return most;
        }
        if self.owed > 0.0 {
            return 0;
        }
        let Some((fixed, per_token)) = self.cost() else { return (most / 8).clamp(LEAST.min(most), most) };
        // Where the fixed part (reading experts) takes all the time there is, fewer tokens would not make the pass shorter.
        if fixed >= PASS {
            return most;
        }
        let n = ((PASS - fixed) / per_token.max(1e-9)) as usize;
        n.clamp(LEAST.min(most), most)
    }

    /// Least squares with neither part below 0.
    fn cost(&self) -> Option<(f64, f64)> {
        let [w, n, nn, t, nt] = self.sums;
        if w == 0.0 {
            return None;
        }
        let spread = w * nn - n * n;
        // All passes of about one length: half of the time is taken for fixed.
        if spread < 0.01 * w * nn {
            return Some((0.5 * t / w, 0.5 * t / n.max(1.0)));
        }
        let per_token = ((w * nt - n * t) / spread).max(0.0);
        let fixed = ((t - per_token * n) / w).max(0.0);
        Some((fixed, per_token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(cost: impl Fn(usize) -> f64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..20 {
            let n = pace.chunk(true, 2048);
            let n = if n == 0 { 2048 } else { n };
            pace.read(n, Duration::from_secs_f64(cost(n)), true);
            pace.decoded(Duration::from_secs(1000));
        }
        pace
    }

    #[test]
    fn passes_are_as_long_as_running_answers_can_bear() {
        // 200 tokens a second, all of it arithmetic.
        let n = learned(|n| n as f64 / 200.0).chunk(true, 2048);
        assert!((60..=100).contains(&n), "{n} tokens for 0.4 s");
        // Reads take a tenth of a second whatever is read.
        let n = learned(|n| 0.1 + n as f64 / 1000.0).chunk(true, 2048);
        assert!((200..=400).contains(&n), "{n} tokens for 0.4 s");
    }

    #[test]
    fn where_reads_take_all_the_time_chunks_are_long() {
        let n = learned(|n| 15.0 + n as f64 / 1000.0).chunk(true, 2048);
        assert_eq!(n, 2048);
    }

    #[test]
    fn answers_get_their_share() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(false, 2048), 2048, "nobody else is there");
        pace.read(2048, Duration::from_secs(2), true);
        assert_eq!(pace.chunk(true, 2048), 0);
        for _ in 0..19 {
            pace.decoded(Duration::from_millis(100));
        }
        assert_eq!(pace.chunk(true, 2048), 0);
        pace.decoded(Duration::from_millis(200));
        assert!(pace.chunk(true, 2048) > 0);
    }
}
