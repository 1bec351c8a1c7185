//! Products with quantised weights.
//!
//! Codes of 2, 4 and 8 bits are unpacked to bytes and multiplied with both byte planes of the activations (`vpdpbusd`), the others to words
//! (`vpdpwssd`). A *partial* is a register of sixteen integer sums of which
//! neighbours belong to one unit; partials are folded until each lane is the sum of one unit, so that sixteen units are scaled at once.

use std::arch::x86_64::*;

use flashmill_layout::Float;

use super::super::affine::{AffineRows, QuantizedRow};
use super::super::simd::Simd;
use super::Avx512;

/// Planes of the activations of the blocked product: codes in a sixteen-bit word; the widths that straddle words are unpacked in order.
pub(super) const fn planes(bits: u8) -> usize {
    match bits {
        2 => 8,
        4 => 4,
        8 => 2,
        _ => 1,
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn rows(s: Avx512, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
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
/// The CPU has what [`Avx512`] proves. So for every function below.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    s: Avx512,
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    y: &mut [f32],
) {
    assert_eq!(w.n_rows(), y.len(), "W has as many rows as y has values");
    assert!(x.values.len() >= w.cols && x.dealt == s.dealt(BITS as u8, false), "x is quantised for W");
    // Two rows share the loads of the activations. They are far apart, so that each is one long stream: on Zen 4 two neighbouring
    // rows, which the hardware takes for one stream with jumps, are read at a third of the speed.
    let (first, second) = y.split_at_mut(y.len() / 2);
    let distance = first.len();
    for (row, (first, second)) in first.iter_mut().zip(second.iter_mut()).enumerate() {
        // SAFETY: both rows are rows of `w`, and `x` was checked above.
        let acc = unsafe { accumulate::<BITS, UNIT, 2>(w, x, [row, row + distance]) };
        (*first, *second) = (s.tree(acc[0]), s.tree(acc[1]));
    }
    if second.len() > distance {
        // SAFETY: as above.
        let [acc] = unsafe { accumulate::<BITS, UNIT, 1>(w, x, [2 * distance]) };
        second[distance] = s.tree(acc);
    }
}

/// The sixteen accumulators of `R` rows.
///
/// # Safety
/// The rows exist, and `x` is quantised for `w`: padded to 1024 values and dealt as `BITS` wants.
#[inline(always)]
unsafe fn accumulate<const BITS: usize, const UNIT: usize, const R: usize>(
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    rows: [usize; R],
) -> [__m512; R] {
    let (x_scales, x_sums) = x.units(UNIT);
    let (x_scales, x_sums) = (x_scales.as_ptr(), x_sums.as_ptr());
    let n_units = w.n_units();
    let scales = Scales { float: w.affine.scales, units_of_group: w.units_of_group() };
    let (code_bytes, group_bytes) = (w.code_bytes(), w.group_bytes());
    // SAFETY: each of these rows lies in its part; loads of whole blocks of sixteen units stay in
    // the row, those of the last block are masked; activations and their factors are padded to whole blocks.
    unsafe {
        let mut codes = [w.codes.as_ptr(); R];
        let mut w_scales = [w.scales.as_ptr(); R];
        let mut w_biases = [w.biases.as_ptr(); R];
        for r in 0..R {
            codes[r] = codes[r].add(rows[r] * code_bytes);
            w_scales[r] = w_scales[r].add(rows[r] * group_bytes);
            w_biases[r] = w_biases[r].add(rows[r] * group_bytes);
        }
        let mut q = x.values.as_ptr();
        let mut acc = [_mm512_setzero_ps(); R];
        let whole = n_units / 16;
        for block in 0..whole {
            let sums = block_sums::<BITS, UNIT, R, false>(&codes, q, 0);
            let x_scale = _mm512_loadu_ps(x_scales.add(16 * block));
            let x_sum = _mm512_loadu_ps(x_sums.add(16 * block));
            for r in 0..R {
                let scale = _mm512_mul_ps(scales.load(w_scales[r], 16 * block), x_scale);
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, acc[r]);
                acc[r] = _mm512_fmadd_ps(scales.load(w_biases[r], 16 * block), x_sum, acc[r]);
                codes[r] = codes[r].add(16 * UNIT * BITS / 8);
            }
            q = q.add(16 * UNIT);
        }
        let rest = n_units % 16;
        if rest != 0 {
            let sums = block_sums::<BITS, UNIT, R, true>(&codes, q, rest * UNIT * BITS / 8);
            let mask = (1u16 << rest) - 1;
            let x_scale = _mm512_loadu_ps(x_scales.add(16 * whole));
            let x_sum = _mm512_loadu_ps(x_sums.add(16 * whole));
            for r in 0..R {
                let scale = _mm512_mul_ps(scales.load_some(w_scales[r], 16 * whole, rest), x_scale);
                acc[r] = _mm512_mask3_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, acc[r], mask);
                let bias = scales.load_some(w_biases[r], 16 * whole, rest);
                acc[r] = _mm512_mask3_fmadd_ps(bias, x_sum, acc[r], mask);
            }
        }
        acc
    }
}

