//! The blocked product: eight rows of weights are unpacked once, lane i for row i, and meet all rows of activations.
//!
//! As at AVX-512: a lane is a row, and the units of one accumulator follow each other.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::affine::{AffineRows, Blocked, Output, PANEL, TREE_ORDER};
use super::super::ggml::{Fast, GgmlRows, StepRows};
use super::Avx2;
use super::affine::{Scales, field, planes, straddling};

/// Rows of activations from which on this beats one row after the other.
pub(super) const FROM: usize = 12;

/// # Safety
/// `y`'s columns are this thread's own.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn product(_: Avx2, w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
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
const ROWS: usize = 8;

/// Eight rows of weights, unpacked.
#[derive(Clone, Copy)]
struct Unpacked<'a> {
    /// `[unit][pair of the unit][ROWS]`, the pairs of a unit in the order of the activations.
    pairs: &'a [i32],
    /// `[unit][ROWS]`, as bits of f32.
    scales: &'a [i32],
    /// `[unit][ROWS]`, as bits of f32.
    biases: &'a [i32],
}

/// # Safety
/// The CPU has what [`Avx2`] proves, so for every function below; `y`'s columns are this thread's own.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    w: &AffineRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    let n_units = w.n_units();
    let (pairs, rest) = scratch.split_at_mut(n_units * UNIT / 2 * ROWS);
    let (scales, rest) = rest.split_at_mut(n_units * ROWS);
    let biases = &mut rest[..n_units * ROWS];
    assert!(x.padded_cols >= w.cols, "activations for W");
    for first in (0..w.n_rows()).step_by(ROWS) {
        let n_rows = (w.n_rows() - first).min(ROWS);
        let rows = w.rows(first..first + n_rows);
        // SAFETY: the rows exist, and the scratch memory was measured above.
        unsafe {
            unpack::<BITS, UNIT>(&rows, pairs);
            unpack_scales(&rows, rows.scales, scales);
            unpack_scales(&rows, rows.biases, biases);
        }
        let unpacked = Unpacked { pairs, scales, biases };
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe { panels::<UNIT>(unpacked, n_units, x, first..first + n_rows, true, y) };
    }
}

/// The same for a type of blocks.
///
/// # Safety
/// `y`'s columns are this thread's own.
#[inline(always)]
pub(super) unsafe fn ggml<T: Fast>(
    s: Avx2,
    w: &GgmlRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    let n_units = w.cols / T::UNIT;
    let offsets = w.ty.has_offsets();
    assert!(x.padded_cols >= w.cols, "activations for W");
    let room = n_units.next_multiple_of(16);
    let (pairs, rest) = scratch.split_at_mut(room * T::UNIT / 2 * ROWS);
    let (scales, rest) = rest.split_at_mut(room * ROWS);
    let biases = &mut rest[..room * ROWS];
    let mut step = StepRows::<ROWS>::new();
    for first in (0..w.n_rows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(w.n_rows());
        for i in 0..n_units.div_ceil(16) {
            step.unpack::<Avx2, T>(s, &w.rows(rows.clone()), i);
            // SAFETY: the token proves the CPU's features.
            unsafe {
                spread(&step, T::UNIT, &mut pairs[16 * i * T::UNIT / 2 * ROWS..]);
                spread_factors(&step.scales, &mut scales[16 * i * ROWS..]);
                spread_factors(&step.offsets, &mut biases[16 * i * ROWS..]);
            }
        }
        let unpacked = Unpacked { pairs, scales, biases };
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe {
            if T::UNIT == 32 {
                panels::<32>(unpacked, n_units, x, rows, offsets, y);
            } else {
                panels::<16>(unpacked, n_units, x, rows, offsets, y);
            }
        }
    }
}

/// The codes of sixteen units of `unit` values to the beginning of `to`.
#[target_feature(enable = "avx2,fma,f16c")]
fn spread(from: &StepRows<ROWS>, unit: usize, to: &mut [i32]) {
    let squares = to.as_chunks_mut::<{ 8 * ROWS }>().0;
    for (i, to) in squares.iter_mut().enumerate().take(unit) {
        // Eight pairs, a run of sixteen values.
        let (u, run) = (i / (unit / 16), i % (unit / 16));
        let mut square = [_mm256_setzero_si256(); 8];
        for (row, words) in square.iter_mut().enumerate() {
            // SAFETY: a run has sixteen bytes.
            *words =
                unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.run(row, unit, u, run).as_ptr().cast())) };
        }
        // SAFETY: the CPU's features.
        store_square(unsafe { transpose(square) }, to);
    }
}

