use std::io;
use std::path::PathBuf;

/// What can go wrong between a file and a slot.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the checkpoint cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The process has as many open files as it may have.
    #[error("{}: too many open files after {n_open} of this checkpoint; raise the limit (ulimit -n)", path.display())]
    TooManyFiles {
        /// The file that did not fit.
        path: PathBuf,
        /// Files of the checkpoint that are open.
        n_open: usize,
    },
    /// The path names another file than a moment ago.
    #[error("{}: was replaced while it was opened; wait for the download or copy to end and try again", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// An extent names a file that the checkpoint does not have.
    #[error("an extent names file {file}, but only {n_files} files are open")]
    NoSuchFile {
        /// Index of the file.
        file: u32,
        /// Number of files.
        n_files: usize,
    },
    /// An extent reaches past the end of its file.
    #[error(
        "{}: bytes {offset}+{len} reach past the end of the file ({file_len} bytes); it is truncated, fetch it again",
        path.display()
    )]
    OutsideFile {
        /// The file.
        path: PathBuf,
        /// First byte of the extent.
        offset: u64,
        /// Bytes of the extent.
        len: u64,
        /// Bytes of the file when it was opened.
        file_len: u64,
    },
    /// The system refused a read.
    #[error("{}: reading {len} bytes at {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The file ended inside an extent: it has shrunk since it was opened.
    #[error(
        "{}: the file ends after {got} of {wanted} bytes at {offset}; it has shrunk since it was opened, fetch it again",
        path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        wanted: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A record is larger than a slot can be.
    #[error("layer {layer}, bundle {bundle}: a record of {bytes} bytes is over the limit of {limit} bytes")]
    RecordTooLarge {
        /// Its layer.
        layer: usize,
        /// Its bundle.
        bundle: usize,
        /// Bytes of the aligned covers of its extents.
        bytes: u64,
        /// The largest slot.
        limit: u64,
    },
    /// The memory granted does not hold one slot of each size.
    #[error("{given} bytes for slots are below the floor of {floor} bytes; raise the budget")]
    BelowFloor {
        /// Bytes granted.
        given: u64,
        /// Bytes needed.
        floor: u64,
    },
    /// The system has no memory for the slots.
    #[error("{bytes} bytes for slots cannot be had: {source}; lower the budget")]
    NoMemory {
        /// Bytes asked for.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// Every slot that the pick could use is leased, so waiting would never end.
    #[error(
        "layer {layer}, bundle {bundle}: all {n_slots} slots of {slot_bytes} bytes are leased; drop a lease before asking for the next, or raise the budget"
    )]
    AllLeased {
        /// Its layer.
        layer: usize,
        /// Its bundle.
        bundle: u32,
        /// Slots of its size.
        n_slots: usize,
        /// Bytes of such a slot.
        slot_bytes: u64,
    },
    /// The reader as a whole failed, not one read.
    #[error("the {name} reader failed: {source}")]
    Reader {
        /// The reader.
        name: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}
