//! The packed form: the directory that `flashmill pack` writes, drawn byte by byte in docs/FORMAT.md.
//!
//! ```text
//! flashmill.json ──manifest, config──▶ ModelSpec ─┐
//! *.safetensors ──header──▶ tensors ──read──▶ Trunk, bundles
//! ```
//!
//! Places come from the safetensors headers and sizes from the model; the manifest adds encodings and checksums only.

mod config;
mod encoding;
mod error;
mod items;
mod manifest;
mod read;

use std::path::Path;

pub use config::ModelConfig;
pub use encoding::{PartTensor, encoding_name, parse_encoding, part_tensors};
pub use error::{PackedError, Problem};
pub use items::{TrunkItem, trunk_items};
pub use manifest::{Checksum, ExpertsEntry, MANIFEST, Manifest, Recipe, TrunkEntry, ValueHeads};
pub(crate) use read::{Parts, open, open_parts};

/// The file of the trunk.
pub const TRUNK: &str = "trunk.safetensors";

/// What is written while the directory is not finished.
pub const JOURNAL: &str = "flashmill.journal";

/// The metadata of a GGUF source, without tensors.
pub const METADATA: &str = "metadata.gguf";

/// Records start at multiples of this, and have a multiple of it from one to the next.
pub const RECORD_ALIGN: u64 = 4096;

/// The file of a layer's experts.
pub fn experts_file(layer: usize) -> String {
    format!("experts-{layer:05}.safetensors")
}

/// The tensor in it.
pub fn experts_tensor(layer: usize) -> String {
    format!("layers.{layer}.experts")
}

/// Whether a directory is a packed model, finished or not.
pub fn is_packed(dir: &Path) -> bool {
    dir.join(MANIFEST).exists() || dir.join(JOURNAL).exists()
}
