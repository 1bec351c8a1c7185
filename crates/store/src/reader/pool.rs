//! Positional reads by a few threads: works on every system, through the page cache or around it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Finished, Read, Reader};
use crate::{Files, platform};

pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    n_in_flight: usize,
}

struct Shared {
    files: Arc<Files>,
    state: Mutex<State>,
    /// There is work, or the end.
    work: Condvar,
    /// Something has finished.
    done: Condvar,
}

struct State {
    queue: VecDeque<Read>,
    finished: Vec<Finished>,
    closed: bool,
}

impl Pool {
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn new(files: Arc<Files>, n_threads: usize, depth: usize) -> io::Result<Pool> {
        let state = State {
            queue: VecDeque::with_capacity(depth),
            finished: Vec::with_capacity(depth),
            closed: false,
        };
        let shared =
            Arc::new(Shared { files, state: Mutex::new(state), work: Condvar::new(), done: Condvar::new() });
        let mut pool = Pool { shared, threads: Vec::with_capacity(n_threads), n_in_flight: 0 };
        for at in 0..n_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new().name(format!("read-{at}")).stack_size(128 << 10);
            match thread.spawn(move || shared.work()) {
                Ok(thread) => pool.threads.push(thread),
                Err(error) if pool.threads.is_empty() => return Err(error),
                // Fewer threads read more slowly, and as well.
                Err(_) => break,
            }
        }
        Ok(pool)
    }

    pub(crate) fn n_threads(&self) -> usize {
        self.threads.len()
    }
}

impl Reader for Pool {
    fn name(&self) -> &'static str {
        "pread"
    }

    fn start(&mut self, read: Read) {
        self.shared.lock().queue.push_back(read);
        self.n_in_flight += 1;
        self.shared.work.notify_one();
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finished(&mut self, wait: bool, into: &mut Vec<Finished>) -> io::Result<()> {
        let mut state = self.shared.lock();
        while wait && self.n_in_flight > 0 && state.finished.is_empty() {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.n_in_flight -= state.finished.len();
        into.append(&mut state.finished);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.queue.clear();
        }
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to add: its read never finished, and its loan is freed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// One thread's life.
    fn work(&self) {
        loop {
            let Some(mut read) = self.next() else { return };
            let offset = read.offset();
            let result = platform::read_at(read.handle(&self.files), read.target(), offset);
            self.lock().finished.push((read, result));
            self.done.notify_one();
        }
    }

    /// Waits for work; `None` at the end.
    fn next(&self) -> Option<Read> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(read) = state.queue.pop_front() {
                return Some(read);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The state has no half-made change that a panic could leave behind, so a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
