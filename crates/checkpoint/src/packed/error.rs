use std::io;
use std::path::{Path, PathBuf};

/// Why a packed model cannot be used: one line that names the file and what is wrong in it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct PackedError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Box<Problem>,
}

impl PackedError {
    pub(super) fn new(path: &Path, problem: Problem) -> Self {
        PackedError { path: path.to_owned(), problem: Box::new(problem) }
    }
}

/// What is wrong with a packed model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum Problem {
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
    #[error(
        "this packed model is not finished; give the same `flashmill pack SOURCE OUT` again to finish it"
    )]
    Unfinished,
    #[error("{len} bytes are more than the limit of {limit} for a manifest; it is damaged")]
    TooLong { len: u64, limit: u64 },
    #[error("not a manifest of a packed model: {source}; pack the model again")]
    Json { source: serde_json::Error },
    #[error("format is {format:?}, but should be \"flashmill\"")]
    Format { format: String },
    #[error("version {version} of the packed form is not known, version 1 is; use a newer flashmill")]
    Version { version: u64 },
    #[error("{what} has {len} entries, more than {limit}; the manifest is damaged")]
    TooMany { what: &'static str, len: usize, limit: usize },
    #[error(
        "the encoding {name:?} of {tensor} is not known; the manifest is damaged or newer than this program"
    )]
    Encoding { tensor: String, name: String },
    #[error("rows of {cols} values of {tensor} are not whole groups of {encoding}; the manifest is damaged")]
    Granularity { tensor: String, cols: usize, encoding: String },
    #[error("{what} lists {found}, but the model needs {expected} there; the manifest is damaged")]
    Entry { what: &'static str, found: String, expected: String },
    #[error("{what} has {found} checksums, but should have {expected}; the manifest is damaged")]
    Checksums { what: String, found: usize, expected: usize },
    #[error("the tensor {tensor:?} is missing; pack the model again")]
    MissingTensor { tensor: String },
    #[error("the tensor {tensor:?} is {found}, but the manifest makes it {expected}; pack the model again")]
    WrongTensor { tensor: String, found: String, expected: String },
    #[error("the tensor {tensor:?} does not belong to the model; pack the model again")]
    UnusedTensor { tensor: String },
    #[error("records start at byte {offset}, no multiple of 4096; pack the model again")]
    Misaligned { offset: u64 },
}
