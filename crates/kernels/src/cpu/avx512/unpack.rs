//! Sixteen rows of weights as pairs of words, lane i for row i, so that a unit's sum needs no step across lanes.

use std::arch::x86_64::*;

use super::super::affine::{AffineRows, place};
use super::super::ggml::{Fast, GgmlRows, Steps, signed_codes};
use super::Avx512;
use super::affine::{Scales, load, planes, straddling};

/// Rows of weights that are unpacked together.
pub(super) const ROWS: usize = 16;

/// Sixteen rows of weights, unpacked; their units in the order in which they are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Unpacked {
    /// `[place of the unit][pair of the unit][ROWS]`, the pairs of a unit in the order of the activations.
    pub(super) pairs: *mut i32,
    /// `[place of the unit][ROWS]`.
    pub(super) scales: *mut f32,
    /// `[place of the unit][ROWS]`.
    pub(super) biases: *mut f32,
    /// Units there is room for, whole sixteens.
    pub(super) n_units: usize,
}

impl Unpacked {
    /// Room for `n_units` of `unit` values.
    pub(super) fn new(scratch: &mut [i32], n_units: usize, unit: usize) -> Unpacked {
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

/// Up to sixteen rows of weights, lane i for row i; lanes of rows that do not exist repeat the last one.
///
/// Codes are loaded and turned in blocks of registers of dwords. A unit takes its pairs from them in runs: those of a run lie at the same
/// bits of neighbouring registers.
///
/// # Safety
/// The functions need a CPU that has what [`Avx512`] proves.
pub(super) trait Sixteen {
    /// Values of a unit.
    const UNIT: usize;
    /// Units of a block, of which sixteen units have a whole number.
    const UNITS: usize;
    /// Runs of a unit.
    const RUNS: usize;

    /// Units of a row.
    fn n_units(&self) -> usize;

    /// Scales and offsets of units `16 * step ..`, as many as there are, to unit `place` of `to` and the next.
    ///
    /// # Safety
    /// There is such a step, and room for sixteen units.
    unsafe fn factors(&self, step: usize, to: Unpacked, place: usize);

    /// Loads units `UNITS * block ..`.
    ///
    /// # Safety
    /// There is such a block.
    unsafe fn load(&self, block: usize, to: &mut Dwords);

    /// Where run `run` of unit `u` of a block lies: the register of its first pair, and the bits.
    fn run(u: usize, run: usize) -> (usize, usize);

    /// The pairs at bits `at` of a register.
    ///
    /// # Safety
    /// As above.
    unsafe fn pairs(dwords: __m512i, at: __m512i) -> __m512i;

    /// Pairs of a run.
    #[inline(always)]
    fn run_len() -> usize {
        Self::UNIT / 2 / Self::RUNS
    }

    /// The codes of units `UNITS * block ..`, as many as there are, to unit `place` of `to` and the next.
    ///
    /// # Safety
    /// There is such a block, and room for its units.
    #[inline(always)]
    unsafe fn codes(&self, block: usize, dwords: &mut Dwords, to: Unpacked, place: usize) {
        let n = (self.n_units() - block * Self::UNITS).min(Self::UNITS);
        // SAFETY: by the caller; stores go to pairs of these units.
        unsafe {
            self.load(block, dwords);
            for u in 0..n {
                for run in 0..Self::RUNS {
                    let (first, at) = Self::run(u, run);
                    let at = _mm512_set1_epi16(at as i16);
                    let pairs = to.pairs(place + u, Self::UNIT, run * Self::run_len());
                    for t in 0..Self::run_len() {
                        _mm512_storeu_si512(pairs.add(t), Self::pairs(dwords[first + t], at));
                    }
                }
            }
        }
    }
}

/// The registers of a block; some kinds use only the first sixteen.
pub(super) type Dwords = [__m512i; 2 * ROWS];

/// Rows of a type of blocks, in steps of sixteen units.
pub(super) struct Blocks<'a, T: Fast> {
    s: Avx512,
    steps: Steps<'a, T, ROWS>,
    n_units: usize,
    /// The bytes of the rows that are unpacked after these.
    next: &'a [u8],
}

impl<'a, T: Fast> Blocks<'a, T> {
    pub(super) fn new(s: Avx512, w: &GgmlRows<'a>, next: &GgmlRows<'a>) -> Self {
        Blocks { s, steps: Steps::of(w), n_units: w.cols / T::UNIT, next: next.blocks }
    }
}

impl<T: Fast> Sixteen for Blocks<'_, T> {
    const UNIT: usize = T::UNIT;
    const UNITS: usize = 128 / T::UNIT;
    /// The even codes of dwords, and the odd ones.
    const RUNS: usize = 2;

