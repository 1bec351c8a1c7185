//! Importance files: the mean square of each input of a matrix over some text, as llama.cpp's `llama-imatrix` writes them. Only
//! places are kept; the numbers of a matrix are read when it is quantised, for those of a large model take a gigabyte.

mod dat;
mod gguf;
mod names;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flashmill_layout::{Extent, FileId};
use flashmill_store::Files;

use crate::error::PackError;

pub(crate) use names::gguf_name;

/// An importance file.
pub struct Importance {
    path: PathBuf,
    files: Files,
    entries: HashMap<String, Entry>,
}

/// The numbers of a matrix, or of all experts' matrices of a layer.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Where the F32 sums start.
    offset: u64,
    /// Sums of all matrices together.
    n_values: u64,
    /// How often each matrix was used.
    counts: Counts,
}

#[derive(Clone, Debug, PartialEq)]
enum Counts {
    /// The same for all: the sums are scaled to this.
    One(f32),
    /// One a matrix.
    Each(Vec<f32>),
}

/// What is wrong with an importance file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum ImportanceProblem {
    #[error("neither a GGUF importance file nor one of the older .dat form; write it with llama-imatrix")]
    Unknown,
    #[error(
        "{what} at byte {offset} takes {needed} bytes, but the file has {file_len}; it is truncated or damaged"
    )]
    Truncated { what: &'static str, offset: u64, needed: u64, file_len: u64 },
    #[error("{what} at byte {offset} is {value}, more than the limit of {limit}; the file is damaged")]
    TooMany { what: &'static str, offset: u64, value: i64, limit: i64 },
    #[error("the name at byte {offset} is not UTF-8; the file is damaged")]
    NotUtf8 { offset: u64 },
    #[error("the tensor {tensor:?} {what}; the file is damaged")]
    Tensor { tensor: String, what: &'static str },
    #[error(
        "{tensor:?} has {found} values, but the model makes it {expected}; the file belongs to another model"
    )]
    Size { tensor: String, found: u64, expected: u64 },
    #[error("{tensor:?} holds a value that is negative or not finite; the file is damaged")]
    Value { tensor: String },
    #[error("it names no weight of this model that is quantised; the file belongs to another model")]
    Nothing,
}

impl Importance {
    /// Reads the names and places of either form.
    pub fn open(path: &Path) -> Result<Importance, PackError> {
        let io = |source| PackError::Io { path: path.to_owned(), action: "open", source };
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).map_err(io)?;
        let entries = match start == b"GGUF" {
            true => gguf::entries(path)?,
            false => dat::entries(path)?,
        };
        let files = Files::open(&[path.to_owned()])?;
        Ok(Importance { path: path.to_owned(), files, entries })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there are numbers for the `n` matrices of a name, each with `cols` inputs.
    pub(crate) fn has(&self, tensor: &str, n: usize, cols: usize) -> Result<bool, PackError> {
        let Some(entry) = self.entries.get(tensor) else { return Ok(false) };
        let expected = n as u64 * cols as u64;
        let counts_fit = match &entry.counts {
            Counts::One(_) => true,
            Counts::Each(counts) => counts.len() == n,
        };
        match entry.n_values == expected && counts_fit {
            true => Ok(true),
            false => {
                let (tensor, found) = (tensor.to_owned(), entry.n_values);
                Err(self.problem(ImportanceProblem::Size { tensor, found, expected }))
            }
        }
    }

    /// The mean squares of the `cols` inputs of matrix `index` of the `n` of a name; `None` if there are none, or the text never
    /// used the matrix.
    pub fn weights(
        &self,
        tensor: &str,
        index: usize,
        n: usize,
        cols: usize,
    ) -> Result<Option<Vec<f32>>, PackError> {
        if !self.has(tensor, n, cols)? {
            return Ok(None);
        }
        let entry = &self.entries[tensor];
        let count = match &entry.counts {
            Counts::One(count) => *count,
            Counts::Each(counts) => counts[index],
        };
        let len = 4 * cols as u64;
        let mut bytes = vec![0; 4 * cols];
        let extent = Extent { file: FileId(0), offset: entry.offset + index as u64 * len, len };
        self.files.read_exact(extent, &mut bytes)?;
        let sum = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("4 bytes"));
        let weights: Vec<f32> = bytes.chunks_exact(4).map(sum).collect();
        if !weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0) || !count.is_finite() {
            return Err(self.problem(ImportanceProblem::Value { tensor: tensor.to_owned() }));
        }
        let is_used = count > 0.0 && weights.iter().any(|&weight| weight > 0.0);
        Ok(is_used.then(|| weights.into_iter().map(|weight| weight / count).collect()))
    }

    pub(crate) fn problem(&self, problem: ImportanceProblem) -> PackError {
        failed(&self.path, problem)
    }
}

fn failed(path: &Path, problem: ImportanceProblem) -> PackError {
    PackError::Importance { path: path.to_owned(), problem }
}
