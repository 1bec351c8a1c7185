//! The blocked product: sixteen rows of weights are unpacked once, lane i for row i, and meet all rows of activations.
//!
//! A lane is a row, so that a unit's sum needs no step across lanes; and as the units of one accumulator follow each other, it stays in a
//! register. The order of additions is that of a row alone.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::affine::{AffineRows, Blocked, Dealt, Output, PANEL, TREE_ORDER};
use super::super::ggml::{Fast, GgmlRows};
use super::Avx512;
use super::unpack::{Blocks, Groups, ROWS, Sixteen, Unpacked};

mod few;

/// Rows of activations from which on this beats one row after the other.
pub(super) const FROM: usize = 4;

/// # Safety
/// `y`'s columns are this thread's own.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn product(_: Avx512, w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
    // SAFETY (all): this function has the features; `y` as the caller says.
    match (w.affine.bits, w.unit()) {
        (2, 64) => unsafe { all_rows::<2, 64>(w, x, scratch, y) },
        (3, 64) => unsafe { all_rows::<3, 64>(w, x, scratch, y) },
        (4, 64) => unsafe { all_rows::<4, 64>(w, x, scratch, y) },
        (5, 64) => unsafe { all_rows::<5, 64>(w, x, scratch, y) },
        (6, 64) => unsafe { all_rows::<6, 64>(w, x, scratch, y) },
        (8, 64) => unsafe { all_rows::<8, 64>(w, x, scratch, y) },
        (2, 32) => unsafe { all_rows::<2, 32>(w, x, scratch, y) },
        (3, 32) => unsafe { all_rows::<3, 32>(w, x, scratch, y) },
        (4, 32) => unsafe { all_rows::<4, 32>(w, x, scratch, y) },
        (5, 32) => unsafe { all_rows::<5, 32>(w, x, scratch, y) },
        (6, 32) => unsafe { all_rows::<6, 32>(w, x, scratch, y) },
        (8, 32) => unsafe { all_rows::<8, 32>(w, x, scratch, y) },
        (bits, unit) => unreachable!("codes of {bits} bits in units of {unit}"),
    }
}

/// # Safety
/// The CPU has what [`Avx512`] proves, so for every function below; `y`'s columns are this thread's own.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    w: &AffineRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    assert!(x.padded_cols >= w.cols, "activations for W");
    for first in (0..w.n_rows()).step_by(ROWS) {
        let (rows, next) = rows_and_next(first, w.n_rows());
        let sixteen = Groups::<BITS, UNIT>::new(w.rows(rows.clone()), w.rows(next));
        // SAFETY: the columns of `y` as the caller says.
        unsafe { multiply::<_, UNIT>(&sixteen, x, scratch, rows, true, y) };
    }
}

/// The rows that are unpacked together from `first` on, and those after them.
fn rows_and_next(first: usize, n_rows: usize) -> (Range<usize>, Range<usize>) {
    let end = (first + ROWS).min(n_rows);
    (first..end, end..(end + ROWS).min(n_rows))
}

/// How activations for blocks are dealt: four codes of a dword are a pair of the even ones and a pair of the odd ones.
pub(super) const BLOCKS_DEALT: Dealt = Dealt::Words(2);

/// The same for a type of blocks.
///
/// # Safety
/// `y`'s columns are this thread's own.
#[inline(always)]
pub(super) unsafe fn ggml<T: Fast>(
    s: Avx512,
    w: &GgmlRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    assert!(x.padded_cols >= w.cols, "activations for W");
    for first in (0..w.n_rows()).step_by(ROWS) {
        let (rows, next) = rows_and_next(first, w.n_rows());
        let sixteen = Blocks::<T>::new(s, &w.rows(rows.clone()), &w.rows(next));
        let offsets = w.ty.has_offsets();
        // SAFETY: the token proves the CPU's features; the columns of `y` as the caller says.
        unsafe {
            if T::UNIT == 32 {
                multiply::<_, 32>(&sixteen, x, scratch, rows, offsets, y);
            } else {
                multiply::<_, 16>(&sixteen, x, scratch, rows, offsets, y);
            }
        }
    }
}

