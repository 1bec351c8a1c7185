//! Ctrl-C: the first one ends the answer, one more the program.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};

/// The exit code of a program that an interrupt ended: 128 and the number of the signal.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Directories to remove if the program ends from the signal handler, where no destructor runs.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The handler of Ctrl-C.
#[derive(Clone)]
pub(crate) struct Interrupt {
    /// An answer is being written, which the first Ctrl-C ends.
    is_armed: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Who takes every Ctrl-C instead.
    heir: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl Interrupt {
    /// Installs the handler; once in the life of the program.
    pub(crate) fn install() -> Result<Interrupt> {
        let interrupt = Interrupt { is_armed: Arc::default(), stop: Arc::default(), heir: Arc::default() };
        let seen = interrupt.clone();
        ctrlc::set_handler(move || {
            if let Some(heir) = seen.heir.get() {
                heir();
            } else if !seen.is_armed.load(Ordering::SeqCst) || seen.stop.swap(true, Ordering::SeqCst) {
                leave();
            }
        })
        .context("cannot install the handler of Ctrl-C")?;
        Ok(interrupt)
    }

    /// From now on Ctrl-C is for `heir` to deal with; once in the life of the program.
    pub(crate) fn hand_over(&self, heir: impl Fn() + Send + Sync + 'static) {
        let _ = self.heir.set(Box::new(heir));
    }

    /// Runs `work`, during which one Ctrl-C sets [`Interrupt::stop`] instead of ending the program.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.stop.store(false, Ordering::SeqCst);
        self.is_armed.store(true, Ordering::SeqCst);
        let result = work();
        self.is_armed.store(false, Ordering::SeqCst);
        result
    }

    /// The flag for whoever does the work; stays set until the next [`Interrupt::during`].
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Ctrl-C was pressed during the last work.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Has a directory removed when Ctrl-C ends the program.
pub(crate) fn remove_on_interrupt(directory: &Path) {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).push(directory.to_owned());
}

/// From now on the program ends when its standard input does: whoever waits for it has the other end of the pipe.
pub(crate) fn end_with_input() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        leave();
    });
}

/// Ends the program at once, from a thread of its own.
fn leave() -> ! {
    for directory in TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = std::fs::remove_dir_all(directory);
    }
    std::process::exit(i32::from(EXIT_INTERRUPTED));
}