/// Scales or offsets of sixteen units to the beginning of `to`.
#[target_feature(enable = "avx2,fma,f16c")]
fn spread_factors(from: &[[f32; 16]; ROWS], to: &mut [i32]) {
    let squares = to.as_chunks_mut::<{ 8 * ROWS }>().0;
    for (half, to) in squares.iter_mut().enumerate().take(2) {
        let mut square = [_mm256_setzero_si256(); 8];
        for (row, values) in square.iter_mut().enumerate() {
            // SAFETY: there are eight values in each half.
            *values = unsafe { _mm256_loadu_si256(from[row].as_ptr().add(8 * half).cast()) };
        }
        // SAFETY: the CPU's features.
        store_square(unsafe { transpose(square) }, to);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_square(square: [__m256i; 8], to: &mut [i32; 8 * ROWS]) {
    for (lanes, to) in square.into_iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: eight values can be written.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), lanes) };
    }
}

/// Rows `rows` of `W`, which are unpacked, with all rows of activations.
///
/// # Safety
/// As the functions around it say.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panels<const UNIT: usize>(
    w: Unpacked<'_>,
    n_units: usize,
    x: &Blocked<'_>,
    rows: Range<usize>,
    offsets: bool,
    y: Output,
) {
    for panel in 0..x.n_rows().div_ceil(PANEL) {
        let left = x.n_rows() - panel * PANEL;
        for half in 0..left.min(PANEL).div_ceil(4) {
            let first_x = panel * PANEL + 4 * half;
            let tile = Tile {
                w,
                x: x.panel(panel, UNIT),
                half,
                n_units,
                first_x,
                first_row: rows.start,
                n_rows: rows.len(),
                offsets,
                y,
            };
            // SAFETY: the weights are unpacked; a panel has `PANEL` rows, of which the first are real.
            unsafe {
                match x.n_rows() - first_x {
                    1 => tile.compute::<UNIT, 1>(1),
                    2 => tile.compute::<UNIT, 2>(2),
                    n => tile.compute::<UNIT, 4>(n.min(4)),
                }
            }
        }
    }
}

/// How the sixteen dwords of each plane of a block of activations fall to units: dwords of a plane that one unit has.
const fn run_of(bits: usize, unit: usize) -> usize {
    let n_planes = planes(bits as u8);
    if n_planes == 1 { 16 } else { unit / 2 / n_planes }
}

/// Scales (or biases) of up to eight rows, unit by unit.
///
/// # Safety
/// The CPU's features.
#[inline(always)]
unsafe fn unpack_scales(w: &AffineRows<'_>, part: &[u8], to: &mut [i32]) {
    let last = w.n_rows() - 1;
    // SAFETY (all): below, and the CPU's features, by the caller.
    // SAFETY: this function's own promise.
    unsafe {
        let scales = Scales { float: w.affine.scales, halved: false };
        let bytes = 8 * w.affine.scales.bytes();
        for at in (0..w.group_bytes()).step_by(bytes) {
            let n = (w.group_bytes() - at).min(bytes);
            let mut square = [_mm256_setzero_si256(); 8];
            for (row, lanes) in square.iter_mut().enumerate() {
                let mut copy = [0u8; 32];
                copy[..n].copy_from_slice(&part[row.min(last) * w.group_bytes() + at..][..n]);
                // SAFETY: the copy has eight values.
                *lanes = _mm256_castps_si256(scales.load(copy.as_ptr()));
            }
            let first = at / w.affine.scales.bytes();
            let groups = transpose(square).into_iter().take(n / w.affine.scales.bytes());
            for (group, lanes) in groups.enumerate() {
                let units = w.units_of_group();
                for unit in to[(first + group) * units * ROWS..][..units * ROWS].chunks_exact_mut(ROWS) {
                    // SAFETY: a unit has eight lanes.
                    _mm256_storeu_si256(unit.as_mut_ptr().cast(), lanes);
                }
            }
        }
    }
}