/// Rows `rows` of `W` with all rows of activations.
///
/// # Safety
/// The CPU's features; the columns of `y` are this thread's own.
#[inline(always)]
unsafe fn multiply<W: Sixteen, const UNIT: usize>(
    w: &W,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    rows: Range<usize>,
    offsets: bool,
    y: Output,
) {
    debug_assert_eq!(W::UNIT, UNIT, "units of W");
    let n_units = w.n_units();
    if x.n_rows() <= PANEL {
        // SAFETY: the columns of `y` as the caller says.
        unsafe { few::multiply(w, x, Unpacked::new(scratch, 16, UNIT), rows, offsets, y) };
        return;
    }
    let to = Unpacked::new(scratch, n_units, UNIT);
    // SAFETY: steps and blocks exist, and there is room for all units.
    unsafe {
        let mut dwords = [_mm512_setzero_si512(); 2 * ROWS];
        for step in 0..n_units.div_ceil(16) {
            w.factors(step, to, 16 * step);
        }
        for block in 0..n_units.div_ceil(W::UNITS) {
            w.codes(block, &mut dwords, to, block * W::UNITS);
        }
        panels::<UNIT>(to, n_units, x, rows, offsets, y);
    }
}

/// Rows `rows` of `W`, which are unpacked, with all rows of activations.
///
/// # Safety
/// As the functions around it say.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn panels<const UNIT: usize>(
    w: Unpacked,
    n_units: usize,
    x: &Blocked<'_>,
    rows: Range<usize>,
    offsets: bool,
    y: Output,
) {
    for panel in 0..x.n_rows().div_ceil(PANEL) {
        let tile = Tile {
            w,
            x: x.panel(panel, UNIT),
            n_units,
            first_x: panel * PANEL,
            first_row: rows.start,
            n_rows: rows.len(),
            offsets,
            y,
        };
        // SAFETY: the weights are unpacked; a panel has `PANEL` rows, of which the first are real.
        unsafe {
            match x.n_rows() - panel * PANEL {
                n @ 1..=2 => tile.compute::<UNIT, 2>(n),
                n @ 3..=4 => tile.compute::<UNIT, 4>(n),
                n @ 5..=6 => tile.compute::<UNIT, 6>(n),
                n => tile.compute::<UNIT, 8>(n.min(PANEL)),
            }
        }
    }
}

/// Pairs, scales and sums of [`Blocked::panel`].
type Panel<'a> = (&'a [i32], &'a [f32], &'a [f32]);

/// Sixteen rows of weights and a panel of activations.
struct Tile<'a> {
    w: Unpacked,
    x: Panel<'a>,
    n_units: usize,
    first_x: usize,
    first_row: usize,
    n_rows: usize,
    /// Whether the units have offsets.
    offsets: bool,
    y: Output,
}

