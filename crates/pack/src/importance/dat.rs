//! The older form, `.dat`, little-endian:
//!
//! ```text
//! i32 n; n times { i32 len, len bytes of name, i32 calls, i32 n_values, n_values f32 }; what follows is not read
//! ```
//!
//! The values are mean squares times `calls` (`tools/imatrix` of github.com/ggml-org/llama.cpp).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::{Counts, Entry, ImportanceProblem, failed};
use crate::error::PackError;

const MAX_ENTRIES: i32 = 1 << 20;
const MAX_NAME_BYTES: i32 = 1024;

/// Names and places.
pub(super) fn entries(path: &Path) -> Result<HashMap<String, Entry>, PackError> {
    let io = |source| PackError::Io { path: path.to_owned(), action: "read", source };
    let file = File::open(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    let mut source = Source { path, file: BufReader::new(file), file_len, offset: 0 };
    let n = source.number("the number of entries", 1, MAX_ENTRIES)?;
    let mut entries = HashMap::new();
    for _ in 0..n {
        let len = source.number("the length of a name", 1, MAX_NAME_BYTES)?;
        let offset = source.offset;
        let mut name = vec![0; len as usize];
        source.fill("a name", &mut name)?;
        let name =
            String::from_utf8(name).map_err(|_| failed(path, ImportanceProblem::NotUtf8 { offset }))?;
        let calls = source.number("the number of calls", 0, i32::MAX)?;
        let n_values = source.number("the number of values", 1, i32::MAX)?;
        let offset = source.offset;
        source.skip("the values", 4 * u64::from(n_values))?;
        let entry = Entry { offset, n_values: n_values.into(), counts: Counts::One(calls as f32) };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(failed(path, ImportanceProblem::Tensor { tensor: name, what: "is there twice" }));
        }
    }
    Ok(entries)
}

/// The file, read from its start; every length is checked against the file's before it is used.
struct Source<'a> {
    path: &'a Path,
    file: BufReader<File>,
    file_len: u64,
    offset: u64,
}

impl Source<'_> {
    fn expect(&self, what: &'static str, needed: u64) -> Result<(), PackError> {
        let (offset, file_len) = (self.offset, self.file_len);
        match needed <= file_len - offset {
            true => Ok(()),
            false => Err(failed(self.path, ImportanceProblem::Truncated { what, offset, needed, file_len })),
        }
    }

    fn fill(&mut self, what: &'static str, to: &mut [u8]) -> Result<(), PackError> {
        self.expect(what, to.len() as u64)?;
        self.file.read_exact(to).map_err(|source| self.io(source))?;
        self.offset += to.len() as u64;
        Ok(())
    }

    fn skip(&mut self, what: &'static str, len: u64) -> Result<(), PackError> {
        self.expect(what, len)?;
        self.offset += len;
        self.file.seek(SeekFrom::Start(self.offset)).map(drop).map_err(|source| self.io(source))
    }

    /// A number between `min` and `limit`. One at the start that is none is a file of another kind.
    fn number(&mut self, what: &'static str, min: i32, limit: i32) -> Result<u32, PackError> {
        let offset = self.offset;
        let mut bytes = [0; 4];
        self.fill(what, &mut bytes)?;
        let value = i32::from_le_bytes(bytes);
        match u32::try_from(value).ok().filter(|_| (min..=limit).contains(&value)) {
            Some(number) => Ok(number),
            None if offset == 0 => Err(failed(self.path, ImportanceProblem::Unknown)),
            None => {
                let (value, limit) = (value.into(), limit.into());
                Err(failed(self.path, ImportanceProblem::TooMany { what, offset, value, limit }))
            }
        }
    }

    fn io(&self, source: io::Error) -> PackError {
        PackError::Io { path: self.path.to_owned(), action: "read", source }
    }
}
