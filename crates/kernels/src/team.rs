//! The thread team: a few threads that start and end a region of work together within a microsecond.
//!
//! A token is some 600 regions of 10 to 1000 microseconds. Workers spin for a bounded time after a region and then park, so
//! that nobody burns a core while the caller waits for the disk. The caller takes part in every region, and when its own part is done
//! it does the parts that no worker has begun: on a busy machine, or just after a wait, a worker may be long in coming.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that run regions of work together; the caller is thread 0.
pub(crate) struct Team {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
}

/// One thread's part of a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Which thread.
    pub(crate) index: usize,
    /// Threads of the region.
    pub(crate) of: usize,
}

/// A value on cache lines of its own (two, as neighbouring lines are fetched in pairs).
#[repr(align(128))]
struct Apart<T>(T);

struct State {
    /// Counts regions; a change starts one.
    epoch: Apart<AtomicU32>,
    /// Parts of the region, the caller's own aside, that have not ended.
    running: Apart<AtomicU32>,
    /// The last region in which part `i + 1` was begun, by its worker or by the caller.
    begun: Vec<Apart<AtomicU32>>,
    /// Whether worker `i + 1` sleeps or is about to.
    parked: Vec<Apart<AtomicBool>>,
    /// The region's work; written by the caller while no worker runs.
    work: UnsafeCell<Option<Work>>,
    /// Workers that have started.
    started: AtomicU32,
    quit: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: Duration,
}

type Work = *const (dyn Fn(Part) + Sync);

// SAFETY: `work` is the only field that is not Sync; it is written while no part runs (`running == 0`), read only by who has begun a
// part of the present region, and the change of the epoch publishes it.
unsafe impl Sync for State {}
// SAFETY: as above; the pointer is only followed between a change of the epoch and the end of `running`, while `Team::run` borrows its target.
unsafe impl Send for State {}

/// How long a worker looks for the next region before it parks. A region is followed by the next within some 10 us while
/// a token is computed; waking a parked worker costs 40 us and more.
const SPIN: Duration = Duration::from_micros(100);

