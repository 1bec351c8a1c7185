//! The readers: each moves bytes from files into loans, several at a time, and knows neither records nor slots.

mod choose;
mod faulty;
mod pool;
#[cfg(target_os = "linux")]
mod uring;

use std::fs::File;
use std::io;
use std::time::Instant;

use flashmill_layout::FileId;

pub(crate) use self::choose::{Choice, choose};
pub use self::faulty::Faults;
pub(crate) use self::faulty::Faulty;
use crate::Files;
use crate::memory::Loan;

/// Starts reads and says when they are done, well or not, in any order.
///
/// A reader makes one system read of a [`Read`] and reports what came of it; whoever started it continues it if it ended early.
/// A reader that is dropped first waits until the system writes into no loan any more.
pub(crate) trait Reader: Send {
    /// A word for messages.
    fn name(&self) -> &'static str;

    /// Starts a read; it may begin only with the next [`Reader::flush`] or [`Reader::finished`]. The caller keeps the number in
    /// flight within the depth that the reader was made for.
    fn start(&mut self, read: Read);

    /// Begins the reads that were started.
    fn flush(&mut self) -> io::Result<()>;

    /// Moves what has ended to `into`. With `wait`, returns only when something has, or nothing is in flight.
    fn finished(&mut self, wait: bool, into: &mut Vec<Finished>) -> io::Result<()>;
}

/// A read that has ended: the bytes that came, 0 at the end of the file.
pub(crate) type Finished = (Read, io::Result<usize>);

/// A run of wanted bytes on its way into a slot.
pub(crate) struct Read {
    /// For whoever started the read.
    pub(crate) slot: u32,
    pub(crate) file: FileId,
    /// Around the page cache.
    pub(crate) direct: bool,
    /// Where the loan's first byte lies in the file.
    pub(crate) start: u64,
    /// The bytes to be written.
    pub(crate) loan: Loan,
    /// First byte of the loan that the next system read brings.
    pub(crate) at: usize,
    /// The bytes of the loan that are wanted; those around are the aligned cover.
    pub(crate) wanted: std::ops::Range<usize>,
    /// Bytes of the loan that have come, from its start.
    pub(crate) reached: usize,
    /// System reads in a row that brought nothing new.
    pub(crate) stalls: u32,
    /// When the system read began.
    pub(crate) begun: Instant,
}

impl Read {
    /// Where the next system read begins in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.start + self.at as u64
    }

    /// The bytes that the next system read brings.
    pub(crate) fn target(&mut self) -> &mut [u8] {
        let at = self.at;
        &mut self.loan.bytes_mut()[at..]
    }

    /// The file, opened as the read wants it.
    pub(crate) fn handle<'a>(&self, files: &'a Files) -> &'a File {
        let file = files.at(self.file);
        match &file.direct {
            Ok(direct) if self.direct => &direct.file,
            _ => &file.buffered,
        }
    }
}
