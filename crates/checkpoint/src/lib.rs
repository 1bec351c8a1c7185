//! What files say. Opens a checkpoint, reads its headers and configs, and describes the model ([`ModelSpec`]) and where each
//! weight lies ([`Trunk`], [`BundleRef`]). The first station of the corridor; it never reads a weight and never computes.
//!
//! ```text
//! config.json ──config, quantization──▶ ModelSpec ─┐
//! *.safetensors ──header──▶ files: one table ──modules, trunk, bundles──▶ Checkpoint
//! *.gguf ──────────────────────────────gguf──────────────────────────────────┘
//! ```
//!
//! Every length, offset and size from a file is bounded before use; what is wrong is a [`CheckpointError`] that names the file
//! and the field or tensor.

mod bundles;
mod checkpoint;
mod config;
mod error;
mod fields;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod gguf;
mod header;
mod inspect;
mod layers;
mod modules;
mod names;
mod note;
pub mod packed;
mod quantization;
mod rope;
mod spec;
pub mod transposed;
mod trunk;
mod weights;

pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use files::FileEntry;
pub use inspect::{EncodingUse, Inspection, Role, RoleSummary};
pub use note::{Note, SkippedGroup};
pub use spec::{
    AttentionSpec, DeltaNetSpec, Family, FfnKind, HeadOrder, LayerKind, MixerKind, ModelSpec, MoeSpec,
};
pub use trunk::Convention;
pub use weights::{
    AttentionRef, BundleRef, DeltaNetRef, FfnRef, GluRef, LayerRef, MatrixRef, MixerRef, SharedExpertRef,
    Trunk, VectorMap, VectorRef,
};
