//! The blocked product of a single panel: codes become pairs only as they are multiplied, so that they stay in registers, and the
//! accumulators of all units lie in memory. The additions are those of a tile, in the same order.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::affine::{Blocked, Output, PANEL, place};
use super::super::unpack::{ROWS, Sixteen, Unpacked};
use super::{Factors, dots};

/// Accumulators in the order of the tree, of each row of activations.
type Accumulators<const R: usize> = [[__m512; R]; 16];

/// Rows `rows` of `W`, which are sixteen at most, with all rows of activations. `room` is for the factors of sixteen units.
///
/// # Safety
/// The CPU's features; the columns of `y` are this thread's own.
#[inline(always)]
pub(super) unsafe fn multiply<W: Sixteen>(
    w: &W,
    x: &Blocked<'_>,
    room: Unpacked,
    rows: Range<usize>,
    offsets: bool,
    y: Output,
) {
    // SAFETY: by the caller; a panel has `PANEL` rows, of which the first are real.
    unsafe {
        match x.n_rows() {
            ..=2 => multiply_by::<W, 2>(w, x, room, rows, offsets, y),
            3..=4 => multiply_by::<W, 4>(w, x, room, rows, offsets, y),
            5..=6 => multiply_by::<W, 6>(w, x, room, rows, offsets, y),
            _ => multiply_by::<W, PANEL>(w, x, room, rows, offsets, y),
        }
    }
}

/// The same for up to `R` rows of activations.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply_by<W: Sixteen, const R: usize>(
    w: &W,
    x: &Blocked<'_>,
    room: Unpacked,
    rows: Range<usize>,
    offsets: bool,
    y: Output,
) {
    let (n_units, panel) = (w.n_units(), x.panel(0, W::UNIT));
    let x_units = panel.1.len() / PANEL;
    let mut acc: Accumulators<R> = [[_mm512_setzero_ps(); R]; 16];
    let mut dwords = [_mm512_setzero_si512(); 2 * ROWS];
    for block in 0..n_units.div_ceil(W::UNITS) {
        let first = block * W::UNITS;
        // SAFETY: the block and its units exist, and there is room for sixteen units.
        unsafe {
            if first % 16 == 0 {
                w.factors(first / 16, room, 0);
            }
            w.load(block, &mut dwords);
            for u in 0..(n_units - first).min(W::UNITS) {
                let (lane, at) = (place((first + u) % 16, 16), place(first + u, x_units));
                let mut activations = panel.0[at * W::UNIT / 2 * PANEL..].as_ptr();
                let mut sums = [_mm512_setzero_si512(); R];
                for run in 0..W::RUNS {
                    let (register, bits) = W::run(u, run);
                    let bits = _mm512_set1_epi16(bits as i16);
                    for &dwords in &dwords[register..register + W::run_len()] {
                        dots(&mut sums, W::pairs(dwords, bits), activations);
                        activations = activations.add(PANEL);
                    }
                }
                Factors::of(room, lane, panel, at).add(sums, offsets, &mut acc[lane]);
            }
        }
    }
    let mask = ((1u32 << rows.len()) - 1) as u16;
    for r in 0..x.n_rows() {
        // SAFETY: as the caller says; the mask has as many lanes as there are rows.
        unsafe {
            let y = y.row(r, rows.start, rows.len());
            _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, tree(&acc, r));
        }
    }
}

/// The tree of the accumulators of row `r` of activations: neighbours, then neighbours of the sums.
#[target_feature(enable = "avx512f")]
fn tree<const R: usize>(acc: &Accumulators<R>, r: usize) -> __m512 {
    let mut sums: [__m512; 16] = std::array::from_fn(|i| acc[i][r]);
    for n in [8, 4, 2, 1] {
        for i in 0..n {
            sums[i] = _mm512_add_ps(sums[2 * i], sums[2 * i + 1]);
        }
    }
    sums[0]
}