/// How the scales (or biases) of a row are stored.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) float: Float,
    /// 1 or 2.
    pub(super) units_of_group: usize,
}

impl Scales {
    /// Those of sixteen units from unit `unit` on.
    ///
    /// # Safety
    /// The row has them.
    #[inline(always)]
    unsafe fn load(self, row: *const u8, unit: usize) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            match self.float {
                Float::BF16 if self.units_of_group == 1 => {
                    bf16_to_f32(_mm256_loadu_si256(row.add(2 * unit).cast()))
                }
                _ => self.load_some(row, unit, 16),
            }
        }
    }

    /// Those of `n` units from unit `unit` on, a multiple of 16; the other lanes are zero.
    ///
    /// # Safety
    /// The row has them.
    #[inline(always)]
    pub(super) unsafe fn load_some(self, row: *const u8, unit: usize, n: usize) -> __m512 {
        let shift = self.units_of_group - 1;
        let group = unit >> shift;
        let mask = ((1u32 << ((n + shift) >> shift)) - 1) as u16;
        // SAFETY: by the caller; the mask keeps the load to the groups of these units.
        unsafe {
            let scales = match self.float {
                Float::BF16 => bf16_to_f32(_mm256_maskz_loadu_epi16(mask, row.add(2 * group).cast())),
                Float::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.add(2 * group).cast())),
                Float::F32 => _mm512_maskz_loadu_ps(mask, row.add(4 * group).cast()),
            };
            if self.units_of_group == 1 {
                return scales;
            }
            _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), scales)
        }
    }
}

#[inline(always)]
unsafe fn bf16_to_f32(words: __m256i) -> __m512 {
    // SAFETY: the CPU's features, by the caller.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words))) }
}

/// The integer sums of sixteen units of `R` rows, unit i in lane i.
///
/// # Safety
/// `codes` have sixteen units, or `bytes` bytes of codes if `SOME`; `q` has the activations of sixteen units.
#[inline(always)]
unsafe fn block_sums<const BITS: usize, const UNIT: usize, const R: usize, const SOME: bool>(
    codes: &[*const u8; R],
    q: *const i16,
    bytes: usize,
) -> [__m512i; R] {
    // SAFETY: passed on.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); R];
        match (BITS, UNIT) {
            (8, 64) | (3 | 5 | 6, _) => {
                let a = quad::<BITS, UNIT, R, SOME>(codes, q, 0, bytes);
                let b = quad::<BITS, UNIT, R, SOME>(codes, q, 1, bytes);
                let c = quad::<BITS, UNIT, R, SOME>(codes, q, 2, bytes);
                let d = quad::<BITS, UNIT, R, SOME>(codes, q, 3, bytes);
                for r in 0..R {
                    sums[r] = quarters(quarters(a[r], b[r]), quarters(c[r], d[r]));
                }
            }
            (4, 64) | (8, 32) => {
                let a = quad::<BITS, UNIT, R, SOME>(codes, q, 0, bytes);
                let b = quad::<BITS, UNIT, R, SOME>(codes, q, 1, bytes);
                let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                for r in 0..R {
                    sums[r] = _mm512_permutexvar_epi32(order, quarters(a[r], b[r]));
                }
            }
            (2, 64) | (4, 32) => {
                let a = quad::<BITS, UNIT, R, SOME>(codes, q, 0, bytes);
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                for r in 0..R {
                    sums[r] = _mm512_permutexvar_epi32(order, a[r]);
                }
            }
            _ => {
                let a = partials::<BITS, UNIT, R, SOME>(codes, q, 0, bytes);
                let b = partials::<BITS, UNIT, R, SOME>(codes, q, 1, bytes);
                let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
                for r in 0..R {
                    sums[r] = _mm512_permutexvar_epi32(order, even_plus_odd(a[r], b[r]));
                }
            }
        }
        sums
    }
}

