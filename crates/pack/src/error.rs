use std::io;
use std::path::PathBuf;

/// Why a model could not be packed or verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The source, or the model to verify, does not make sense.
    #[error(transparent)]
    Checkpoint(#[from] flashmill_checkpoint::CheckpointError),
    /// The same, of a GGUF file.
    #[error(transparent)]
    Gguf(#[from] flashmill_checkpoint::gguf::GgufError),
    /// The manifest that was there does not make sense.
    #[error(transparent)]
    Packed(#[from] flashmill_checkpoint::packed::PackedError),
    /// A weight could not be read.
    #[error(transparent)]
    Read(#[from] flashmill_store::StoreError),
    /// A file of the output could not be written.
    #[error(
        "{path}: cannot {action}: {source}; what is written stays valid, give the same command again to go on"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The output would lie among the source's files.
    #[error("{out} lies inside the source {source_dir}; give a directory elsewhere")]
    OutInSource {
        /// The output.
        out: PathBuf,
        /// The source's directory.
        source_dir: PathBuf,
    },
    /// The output has files that are not ours.
    #[error("{out} is not empty and holds no unfinished packed model; give a new directory")]
    OutNotEmpty {
        /// The output.
        out: PathBuf,
    },
    /// The output is no directory.
    #[error("{out} is not a directory; give a new directory")]
    OutNotADirectory {
        /// The output.
        out: PathBuf,
    },
    /// The output is finished, but by another recipe.
    #[error("{out} already holds a packed model, made with other settings; give a new directory")]
    AlreadyPacked {
        /// The output.
        out: PathBuf,
    },
    /// The output was begun with other settings.
    #[error(
        "{out} was begun with {setting} {found}, and this is {wanted}; give the settings it was begun with, or another directory"
    )]
    OtherSettings {
        /// The output.
        out: PathBuf,
        /// What differs.
        setting: &'static str,
        /// What the output was begun with.
        found: String,
        /// What was asked for now.
        wanted: String,
    },
    /// Someone else is writing there.
    #[error("{out} is being written by another flashmill; wait for it, or give another directory")]
    Busy {
        /// The output.
        out: PathBuf,
    },
    /// The disk is too small.
    #[error(
        "{out}: packing takes {needed} bytes more, and the disk has {free} free; free {} bytes or choose another disk",
        needed - free
    )]
    NoSpace {
        /// The output.
        out: PathBuf,
        /// Bytes still to write.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What was written is not what is read back.
    #[error(
        "{path}: the bytes at {offset} are not those that were written there; check the disk, remove the directory and start over"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A file that arrived is not the one whose header was there before.
    #[error(
        "{path}: its header is not the one of {planned}, which the output was planned with; remove the output and the files that were fetched, and start over"
    )]
    OtherHeader {
        /// The file.
        path: PathBuf,
        /// Where its header was read.
        planned: PathBuf,
    },
    /// A NaN or an infinity where a scale has to be chosen.
    #[error(
        "{tensor}: row {row} holds a NaN or an infinity, which cannot be quantised; fetch the source again"
    )]
    NotFinite {
        /// The source's tensor.
        tensor: String,
        /// Which row, from 0.
        row: usize,
    },
    /// An importance file that cannot be used.
    #[error("{path}: {problem}")]
    Importance {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: crate::importance::ImportanceProblem,
    },
    /// An importance file beside the rule that has no use for it.
    #[error(
        "scales that span the range of their values use no importance; leave out the importance or the recipe range"
    )]
    ImportanceUnused,
    /// A model that cannot run before it is packed cannot be calibrated either.
    #[error(
        "{path} holds {method} weights, which do not run as they are, so that a text cannot be run through them; pack them once without bits and --calibrate, which changes no value, and then what comes out with both"
    )]
    CannotCalibrate {
        /// The source.
        path: PathBuf,
        /// GPTQ or AWQ.
        method: &'static str,
    },
    /// Words of GPTQ or AWQ that cannot be rearranged without a change.
    #[error("the tensor {tensor:?} cannot be packed: {source}")]
    Transposed {
        /// The source's tensor.
        tensor: String,
        /// Why.
        source: flashmill_checkpoint::transposed::TransposedError,
    },
    /// A record that the store would refuse.
    #[error("an expert of layer {layer} takes {bytes} bytes, more than the limit of {limit}")]
    RecordTooLarge {
        /// Which layer.
        layer: usize,
        /// Its bytes.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
}