/// Unpacks up to eight rows; lanes of rows that do not exist repeat the last one.
///
/// # Safety
/// `to` has room for `w`'s units.
#[inline(always)]
unsafe fn unpack<const BITS: usize, const UNIT: usize>(w: &AffineRows<'_>, to: &mut [i32]) {
    let last = w.n_rows() - 1;
    let code_bytes = w.code_bytes();
    let (n_planes, run) = (planes(BITS as u8), run_of(BITS, UNIT));
    let row = |row: usize| &w.codes[row.min(last) * code_bytes..][..code_bytes];
    let to = to.as_mut_ptr();
    // SAFETY: stores go to the units of the row.
    unsafe {
        if n_planes > 1 {
            for at in (0..code_bytes).step_by(32) {
                let n = (code_bytes - at).min(32);
                let mut square = [_mm256_setzero_si256(); 8];
                for (i, words) in square.iter_mut().enumerate() {
                    *words = load(&row(i)[at..at + n]);
                }
                let square = transpose(square);
                // The first unit of the block of sixteen dwords, and the first dword in it.
                let first_unit = at / 64 * 64 * 8 / BITS / UNIT;
                let first_dword = at % 64 / 4;
                for (t, &words) in square.iter().enumerate().take(n / 4) {
                    let t = first_dword + t;
                    let unit = to.add((first_unit + t / run) * UNIT / 2 * ROWS);
                    for j in 0..n_planes {
                        let pair = unit.add((j * run + t % run) * ROWS);
                        _mm256_storeu_si256(pair.cast(), field::<BITS>(words, j));
                    }
                }
            }
        } else {
            // Sixteen codes at a time; their load goes beyond their end.
            for at in (0..code_bytes).step_by(2 * BITS) {
                let mut square = [_mm256_setzero_si256(); 8];
                for (i, words) in square.iter_mut().enumerate() {
                    let bytes = &row(i)[at..];
                    *words = if bytes.len() >= 8 + BITS {
                        straddling::<BITS>(bytes.as_ptr())
                    } else {
                        let mut copy = [0; 32];
                        copy[..bytes.len()].copy_from_slice(bytes);
                        straddling::<BITS>(copy.as_ptr())
                    };
                }
                let pairs = to.add(at * 8 / BITS / 2 * ROWS);
                for (t, lanes) in transpose(square).into_iter().enumerate() {
                    _mm256_storeu_si256(pairs.add(t * ROWS).cast(), lanes);
                }
            }
        }
    }
}

/// Up to 32 bytes, then zeros.
#[inline(always)]
unsafe fn load(bytes: &[u8]) -> __m256i {
    // SAFETY: 32 bytes are read, of the slice or of the copy; the CPU's features, by the caller.
    unsafe {
        if bytes.len() == 32 {
            return _mm256_loadu_si256(bytes.as_ptr().cast());
        }
        let mut copy = [0u8; 32];
        copy[..bytes.len()].copy_from_slice(bytes);
        _mm256_loadu_si256(copy.as_ptr().cast())
    }
}

/// Eight rows of weights and half a panel of activations.
struct Tile<'a> {
    w: Unpacked<'a>,
    /// Pairs, scales and sums of [`Blocked::panel`].
    x: (&'a [i32], &'a [f32], &'a [f32]),
    /// Which half.
    half: usize,
    n_units: usize,
    first_x: usize,
    first_row: usize,
    n_rows: usize,
    /// Whether the units have offsets.
    offsets: bool,
    y: Output,
}

