//! Bytes from a file that may lie about itself: every read is checked against the file's length first.

use std::io::{BufReader, Read};

use super::error::{Place, Problem};

/// The longest header that is read: ten times the largest vocabulary with its merges. Also bounds the memory it takes.
pub(super) const MAX_HEADER_BYTES: u64 = 256 << 20;

/// How much is read at once into memory that a claimed length would size.
const STEP: usize = 64 << 10;

/// A file read from its start, that knows where it is.
pub(super) struct Source<R> {
    reader: BufReader<R>,
    file_len: u64,
    pub(super) offset: u64,
    /// What is being read, for messages.
    pub(super) place: Place,
}

impl<R: Read> Source<R> {
    pub(super) fn new(file: R, file_len: u64) -> Self {
        let reader = BufReader::with_capacity(STEP, file);
        Source { reader, file_len, offset: 0, place: Place::Start }
    }

    /// `len` bytes are there, and the header may be this long.
    pub(super) fn expect(&self, len: u64) -> Result<(), Problem> {
        let (place, offset) = (|| self.place.clone(), self.offset);
        if len > self.file_len - offset {
            return Err(Problem::Truncated { place: place(), offset, needed: len, file_len: self.file_len });
        }
        if len > MAX_HEADER_BYTES.saturating_sub(offset) {
            return Err(Problem::HeaderTooLong { place: place(), offset, limit: MAX_HEADER_BYTES });
        }
        Ok(())
    }

    /// `count` items of `size` bytes or more are there.
    pub(super) fn expect_items(&self, count: u64, size: u64) -> Result<(), Problem> {
        self.expect(count.saturating_mul(size))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.expect(N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Problem> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    /// Appends `len` bytes. Memory grows with what was read, not with what was claimed.
    pub(super) fn append(&mut self, len: u64, to: &mut Vec<u8>) -> Result<(), Problem> {
        self.expect(len)?;
        let end = to.len() + len as usize;
        while to.len() < end {
            let start = to.len();
            to.resize(end.min(start + STEP), 0);
            self.fill(&mut to[start..])?;
        }
        Ok(())
    }

    /// Passes over `len` bytes.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), Problem> {
        self.expect(len)?;
        let mut buffer = [0; 4096];
        let mut left = len;
        while left > 0 {
            let n = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// A length and that many bytes of UTF-8, appended; at most `limit` bytes if this is a name.
    pub(super) fn append_string(&mut self, to: &mut Vec<u8>, limit: Option<u64>) -> Result<(), Problem> {
        let offset = self.offset;
        let len = self.u64()?;
        if let Some(limit) = limit.filter(|&limit| len > limit) {
            return Err(Problem::LongName { place: self.place.clone(), offset, len, limit });
        }
        let start = to.len();
        self.append(len, to)?;
        match std::str::from_utf8(&to[start..]) {
            Ok(_) => Ok(()),
            Err(_) => Err(Problem::NotUtf8 { place: self.place.clone(), offset }),
        }
    }

    pub(super) fn string(&mut self, limit: Option<u64>) -> Result<String, Problem> {
        let mut bytes = Vec::new();
        self.append_string(&mut bytes, limit)?;
        Ok(String::from_utf8(bytes).expect("checked"))
    }

    fn fill(&mut self, to: &mut [u8]) -> Result<(), Problem> {
        self.reader.read_exact(to).map_err(|source| Problem::Io { action: "read the header", source })?;
        self.offset += to.len() as u64;
        Ok(())
    }
}
