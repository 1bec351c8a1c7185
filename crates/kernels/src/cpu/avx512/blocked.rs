//! The blocked product: sixteen rows of weights are unpacked once, lane i for row i, and meet all rows of activations.
//!
//! A lane is a row, so that a unit's sum needs no step across lanes; and as the units of one accumulator follow each other, it stays in a
//! register. The order of additions is that of a row alone.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::affine::{AffineRows, Blocked, Dealt, Output, PANEL, TREE_ORDER, place};
use super::super::ggml::{Fast, GgmlRows, Steps, signed_codes};
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

/// Sixteen rows of weights, unpacked; their units in the order in which they are multiplied.
#[derive(Clone, Copy)]
struct Unpacked {
    /// `[place of the unit][pair of the unit][ROWS]`, the pairs of a unit in the order of the activations.
    pairs: *mut i32,
    /// `[place of the unit][ROWS]`.
    scales: *mut f32,
    /// `[place of the unit][ROWS]`.
    biases: *mut f32,
    /// Units there is room for, whole sixteens.
    n_units: usize,
}

impl Unpacked {
    /// Room for `n_units` of `unit` values.
    fn new(scratch: &mut [i32], n_units: usize, unit: usize) -> Unpacked {
        let n_units = n_units.next_multiple_of(16);
        let (pairs, rest) = scratch.split_at_mut(n_units * unit / 2 * ROWS);
        let (scales, biases) = rest.split_at_mut(n_units * ROWS);
        assert!(biases.len() >= n_units * ROWS, "scratch for W");
        Unpacked {
            pairs: pairs.as_mut_ptr(),
            scales: scales.as_mut_ptr().cast(),
            biases: biases.as_mut_ptr().cast(),
            n_units,
        }
    }

    /// The pairs of unit `u` of `unit` values, from the `pair`-th on.
    ///
    /// # Safety
    /// There are such pairs.
    #[inline(always)]
    unsafe fn pairs(self, u: usize, unit: usize, pair: usize) -> *mut __m512i {
        // SAFETY: by the caller.
        unsafe { self.pairs.add((place(u, self.n_units) * unit / 2 + pair) * ROWS).cast() }
    }