impl Tile<'_> {
    /// `n` rows of the half, computed as `R`.
    ///
    /// # Safety
    /// The weights are unpacked, and the columns of `y` are this thread's own.
    #[inline(always)]
    unsafe fn compute<const UNIT: usize, const R: usize>(&self, n: usize) {
        // SAFETY: units are below `n_units`, of which the slices have all.
        unsafe {
            // What has been added up of each level of the tree.
            let mut done = [[_mm256_setzero_ps(); R]; 5];
            let units_of_lane = self.x.1.len() / PANEL / 16;
            for (step, &lane) in TREE_ORDER.iter().enumerate() {
                let mut acc = [_mm256_setzero_ps(); R];
                let mut unit = lane;
                while unit < self.n_units {
                    self.unit::<UNIT, R>(unit, step * units_of_lane + unit / 16, &mut acc);
                    unit += 16;
                }
                let mut level = 0;
                while step >> level & 1 == 1 {
                    for r in 0..R {
                        acc[r] = _mm256_add_ps(done[level][r], acc[r]);
                    }
                    level += 1;
                }
                done[level] = acc;
            }
            for (r, &sums) in done[4].iter().enumerate().take(n) {
                let mut lanes = [0.0; ROWS];
                _mm256_storeu_ps(lanes.as_mut_ptr(), sums);
                let y = self.y.row(self.first_x + r, self.first_row, self.n_rows);
                y.copy_from_slice(&lanes[..self.n_rows]);
            }
        }
    }

    /// Adds one unit to the accumulators of `R` rows of activations, in whose panel it is at `place`.
    ///
    /// # Safety
    /// The unit exists.
    #[inline(always)]
    unsafe fn unit<const UNIT: usize, const R: usize>(
        &self,
        unit: usize,
        place: usize,
        acc: &mut [__m256; R],
    ) {
        // SAFETY: by the caller.
        unsafe {
            let x = self.x.0.as_ptr().add(place * UNIT / 2 * PANEL + 4 * self.half);
            let w = self.w.pairs.as_ptr().add(unit * UNIT / 2 * ROWS);
            let mut sums = [_mm256_setzero_si256(); R];
            dots::<R>(&mut sums, w, x, UNIT / 2);
            let scale = _mm256_loadu_ps(self.w.scales.as_ptr().add(unit * ROWS).cast());
            let bias = _mm256_loadu_ps(self.w.biases.as_ptr().add(unit * ROWS).cast());
            for r in 0..R {
                let lane = place * PANEL + 4 * self.half + r;
                let x_scale = _mm256_set1_ps(*self.x.1.as_ptr().add(lane));
                let x_sum = _mm256_set1_ps(*self.x.2.as_ptr().add(lane));
                acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r]), _mm256_mul_ps(scale, x_scale), acc[r]);
                if self.offsets {
                    acc[r] = _mm256_fmadd_ps(bias, x_sum, acc[r]);
                }
            }
        }
    }
}

/// `sums[r] += w . x[r]` over `n` pairs.
///
/// # Safety
/// There are `n` pairs of eight rows of weights and of `PANEL` rows of activations.
#[inline(always)]
unsafe fn dots<const R: usize>(sums: &mut [__m256i; R], w: *const i32, x: *const i32, n: usize) {
    for pair in 0..n {
        // SAFETY: by the caller.
        unsafe {
            let w = _mm256_loadu_si256(w.add(pair * ROWS).cast());
            for r in 0..R {
                let x = _mm256_set1_epi32(*x.add(pair * PANEL + r));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(w, x));
            }
        }
    }
}

/// [`super::super::simd::Simd::interleave`].
///
/// # Safety
/// The CPU's features.
#[inline(always)]
pub(in crate::cpu) unsafe fn interleave(rows: [&[[i16; 2]; 8]; PANEL], to: &mut [i32; 8 * PANEL]) {
    // SAFETY: a row has eight dwords; the CPU's features, by the caller.
    unsafe {
        let mut square = [_mm256_setzero_si256(); PANEL];
        for row in 0..PANEL {
            square[row] = _mm256_loadu_si256(rows[row].as_ptr().cast());
        }
        for (i, pair) in transpose(square).into_iter().enumerate() {
            _mm256_storeu_si256(to.as_mut_ptr().add(PANEL * i).cast(), pair);
        }
    }
}

/// Lane i of register j becomes lane j of register i.
#[inline(always)]
unsafe fn transpose(a: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let mut b = a;
        for i in 0..4 {
            b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
        // c[4 * i + j]: rows 4i .. 4i + 4 of columns j and 4 + j.
        let mut c = b;
        for i in 0..2 {
            c[4 * i] = _mm256_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
            c[4 * i + 1] = _mm256_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
            c[4 * i + 2] = _mm256_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
            c[4 * i + 3] = _mm256_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
        }
        let mut d = c;
        for j in 0..4 {
            d[j] = _mm256_permute2x128_si256::<0x20>(c[j], c[4 + j]);
            d[4 + j] = _mm256_permute2x128_si256::<0x31>(c[j], c[4 + j]);
        }
        d
    }
}
