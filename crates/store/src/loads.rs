//! Reads on their way: a queue, as many in flight as the depth allows, and the continuation of what ended early.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::files::ALIGN;
use crate::memory::Loan;
use crate::plan::{ReadPlan, ceil, floor};
use crate::reader::{Finished, Read, Reader};
use crate::{Files, Stats, StoreError, platform};

/// Longest single read; a multiple of [`ALIGN`].
pub(crate) const PIECE_BYTES: usize = 2 << 20;

/// System reads in a row that bring nothing new, after which the read is given up.
const MAX_STALLS: u32 = 16;

pub(crate) struct Loads {
    reader: Box<dyn Reader>,
    files: Arc<Files>,
    /// Alignment of reads around the page cache, or 0 where a file is read through it.
    direct_align: Vec<u64>,
    queue: VecDeque<Read>,
    depth: usize,
    n_in_flight: usize,
    /// Since when something has been in flight.
    busy_since: Option<Instant>,
    finished: Vec<Finished>,
}

/// A read that has come to its end.
pub(crate) struct Landed {
    pub(crate) slot: u32,
    pub(crate) result: Result<(), StoreError>,
}

impl Loads {
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) fn new(reader: Box<dyn Reader>, files: Arc<Files>, direct: bool, depth: usize) -> Loads {
        let align = |file: &crate::files::OpenFile| file.direct.as_ref().map_or(0, |direct| direct.align);
        let direct_align = files.iter().map(|file| if direct { align(file) } else { 0 }).collect();
        let (queue, finished) = (VecDeque::new(), Vec::with_capacity(depth));
        Loads { reader, files, direct_align, queue, depth, n_in_flight: 0, busy_since: None, finished }
    }

    /// More reads may be queued: everything queued so far is in flight, and more could be.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.is_empty() && self.n_in_flight < self.depth
    }

    /// Reads that the reader has.
    pub(crate) fn n_in_flight(&self) -> usize {
        self.n_in_flight
    }

    /// How long something has been in flight by now that was not counted yet, in nanoseconds.
    pub(crate) fn busy_ns(&self) -> u64 {
        self.busy_since.map_or(0, |since| since.elapsed().as_nanos() as u64)
    }

    /// Queues the reads of a record into its slot, which is on loan; returns their number.
    pub(crate) fn push(&mut self, slot: u32, mut loan: Loan, reads: &[ReadPlan]) -> u32 {
        let mut n_reads = 0;
        for plan in reads {
            let mut cover = loan;
            let cover_start = floor(plan.start, ALIGN);
            let slot_bytes = (ceil(plan.end(), ALIGN) - cover_start) as usize;
            loan = cover.split_off(slot_bytes);
            // Through the page cache no byte too many is read; around it, what the file's own alignment wants.
            let align = self.direct_align[plan.file.0 as usize];
            let start = floor(plan.start, align.max(1));
            let end = ceil(plan.end(), align.max(1));
            let mut piece = cover.split_off((start - cover_start) as usize);
            piece.split_off((end - start) as usize);
            let mut piece_start = start;
            while piece.len() > 0 {
                let cut = (floor(piece_start, ALIGN) + PIECE_BYTES as u64 - piece_start) as usize;
                let rest = piece.split_off(cut.min(piece.len()));
                let piece_end = piece_start + piece.len() as u64;
                let wanted_from = plan.start.max(piece_start) - piece_start;
                let wanted_to = plan.end().min(piece_end) - piece_start;
                self.queue.push_back(Read {
                    slot,
                    file: plan.file,
                    direct: align > 0,
                    start: piece_start,
                    loan: piece,
                    at: 0,
                    wanted: wanted_from as usize..wanted_to as usize,
                    reached: 0,
                    stalls: 0,
                    begun: Instant::now(),
                });
                n_reads += 1;
                piece = rest;
                piece_start = piece_end;
            }
        }
        n_reads
    }

    /// Starts queued reads as far as the depth allows.
    pub(crate) fn start(&mut self) -> Result<(), StoreError> {
        while self.n_in_flight < self.depth
            && let Some(read) = self.queue.pop_front()
        {
            if self.n_in_flight == 0 {
                self.busy_since = Some(Instant::now());
            }
            self.n_in_flight += 1;
            self.submit(read);
        }
        self.reader.flush().map_err(|source| self.broken(source))
    }

    /// Hands a read to the reader.
    fn submit(&mut self, mut read: Read) {
        let align = self.direct_align[read.file.0 as usize].max(1);
        debug_assert!(
            !read.direct || read.offset().is_multiple_of(align),
            "a direct read at {}",
            read.offset()
        );
        read.begun = Instant::now();
        self.reader.start(read);
    }

    /// Takes what the reader has finished, continues what ended early, and puts what came to its end into `landed`. With `wait`
    /// and something in flight, something has finished when this returns, though perhaps nothing has landed.
    pub(crate) fn reap(
        &mut self,
        wait: bool,
        stats: &mut Stats,
        landed: &mut Vec<Landed>,
    ) -> Result<(), StoreError> {
        let mut finished = std::mem::take(&mut self.finished);
        let reaped = self.reader.finished(wait, &mut finished);
        for (read, result) in finished.drain(..) {
            stats.reads += 1;
            stats.latency.add(read.begun.elapsed().as_nanos() as u64);
            match self.judge(read, result, stats) {
                Verdict::Landed(ended) => {
                    self.n_in_flight -= 1;
                    landed.push(ended);
                }
                Verdict::Again(read) => {
                    stats.continued += 1;
                    self.submit(read);
                }
            }
        }
        if self.n_in_flight == 0 {
            stats.busy_ns += self.busy_ns();
            self.busy_since = None;
        }
        self.finished = finished;
        reaped.map_err(|source| self.broken(source))
    }

    /// What becomes of a read after one system read.
    fn judge(&mut self, mut read: Read, result: io::Result<usize>, stats: &mut Stats) -> Verdict {
        match result {
            Ok(0) => return Verdict::Landed(self.short(&read)),
            Ok(n) => {
                stats.bytes_from_device += n as u64;
                let end = read.at + n;
                if end >= read.wanted.end {
                    return Verdict::Landed(Landed { slot: read.slot, result: Ok(()) });
                }
                // What lies past the bytes that a read vouches for is anything, even where an earlier read brought it.
                read.stalls = if end > read.reached { 0 } else { read.stalls + 1 };
                read.reached = end;
            }
            Err(error) if read.direct && platform::is_direct_refusal(&error) => {
                // It was opened and tried so, and yet: from now on this file is read through the page cache.
                self.direct_align[read.file.0 as usize] = 0;
                read.direct = false;
                read.reached = read.at;
            }
            Err(error) if is_passing(&error) && read.stalls < MAX_STALLS => {
                read.stalls += 1;
                read.reached = read.at;
            }
            Err(source) => {
                let (offset, len) = wanted(&read);
                let result = Err(self.files.at(read.file).failed(offset, len, source));
                return Verdict::Landed(Landed { slot: read.slot, result });
            }
        }
        if read.stalls > MAX_STALLS {
            return Verdict::Landed(self.short(&read));
        }
        let align = if read.direct { self.direct_align[read.file.0 as usize].max(1) } else { 1 };
        read.at = (floor(read.start + read.reached as u64, align) - read.start) as usize;
        Verdict::Again(read)
    }

    /// The file has ended inside the wanted bytes.
    fn short(&self, read: &Read) -> Landed {
        let (offset, len) = wanted(read);
        let got = read.reached.saturating_sub(read.wanted.start) as u64;
        Landed { slot: read.slot, result: Err(self.files.at(read.file).short(offset, len, got)) }
    }

    /// Gives up a queued read of a slot that is not wanted; returns the slot.
    pub(crate) fn cancel_queued(&mut self, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.queue.iter().rposition(|read| !is_wanted(read.slot))?;
        self.queue.remove(at).map(|read| read.slot)
    }

    fn broken(&self, source: io::Error) -> StoreError {
        StoreError::Reader { name: self.reader.name(), source }
    }
}

enum Verdict {
    Landed(Landed),
    Again(Read),
}

/// Offset and length in the file of the wanted bytes.
fn wanted(read: &Read) -> (u64, u64) {
    (read.start + read.wanted.start as u64, read.wanted.len() as u64)
}

/// The same read may work the next time.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