    fn n_units(&self) -> usize {
        self.n_units
    }

    #[inline(always)]
    unsafe fn factors(&self, step: usize, to: Unpacked, place: usize) {
        prefetch(piece(self.next, step, 1, self.n_units.div_ceil(16)));
        // SAFETY: by the caller.
        unsafe {
            if T::SIX_BITS {
                six_bit_factors::<T>(&self.steps, step, to, place);
                return;
            }
            let mut copy = None;
            let mut scales = [_mm512_setzero_si512(); ROWS];
            let mut offsets = scales;
            for row in 0..ROWS {
                let (scale, offset) = T::scales(self.s, self.steps.get(row, step, &mut copy));
                scales[row] = _mm512_castps_si512(scale);
                offsets[row] = _mm512_castps_si512(offset.unwrap_or(_mm512_setzero_ps()));
            }
            to.spread_factors(to.scales, scales, place, 16);
            if T::TYPE.has_offsets() {
                to.spread_factors(to.biases, offsets, place, 16);
            }
        }
    }

    #[inline(always)]
    unsafe fn load(&self, block: usize, to: &mut Dwords) {
        let (step, j) = (block * Self::UNITS / 16, block % (16 / Self::UNITS));
        let mut copy = None;
        // SAFETY: by the caller.
        unsafe {
            if T::ALTERNATE {
                let mut planes = [_mm512_setzero_si512(); ROWS];
                for row in 0..ROWS {
                    planes[row] = T::planes(self.s, self.steps.get(row, step, &mut copy), j);
                }
                to[..ROWS].copy_from_slice(&transpose(planes));
                return;
            }
            let mut codes = [[_mm512_setzero_si512(); ROWS]; 2];
            for row in 0..ROWS {
                [codes[0][row], codes[1][row]] =
                    signed_codes::<Avx512, T>(self.s, self.steps.get(row, step, &mut copy), j);
            }
            for (half, codes) in codes.into_iter().enumerate() {
                for (t, dwords) in transpose(codes).into_iter().enumerate() {
                    // Units of 32 values have their first half in the first square, and the second in the other.
                    to[if T::UNIT == 32 { t / 4 * 8 + half * 4 + t % 4 } else { half * ROWS + t }] = dwords;
                }
            }
        }
    }

    #[inline(always)]
    fn run(u: usize, run: usize) -> (usize, usize) {
        if T::ALTERNATE {
            // Two units lie in eight dwords.
            return (u / 2 * 8, 4 * (u % 2) + 8 * run);
        }
        (u * T::UNIT / 4, 8 - 8 * run)
    }

    #[inline(always)]
    unsafe fn pairs(dwords: __m512i, at: __m512i) -> __m512i {
        // SAFETY: by the caller.
        unsafe {
            if T::ALTERNATE {
                _mm512_and_si512(_mm512_srlv_epi16(dwords, at), _mm512_set1_epi16(15))
            } else {
                _mm512_srai_epi16::<8>(_mm512_sllv_epi16(dwords, at))
            }
        }
    }
}

/// Scales and offsets of a step of [`Fast::SIX_BITS`]: as [`Fast::scales`], for all rows at once.
///
/// # Safety
/// There is room for the step; the CPU's features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit_factors<T: Fast>(from: &Steps<'_, T, ROWS>, i: usize, to: Unpacked, first: usize) {
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
                    let at = place(first + 8 * block + unit as usize, to.n_units) * ROWS;
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

