//! The blocked product: a step of several rows becomes signed bytes here, for every type; a level then turns them to pairs of words and
//! multiplies them as those of the affine products.

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
        let from = Steps::<T, ROWS>::of(w);
        for row in 0..ROWS {
            let mut copy = None;
            let step = from.get(row, i, &mut copy);
            for j in 0..T::UNIT / 8 {
                let [first, second] = signed_codes::<S, T>(s, step, j);
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

/// Neighbouring rows as steps; rows that do not exist repeat the last one.
pub(crate) struct Steps<'a, T: Fast, const ROWS: usize> {
    /// Of each row the whole steps, and the bytes that are left.
    rows: [(&'a [T::Step], &'a [u8]); ROWS],
}

impl<'a, T: Fast, const ROWS: usize> Steps<'a, T, ROWS> {
    #[inline(always)]
    pub(crate) fn of(w: &GgmlRows<'a>) -> Self {
        let (bytes, last) = (w.row_bytes(), w.n_rows() - 1);
        let mut rows: [(&[T::Step], &[u8]); ROWS] = [(&[], &[]); ROWS];
        for (row, steps) in rows.iter_mut().enumerate() {
            *steps = self::steps::<T>(&w.blocks[row.min(last) * bytes..][..bytes]);
        }
        Steps { rows }
    }

    /// Step `i` of row `row`; what is missing at the end of the row is zero, in `copy`.
    #[inline(always)]
    pub(crate) fn get<'b>(&'b self, row: usize, i: usize, copy: &'b mut Option<T::Step>) -> &'b T::Step {
        let (whole, rest) = self.rows[row];
        match whole.get(i) {
            Some(step) => step,
            None => copy.insert(padded::<T>(rest)),
        }
    }
}

/// The two registers `j` of codes of a step, as [`Fast::codes`] gives them, but signed.
#[inline(always)]
pub(crate) fn signed_codes<S: Bytes, T: Fast>(s: S, step: &T::Step, j: usize) -> [S::B; 2] {
    let [mut first, mut second] = T::codes(s, step, j);
    if T::ALTERNATE && S::HIGH_IN_PLACE {
        let by = [0, 4, 0, 4];
        (first, second) = (s.and(s.down(first, by), 15), s.and(s.down(second, by), 15));
    }
    match bias::<S, T>() {
        Some(bias) => [s.less(first, 1 << bias), s.less(second, 1 << bias)],
        None => [first, second],
    }
}
