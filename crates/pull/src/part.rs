//! A file on its way: its bytes so far, and a journal of the pieces that are whole.
//!
//! The journal is text: a line that says how large file and pieces are, then one line for each finished piece. It is written
//! after the piece's bytes, so that a process killed at any moment leaves a journal that promises no more than is there. A machine
//! that lost power may leave less; the SHA-256 finds that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::PullError;

/// Bytes that are hashed at a time.
const HASH_BYTES: usize = 1 << 20;

/// A file on its way.
pub(crate) struct Part {
    path: PathBuf,
    journal_path: PathBuf,
    file: File,
    size: u64,
    piece_bytes: u64,
    state: Mutex<State>,
}

struct State {
    journal: File,
    done: Vec<bool>,
    n_left: usize,
}

impl Part {
    /// The part of the file that will be `blob`. What an earlier pull left is taken up if `resume` and it is of the same size.
    pub(crate) fn open(blob: &Path, size: u64, piece_bytes: u64, resume: bool) -> Result<Part, PullError> {
        let (path, journal_path) = (part_path(blob), journal_path(blob));
        let n_pieces = size.div_ceil(piece_bytes) as usize;
        let head = format!("flashmill pull 1, {size} bytes in pieces of {piece_bytes}\n");
        let mut done = vec![false; n_pieces];
        let whole = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size);
        let journal = std::fs::read_to_string(&journal_path).unwrap_or_default();
        let lines = journal.strip_prefix(&head).filter(|_| resume && whole);
        // The last line may be torn.
        for line in lines.unwrap_or_default().split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
        {
            let Some(piece) = line.parse().ok().and_then(|piece: usize| done.get_mut(piece)) else { break };
            *piece = true;
        }
        // The journal first: without one the bytes are worth nothing.
        let fresh = || -> io::Result<File> {
            let mut journal = File::create(&journal_path)?;
            journal.write_all(head.as_bytes())?;
            for (piece, _) in done.iter().enumerate().filter(|(_, done)| **done) {
                writeln!(journal, "{piece}")?;
            }
            Ok(journal)
        };
        let journal = fresh().map_err(|source| io_error(&journal_path, "write", source))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.and_then(|file| file.set_len(size).map(|()| file));
        let file = file.map_err(|source| io_error(&path, "write", source))?;
        let n_left = done.iter().filter(|done| !**done).count();
        let state = Mutex::new(State { journal, done, n_left });
        Ok(Part { path, journal_path, file, size, piece_bytes, state })
    }

    pub(crate) fn n_pieces(&self) -> usize {
        self.size.div_ceil(self.piece_bytes) as usize
    }

    /// First byte of a piece, and the byte after its last.
    pub(crate) fn range(&self, piece: usize) -> (u64, u64) {
        let first = piece as u64 * self.piece_bytes;
        (first, (first + self.piece_bytes).min(self.size))
    }

    pub(crate) fn is_done(&self, piece: usize) -> bool {
        self.state().done[piece]
    }

    /// No piece is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.state().n_left == 0
    }

    /// Bytes of the finished pieces.
    pub(crate) fn done_bytes(&self) -> u64 {
        let state = self.state();
        let ranges = state.done.iter().enumerate().filter(|(_, done)| **done).map(|(i, _)| self.range(i));
        ranges.map(|(first, end)| end - first).sum()
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PullError> {
        write_at(&self.file, bytes, offset).map_err(|source| io_error(&self.path, "write", source))
    }

    /// Notes that a piece is whole; whether it was the last that was missing.
    pub(crate) fn finish(&self, piece: usize) -> Result<bool, PullError> {
        let mut state = self.state();
        if state.done[piece] {
            return Ok(false);
        }
        let line = format!("{piece}\n");
        let written = state.journal.write_all(line.as_bytes());
        written.map_err(|source| io_error(&self.journal_path, "write", source))?;
        state.done[piece] = true;
        state.n_left -= 1;
        Ok(state.n_left == 0)
    }

    /// The SHA-256 of all bytes, in hex.
    pub(crate) fn sha256(&self) -> Result<String, PullError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; HASH_BYTES];
        let mut read = || -> io::Result<()> {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(0))?;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => hash.update(&buffer[..n]),
                }
            }
        };
        read().map_err(|source| io_error(&self.path, "read", source))?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Forgets all pieces.
    pub(crate) fn restart(&self) -> Result<(), PullError> {
        let mut state = self.state();
        let end = self.head_bytes();
        let cut = state.journal.set_len(end).and_then(|()| state.journal.seek(SeekFrom::Start(end)));
        cut.map_err(|source| io_error(&self.journal_path, "write", source))?;
        state.done.fill(false);
        state.n_left = state.done.len();
        Ok(())
    }

    /// Makes the part the file that it should be, on the disk for good.
    pub(crate) fn install(&self, blob: &Path) -> Result<(), PullError> {
        let synced = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, blob));
        synced.map_err(|source| io_error(&self.path, "finish", source))?;
        // Left behind it would do no harm.
        let _ = std::fs::remove_file(&self.journal_path);
        Ok(())
    }

    fn head_bytes(&self) -> u64 {
        format!("flashmill pull 1, {} bytes in pieces of {}\n", self.size, self.piece_bytes).len() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has not left the flags half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the bytes of a blob are collected. Not `.incomplete`: other tools would take its length for what is there.
pub(crate) fn part_path(blob: &Path) -> PathBuf {
    beside(blob, ".flashmill-part")
}

pub(crate) fn journal_path(blob: &Path) -> PathBuf {
    beside(blob, ".flashmill-journal")
}

/// A name of its own for each file, also where two differ in their extensions alone.
fn beside(blob: &Path, extension: &str) -> PathBuf {
    let mut path = blob.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path, action: &'static str, source: io::Error) -> PullError {
    PullError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_journal_promises_nothing_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("abc");
        let part = Part::open(&blob, 100, 30, true).unwrap();
        assert_eq!((part.n_pieces(), part.range(3), part.done_bytes()), (4, (90, 100), 0));
        assert!(!part.finish(3).unwrap());
        assert!(!part.finish(1).unwrap());
        assert!(!part.finish(1).unwrap(), "twice is once");
        drop(part);

        let part = Part::open(&blob, 100, 30, true).unwrap();
        assert_eq!((part.is_done(1), part.is_done(2), part.done_bytes()), (true, false, 40));
        drop(part);
        let journal = journal_path(&blob);
        let text = std::fs::read_to_string(&journal).unwrap();
        std::fs::write(&journal, format!("{text}2")).unwrap();
        assert!(!Part::open(&blob, 100, 30, true).unwrap().is_done(2), "a torn line");
        std::fs::write(&journal, format!("{text}9\n2\n")).unwrap();
        assert!(!Part::open(&blob, 100, 30, true).unwrap().is_done(2), "after a line that cannot be");
        std::fs::write(&journal, &text).unwrap();
        assert_eq!(Part::open(&blob, 100, 25, true).unwrap().done_bytes(), 0, "other pieces");
        std::fs::write(&journal, &text).unwrap();
        assert_eq!(Part::open(&blob, 100, 30, false).unwrap().done_bytes(), 0, "not to be resumed");
        std::fs::write(&journal, &text).unwrap();
        std::fs::write(part_path(&blob), "short").unwrap();
        assert_eq!(Part::open(&blob, 100, 30, true).unwrap().done_bytes(), 0, "another length");
    }

    #[test]
    fn hashing_and_installing() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("abc");
        let part = Part::open(&blob, 3, 2, true).unwrap();
        part.write(2, b"c").unwrap();
        part.write(0, b"ab").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(part.sha256().unwrap(), expected);
        part.finish(0).unwrap();
        part.restart().unwrap();
        assert_eq!(part.done_bytes(), 0);
        part.finish(1).unwrap();
        assert!(part.finish(0).unwrap() && part.is_whole());
        part.install(&blob).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["abc"]);
        assert_eq!(std::fs::read(&blob).unwrap(), b"abc");
    }
}