    /// Scales or biases of sixteen rows to their places: lane i of register j is that of unit `first + i` of row j.
    ///
    /// # Safety
    /// There is room for the first `n` units.
    #[inline(always)]
    unsafe fn spread_factors(self, to: *mut f32, rows: [__m512i; ROWS], first: usize, n: usize) {
        // SAFETY: by the caller.
        unsafe {
            for (i, lanes) in transpose(rows).into_iter().enumerate().take(n) {
                _mm512_storeu_si512(to.add(place(first + i, self.n_units) * ROWS).cast(), lanes);
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
        let (rows, next) = rows_and_next(first, w.n_rows());
        // SAFETY: the rows exist, and the scratch memory was measured above.
        unsafe { unpack::<BITS, UNIT>(&w.rows(rows.clone()), to, &w.rows(next)) };
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe { panels::<UNIT>(to, n_units, x, rows, true, y) };
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
    let n_units = w.cols / T::UNIT;
    let offsets = w.ty.has_offsets();
    assert!(x.padded_cols >= w.cols, "activations for W");
    let to = Unpacked::new(scratch, n_units, T::UNIT);
    let n_steps = n_units.div_ceil(16);
    for first in (0..w.n_rows()).step_by(ROWS) {
        let (rows, next) = rows_and_next(first, w.n_rows());
        let (steps, next) = (Steps::<T, ROWS>::of(&w.rows(rows.clone())), w.rows(next));
        for i in 0..n_steps {
            prefetch(piece(next.blocks, i, 1, n_steps));
            // SAFETY: there is room for whole steps; the token proves the CPU's features.
            unsafe { unpack_step::<T>(s, &steps, i, to) };
        }
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe {
            if T::UNIT == 32 {
                panels::<32>(to, n_units, x, rows, offsets, y);
            } else {
                panels::<16>(to, n_units, x, rows, offsets, y);
            }
        }
    }
}

/// Step `i` of sixteen rows, which is sixteen units.
///
/// # Safety
/// There is room for them.
#[inline(always)]
unsafe fn unpack_step<T: Fast>(s: Avx512, from: &Steps<'_, T, ROWS>, i: usize, to: Unpacked) {
    let mut copy = None;
    // A unit has two runs of pairs: the even codes of its dwords, and the odd ones.
    let run = T::UNIT / 4;
    // SAFETY: the token proves the CPU's features; stores go to units of the step.
    unsafe {
        if T::SIX_BITS {
            six_bit_factors::<T>(from, i, to);
        } else {
            let mut scales = [_mm512_setzero_si512(); ROWS];
            let mut offsets = scales;
            for row in 0..ROWS {
                let (scale, offset) = T::scales(s, from.get(row, i, &mut copy));
                scales[row] = _mm512_castps_si512(scale);
                offsets[row] = _mm512_castps_si512(offset.unwrap_or(_mm512_setzero_ps()));
            }
            to.spread_factors(to.scales, scales, 16 * i, 16);
            if T::TYPE.has_offsets() {
                to.spread_factors(to.biases, offsets, 16 * i, 16);
            }
        }
        for j in 0..T::UNIT / 8 {
            if T::ALTERNATE {
                let mut planes = [_mm512_setzero_si512(); ROWS];
                for row in 0..ROWS {
                    planes[row] = T::planes(s, from.get(row, i, &mut copy), j);
                }
                let nibbles = _mm512_set1_epi16(15);
                for (t, words) in transpose(planes).into_iter().enumerate() {
                    let (u, dword) = (16 * i + 4 * j + t / 8 * 2, t % 8);
                    let (low, high) = (to.pairs(u, 32, dword), to.pairs(u + 1, 32, dword));
                    _mm512_storeu_si512(low, _mm512_and_si512(words, nibbles));
                    _mm512_storeu_si512(
                        low.add(run),
                        _mm512_and_si512(_mm512_srli_epi16::<8>(words), nibbles),
                    );
                    _mm512_storeu_si512(high, _mm512_and_si512(_mm512_srli_epi16::<4>(words), nibbles));
                    _mm512_storeu_si512(high.add(run), _mm512_srli_epi16::<12>(words));
                }
                continue;
            }
            let mut codes = [[_mm512_setzero_si512(); ROWS]; 2];
            for row in 0..ROWS {
                [codes[0][row], codes[1][row]] = signed_codes::<Avx512, T>(s, from.get(row, i, &mut copy), j);
            }
            for (half, codes) in codes.into_iter().enumerate() {
                for (t, bytes) in transpose(codes).into_iter().enumerate() {
                    // The quarter is one of four units; at 32 values it is the first or the second run of it.
                    let (u, dword) = if T::UNIT == 32 {
                        (4 * j + t / 4, 4 * half + t % 4)
                    } else {
                        (8 * j + 4 * half + t / 4, t % 4)
                    };
                    let pair = to.pairs(16 * i + u, T::UNIT, dword);
                    _mm512_storeu_si512(pair, _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)));
                    _mm512_storeu_si512(pair.add(run), _mm512_srai_epi16::<8>(bytes));
                }
            }
        }
    }
}

/// Scales and offsets of a step of [`Fast::SIX_BITS`]: as [`Fast::scales`], for all rows at once.
///
/// # Safety
/// There is room for the step; the CPU's features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit_factors<T: Fast>(from: &Steps<'_, T, ROWS>, i: usize, to: Unpacked) {
    // SAFETY: a step is two blocks, which begin with sixteen bytes of factors; stores go to units of the step.
    unsafe {
        let mut heads = [_mm512_setzero_si512(); ROWS];
        for (row, head) in heads.iter_mut().enumerate() {
            let mut copy = None;
            let step: *const T::Step = from.get(row, i, &mut copy);
            let first = _mm_loadu_si128(step.cast());
            let second = _mm_loadu_si128(step.byte_add(size_of::<T::Step>() / 2).cast());
            *head = _mm512_zextsi256_si512(_mm256_set_m128i(second, first));
        }
        let half = |words| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
        let dwords = transpose(heads);
        for block in 0..2 {
            let [d, scales, mins, both] =
                [dwords[4 * block], dwords[4 * block + 1], dwords[4 * block + 2], dwords[4 * block + 3]];
            let minus_dmin = half(_mm512_srli_epi32::<16>(_mm512_xor_si512(d, _mm512_set1_epi32(i32::MIN))));
            let d = half(d);
            // Six bits of `x`, or four of `both` under the two bits above those six.
            for u in 0..4 {
                let down = |x, by| _mm512_srlv_epi32(x, _mm512_set1_epi32(8 * u + by));
                let six = |x| _mm512_and_si512(down(x, 0), _mm512_set1_epi32(0x3f));
                let four_and_two = |x, at| {
                    let four = _mm512_and_si512(down(both, at), _mm512_set1_epi32(0x0f));
                    _mm512_or_si512(four, _mm512_and_si512(down(x, 2), _mm512_set1_epi32(0x30)))
                };
                let low = (six(scales), six(mins));
                let high = (four_and_two(scales, 0), four_and_two(mins, 4));
                for (unit, (scale, min)) in [(u, low), (u + 4, high)] {
                    let at = place(16 * i + 8 * block + unit as usize, to.n_units) * ROWS;
                    _mm512_storeu_ps(to.scales.add(at), _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
                    _mm512_storeu_ps(to.biases.add(at), _mm512_mul_ps(minus_dmin, _mm512_cvtepi32_ps(min)));
                }
            }
        }
    }
}

/// Asks for bytes that are unpacked next: sixteen short runs at once are more than the hardware foresees.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: every CPU with AVX-512 has it, and it has no effect but on caches.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
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

/// How the sixteen dwords of each plane of a block of activations fall to units: dwords of a plane that one unit has.
const fn run_of(bits: usize, unit: usize) -> usize {
    let n_planes = planes(bits as u8);
    if n_planes == 1 { 16 } else { unit / 2 / n_planes }
}

/// Unpacks up to sixteen rows; lanes of rows that do not exist repeat the last one. `next` comes after them.
///
/// # Safety
/// `to` has room for `w`'s units.
#[inline(always)]
unsafe fn unpack<const BITS: usize, const UNIT: usize>(
    w: &AffineRows<'_>,
    to: Unpacked,
    next: &AffineRows<'_>,
) {
    let last = w.n_rows() - 1;
    let (code_bytes, group_bytes, n_units) = (w.code_bytes(), w.group_bytes(), w.n_units());
    let scales = Scales { float: w.affine.scales, units_of_group: w.units_of_group() };
    let (n_planes, run) = (planes(BITS as u8), run_of(BITS, UNIT));
    prefetch(next.scales);
    prefetch(next.biases);
    // SAFETY: loads are masked to the row's bytes; stores go to the units of the row.
    unsafe {
        for first in (0..n_units).step_by(16) {
            let n = (n_units - first).min(16);
            for (part, factors) in [(w.scales, to.scales), (w.biases, to.biases)] {
                let mut square = [_mm512_setzero_si512(); 16];
                for (row, values) in square.iter_mut().enumerate() {
                    let row = part.as_ptr().add(row.min(last) * group_bytes);
                    *values = _mm512_castps_si512(scales.load_some(row, first, n));
                }
                to.spread_factors(factors, square, first, n);
            }
        }
        let row = |row: usize| w.codes.as_ptr().add(row.min(last) * code_bytes);
        if n_planes > 1 {
            for at in (0..code_bytes).step_by(64) {
                let n = (code_bytes - at).min(64);
                prefetch(piece(next.codes, at, n, code_bytes));
                let mut square = [_mm512_setzero_si512(); 16];
                for (i, words) in square.iter_mut().enumerate() {
                    *words = load(row(i).add(at), n);
                }
                let square = transpose(square);
                // The units of this block.
                let first_unit = at * 8 / BITS / UNIT;
                for (t, &words) in square.iter().enumerate().take(n / 4) {
                    let pairs = to.pairs(first_unit + t / run, UNIT, t % run);
                    for j in 0..n_planes {
                        _mm512_storeu_si512(pairs.add(j * run), field::<BITS>(words, j));
                    }
                }
            }
        } else {
            let stream_bytes = 8 * BITS;
            for at in (0..code_bytes).step_by(stream_bytes) {
                let n = (code_bytes - at).min(stream_bytes);
                prefetch(piece(next.codes, at, n, code_bytes));
                for half in 0..n / (4 * BITS) {
                    let mut square = [_mm512_setzero_si512(); 16];
                    for (i, words) in square.iter_mut().enumerate() {
                        *words = straddling::<BITS>(load(row(i).add(at), n), half);
                    }
                    let value = at * 8 / BITS + 32 * half;
                    let pairs = to.pairs(value / UNIT, UNIT, value % UNIT / 2);
                    for (t, lanes) in transpose(square).into_iter().enumerate() {
                        _mm512_storeu_si512(pairs.add(t), lanes);
                    }
                }
            }
        }
    }
}

/// The part of `bytes` that bytes `at..at + n` are of `of`.
fn piece(bytes: &[u8], at: usize, n: usize, of: usize) -> &[u8] {
    &bytes[at * bytes.len() / of..(at + n) * bytes.len() / of]
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
                    self.unit::<UNIT, R>(step * w_room + i, step * x_room + i, &mut acc);
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

    /// Adds the unit at place `w` of the weights and at place `x` of the panel to the accumulators of `R` rows of activations.
    ///
    /// # Safety
    /// The unit exists.
    #[inline(always)]
    unsafe fn unit<const UNIT: usize, const R: usize>(&self, w: usize, x: usize, acc: &mut [__m512; R]) {
        // SAFETY: by the caller.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); R];
            let pairs = self.w.pairs.add(w * UNIT / 2 * ROWS).cast_const();
            dots::<R>(&mut sums, pairs, self.x.0.as_ptr().add(x * UNIT / 2 * PANEL), UNIT / 2);
            let scale = _mm512_loadu_ps(self.w.scales.add(w * ROWS));
            let (x_scales, x_sums) = (self.x.1.as_ptr().add(x * PANEL), self.x.2.as_ptr().add(x * PANEL));
            for r in 0..R {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*x_scales.add(r)));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, acc[r]);
            }
            if self.offsets {
                let bias = _mm512_loadu_ps(self.w.biases.add(w * ROWS));
                for r in 0..R {
                    acc[r] = _mm512_fmadd_ps(bias, _mm512_set1_ps(*x_sums.add(r)), acc[r]);
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
