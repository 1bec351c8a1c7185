//! Products with quantised weights.
//!
//! Codes are unpacked to sixteen bits and multiplied with `vpmaddwd`. A *partial* is a register of eight integer sums of which
//! neighbours belong to one unit; partials are folded until each lane is the sum of one unit, so that eight units are scaled at once.

use std::arch::x86_64::*;

use flashmill_layout::Float;

use super::super::affine::{AffineRows, Dealt, QuantizedRow};
use super::super::simd::Simd;
use super::{Avx2, Lanes};

/// Planes of the activations: codes in a sixteen-bit word; the widths that straddle words are unpacked in order.
pub(super) const fn planes(bits: u8) -> usize {
    match bits {
        2 => 8,
        4 => 4,
        8 => 2,
        _ => 1,
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rows(s: Avx2, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
    // SAFETY (all): this function has the features.
    match (w.affine.bits, w.unit()) {
        (2, 64) => unsafe { all_rows::<2, 64>(s, w, x, y) },
        (3, 64) => unsafe { all_rows::<3, 64>(s, w, x, y) },
        (4, 64) => unsafe { all_rows::<4, 64>(s, w, x, y) },
        (5, 64) => unsafe { all_rows::<5, 64>(s, w, x, y) },
        (6, 64) => unsafe { all_rows::<6, 64>(s, w, x, y) },
        (8, 64) => unsafe { all_rows::<8, 64>(s, w, x, y) },
        (2, 32) => unsafe { all_rows::<2, 32>(s, w, x, y) },
        (3, 32) => unsafe { all_rows::<3, 32>(s, w, x, y) },
        (4, 32) => unsafe { all_rows::<4, 32>(s, w, x, y) },
        (5, 32) => unsafe { all_rows::<5, 32>(s, w, x, y) },
        (6, 32) => unsafe { all_rows::<6, 32>(s, w, x, y) },
        (8, 32) => unsafe { all_rows::<8, 32>(s, w, x, y) },
        (bits, unit) => unreachable!("codes of {bits} bits in units of {unit}"),
    }
}

/// # Safety
/// The CPU has what [`Avx2`] proves. So for every function below.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    s: Avx2,
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    y: &mut [f32],
) {
    assert_eq!(w.n_rows(), y.len(), "W has as many rows as y has values");
    assert!(x.values.len() >= w.cols && x.dealt == Dealt::Words(planes(BITS as u8)), "x is quantised for W");
    for (row, y) in y.iter_mut().enumerate() {
        // SAFETY: the row is a row of `w`, and `x` was checked above.
        *y = s.tree(unsafe { accumulate::<BITS, UNIT>(w, x, row) });
    }
}

/// Units that are scaled at once.
const BLOCK: usize = 8;

/// The sixteen accumulators of a row.
///
/// # Safety
/// The row exists, and `x` is quantised for `w`: padded to 1024 values and dealt to the planes of `BITS`.
#[inline(always)]
unsafe fn accumulate<const BITS: usize, const UNIT: usize>(
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    row: usize,
) -> Lanes {
    let (x_scales, x_sums) = x.units(UNIT);
    let n_units = w.n_units();
    let scales = Scales { float: w.affine.scales, halved: w.units_of_group() == 2 };
    let (code_bytes, group_bytes) = (w.code_bytes(), w.group_bytes());
    // The widths that straddle words are loaded with a few bytes beyond their end: the last block must be a copy.
    let n_whole = if matches!(BITS, 2 | 4 | 8) { n_units / BLOCK } else { (n_units - 1) / BLOCK };
    let rest = n_units - n_whole * BLOCK;
    // SAFETY: the row lies in its parts; whole blocks are in the row, the last one is read from copies; activations and their
    // factors are padded to whole blocks.
    unsafe {
        let codes = w.codes.as_ptr().add(row * code_bytes);
        let w_scales = w.scales.as_ptr().add(row * group_bytes);
        let w_biases = w.biases.as_ptr().add(row * group_bytes);
        let (x_scales, x_sums) = (x_scales.as_ptr(), x_sums.as_ptr());
        let mut acc = [_mm256_setzero_ps(); 2];
        for block in 0..n_whole {
            let q = x.values.as_ptr().add(block * BLOCK * UNIT);
            let sums = block_sums::<BITS, UNIT>(codes.add(block * BLOCK * UNIT * BITS / 8), q);
            let at = scales.bytes_of(block * BLOCK);
            let scale =
                _mm256_mul_ps(scales.load(w_scales.add(at)), _mm256_loadu_ps(x_scales.add(BLOCK * block)));
            let lanes = &mut acc[block % 2];
            *lanes = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, *lanes);
            *lanes = _mm256_fmadd_ps(
                scales.load(w_biases.add(at)),
                _mm256_loadu_ps(x_sums.add(BLOCK * block)),
                *lanes,
            );
        }
        if rest != 0 {
            let mut copy = [0u8; BLOCK * 64 + 8];
            let done = n_whole * BLOCK * UNIT * BITS / 8;
            copy[..code_bytes - done]
                .copy_from_slice(std::slice::from_raw_parts(codes.add(done), code_bytes - done));
            let sums = block_sums::<BITS, UNIT>(copy.as_ptr(), x.values.as_ptr().add(n_whole * BLOCK * UNIT));
            let at = scales.bytes_of(n_whole * BLOCK);
            let n = group_bytes - at;
            let scale = _mm256_mul_ps(
                scales.load_some(w_scales.add(at), n),
                _mm256_loadu_ps(x_scales.add(BLOCK * n_whole)),
            );
            let lanes = &mut acc[n_whole % 2];
            let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, *lanes);
            let sum = _mm256_fmadd_ps(
                scales.load_some(w_biases.add(at), n),
                _mm256_loadu_ps(x_sums.add(BLOCK * n_whole)),
                sum,
            );
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(rest as i32), lane);
            *lanes = _mm256_blendv_ps(*lanes, sum, _mm256_castsi256_ps(mask));
        }
        Lanes(acc[0], acc[1])
    }
}

