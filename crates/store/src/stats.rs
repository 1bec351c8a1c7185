/// What a store has done since it was opened. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of records that were read: what the caller asked for and did not have.
    pub bytes_read: u64,
    /// Bytes that came from the files, with aligned covers, gaps and repeated reads.
    pub bytes_from_device: u64,
    /// Picks that were resident, or on their way already.
    pub hits: u64,
    /// Picks that had to be read.
    pub misses: u64,
    /// Records that lost their slot to another.
    pub evictions: u64,
    /// Reads that were completed, continuations included.
    pub reads: u64,
    /// Reads that ended early and were continued, or were repeated.
    pub continued: u64,
    /// Records that could not be read.
    pub failures: u64,
    /// Records that were begun ahead of the fetch that picks them.
    pub ahead: u64,
    /// Those of them that a fetch then picked. The others were read in vain, or may still be picked.
    pub ahead_used: u64,
    /// Time for which a caller was blocked, in nanoseconds.
    pub wait_ns: u64,
    /// Time with a read in flight, in nanoseconds: until its end was noticed, so never too little.
    pub busy_ns: u64,
    /// Time from a read's start to its end.
    pub latency: Latency,
}

impl Stats {
    /// What was done since `earlier`, a copy of the same store's statistics.
    pub fn since(&self, earlier: &Stats) -> Stats {
        let mut latency = self.latency;
        for (count, before) in latency.counts.iter_mut().zip(earlier.latency.counts) {
            *count -= before;
        }
        Stats {
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_from_device: self.bytes_from_device - earlier.bytes_from_device,
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            evictions: self.evictions - earlier.evictions,
            reads: self.reads - earlier.reads,
            continued: self.continued - earlier.continued,
            failures: self.failures - earlier.failures,
            ahead: self.ahead - earlier.ahead,
            ahead_used: self.ahead_used - earlier.ahead_used,
            wait_ns: self.wait_ns - earlier.wait_ns,
            busy_ns: self.busy_ns - earlier.busy_ns,
            latency,
        }
    }
}

/// A histogram of times: four buckets an octave, so that a percentile is right within 25 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    counts: [u64; N_BUCKETS],
}

/// From 1 us (everything below) to 2^26 us, a minute (everything above).
const N_BUCKETS: usize = 4 * 26;

impl Default for Latency {
    fn default() -> Latency {
        Latency { counts: [0; N_BUCKETS] }
    }
}

impl Latency {
    pub(crate) fn add(&mut self, ns: u64) {
        self.counts[bucket(ns / 1000)] += 1;
    }

    /// Number of times measured.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time, in microseconds, that `permille` of a thousand reads did not pass: 500 is the median. 0 without reads.
    ///
    /// # Panics
    /// If `permille` is above 1000.
    pub fn percentile_us(&self, permille: u64) -> u64 {
        assert!(permille <= 1000, "{permille} of a thousand");
        let rank = (self.count() * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_us(at);
            }
        }
        0
    }
}

/// The bucket of a time in microseconds: the octave and the two bits below the leading one.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let octave = us.ilog2() as usize;
    let quarter = if octave >= 2 { (us >> (octave - 2)) & 3 } else { (us << (2 - octave)) & 3 };
    (4 * octave + quarter as usize).min(N_BUCKETS - 1)
}

/// The largest whole number of microseconds in a bucket.
fn upper_us(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    (((4 + quarter + 1) << octave).div_ceil(4) - 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_at_or_below_the_upper_end_of_its_bucket_and_within_a_quarter() {
        for us in (1..5000).chain([1 << 20, (1 << 20) + 1, (1 << 25) - 1]) {
            let upper = upper_us(bucket(us));
            assert!(us <= upper && upper <= us + us / 4 + 1, "{us} us in a bucket up to {upper}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), N_BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile_us(500), 0);
        for us in 1..=100u64 {
            latency.add(us * 1000);
        }
        assert_eq!(latency.count(), 100);
        assert!((50..=63).contains(&latency.percentile_us(500)));
        assert!((99..=128).contains(&latency.percentile_us(990)));
        assert_eq!(latency.percentile_us(0), 1);
    }

    #[test]
    fn a_difference_counts_only_what_is_new() {
        let mut stats = Stats { hits: 3, ..Stats::default() };
        stats.latency.add(5_000);
        let earlier = stats;
        stats.hits = 10;
        stats.latency.add(7_000);
        let new = stats.since(&earlier);
        assert_eq!((new.hits, new.latency.count()), (7, 1));
    }
}
