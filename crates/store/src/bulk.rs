//! Many extents at once into memory of the caller's: how a trunk is read.

use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use flashmill_layout::{Extent, FileId};

use crate::files::ALIGN;
use crate::memory::{Loan, SlotMemory};
use crate::plan::{ceil, floor};
use crate::{Files, StoreError, platform};

/// Longest single read; a multiple of [`ALIGN`], and of a huge page.
const PIECE_BYTES: u64 = 2 << 20;

/// Threads that read, each with one read in flight.
const N_THREADS: usize = 8;

/// Bytes of a file and where they go.
pub struct Wanted<'a> {
    /// The bytes.
    pub extent: Extent,
    /// As long as the extent.
    pub into: &'a mut [u8],
}

impl Files {
    /// Reads all of `wanted`, several pieces at a time, in the order of the disk: around the page cache with `direct` where the file
    /// system has that, else through it. `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// The first thing that goes wrong: an extent outside its file, or one that cannot be read whole. The memory then holds anything.
    ///
    /// # Panics
    /// If a piece of memory has not the length of its extent.
    pub fn read_many(
        &self,
        wanted: Vec<Wanted<'_>>,
        direct: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        for Wanted { extent, into } in &wanted {
            assert_eq!(into.len() as u64, extent.len, "memory of the extent's length");
            self.check(*extent)?;
        }
        let pieces = pieces(wanted);
        let n_threads = N_THREADS.min(pieces.len());
        // Taken from the end.
        let queue = Mutex::new(pieces);
        let (tell, told) = mpsc::channel();
        // One allocation, so that it is made of huge pages: the disk is twice as fast with them. Without it everything is read
        // through the page cache.
        let windows = SlotMemory::new(std::iter::repeat_n(PIECE_BYTES as usize, n_threads.max(1)));
        let windows = windows.ok().filter(|_| direct);
        thread::scope(|scope| {
            let mut n_spawned = 0;
            for at in 0..n_threads {
                let (queue, tell) = (&queue, tell.clone());
                let window = windows.as_ref().map(|windows| windows.lend(at as u32));
                let thread = thread::Builder::new().name(format!("load-{at}")).stack_size(128 << 10);
                n_spawned += usize::from(
                    thread.spawn_scoped(scope, move || self.read_pieces(queue, window, &tell)).is_ok(),
                );
            }
            if n_spawned == 0 {
                self.read_pieces(&queue, None, &tell);
            }
            drop(tell);
            let (mut done, mut failed) = (0, None);
            for outcome in told {
                match outcome {
                    Ok(n) => {
                        done += n;
                        progress(done);
                    }
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(()), Err)
        })
    }

    /// Reads pieces until there are none, or one cannot be read: then nobody goes on.
    fn read_pieces(
        &self,
        queue: &Mutex<Vec<Wanted<'_>>>,
        mut window: Option<Loan>,
        tell: &Sender<Result<u64, StoreError>>,
    ) {
        loop {
            let Some(Wanted { extent, into }) = lock(queue).pop() else { return };
            let came = window.as_mut().is_some_and(|window| self.read_direct(extent, into, window));
            let outcome = if came { Ok(()) } else { self.read_exact(extent, into) };
            if outcome.is_err() {
                lock(queue).clear();
            }
            // The receiver lives until the last sender is gone.
            let _ = tell.send(outcome.map(|()| extent.len));
        }
    }

    /// Reads a piece around the page cache, by way of `window`, for it may begin and end within pages. False if it did not come whole: what is wrong then is found out by
    /// reading it through the page cache.
    fn read_direct(&self, extent: Extent, into: &mut [u8], window: &mut Loan) -> bool {
        let Ok(direct) = &self.at(extent.file).direct else { return false };
        let start = floor(extent.offset, ALIGN);
        let len = (ceil(extent.end(), ALIGN) - start) as usize;
        let from = (extent.offset - start) as usize;
        let cover = &mut window.bytes_mut()[..len];
        match platform::read_at(&direct.file, cover, start) {
            Ok(n) if n >= from + into.len() => {
                into.copy_from_slice(&cover[from..from + into.len()]);
                true
            }
            _ => false,
        }
    }
}

/// Cuts extents at multiples of [`PIECE_BYTES`] in their files; the first of the first file comes last.
fn pieces(wanted: Vec<Wanted<'_>>) -> Vec<Wanted<'_>> {
    let mut pieces = Vec::new();
    for Wanted { extent, mut into } in wanted {
        let mut offset = extent.offset;
        while !into.is_empty() {
            let len = (floor(offset, PIECE_BYTES) + PIECE_BYTES).min(extent.end()) - offset;
            let (piece, rest) = into.split_at_mut(len as usize);
            pieces.push(Wanted { extent: Extent { file: extent.file, offset, len }, into: piece });
            offset += len;
            into = rest;
        }
    }
    let place = |piece: &Wanted<'_>| (piece.extent.file, piece.extent.offset);
    pieces.sort_unstable_by_key(|piece| std::cmp::Reverse::<(FileId, u64)>(place(piece)));
    pieces
}

/// A list has no half-made change that a panic could leave behind, so a poisoned lock is taken as it is.
fn lock<'a, 'b>(queue: &'a Mutex<Vec<Wanted<'b>>>) -> MutexGuard<'a, Vec<Wanted<'b>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