/// How the scales (or biases) of a row are stored.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) float: Float,
    /// Whether two units share a scale.
    pub(super) halved: bool,
}

impl Scales {
    /// Where the scales of unit `unit`, a multiple of [`BLOCK`], start.
    #[inline(always)]
    fn bytes_of(self, unit: usize) -> usize {
        (if self.halved { unit / 2 } else { unit }) * self.float.bytes()
    }

    /// Those of up to eight units, then zeros.
    ///
    /// # Safety
    /// There are `n` bytes at `from`, of at most eight units.
    #[inline(always)]
    unsafe fn load_some(self, from: *const u8, n: usize) -> __m256 {
        let mut copy = [0u8; 4 * BLOCK];
        // SAFETY: by the caller; the copy has eight values.
        unsafe {
            copy[..n].copy_from_slice(std::slice::from_raw_parts(from, n));
            self.load(copy.as_ptr())
        }
    }

    /// Those of eight units.
    ///
    /// # Safety
    /// There are those of eight units at `from`.
    #[inline(always)]
    pub(super) unsafe fn load(self, from: *const u8) -> __m256 {
        // SAFETY: by the caller; eight values are loaded, or four where two units share one.
        unsafe {
            let scales = match (self.float, self.halved) {
                (Float::F32, false) => return _mm256_loadu_ps(from.cast()),
                (Float::F32, true) => _mm256_castps128_ps256(_mm_loadu_ps(from.cast())),
                (half, halved) => {
                    let words =
                        if halved { _mm_loadl_epi64(from.cast()) } else { _mm_loadu_si128(from.cast()) };
                    if half == Float::F16 {
                        _mm256_cvtph_ps(words)
                    } else {
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words)))
                    }
                }
            };
            if !self.halved {
                return scales;
            }
            _mm256_permutevar8x32_ps(scales, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
        }
    }
}

/// The integer sums of eight units, unit i in lane i.
///
/// # Safety
/// `codes` and `q` have eight units; `codes` a few readable bytes more where `BITS` straddles words.
#[inline(always)]
unsafe fn block_sums<const BITS: usize, const UNIT: usize>(codes: *const u8, q: *const i16) -> __m256i {
    // SAFETY: passed on.
    unsafe {
        match (BITS, UNIT) {
            (4, 32) | (2, 64) => {
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                _mm256_permutevar8x32_epi32(quad::<BITS, UNIT>(codes, q, 0), order)
            }
            (2, 32) => {
                let (a, b) = (partial::<2, 32>(codes, q, 0), partial::<2, 32>(codes, q, 1));
                _mm256_permutevar8x32_epi32(
                    _mm256_hadd_epi32(a, b),
                    _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7),
                )
            }
            _ => {
                let (a, b) = (quad::<BITS, UNIT>(codes, q, 0), quad::<BITS, UNIT>(codes, q, 1));
                let (low, high) =
                    (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
                _mm256_add_epi32(low, high)
            }
        }
    }
}

