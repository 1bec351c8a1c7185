//! The blocked product: sixteen rows of weights are unpacked once, lane i for row i, and meet all rows of activations.
//!
//! A lane is a row, so that a unit's sum needs no step across lanes; and as the units of one accumulator follow each other, it stays in a
//! register. The order of additions is that of a row alone.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::affine::{AffineRows, Blocked, Output, PANEL};
use super::super::ggml::{Fast, GgmlRows, StepRows};
use super::Avx512;
use super::affine::{Scales, field, load, planes, straddling};

/// Rows of activations from which on this beats one row after the other.
pub(super) const FROM: usize = 8;

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

/// Rows of weights that are unpacked together.
const ROWS: usize = 16;

/// Sixteen rows of weights, unpacked.
#[derive(Clone, Copy)]
struct Unpacked {
    /// `[unit][pair of the unit][ROWS]`, the pairs of a unit in the order of the activations.
    pairs: *mut i32,
    /// `[unit][ROWS]`.
    scales: *mut f32,
    /// `[unit][ROWS]`.
    biases: *mut f32,
}

impl Unpacked {
    /// Room for `n_units` of `unit` values.
    fn new(scratch: &mut [i32], n_units: usize, unit: usize) -> Unpacked {
        let (pairs, rest) = scratch.split_at_mut(n_units * unit / 2 * ROWS);
        let (scales, biases) = rest.split_at_mut(n_units * ROWS);
        assert!(biases.len() >= n_units * ROWS, "scratch for W");
        Unpacked {
            pairs: pairs.as_mut_ptr(),
            scales: scales.as_mut_ptr().cast(),
            biases: biases.as_mut_ptr().cast(),
        }
    }

    /// What begins at unit `first`, each of `unit` values.
    ///
    /// # Safety
    /// There is such a unit.
    unsafe fn at_unit(self, first: usize, unit: usize) -> Unpacked {
        // SAFETY: by the caller.
        unsafe {
            Unpacked {
                pairs: self.pairs.add(first * unit / 2 * ROWS),
                scales: self.scales.add(first * ROWS),
                biases: self.biases.add(first * ROWS),
            }
        }
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
    let n_units = w.n_units();
    assert!(x.padded_cols >= w.cols, "activations for W");
    let to = Unpacked::new(scratch, n_units, UNIT);
    for first in (0..w.n_rows()).step_by(ROWS) {
        let n_rows = (w.n_rows() - first).min(ROWS);
        // SAFETY: the rows exist, and the scratch memory was measured above.
        unsafe { unpack::<BITS, UNIT>(&w.rows(first..first + n_rows), to) };
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe { panels::<BITS, UNIT>(to, n_units, x, first..first + n_rows, true, y) };
    }
}

/// Bits of codes whose activations are in plain order, as those of blocks are.
const IN_ORDER: usize = 3;

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
    let n_units = w.cols / T::UNIT;
    let offsets = w.ty.has_offsets();
    assert!(x.padded_cols >= w.cols, "activations for W");
    let to = Unpacked::new(scratch, n_units.next_multiple_of(16), T::UNIT);
    let mut step = StepRows::<ROWS>::new();
    for first in (0..w.n_rows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(w.n_rows());
        for i in 0..n_units.div_ceil(16) {
            step.unpack::<Avx512, T>(s, &w.rows(rows.clone()), i);
            // SAFETY: there is room for whole steps; the token proves the CPU's features.
            unsafe { spread(&step, T::UNIT, to.at_unit(16 * i, T::UNIT)) };
        }
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe {
            if T::UNIT == 32 {
                panels::<IN_ORDER, 32>(to, n_units, x, rows, offsets, y);
            } else {
                panels::<IN_ORDER, 16>(to, n_units, x, rows, offsets, y);
            }
        }
    }
}

