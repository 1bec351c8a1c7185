//! GGUF, the file format of llama.cpp: a header of metadata and tensor descriptions, then the tensors' bytes.
//!
//! ```text
//! *.gguf ──source, header──▶ Header ──split, files──▶ Gguf ──params──▶ ModelSpec ─┐
//!                                                      └─────tensors, model──▶ GgufModel
//! ```
//!
//! Format: docs/gguf.md of github.com/ggml-org/ggml, versions 2 and 3, little-endian. Every number is checked against the file's
//! length before use, and nothing is allocated by a count that the file only claims.

mod error;
mod files;
mod header;
mod model;
mod params;
mod source;
mod split;
mod tensor;
mod tensors;
mod value;

pub use error::{GgufError, Place, Problem};
pub use files::{Gguf, GgufFile, read_metadata};
pub use header::{Header, read_header};
pub(crate) use model::{GgufModel, describe};
pub use split::SplitName;
pub use tensor::{Tensor, TensorType};
pub use value::{Array, Kind, Metadata, Strings, Value};
