//! A reader that misbehaves on purpose, around a real one: the test double of everything above.

use std::io;
use std::thread;
use std::time::Duration;

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
}

pub(crate) struct Faulty {
    inner: Box<dyn Reader>,
    faults: Faults,
    state: u64,
    ended: Vec<Finished>,
    held_back: Vec<Finished>,
}

impl Faulty {
    pub(crate) fn new(inner: Box<dyn Reader>, faults: Faults) -> Faulty {
        Faulty { inner, faults, state: faults.seed, ended: Vec::new(), held_back: Vec::new() }
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
        let outcome = self.inner.finished(wait && self.held_back.is_empty(), &mut ended);
        for (read, result) in ended.drain(..) {
            let spoiled = self.spoil(read, result);
            self.held_back.push(spoiled);
        }
        self.ended = ended;
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