/// Sixteen units of `unit` values to the beginning of `to`.
///
/// # Safety
/// There is room for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn spread(from: &StepRows<ROWS>, unit: usize, to: Unpacked) {
    // SAFETY: loads are of runs, scales and offsets, which are as long; there is room for the stores, by the caller.
    unsafe {
        for pairs in 0..unit / 2 {
            // Sixteen pairs, two runs of sixteen values: of one unit, or of two.
            let runs =
                if unit == 32 { [(pairs, 0), (pairs, 1)] } else { [(2 * pairs, 0), (2 * pairs + 1, 0)] };
            let mut square = [_mm512_setzero_si512(); 16];
            for (row, words) in square.iter_mut().enumerate() {
                let [low, high] = runs.map(|(u, run)| from.run(row, unit, u, run).as_ptr().cast::<__m128i>());
                let bytes = _mm256_set_m128i(_mm_loadu_si128(high), _mm_loadu_si128(low));
                *words = _mm512_cvtepi8_epi16(bytes);
            }
            for (t, lanes) in transpose(square).into_iter().enumerate() {
                _mm512_storeu_si512(to.pairs.add((16 * pairs + t) * ROWS).cast(), lanes);
            }
        }
        for (from, to) in [(&from.scales, to.scales), (&from.offsets, to.biases)] {
            let mut square = [_mm512_setzero_si512(); 16];
            for (row, values) in square.iter_mut().enumerate() {
                *values = _mm512_loadu_si512(from[row].as_ptr().cast());
            }
            for (u, lanes) in transpose(square).into_iter().enumerate() {
                _mm512_storeu_si512(to.add(u * ROWS).cast(), lanes);
            }
        }
    }
}

/// Rows `rows` of `W`, which are unpacked, with all rows of activations.
///
/// # Safety
/// As the functions around it say.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn panels<const BITS: usize, const UNIT: usize>(
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
                1 => tile.compute::<BITS, UNIT, 1>(1),
                2 => tile.compute::<BITS, UNIT, 2>(2),
                n @ 3..=4 => tile.compute::<BITS, UNIT, 4>(n),
                n => tile.compute::<BITS, UNIT, 8>(n.min(PANEL)),
            }
        }
    }
}

/// How the sixteen dwords of each plane of a block of activations fall to units: dwords of a plane that one unit has.
const fn run_of(bits: usize, unit: usize) -> usize {
    let n_planes = planes(bits as u8);
    if n_planes == 1 { 16 } else { unit / 2 / n_planes }
}

/// Unpacks up to sixteen rows; lanes of rows that do not exist repeat the last one.
///
/// # Safety
/// `to` has room for `w`'s units.
#[inline(always)]
unsafe fn unpack<const BITS: usize, const UNIT: usize>(w: &AffineRows<'_>, to: Unpacked) {
    let last = w.n_rows() - 1;
    let (code_bytes, group_bytes, n_units) = (w.code_bytes(), w.group_bytes(), w.n_units());
    let scales = Scales { float: w.affine.scales, units_of_group: w.units_of_group() };
    let (n_planes, run) = (planes(BITS as u8), run_of(BITS, UNIT));
    // SAFETY: loads are masked to the row's bytes; stores go to the units of the row.
    unsafe {
        for first in (0..n_units).step_by(16) {
            let n = (n_units - first).min(16);
            for (part, to) in [(w.scales, to.scales), (w.biases, to.biases)] {
                let mut square = [_mm512_setzero_si512(); 16];
                for (row, values) in square.iter_mut().enumerate() {
                    let row = part.as_ptr().add(row.min(last) * group_bytes);
                    *values = _mm512_castps_si512(scales.load_some(row, first, n));
                }
                for (unit, lanes) in transpose(square).into_iter().enumerate().take(n) {
                    _mm512_storeu_si512(to.add((first + unit) * ROWS).cast(), lanes);
                }
            }
        }
        let row = |row: usize| w.codes.as_ptr().add(row.min(last) * code_bytes);
        if n_planes > 1 {
            for at in (0..code_bytes).step_by(64) {
                let n = (code_bytes - at).min(64);
                let mut square = [_mm512_setzero_si512(); 16];
                for (i, words) in square.iter_mut().enumerate() {
                    *words = load(row(i).add(at), n);
                }
                let square = transpose(square);
                // The units of this block.
                let first_unit = at * 8 / BITS / UNIT;
                for (t, &words) in square.iter().enumerate().take(n / 4) {
                    let unit = to.pairs.add((first_unit + t / run) * UNIT / 2 * ROWS);
                    for j in 0..n_planes {
                        let pair = unit.add((j * run + t % run) * ROWS);
                        _mm512_storeu_si512(pair.cast(), field::<BITS>(words, j));
                    }
                }
            }
        } else {
            let stream_bytes = 8 * BITS;
            for at in (0..code_bytes).step_by(stream_bytes) {
                let n = (code_bytes - at).min(stream_bytes);
                for half in 0..n / (4 * BITS) {
                    let mut square = [_mm512_setzero_si512(); 16];
                    for (i, words) in square.iter_mut().enumerate() {
                        *words = straddling::<BITS>(load(row(i).add(at), n), half);
                    }
                    let pairs = to.pairs.add((at * 8 / BITS / 2 + 16 * half) * ROWS);
                    for (t, lanes) in transpose(square).into_iter().enumerate() {
                        _mm512_storeu_si512(pairs.add(t * ROWS).cast(), lanes);
                    }
                }
            }
        }
    }
}