/// Partials `4 * i .. 4 * i + 4`, folded: lane j of each quarter is partial `4 * i + j`'s sum over that quarter.
///
/// # Safety
/// As [`block_sums`].
#[inline(always)]
unsafe fn quad<const BITS: usize, const UNIT: usize, const R: usize, const SOME: bool>(
    codes: &[*const u8; R],
    q: *const i16,
    i: usize,
    bytes: usize,
) -> [__m512i; R] {
    // SAFETY: passed on.
    unsafe {
        let mut folded = [_mm512_setzero_si512(); R];
        if SOME && bytes <= 4 * i * partial_bytes(BITS, UNIT) {
            return folded;
        }
        let a = partials::<BITS, UNIT, R, SOME>(codes, q, 4 * i, bytes);
        let b = partials::<BITS, UNIT, R, SOME>(codes, q, 4 * i + 1, bytes);
        let c = partials::<BITS, UNIT, R, SOME>(codes, q, 4 * i + 2, bytes);
        let d = partials::<BITS, UNIT, R, SOME>(codes, q, 4 * i + 3, bytes);
        for r in 0..R {
            folded[r] = even_plus_odd(halves(a[r], b[r]), halves(c[r], d[r]));
        }
        folded
    }
}

/// Sums of lanes i and i + 2, within quarters: two of `x`, then two of `y`.
#[inline(always)]
pub(super) unsafe fn halves(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe { _mm512_add_epi32(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y)) }
}

/// Sums of neighbouring lanes, within quarters: two of `x`, then two of `y`.
#[inline(always)]
pub(super) unsafe fn even_plus_odd(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let (x, y) = (_mm512_castsi512_ps(x), _mm512_castsi512_ps(y));
        let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(x, y));
        let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(x, y));
        _mm512_add_epi32(even, odd)
    }
}

/// Sums of neighbouring quarters: two of `x`, then two of `y`.
#[inline(always)]
unsafe fn quarters(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(x, y);
        let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y);
        _mm512_add_epi32(even, odd)
    }
}

/// Bytes of codes of one partial: a register of packed words, or one unit of the widths that straddle words.
const fn partial_bytes(bits: usize, unit: usize) -> usize {
    match bits {
        2 | 4 | 8 => 64,
        _ => unit * bits / 8,
    }
}

/// Partial `i` of each row.
///
/// # Safety
/// As [`block_sums`].
#[inline(always)]
unsafe fn partials<const BITS: usize, const UNIT: usize, const R: usize, const SOME: bool>(
    codes: &[*const u8; R],
    q: *const i16,
    i: usize,
    bytes: usize,
) -> [__m512i; R] {
    let at = i * partial_bytes(BITS, UNIT);
    let n = partial_bytes(BITS, UNIT).min(if SOME { bytes.saturating_sub(at) } else { usize::MAX });
    // SAFETY: by the caller.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); R];
        let mut words = [_mm512_setzero_si512(); R];
        for r in 0..R {
            words[r] = load(codes[r].add(at), n);
        }
        if matches!(BITS, 2 | 4 | 8) {
            // Two byte products for each field: with the high bytes of the activations, and on top of 256 times that with the low ones.
            let n_fields = 8 / BITS;
            let q = q.add(i * 64 * n_fields);
            for j in 0..n_fields {
                let high = _mm512_loadu_si512(q.add(64 * j).cast());
                for r in 0..R {
                    sums[r] = _mm512_dpbusd_epi32(sums[r], byte_field::<BITS>(words[r], j), high);
                }
            }
            for r in 0..R {
                sums[r] = _mm512_slli_epi32::<8>(sums[r]);
            }
            for j in 0..n_fields {
                let low = _mm512_loadu_si512(q.add(64 * j + 32).cast());
                for r in 0..R {
                    sums[r] = _mm512_dpbusd_epi32(sums[r], byte_field::<BITS>(words[r], j), low);
                }
            }
        } else {
            for half in 0..UNIT / 32 {
                let q = _mm512_loadu_si512(q.add(i * UNIT + 32 * half).cast());
                for r in 0..R {
                    sums[r] = dot_pairs(sums[r], straddling::<BITS>(words[r], half), q);
                }
            }
        }
        sums
    }
}

