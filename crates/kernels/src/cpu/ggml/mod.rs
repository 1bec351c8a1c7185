//! Products with GGML's blocks: the data, and the definition in plain Rust. docs/NUMERICS.md has the arithmetic.
//!
//! Types that large models are made of have fast products, each written once ([`Fast`]) over what every level provides
//! ([`Bytes`]): [`rows`] for one row of activations, [`StepRows`] for many. The other types take the definition at every level.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, reason = "Scalar has no `Bytes`")
)]

mod blocked;
mod bytes;
pub(super) mod fast;
mod rows;

use std::ops::Range;

use flashmill_layout::ggml::Unpacked;
use flashmill_layout::{Encoding, GgmlType, MatrixView};

use super::affine::QuantizedRow;
pub(super) use blocked::StepRows;
#[cfg(target_arch = "x86_64")]
pub(super) use blocked::{Steps, signed_codes};
pub(super) use bytes::Bytes;
pub(super) use fast::{Fast, with_fast};
pub(super) use rows::rows;

/// Neighbouring rows of a matrix in GGML's blocks.
#[derive(Clone, Copy)]
pub(crate) struct GgmlRows<'a> {
    pub(crate) ty: GgmlType,
    pub(crate) cols: usize,
    pub(crate) blocks: &'a [u8],
}

impl<'a> GgmlRows<'a> {
    /// Rows `rows` of `w`, which is in blocks.
    pub(crate) fn of(w: &MatrixView<'a>, rows: Range<usize>) -> GgmlRows<'a> {
        let Encoding::Ggml(ty) = w.shape.encoding else { unreachable!("blocks, not {}", w.shape.encoding) };
        let all = GgmlRows { ty, cols: w.shape.cols, blocks: w.parts[0] };
        all.rows(rows)
    }

    /// Some of the rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> GgmlRows<'a> {
        let bytes = self.row_bytes();
        GgmlRows { blocks: &self.blocks[rows.start * bytes..rows.end * bytes], ..*self }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.blocks.len() / self.row_bytes()
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.ty.row_bytes(self.cols)
    }

    /// The sixteen accumulators of one row: the definition that every level equals.
    pub(crate) fn accumulate(&self, row: usize, x: QuantizedRow<'_>) -> [f32; 16] {
        let group = self.ty.group();
        let (x_scales, x_sums) = x.units(group);
        let blocks = &self.blocks[row * self.row_bytes()..][..self.row_bytes()];
        let mut unpacked = Unpacked::default();
        let mut acc = [0.0; 16];
        let mut u = 0;
        for block in blocks.chunks_exact(self.ty.block_bytes()) {
            self.ty.unpack_block(block, &mut unpacked);
            for in_block in 0..self.ty.block_groups() {
                let codes = &unpacked.codes[in_block * group..][..group];
                let sum: i32 = codes
                    .iter()
                    .zip(u * group..)
                    .map(|(&code, i)| i32::from(code) * i32::from(x.value(i)))
                    .sum();
                let lane: &mut f32 = &mut acc[u % 16];
                *lane = f32::mul_add(sum as f32, unpacked.scales[in_block] * x_scales[u], *lane);
                if self.ty.has_offsets() {
                    *lane = f32::mul_add(unpacked.offsets[in_block], x_sums[u], *lane);
                }
                u += 1;
            }
        }
        acc
    }
}