/// Sixteen rows of weights and a panel of activations.
struct Tile<'a> {
    w: Unpacked,
    /// Pairs, scales and sums of [`Blocked::panel`].
    x: (&'a [i32], &'a [f32], &'a [f32]),
    n_units: usize,
    first_x: usize,
    first_row: usize,
    n_rows: usize,
    /// Whether the units have offsets.
    offsets: bool,
    y: Output,
}

/// Accumulators in the order in which their tree adds them: each next one is added to the last as soon as that is possible.
const ORDER: [usize; 16] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

impl Tile<'_> {
    /// `n` rows of the panel, computed as `R`.
    ///
    /// # Safety
    /// The weights are unpacked, and the columns of `y` are this thread's own.
    #[inline(always)]
    unsafe fn compute<const BITS: usize, const UNIT: usize, const R: usize>(&self, n: usize) {
        // SAFETY: units are below `n_units`, of which the slices have all.
        unsafe {
            // What has been added up of each level of the tree.
            let mut done = [[_mm512_setzero_ps(); R]; 5];
            for (step, &lane) in ORDER.iter().enumerate() {
                let mut acc = [_mm512_setzero_ps(); R];
                let mut unit = lane;
                while unit < self.n_units {
                    self.unit::<BITS, UNIT, R>(unit, &mut acc);
                    unit += 16;
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

    /// Adds one unit to the accumulators of `R` rows of activations.
    ///
    /// # Safety
    /// The unit exists.
    #[inline(always)]
    unsafe fn unit<const BITS: usize, const UNIT: usize, const R: usize>(
        &self,
        unit: usize,
        acc: &mut [__m512; R],
    ) {
        let (n_planes, run) = (planes(BITS as u8), run_of(BITS, UNIT));
        // SAFETY: by the caller.
        unsafe {
            let mut w = self.w.pairs.add(unit * UNIT / 2 * ROWS).cast_const();
            let mut sums = [_mm512_setzero_si512(); R];
            if n_planes == 1 {
                let x = self.x.0.as_ptr().add(unit * UNIT / 2 * PANEL);
                dots::<R>(&mut sums, w, x, UNIT / 2);
            } else {
                // Units of a block of activations.
                let n = 16 / run;
                let x = self.x.0.as_ptr().add(((unit / n) * n_planes * 16 + unit % n * run) * PANEL);
                for j in 0..n_planes {
                    dots::<R>(&mut sums, w, x.add(16 * j * PANEL), run);
                    w = w.add(run * ROWS);
                }
            }
            let scale = _mm512_loadu_ps(self.w.scales.add(unit * ROWS));
            let bias = _mm512_loadu_ps(self.w.biases.add(unit * ROWS));
            for r in 0..R {
                let x_scale = _mm512_set1_ps(*self.x.1.as_ptr().add(unit * PANEL + r));
                let x_sum = _mm512_set1_ps(*self.x.2.as_ptr().add(unit * PANEL + r));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), _mm512_mul_ps(scale, x_scale), acc[r]);
                if self.offsets {
                    acc[r] = _mm512_fmadd_ps(bias, x_sum, acc[r]);
                }
            }
        }
    }
}

/// `sums[r] += w . x[r]` over `n` pairs.
///
/// # Safety
/// There are `n` pairs of sixteen rows of weights and of `PANEL` rows of activations.
#[inline(always)]
unsafe fn dots<const R: usize>(sums: &mut [__m512i; R], w: *const i32, x: *const i32, n: usize) {
    for pair in 0..n {
        // SAFETY: by the caller.
        unsafe {
            let w = _mm512_loadu_si512(w.add(pair * ROWS).cast());
            let x = x.add(pair * PANEL);
            if let Some(sums) = sums.first_chunk_mut::<8>() {
                dot_eight(sums, w, x);
            } else {
                for r in 0..R {
                    sums[r] = _mm512_dpwssd_epi32(sums[r], w, _mm512_set1_epi32(*x.add(r)));
                }
            }
        }
    }
}

/// `sums[r] += w . x[r]` for one pair. Written out because LLVM 21 splits `vpdpwssd` into a product and a sum.
///
/// # Safety
/// There are eight rows of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_eight(sums: &mut [__m512i; 8], w: __m512i, x: *const i32) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *sums;
    // SAFETY: eight values are read, by the caller; nothing but these registers is written.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {a}, {w}, dword ptr [{x}]{{1to16}}",
            "vpdpwssd {b}, {w}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpwssd {c}, {w}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpwssd {d}, {w}, dword ptr [{x} + 12]{{1to16}}",
            "vpdpwssd {e}, {w}, dword ptr [{x} + 16]{{1to16}}",
            "vpdpwssd {f}, {w}, dword ptr [{x} + 20]{{1to16}}",
            "vpdpwssd {g}, {w}, dword ptr [{x} + 24]{{1to16}}",
            "vpdpwssd {h}, {w}, dword ptr [{x} + 28]{{1to16}}",
            a = inout(zmm_reg) a,
            b = inout(zmm_reg) b,
            c = inout(zmm_reg) c,
            d = inout(zmm_reg) d,
            e = inout(zmm_reg) e,
            f = inout(zmm_reg) f,
            g = inout(zmm_reg) g,
            h = inout(zmm_reg) h,
            w = in(zmm_reg) w,
            x = in(reg) x,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    *sums = [a, b, c, d, e, f, g, h];
}

/// Lane i of register j becomes lane j of register i.
#[inline(always)]
unsafe fn transpose(a: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let mut b = a;
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
        // Four rows, one column of each quarter.
        let mut c = b;
        for i in 0..4 {
            c[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
            c[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
            c[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
            c[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
        }
        // c[4 * i + j]: rows 4i .. 4i + 4 of columns j, 4 + j, 8 + j, 12 + j.
        let mut d = c;
        for j in 0..4 {
            let (low_even, low_odd) = (
                _mm512_shuffle_i32x4::<0b10_00_10_00>(c[j], c[4 + j]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(c[j], c[4 + j]),
            );
            let (high_even, high_odd) = (
                _mm512_shuffle_i32x4::<0b10_00_10_00>(c[8 + j], c[12 + j]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(c[8 + j], c[12 + j]),
            );
            d[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_even, high_even);
            d[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_even, high_even);
            d[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_odd, high_odd);
            d[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_odd, high_odd);
        }
        d
    }
}