/// Rows in affine groups of `BITS` bits.
pub(super) struct Groups<'a, const BITS: usize, const UNIT: usize> {
    w: AffineRows<'a>,
    /// The rows that are unpacked after these.
    next: AffineRows<'a>,
}

impl<'a, const BITS: usize, const UNIT: usize> Groups<'a, BITS, UNIT> {
    /// Bytes of a block of codes.
    const BLOCK: usize = if planes(BITS as u8) > 1 { 64 } else { 8 * BITS };

    pub(super) fn new(w: AffineRows<'a>, next: AffineRows<'a>) -> Self {
        prefetch(next.scales);
        prefetch(next.biases);
        Groups { w, next }
    }

    /// Where the part `part` of row `row` begins, which has `bytes` of it.
    #[inline(always)]
    fn start(&self, part: &[u8], row: usize, bytes: usize) -> *const u8 {
        part[row.min(self.w.n_rows() - 1) * bytes..].as_ptr()
    }
}

impl<const BITS: usize, const UNIT: usize> Sixteen for Groups<'_, BITS, UNIT> {
    const UNIT: usize = UNIT;
    const UNITS: usize = Self::BLOCK * 8 / BITS / UNIT;
    const RUNS: usize = planes(BITS as u8);

    fn n_units(&self) -> usize {
        self.w.n_units()
    }

    #[inline(always)]
    unsafe fn factors(&self, step: usize, to: Unpacked, place: usize) {
        let scales = Scales { float: self.w.affine.scales, units_of_group: self.w.units_of_group() };
        let n = (self.w.n_units() - 16 * step).min(16);
        // SAFETY: loads are masked to the row's bytes; stores as the caller says.
        unsafe {
            for (part, factors) in [(self.w.scales, to.scales), (self.w.biases, to.biases)] {
                let mut square = [_mm512_setzero_si512(); ROWS];
                for (row, values) in square.iter_mut().enumerate() {
                    let from = self.start(part, row, self.w.group_bytes());
                    *values = _mm512_castps_si512(scales.load_some(from, 16 * step, n));
                }
                to.spread_factors(factors, square, place, n);
            }
        }
    }

    #[inline(always)]
    unsafe fn load(&self, block: usize, to: &mut Dwords) {
        let code_bytes = self.w.code_bytes();
        let at = block * Self::BLOCK;
        let n = (code_bytes - at).min(Self::BLOCK);
        prefetch(piece(self.next.codes, at, n, code_bytes));
        // SAFETY: loads are masked to the row's bytes.
        unsafe {
            let n_squares = if planes(BITS as u8) > 1 { 1 } else { 2 };
            for (half, to) in to.chunks_exact_mut(ROWS).take(n_squares).enumerate() {
                let mut codes = [_mm512_setzero_si512(); ROWS];
                for (row, words) in codes.iter_mut().enumerate() {
                    *words = load(self.start(self.w.codes, row, code_bytes).add(at), n);
                    if n_squares > 1 {
                        *words = straddling::<BITS>(*words, half);
                    }
                }
                to.copy_from_slice(&transpose(codes));
            }
        }
    }

    #[inline(always)]
    fn run(u: usize, run: usize) -> (usize, usize) {
        (u * Self::run_len(), BITS * run)
    }

    #[inline(always)]
    unsafe fn pairs(dwords: __m512i, at: __m512i) -> __m512i {
        if planes(BITS as u8) == 1 {
            return dwords;
        }
        // SAFETY: by the caller.
        unsafe { _mm512_and_si512(_mm512_srlv_epi16(dwords, at), _mm512_set1_epi16((1 << BITS) - 1)) }
    }
}

/// The part of `bytes` that bytes `at..at + n` are of `of`.
fn piece(bytes: &[u8], at: usize, n: usize, of: usize) -> &[u8] {
    &bytes[at * bytes.len() / of..(at + n) * bytes.len() / of]
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
