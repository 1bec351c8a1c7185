//! Where bytes lie and how a row of weights is stored: the two words that every other crate shares.
//!
//! `checkpoint` finds extents and encodings, `store` moves the bytes, `kernels` compute with them. This crate keeps the
//! three apart: it opens no file, starts no thread and has no SIMD.
//!
//! ```text
//! files ──checkpoint──▶ Extent, Encoding ──store──▶ bytes ──kernels──▶ numbers
//! ```

mod encoding;
mod extent;
pub mod ggml;
mod matrix;
pub mod minifloat;

pub use encoding::{Affine, Encoding, FP8_BLOCK, Float, MAX_PARTS};
pub use extent::{Extent, FileId};
pub use ggml::GgmlType;
pub use matrix::{MatrixShape, MatrixView, RowView};