/// Partials `4 * i .. 4 * i + 4`, folded: lane j of each half is partial `4 * i + j`'s sum over that half.
///
/// # Safety
/// As [`block_sums`].
#[inline(always)]
unsafe fn quad<const BITS: usize, const UNIT: usize>(codes: *const u8, q: *const i16, i: usize) -> __m256i {
    // SAFETY: passed on.
    unsafe {
        let a = partial::<BITS, UNIT>(codes, q, 4 * i);
        let b = partial::<BITS, UNIT>(codes, q, 4 * i + 1);
        let c = partial::<BITS, UNIT>(codes, q, 4 * i + 2);
        let d = partial::<BITS, UNIT>(codes, q, 4 * i + 3);
        _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d))
    }
}

/// Partial `i`: a register of packed words or, where a unit has more than one, all registers of a unit.
///
/// # Safety
/// As [`block_sums`].
#[inline(always)]
unsafe fn partial<const BITS: usize, const UNIT: usize>(
    codes: *const u8,
    q: *const i16,
    i: usize,
) -> __m256i {
    // SAFETY: by the caller.
    unsafe {
        let mut sums = _mm256_setzero_si256();
        if matches!(BITS, 2 | 4 | 8) {
            let n_planes = 16 / BITS;
            // Sixteen words of codes, which are half of a block of the activations.
            let n_words = if UNIT * BITS > 256 { UNIT * BITS / 256 } else { 1 };
            for word in i * n_words..(i + 1) * n_words {
                let words = _mm256_loadu_si256(codes.add(32 * word).cast());
                let q = q.add(word / 2 * 32 * n_planes + word % 2 * 16);
                for j in 0..n_planes {
                    let q = _mm256_loadu_si256(q.add(32 * j).cast());
                    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(field::<BITS>(words, j), q));
                }
            }
        } else {
            for run in 0..UNIT / 16 {
                let codes = codes.add((i * UNIT + 16 * run) * BITS / 8);
                let q = _mm256_loadu_si256(q.add(i * UNIT + 16 * run).cast());
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(straddling::<BITS>(codes), q));
            }
        }
        sums
    }
}

/// Field `j` of each sixteen-bit word.
#[inline(always)]
pub(super) unsafe fn field<const BITS: usize>(words: __m256i, j: usize) -> __m256i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let shifted = match BITS * j {
            0 => words,
            2 => _mm256_srli_epi16::<2>(words),
            4 => _mm256_srli_epi16::<4>(words),
            6 => _mm256_srli_epi16::<6>(words),
            8 => _mm256_srli_epi16::<8>(words),
            10 => _mm256_srli_epi16::<10>(words),
            12 => _mm256_srli_epi16::<12>(words),
            _ => _mm256_srli_epi16::<14>(words),
        };
        if BITS * (j + 1) == 16 {
            shifted
        } else {
            _mm256_and_si256(shifted, _mm256_set1_epi16((1 << BITS) - 1))
        }
    }
}

/// Sixteen codes of a bit stream as words.
///
/// # Safety
/// `8 + BITS` bytes can be read.
#[inline(always)]
pub(super) unsafe fn straddling<const BITS: usize>(codes: *const u8) -> __m256i {
    // SAFETY: by the caller; the tables have a register's size.
    unsafe {
        let table = &Straddling::<BITS>::TABLE;
        let bytes = _mm256_loadu_si256(table.bytes.as_ptr().cast());
        let factors = _mm256_loadu_si256(table.factors.as_ptr().cast());
        let eight = _mm256_set_m128i(_mm_loadl_epi64(codes.add(BITS).cast()), _mm_loadl_epi64(codes.cast()));
        // Each word gets the two bytes that its code lies in; a product shifts the code to the top of the word.
        let top = _mm256_mullo_epi16(_mm256_shuffle_epi8(eight, bytes), factors);
        match BITS {
            3 => _mm256_srli_epi16::<13>(top),
            5 => _mm256_srli_epi16::<11>(top),
            _ => _mm256_srli_epi16::<10>(top),
        }
    }
}

/// How to unpack twice eight codes.
struct Unpack {
    /// Bytes that each word takes, in each half.
    bytes: [u8; 32],
    /// What shifts each code to the top of its word.
    factors: [u16; 16],
}

struct Straddling<const BITS: usize>;

impl<const BITS: usize> Straddling<BITS> {
    const TABLE: Unpack = unpack(BITS);
}

const fn unpack(bits: usize) -> Unpack {
    let mut table = Unpack { bytes: [0; 32], factors: [0; 16] };
    let mut i = 0;
    while i < 16 {
        let first_bit = i % 8 * bits;
        table.bytes[2 * i] = (first_bit / 8) as u8;
        table.bytes[2 * i + 1] = (first_bit / 8) as u8 + 1;
        table.factors[i] = 1 << (16 - bits - first_bit % 8);
        i += 1;
    }
    table
}