impl Tile<'_> {
    /// `n` rows of the panel, computed as `R`.
    ///
    /// # Safety
    /// The weights are unpacked, and the columns of `y` are this thread's own.
    #[inline(always)]
    unsafe fn compute<const UNIT: usize, const R: usize>(&self, n: usize) {
        // Units of an accumulator that there is room for.
        let (w_room, x_room) = (self.w.n_units / 16, self.x.1.len() / PANEL / 16);
        // SAFETY: units are below `n_units`, of which the slices have all.
        unsafe {
            // What has been added up of each level of the tree.
            let mut done = [[_mm512_setzero_ps(); R]; 5];
            for (step, &lane) in TREE_ORDER.iter().enumerate() {
                let mut acc = [_mm512_setzero_ps(); R];
                for i in 0..(self.n_units + 15 - lane) / 16 {
                    let (w, x) = (step * w_room + i, step * x_room + i);
                    let mut sums = [_mm512_setzero_si512(); R];
                    let pairs = self.w.pairs.add(w * UNIT / 2 * ROWS).cast_const();
                    let activations = self.x.0.as_ptr().add(x * UNIT / 2 * PANEL);
                    for pair in 0..UNIT / 2 {
                        let w = _mm512_loadu_si512(pairs.add(pair * ROWS).cast());
                        dots(&mut sums, w, activations.add(pair * PANEL));
                    }
                    Factors::of(self.w, w, self.x, x).add(sums, self.offsets, &mut acc);
                }
                let mut level = 0;
                while step >> level & 1 == 1 {
                    for r in 0..R {
                        acc[r] = _mm512_add_ps(done[level][r], acc[r]);
                    }
                    level += 1;
                }
                done[level] = acc;
            }
            let mask = ((1u32 << self.n_rows) - 1) as u16;
            for (r, &sums) in done[4].iter().enumerate().take(n) {
                let y = self.y.row(self.first_x + r, self.first_row, self.n_rows);
                _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, sums);
            }
        }
    }
}

/// Factors of a unit: of sixteen rows of weights, and of the rows of a panel.
#[derive(Clone, Copy)]
struct Factors {
    scales: *const f32,
    biases: *const f32,
    x_scales: *const f32,
    x_sums: *const f32,
}

impl Factors {
    /// Of the unit at place `w` of the weights and `x` of the panel.
    #[inline(always)]
    fn of(weights: Unpacked, w: usize, panel: Panel<'_>, x: usize) -> Factors {
        Factors {
            scales: weights.scales.wrapping_add(w * ROWS),
            biases: weights.biases.wrapping_add(w * ROWS),
            x_scales: panel.1.as_ptr().wrapping_add(x * PANEL),
            x_sums: panel.2.as_ptr().wrapping_add(x * PANEL),
        }
    }

    /// Adds the sums of a unit to the accumulators.
    ///
    /// # Safety
    /// The unit exists; the CPU's features.
    #[inline(always)]
    unsafe fn add<const R: usize>(self, sums: [__m512i; R], offsets: bool, acc: &mut [__m512; R]) {
        // SAFETY: by the caller.
        unsafe {
            let scale = _mm512_loadu_ps(self.scales);
            for r in 0..R {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*self.x_scales.add(r)));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, acc[r]);
            }
            if offsets {
                let bias = _mm512_loadu_ps(self.biases);
                for r in 0..R {
                    acc[r] = _mm512_fmadd_ps(bias, _mm512_set1_ps(*self.x_sums.add(r)), acc[r]);
                }
            }
        }
    }
}

/// `sums[r] += w . x[r]` for one pair of sixteen rows of weights.
///
/// # Safety
/// There are `PANEL` rows of activations; the CPU's features.
#[inline(always)]
unsafe fn dots<const R: usize>(sums: &mut [__m512i; R], w: __m512i, x: *const i32) {
    // SAFETY: by the caller.
    unsafe {
        dot::<0, R>(sums, w, x);
        dot::<1, R>(sums, w, x);
        dot::<2, R>(sums, w, x);
        dot::<3, R>(sums, w, x);
        dot::<4, R>(sums, w, x);
        dot::<5, R>(sums, w, x);
        dot::<6, R>(sums, w, x);
        dot::<7, R>(sums, w, x);
    }
}

/// `sums[I] += w . x[I]` for one pair, if there are so many sums. Written out because LLVM 21 splits `vpdpwssd` into a product and a sum.
///
/// # Safety
/// There are `R` rows of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot<const I: usize, const R: usize>(sums: &mut [__m512i; R], w: __m512i, x: *const i32) {
    if let Some(sum) = sums.get_mut(I) {
        // SAFETY: value `I` is read, by the caller; nothing but the register is written.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {sum}, {w}, dword ptr [{x} + {at}]{{1to16}}",
                sum = inout(zmm_reg) *sum,
                w = in(zmm_reg) w,
                x = in(reg) x,
                at = const 4 * I,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    }
}
