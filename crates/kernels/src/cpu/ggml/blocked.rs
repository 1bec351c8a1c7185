//! The blocked product: a step of several rows is unpacked to signed bytes here, for every type; a level then turns them to pairs of
//! words and multiplies them as those of the affine products.

use super::bytes::Bytes;
use super::rows::{bias, padded, steps};
use super::{Fast, GgmlRows};

/// A step (sixteen units) of `ROWS` rows.
pub(crate) struct StepRows<const ROWS: usize> {
    /// Of each row the registers that [`Fast::codes`] gives, as signed codes.
    codes: [[[u8; 64]; 8]; ROWS],
    /// Of each row the scales.
    pub(crate) scales: [[f32; 16]; ROWS],
    /// Of each row the offsets, zero if the type has none.
    pub(crate) offsets: [[f32; 16]; ROWS],
}

impl<const ROWS: usize> StepRows<ROWS> {
    pub(crate) fn new() -> Self {
        StepRows { codes: [[[0; 64]; 8]; ROWS], scales: [[0.0; 16]; ROWS], offsets: [[0.0; 16]; ROWS] }
    }

    /// Unpacks step `i`; rows that do not exist repeat the last one.
    #[inline(always)]
    pub(crate) fn unpack<S: Bytes, T: Fast>(&mut self, s: S, w: &GgmlRows<'_>, i: usize) {
        let bytes = w.row_bytes();
        let last = w.n_rows() - 1;
        for row in 0..ROWS {
            let (whole, rest) = steps::<T>(&w.blocks[row.min(last) * bytes..][..bytes]);
            let copy;
            let step = if i < whole.len() {
                &whole[i]
            } else {
                copy = padded::<T>(rest);
                &copy
            };
            for j in 0..T::UNIT / 8 {
                let [mut first, mut second] = T::codes(s, step, j);
                if T::ALTERNATE && S::HIGH_IN_PLACE {
                    let by = [0, 4, 0, 4];
                    (first, second) = (s.and(s.down(first, by), 15), s.and(s.down(second, by), 15));
                }
                if let Some(bias) = bias::<S, T>() {
                    (first, second) = (s.less(first, 1 << bias), s.less(second, 1 << bias));
                }
                s.store_bytes(first, &mut self.codes[row][2 * j]);
                s.store_bytes(second, &mut self.codes[row][2 * j + 1]);
            }
            let (scales, offsets) = T::scales(s, step);
            s.store(scales, &mut self.scales[row]);
            s.store(offsets.unwrap_or(s.splat(0.0)), &mut self.offsets[row]);
        }
    }

    /// Sixteen codes of a row: run `run` of unit `unit`, which has `of` values.
    #[inline(always)]
    pub(crate) fn run(&self, row: usize, of: usize, unit: usize, run: usize) -> &[u8; 16] {
        let register = &self.codes[row][of / 16 * (unit / 4) + run];
        register[16 * (unit % 4)..].first_chunk().expect("a quarter")
    }
}