/// `sums + a . b` for pairs of words. The intrinsic would do, but LLVM 21 splits it into a product and a sum.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_pairs(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction only touches these registers.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// The first `n` bytes (at most 64), then zeros.
///
/// # Safety
/// There are `n` bytes.
#[inline(always)]
pub(super) unsafe fn load(from: *const u8, n: usize) -> __m512i {
    // SAFETY: by the caller; the mask keeps the load to `n` bytes.
    unsafe {
        if n == 64 {
            _mm512_loadu_si512(from.cast())
        } else {
            _mm512_maskz_loadu_epi8((1 << n) - 1, from.cast())
        }
    }
}

/// Field `j` of each byte.
#[inline(always)]
unsafe fn byte_field<const BITS: usize>(bytes: __m512i, j: usize) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let shifted = match BITS * j {
            0 => bytes,
            2 => _mm512_srli_epi16::<2>(bytes),
            4 => _mm512_srli_epi16::<4>(bytes),
            _ => _mm512_srli_epi16::<6>(bytes),
        };
        if BITS == 8 { bytes } else { _mm512_and_si512(shifted, _mm512_set1_epi8((1 << BITS) - 1)) }
    }
}

/// Codes `32 * half ..` of a bit stream as words.
#[inline(always)]
pub(super) unsafe fn straddling<const BITS: usize>(stream: __m512i, half: usize) -> __m512i {
    // SAFETY: the tables have a register's size; the CPU's features, by the caller.
    unsafe {
        let tables = &Straddling::<BITS>::TABLES[half];
        let words = _mm512_loadu_si512(tables.words.as_ptr().cast());
        let bytes = _mm512_loadu_si512(tables.bytes.as_ptr().cast());
        let shifts = _mm512_loadu_si512(tables.shifts.as_ptr().cast());
        // Each quarter gets the bytes of its eight codes, then each word the two bytes that its code lies in.
        let pairs = _mm512_shuffle_epi8(_mm512_permutexvar_epi16(words, stream), bytes);
        _mm512_and_si512(_mm512_srlv_epi16(pairs, shifts), _mm512_set1_epi16((1 << BITS) - 1))
    }
}

/// How to unpack 32 codes: quarter k has codes 8k to 8k + 7, that is, `BITS` bytes.
struct Unpack {
    /// Words of the stream that each quarter takes.
    words: [u16; 32],
    /// Bytes of its quarter that each word takes.
    bytes: [u8; 64],
    /// How far each word is shifted down.
    shifts: [u16; 32],
}

struct Straddling<const BITS: usize>;

impl<const BITS: usize> Straddling<BITS> {
    const TABLES: [Unpack; 2] = [unpack(BITS, 0), unpack(BITS, 1)];
}

const fn unpack(bits: usize, half: usize) -> Unpack {
    let mut table = Unpack { words: [0; 32], bytes: [0; 64], shifts: [0; 32] };
    let mut i = 0;
    while i < 32 {
        let (quarter, code) = (i / 8, i % 8);
        let first_byte = (4 * half + quarter) * bits;
        table.words[i] = ((first_byte / 2 + code) % 32) as u16;
        let byte = first_byte % 2 + code * bits / 8;
        table.bytes[2 * i] = byte as u8;
        table.bytes[2 * i + 1] = byte as u8 + 1;
        table.shifts[i] = (code * bits % 8) as u16;
        i += 1;
    }
    table
}