impl Team {
    /// A team of `threads` threads, the caller included.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn new(threads: usize) -> std::io::Result<Team> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let state = Arc::new(State {
            epoch: Apart(AtomicU32::new(0)),
            running: Apart(AtomicU32::new(0)),
            begun: (1..threads).map(|_| Apart(AtomicU32::new(0))).collect(),
            parked: (1..threads).map(|_| Apart(AtomicBool::new(false))).collect(),
            work: UnsafeCell::new(None),
            started: AtomicU32::new(0),
            quit: AtomicBool::new(false),
            panic: Mutex::new(None),
            // More threads than cores: a spinning worker would keep the core from one that has work.
            spin: if threads > cores { Duration::ZERO } else { SPIN },
        });
        let mut team = Team { state, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for index in 1..threads {
            let state = Arc::clone(&team.state);
            let builder = std::thread::Builder::new().name(format!("flashmill-{index}"));
            team.workers.push(builder.spawn(move || state.work(Part { index, of: threads }))?);
        }
        // A thread allocates while it starts: let that be over.
        while team.state.started.load(Ordering::Acquire) < team.workers.len() as u32 {
            std::thread::yield_now();
        }
        Ok(team)
    }

    /// Number of threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` once for each part, and returns when all have ended.
    ///
    /// # Panics
    /// With the payload of a part that panicked, after all have ended.
    pub(crate) fn run(&mut self, work: impl Fn(Part) + Sync) {
        let of = self.threads();
        if of == 1 {
            return work(Part { index: 0, of });
        }
        let epoch = self.start(&work);
        self.state.run_part(&work, Part { index: 0, of });
        for index in 1..of {
            if self.state.begin(index, epoch) {
                self.state.run_part(&work, Part { index, of });
                self.state.running.0.fetch_sub(1, Ordering::Release);
            }
        }
        self.finish();
        if let Some(payload) = self.state.take_panic() {
            resume_unwind(payload);
        }
    }

    /// The same where starting the team would cost more than it saves: `cost` is the work in values touched.
    pub(crate) fn run_if_worth(&mut self, cost: usize, work: impl Fn(Part) + Sync) {
        const LEAST: usize = 16 * 1024;
        if cost < LEAST { work(Part { index: 0, of: 1 }) } else { self.run(work) }
    }

    /// Announces a region, and returns its number.
    fn start(&mut self, work: &(dyn Fn(Part) + Sync)) -> u32 {
        // SAFETY: only the lifetime changes; `finish` returns after the last worker has left `work`, before the borrow ends.
        let work: Work = unsafe { std::mem::transmute::<*const (dyn Fn(Part) + Sync + '_), Work>(work) };
        // SAFETY: nobody reads `work` now: every part of the last region was begun and has ended, and the next is not announced.
        unsafe { *self.state.work.get() = Some(work) };
        self.state.running.0.store(self.workers.len() as u32, Ordering::Relaxed);
        self.announce()
    }

    /// Changes the epoch and wakes whoever sleeps; returns the new epoch.
    fn announce(&self) -> u32 {
        let epoch = self.state.epoch.0.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        for (parked, worker) in self.state.parked.iter().zip(&self.workers) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        epoch
    }

    /// Waits for the workers: shares are equal, so briefly.
    fn finish(&self) {
        let mut spins = 0u32;
        while self.state.running.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < 4000 && self.state.spin > Duration::ZERO {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.state.quit.store(true, Ordering::Release);
        self.announce();
        for worker in self.workers.drain(..) {
            // Whatever `parked` says: a wake-up that goes missing in `run` costs time, as the caller does the part; here it would
            // hang. (qemu lets a load pass the sequentially consistent store before it.)
            worker.thread().unpark();
            // A worker's panic was handed to the caller of `run`.
            let _ = worker.join();
        }
    }
}

impl State {
    /// A worker's life.
    fn work(&self, part: Part) {
        self.started.fetch_add(1, Ordering::Release);
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen, part.index);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            if !self.begin(part.index, seen) {
                continue;
            }
            // SAFETY: this part of the region is this thread's, so that the region lasts, and `work` with it, until `running` falls.
            let work = unsafe { (*self.work.get()).expect("a region has work") };
            // SAFETY: the target lives until `running` falls to zero, see `Team::start`.
            self.run_part(unsafe { &*work }, part);
            self.running.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Takes part `index` of region `epoch`, if nobody has and the region is the present one: each part is begun once in every
    /// region, so that it was begun last in the region before.
    fn begin(&self, index: usize, epoch: u32) -> bool {
        let begun = &self.begun[index - 1].0;
        begun.compare_exchange(epoch.wrapping_sub(1), epoch, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Runs one part and keeps the payload of the first panic.
    fn run_part(&self, work: &(dyn Fn(Part) + Sync), part: Part) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(part))) {
            self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(payload);
        }
    }

    /// Waits until the epoch differs from `seen`: spins for a while, then parks.
    fn next_epoch(&self, seen: u32, index: usize) -> u32 {
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..64 {
                let epoch = self.epoch.0.load(Ordering::Acquire);
                if epoch != seen {
                    return epoch;
                }
                std::hint::spin_loop();
            }
        }
        let parked = &self.parked[index - 1].0;
        // Either this thread sees the new epoch below, or the caller sees `parked` and wakes it: both sides write first and
        // then read, in one total order.
        parked.store(true, Ordering::SeqCst);
        loop {
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            if epoch != seen {
                parked.store(false, Ordering::Relaxed);
                return epoch;
            }
            std::thread::park();
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl Part {
    /// This part's contiguous share of `n` things, in whole multiples of `unit` (the last may be short).
    pub(crate) fn share(self, n: usize, unit: usize) -> Range<usize> {
        let units = n.div_ceil(unit);
        let start = units * self.index / self.of * unit;
        let end = units * (self.index + 1) / self.of * unit;
        start.min(n)..end.min(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_part_runs_once_a_region() {
        for threads in [1, 2, 3, 7] {
            let mut team = Team::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..300 {
                if round % 100 == 99 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                team.run(|part| {
                    assert_eq!(part.of, threads);
                    counts[part.index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round + 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3).unwrap();
        for culprit in [0, 2] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(|part| assert!(part.index != culprit, "part {culprit}"));
            }));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("part {culprit}"));
            let ran = AtomicUsize::new(0);
            team.run(|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 3);
        }
    }

    #[test]
    fn shares_cover_everything_in_order() {
        for n in [0, 1, 15, 16, 17, 100, 1000] {
            for of in [1, 2, 3, 7, 40] {
                let mut next = 0;
                for index in 0..of {
                    let share = Part { index, of }.share(n, 16);
                    assert!(share.start == next || share.is_empty());
                    assert!(share.start.is_multiple_of(16) || share.start == n);
                    next = next.max(share.end);
                }
                assert_eq!(next, n, "{n} in {of} shares");
            }
        }
    }
}
