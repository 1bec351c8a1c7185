use std::io;
use std::path::PathBuf;

use crate::gguf::GgufError;

/// Why a checkpoint cannot be used. Each message is one line that names the file, and the field or tensor in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The directory is not a checkpoint.
    #[error(
        "{dir} holds no config.json and no GGUF file; give a GGUF file, or the directory of a Hugging Face or MLX model"
    )]
    NoConfig {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has a config and no weights that are read.
    #[error(
        "{dir} holds neither model.safetensors, model.safetensors.index.json nor any model*.safetensors; fetch the weights, in the safetensors format"
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// A GGUF file that cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file that belongs to no model.
    #[error(
        "{path} is no part of a model; give a GGUF file, or the directory of a Hugging Face or MLX model"
    )]
    UnknownFile {
        /// The file.
        path: PathBuf,
    },
    /// A path that should be a regular file is something else.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A JSON file that is too long to be what its name says.
    #[error("{path} has {len} bytes, more than the limit of {limit} for this file; it is damaged")]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        len: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A file that is not the JSON it should be.
    #[error("{path}: not valid JSON of the expected form: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },

    /// A family that is not read.
    #[error(
        "{path}: model_type {model_type} is not supported; supported are qwen3_5_moe, qwen3_5_moe_text, qwen3_next and qwen3_moe"
    )]
    UnknownArchitecture {
        /// The config.
        path: PathBuf,
        /// What it says, as JSON.
        model_type: String,
    },
    /// A field that has no default is absent.
    #[error("{path}: the field {field} is missing")]
    FieldMissing {
        /// The config or index.
        path: PathBuf,
        /// Its name.
        field: String,
    },
    /// A field holds another kind of value.
    #[error("{path}: {field} is {value}, but should be {expected}")]
    FieldType {
        /// The config or index.
        path: PathBuf,
        /// Its name.
        field: String,
        /// What it holds, as JSON.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A number outside what is possible or sane.
    #[error("{path}: {field} is {value}, outside {min}..={max}")]
    FieldRange {
        /// The config.
        path: PathBuf,
        /// Its name.
        field: String,
        /// What it holds, as JSON.
        value: String,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A field that changes the computation to one that is not implemented.
    #[error("{path}: {field} is {value}, which is not supported; supported: {supported}")]
    FieldUnsupported {
        /// The config.
        path: PathBuf,
        /// Its name.
        field: String,
        /// What it holds, as JSON.
        value: String,
        /// What would be read.
        supported: &'static str,
    },
    /// Two fields that contradict each other.
    #[error("{path}: {field} is {value}, which does not go with {other} = {other_value}: {rule}")]
    FieldsDisagree {
        /// The config.
        path: PathBuf,
        /// One field.
        field: String,
        /// Its value.
        value: usize,
        /// The other field.
        other: String,
        /// Its value.
        other_value: usize,
        /// What should hold.
        rule: &'static str,
    },
    /// Weights that have to be rearranged before they can be used.
    #[error(
        "{dir} holds {method} weights, whose words run across the rows and cannot be used in place; pack them once: flashmill pack {dir} OUT"
    )]
    MustBePacked {
        /// The checkpoint.
        dir: PathBuf,
        /// GPTQ or AWQ.
        method: &'static str,
    },
    /// A quantisation method that is not read.
    #[error(
        "{path}: {field} is {method} ({format}), which is not read; use the BF16 or FP8 files of this model, a GPTQ or AWQ edition, or an MLX conversion"
    )]
    QuantMethodNotRead {
        /// The config.
        path: PathBuf,
        /// The field that names it.
        field: String,
        /// The method, as JSON.
        method: String,
        /// What it is.
        format: &'static str,
    },

    /// The index names something that is no file name.
    #[error(
        "{path}: weight_map places {tensor:?} in {file}, which is not the plain name of a .safetensors file"
    )]
    IndexPath {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it says.
        file: String,
    },
    /// A shard is absent.
    #[error("{shard} is missing, but {named_by} names it; fetch it, or fetch the model again")]
    MissingShard {
        /// The shard.
        shard: PathBuf,
        /// The index, or a sibling whose name counts the shards.
        named_by: PathBuf,
    },
    /// The index promises a tensor that its shard does not hold.
    #[error("{shard} does not hold the tensor {tensor:?} that {index} places there; fetch the model again")]
    NotInShard {
        /// The shard.
        shard: PathBuf,
        /// The tensor.
        tensor: String,
        /// The index.
        index: PathBuf,
    },
    /// Git LFS left its pointer instead of the file.
    #[error("{path} is a Git LFS pointer, not weights; run git lfs pull in its directory")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A safetensors file too short for its header, or with a header length that cannot be.
    #[error(
        "{path}: a safetensors header of {header_len} bytes does not fit a file of {file_len} bytes (limit {limit}); the file is truncated or damaged"
    )]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// What its first eight bytes say.
        header_len: u64,
        /// Its bytes.
        file_len: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A safetensors file that ends before its header does.
    #[error("{path} has {file_len} bytes, too few for a safetensors file; fetch it again")]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        file_len: u64,
    },
    /// A safetensors header that is not what it should be.
    #[error("{path}: the safetensors header is damaged: {source}; fetch the file again")]
    HeaderJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The file is shorter than its header says.
    #[error(
        "{path} is truncated: it has {file_len} bytes and its header describes {expected_len}; fetch it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        file_len: u64,
        /// What the header says.
        expected_len: u64,
    },
    /// The file is longer than its header says.
    #[error(
        "{path} has {file_len} bytes but its header describes only {expected_len}; the header or the file is damaged, fetch it again"
    )]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        file_len: u64,
        /// What the header says.
        expected_len: u64,
    },
    /// A tensor's name that nobody would write.
    #[error(
        "{path}: the header holds a tensor name of {len} bytes, more than {limit}; the header is damaged"
    )]
    TensorName {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        len: usize,
        /// The most that is read.
        limit: usize,
    },
    /// The same name twice.
    #[error("{path}: the tensor {tensor:?} is described twice; the header is damaged")]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The same name in two files.
    #[error("the tensor {tensor:?} is both in {first} and in {second}; remove the file that does not belong")]
    TensorInTwoFiles {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A type that the format does not have.
    #[error(
        "{path}: the tensor {tensor:?} has the unknown dtype {dtype:?}; the header is damaged or newer than this program"
    )]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// Type, shape and place of a tensor contradict each other.
    #[error(
        "{path}: the tensor {tensor:?} lies at bytes {begin}..{end}, but {dtype} {shape:?} does not take that many; the header is damaged"
    )]
    TensorSize {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: &'static str,
        /// Its shape.
        shape: Vec<u64>,
        /// Its first byte.
        begin: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Tensors overlap, or leave a hole.
    #[error(
        "{path}: the tensor {tensor:?} starts at byte {begin} of the data, but the one before it ends at {previous_end}; the header is damaged"
    )]
    TensorPlace {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// Where it should start.
        previous_end: u64,
    },

    /// A tensor that the model needs is in no file.
    #[error("{dir}: no file holds the tensor {tensor:?}, which {needed_by} needs")]
    MissingTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Who needs it.
        needed_by: &'static str,
    },
    /// A tensor of a type that its role does not allow.
    #[error("{path}: the tensor {tensor:?} is {dtype}, but should be {expected}")]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: &'static str,
        /// What is read.
        expected: &'static str,
    },
    /// A tensor whose shape is not the one that the config asks for.
    #[error("{path}: the tensor {tensor:?} has the shape {shape:?}, but the config asks for {expected:?}")]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// What it should be.
        expected: Vec<u64>,
    },
    /// Quantised weights whose settings the config does not give.
    #[error(
        "{path}: the tensor {tensor:?} is quantised (it has scales), but {config} has no quantization setting for it"
    )]
    QuantSettingsMissing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The config.
        config: PathBuf,
    },
    /// FP8 weights without their scales.
    #[error(
        "{path}: the tensor {tensor:?} is F8_E4M3, but no file holds its scales {scales:?}, without which its values are wrong; fetch the model again"
    )]
    ScalesMissing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor that should hold the scales.
        scales: String,
    },
    /// Rows that have to be put in another order, but are stored in blocks of several.
    #[error(
        "{path}: the tensor {tensor:?} is stored in blocks of several rows, and its heads or halves are not whole blocks; use the BF16 files of this model"
    )]
    SharedScales {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Quantised weights whose shape contradicts the settings.
    #[error(
        "{path}: the tensor {tensor:?} has the shape {shape:?}, but {bits} bits and groups of {group} in config.json make it {expected:?}"
    )]
    QuantShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Bits from the config.
        bits: u8,
        /// Group size from the config.
        group: u16,
        /// What these make of it.
        expected: Vec<u64>,
    },
    /// A row that is not a whole number of groups.
    #[error("{path}: rows of {cols} values of the tensor {tensor:?} are not whole groups of {group}")]
    QuantGroups {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Values of a row.
        cols: usize,
        /// Group size from the config.
        group: u16,
    },
    /// One expert is stored differently from the first of its layer.
    #[error(
        "{path}: the tensor {tensor:?} is {found}, but that of the layer's first expert is {expected}; all experts of a layer must be stored alike"
    )]
    ExpertsDiffer {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its encoding.
        found: flashmill_layout::Encoding,
        /// That of the first.
        expected: flashmill_layout::Encoding,
    },
    /// A weight that the forward pass would leave out.
    #[error(
        "{path}: the tensor {tensor:?} belongs to a layer of the model, but nothing uses it; leaving it out would change the results"
    )]
    UnusedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A packed model.
    #[error(transparent)]
    Packed(#[from] crate::packed::PackedError),
}
