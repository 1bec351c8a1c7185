use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::value::Kind;

/// Why a GGUF file cannot be used: one line that names the file, and the key or tensor and the byte in it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Box<Problem>,
}

impl GgufError {
    pub(super) fn new(path: &Path, problem: Problem) -> Self {
        GgufError { path: path.to_owned(), problem: Box::new(problem) }
    }
}

/// The part of a header that is being read, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Magic, version and counts.
    Start,
    /// The key of a metadata pair, by its position.
    Key(u64),
    /// The value of this key.
    Value(String),
    /// The description of a tensor, by its position.
    Tensor(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Start => f.write_str("the start of the header"),
            Place::Key(index) => write!(f, "the key of metadata pair {index}"),
            Place::Value(key) => write!(f, "the value of {key:?}"),
            Place::Tensor(index) => write!(f, "the description of tensor {index}"),
        }
    }
}

/// What is wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum Problem {
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
    #[error("not a regular file")]
    NotAFile,
    #[error("not a GGUF file: it starts with {found:02x?}, not with \"GGUF\"")]
    Magic { found: [u8; 4] },
    #[error("a Git LFS pointer, not weights; run git lfs pull in its directory")]
    LfsPointer,
    #[error("a big-endian GGUF file, which is not read; fetch the little-endian one")]
    BigEndian,
    #[error("GGUF version 1, which is not read; convert the model again with a current llama.cpp")]
    VersionOne,
    #[error(
        "GGUF version {version} is not known, versions 2 and 3 are; the file is damaged or newer than this program"
    )]
    Version { version: u32 },

    #[error(
        "{place}, at byte {offset}, needs {needed} bytes, but the file has {file_len}; it is truncated or damaged, fetch it again"
    )]
    Truncated { place: Place, offset: u64, needed: u64, file_len: u64 },
    #[error("{place}, at byte {offset}, makes the header longer than {limit} bytes; the header is damaged")]
    HeaderTooLong { place: Place, offset: u64, limit: u64 },
    #[error("the header counts {count} {what}, more than the limit of {limit}; it is damaged")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error(
        "{place}, at byte {offset}, has a name of {len} bytes, more than the limit of {limit}; the header is damaged"
    )]
    LongName { place: Place, offset: u64, len: u64, limit: u64 },
    #[error("{place} holds a string at byte {offset} that is not UTF-8; the header is damaged")]
    NotUtf8 { place: Place, offset: u64 },
    #[error(
        "{place}, at byte {offset}, has the unknown type {code}; the header is damaged or newer than this program"
    )]
    UnknownKind { place: Place, offset: u64, code: u32 },
    #[error("{place}, at byte {offset}, should be a bool, 0 or 1, but is {value}; the header is damaged")]
    NotABool { place: Place, offset: u64, value: u8 },
    #[error("{place}, at byte {offset}, nests arrays deeper than {limit}; the header is damaged")]
    Nesting { place: Place, offset: u64, limit: usize },
    #[error("the metadata key {key:?} is there twice; the header is damaged")]
    DuplicateKey { key: String },
    #[error(
        "general.alignment is {alignment}, which is not a power of two up to {limit}; the header is damaged"
    )]
    Alignment { alignment: String, limit: u64 },

    #[error("the tensor {tensor:?} has {n_dims} dimensions, more than 4; the header is damaged")]
    Rank { tensor: String, n_dims: u32 },
    #[error("the tensor {tensor:?} has the shape {dims:?}, which cannot be; the header is damaged")]
    Shape { tensor: String, dims: Vec<u64> },
    #[error(
        "the tensor {tensor:?} has the unknown type {code}; the header is damaged or newer than this program"
    )]
    UnknownType { tensor: String, code: u32 },
    #[error("rows of {cols} values of the tensor {tensor:?} are not whole blocks of {block} values of {ty}")]
    PartialBlock { tensor: String, ty: &'static str, cols: u64, block: u64 },
    #[error("the tensor {tensor:?} is described twice; the header is damaged")]
    DuplicateTensor { tensor: String },
    #[error(
        "the tensor {tensor:?} starts at byte {offset} of the data, no multiple of the alignment {alignment}; the header is damaged"
    )]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "truncated: the tensor {tensor:?} takes {len} bytes at byte {offset} of the data, which starts at byte {data_start}, but the file has {file_len}; fetch it again"
    )]
    OutsideFile { tensor: String, offset: u64, len: u64, data_start: u64, file_len: u64 },
    #[error(
        "the tensor {tensor:?} starts at byte {begin} of the file, before {other:?} ends at {other_end}; the header is damaged"
    )]
    Overlap { tensor: String, begin: u64, other: String, other_end: u64 },

    #[error("part {no} of {count}, {name}, is missing; fetch it, or fetch the model again")]
    MissingSplit { no: u32, count: u32, name: String },
    #[error(
        "{key} is {found}, but should be {expected}; the file does not belong to this split model, fetch it again"
    )]
    SplitKey { key: &'static str, found: String, expected: u64 },
    #[error(
        "one of the {count} files of a split model, but its name does not end in -00001-of-{count:05}.gguf; give the file its name back"
    )]
    SplitName { count: u64 },
    #[error(
        "the parts hold {found} tensors together, but split.tensors.count is {expected}; fetch the model again"
    )]
    SplitTensors { found: u64, expected: u64 },
    #[error("the tensor {tensor:?} is also in {other}; remove the file that does not belong")]
    TensorInTwoFiles { tensor: String, other: PathBuf },
    #[error("a directory with several GGUF models, {}; name the file to run", listed(names))]
    SeveralModels { names: Vec<String> },

    #[error(
        "the architecture {architecture:?} is not supported; supported are qwen35moe, qwen3next and qwen3moe"
    )]
    UnknownArchitecture { architecture: String },
    #[error("the metadata key {key} is missing")]
    MissingKey { key: String },
    #[error("{key} is {found}, but should be {expected}")]
    KeyType { key: String, found: Kind, expected: &'static str },
    #[error("{key} is {value}, outside {min}..={max}")]
    KeyRange { key: String, value: String, min: u64, max: u64 },
    #[error("{key} is {value}, which is not supported; supported: {supported}")]
    KeyUnsupported { key: String, value: String, supported: &'static str },
    #[error("{key} is {value}, which does not go with {other} = {other_value}: {rule}")]
    KeysDisagree { key: String, value: u64, other: String, other_value: u64, rule: &'static str },

    #[error("no file holds the tensor {tensor:?}, which {needed_by} needs")]
    MissingTensor { tensor: String, needed_by: &'static str },
    #[error(
        "the tensor {tensor:?} has the shape {dims:?} (fastest first), but the metadata asks for {expected:?}"
    )]
    WrongShape { tensor: String, dims: Vec<u64>, expected: Vec<u64> },
    #[error("the tensor {tensor:?} is {ty}, but should be {expected}")]
    WrongType { tensor: String, ty: &'static str, expected: &'static str },
    #[error(
        "the tensor {tensor:?} belongs to the model, but nothing uses it; leaving it out would change the results"
    )]
    UnusedTensor { tensor: String },
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}
