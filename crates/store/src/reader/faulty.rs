//! A reader that misbehaves on purpose, around a real one: the test double of everything above.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::{Finished, Read, Reader};

/// How a store's reads misbehave, for tests: what a disk may do, and worse. Probabilities are in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of the random choices; the same seed and the same reads give the same faults.
    pub seed: u64,
    /// A read ends early, anywhere.
    pub short: u32,
    /// A read fails with an I/O error.
    pub fail: u32,
    /// A read is interrupted.
    pub interrupt: u32,
    /// A direct read is refused as invalid.
    pub refuse_direct: u32,
    /// A read that has ended is held back, so that others overtake it.
    pub delay: u32,
    /// A read that ends sleeps this long first, in microseconds.
    pub slow_us: u32,
    /// The disk brings so many bytes a second, one read after the other; 0 is as fast as it can.
    pub bytes_per_s: u64,
}

pub(crate) struct Faulty {
    inner: Box<dyn Reader>,
    faults: Faults,
    state: u64,
    /// Since when the slower disk has had nothing to do.
    free: Instant,
    ended: Vec<Finished>,
    /// What a slower disk would not have brought before the time given, in order.
    throttled: VecDeque<(Instant, Finished)>,
    held_back: Vec<Finished>,
}

impl Faulty {
    pub(crate) fn new(inner: Box<dyn Reader>, faults: Faults) -> Faulty {
        Faulty {
            inner,
            faults,
            state: faults.seed,
            free: Instant::now(),
            ended: Vec::new(),
            throttled: VecDeque::new(),
            held_back: Vec::new(),
        }
    }

    /// splitmix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        self.random() % 1000 < u64::from(per_mille)
    }

    /// When the slower disk has brought a read: it begins when the read before it has ended.
    fn due(&self, read: &Read, result: &io::Result<usize>) -> Instant {
        let free = self.throttled.back().map_or(self.free, |(due, _)| *due);
        let bytes = *result.as_ref().unwrap_or(&0) as u64;
        let nanos = (bytes * 1_000_000_000).checked_div(self.faults.bytes_per_s).unwrap_or(0);
        read.begun.max(free) + Duration::from_nanos(nanos)
    }

    /// What came of a read, after the fault. Bytes that it does not vouch for are overwritten, so that nobody can live on them.
    fn spoil(&mut self, mut read: Read, result: io::Result<usize>) -> Finished {
        if self.faults.slow_us > 0 {
            thread::sleep(Duration::from_micros(u64::from(self.faults.slow_us)));
        }
        let Ok(n) = result else { return (read, result) };
        let error = if self.happens(self.faults.fail) {
            Some(io::Error::other("injected fault"))
        } else if self.happens(self.faults.interrupt) {
            Some(io::ErrorKind::Interrupted.into())
        } else if read.direct && self.happens(self.faults.refuse_direct) {
            Some(io::ErrorKind::InvalidInput.into())
        } else {
            None
        };
        let kept = if error.is_some() {
            0
        } else if n > 1 && self.happens(self.faults.short) {
            1 + (self.random() % (n as u64 - 1)) as usize
        } else {
            n
        };
        read.target()[kept..].fill(0xa5);
        (read, error.map_or(Ok(kept), Err))
    }
}

impl Reader for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn start(&mut self, read: Read) {
        self.inner.start(read);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn finished(&mut self, wait: bool, into: &mut Vec<Finished>) -> io::Result<()> {
        let before = into.len();
        let mut ended = std::mem::take(&mut self.ended);
        let nothing_yet = self.held_back.is_empty() && self.throttled.is_empty();
        let outcome = self.inner.finished(wait && nothing_yet, &mut ended);
        for (read, result) in ended.drain(..) {
            self.throttled.push_back((self.due(&read, &result), (read, result)));
        }
        self.ended = ended;
        if let Some((due, _)) = self.throttled.front().filter(|_| wait && self.held_back.is_empty()) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        while self.throttled.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (due, (read, result)) = self.throttled.pop_front().expect("there is one");
            self.free = due;
            let spoiled = self.spoil(read, result);
            self.held_back.push(spoiled);
        }
        let mut at = 0;
        while at < self.held_back.len() {
            if self.happens(self.faults.delay) {
                at += 1;
            } else {
                into.push(self.held_back.swap_remove(at));
            }
        }
        if wait && into.len() == before && !self.held_back.is_empty() {
            let any = self.random() as usize % self.held_back.len();
            into.push(self.held_back.swap_remove(any));
        }
        outcome
    }
}
