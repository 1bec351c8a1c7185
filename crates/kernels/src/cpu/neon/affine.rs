//! Products with quantised weights.
//!
//! Codes are unpacked to signed bytes, those of eight bits less 128, and multiplied with both byte planes of the activations (`sdot`). A
//! *chunk* is sixteen codes of each plane. A *partial* is a register of four integer sums of which neighbours belong to one unit;
//! partials are folded until each lane is the sum of one unit, so that four units are scaled at once.

use std::arch::aarch64::*;

use flashmill_layout::Float;

use super::super::affine::{AffineRows, QuantizedRow};
use super::super::simd::Simd;
use super::{Lanes, Neon, dot};

/// Planes of the activations: codes of a byte, or of as many bytes as whole codes fill; codes of five bits are unpacked in order.
pub(super) const fn planes(bits: usize) -> usize {
    match bits {
        2 | 6 => 4,
        3 => 8,
        4 => 2,
        _ => 1,
    }
}

/// Bytes of a chunk.
pub(super) const fn chunk_bytes(bits: usize) -> usize {
    2 * bits * planes(bits)
}

/// Bytes that are read to unpack a chunk.
pub(super) const fn chunk_load(bits: usize) -> usize {
    if bits == 5 { 16 } else { chunk_bytes(bits) }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn rows(s: Neon, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
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

/// Rows that share the loads of the activations.
const TOGETHER: usize = 2;

/// # Safety
/// The CPU has what [`Neon`] proves. So for every function below.
#[inline(always)]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    s: Neon,
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    y: &mut [f32],
) {
    assert_eq!(w.n_rows(), y.len(), "W has as many rows as y has values");
    assert!(x.values.len() >= w.cols && x.dealt == s.dealt(BITS as u8, false), "x is quantised for W");
    // The rows are far apart, so that each is one long stream.
    let apart = y.len() / TOGETHER;
    for row in 0..apart {
        let rows = [row, row + apart];
        // SAFETY: the rows are rows of `w`, and `x` was checked above.
        let acc = unsafe { accumulate::<BITS, UNIT, TOGETHER>(w, x, rows) };
        for (row, acc) in rows.into_iter().zip(acc) {
            y[row] = s.tree(acc);
        }
    }
    for row in TOGETHER * apart..y.len() {
        // SAFETY: as above.
        let [acc] = unsafe { accumulate::<BITS, UNIT, 1>(w, x, [row]) };
        y[row] = s.tree(acc);
    }
}

/// Units that are scaled at once.
const QUAD: usize = 4;

/// The sixteen accumulators of `R` rows.
///
/// # Safety
/// The rows exist, and `x` is quantised for `w`: padded to 1024 values and dealt to the planes of `BITS`.
#[inline(always)]
unsafe fn accumulate<const BITS: usize, const UNIT: usize, const R: usize>(
    w: &AffineRows<'_>,
    x: QuantizedRow<'_>,
    rows: [usize; R],
) -> [Lanes; R] {
    assert_eq!(x.unit, UNIT, "x is quantised for W's units");
    let [x_scales, x_sums, integer_sums] = x.factors().map(<[f32]>::as_ptr);
    let q: *const i8 = x.values.as_ptr().cast();
    let n_units = w.n_units();
    let scales = Scales { float: w.affine.scales, halved: w.units_of_group() == 2 };
    let (code_bytes, group_bytes) = (w.code_bytes(), w.group_bytes());
    let quad_bytes = QUAD * UNIT * BITS / 8;
    // Chunks that are loaded with bytes beyond their end: the last quad must be a copy.
    let n_whole = if chunk_load(BITS) > chunk_bytes(BITS) { (n_units - 1) / QUAD } else { n_units / QUAD };
    let rest = n_units - n_whole * QUAD;
    // SAFETY: the rows lie in their parts; whole quads are in the row, the last one is read from copies; activations and their
    // factors are padded to whole quads.
    unsafe {
        let mut acc = [Lanes([vdupq_n_f32(0.0); 4]); R];
        let (mut codes, mut w_scales, mut w_biases) =
            ([w.codes.as_ptr(); R], [w.scales.as_ptr(); R], [w.biases.as_ptr(); R]);
        for r in 0..R {
            codes[r] = codes[r].add(rows[r] * code_bytes);
            w_scales[r] = w_scales[r].add(rows[r] * group_bytes);
            w_biases[r] = w_biases[r].add(rows[r] * group_bytes);
        }
        for quad in 0..n_whole {
            let sums = quad_sums::<BITS, UNIT, R>(&codes, q, integer_sums, quad);
            let at = scales.bytes_of(QUAD * quad);
            let x_scale = vld1q_f32(x_scales.add(QUAD * quad));
            let x_sum = vld1q_f32(x_sums.add(QUAD * quad));
            for r in 0..R {
                let lanes = &mut acc[r].0[quad % 4];
                let scale = vmulq_f32(scales.load(w_scales[r].add(at)), x_scale);
                *lanes = vfmaq_f32(*lanes, vcvtq_f32_s32(sums[r]), scale);
                *lanes = vfmaq_f32(*lanes, scales.load(w_biases[r].add(at)), x_sum);
                codes[r] = codes[r].add(quad_bytes);
            }
        }
        if rest != 0 {
            let mut copies = [[0u8; QUAD * 64 + 8]; R];
            let n = code_bytes - n_whole * quad_bytes;
            for r in 0..R {
                copies[r][..n].copy_from_slice(std::slice::from_raw_parts(codes[r], n));
                codes[r] = copies[r].as_ptr();
            }
            let sums = quad_sums::<BITS, UNIT, R>(&codes, q, integer_sums, n_whole);
            let at = scales.bytes_of(QUAD * n_whole);
            let x_scale = vld1q_f32(x_scales.add(QUAD * n_whole));
            let x_sum = vld1q_f32(x_sums.add(QUAD * n_whole));
            let mask = vcltq_u32(vld1q_u32([0, 1, 2, 3].as_ptr()), vdupq_n_u32(rest as u32));
            for r in 0..R {
                let lanes = &mut acc[r].0[n_whole % 4];
                let scale = vmulq_f32(scales.load_some(w_scales[r].add(at), group_bytes - at), x_scale);
                let bias = scales.load_some(w_biases[r].add(at), group_bytes - at);
                let sum = vfmaq_f32(*lanes, vcvtq_f32_s32(sums[r]), scale);
                *lanes = vbslq_f32(mask, vfmaq_f32(sum, bias, x_sum), *lanes);
            }
        }
        acc
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
    /// Where the scales of unit `unit`, a multiple of [`QUAD`], start.
    #[inline(always)]
    pub(super) fn bytes_of(self, unit: usize) -> usize {
        (if self.halved { unit / 2 } else { unit }) * self.float.bytes()
    }

    /// Those of four units, of which there are `n` bytes (or more) at `from`, then zeros.
    ///
    /// # Safety
    /// There are `n` bytes.
    #[inline(always)]
    pub(super) unsafe fn load_some(self, from: *const u8, n: usize) -> float32x4_t {
        // SAFETY: by the caller; the copy has four values.
        unsafe {
            if n >= self.bytes_of(QUAD) {
                return self.load(from);
            }
            let mut copy = [0u8; 4 * QUAD];
            copy[..n].copy_from_slice(std::slice::from_raw_parts(from, n));
            self.load(copy.as_ptr())
        }
    }

    /// Those of four units.
    ///
    /// # Safety
    /// There are those of four units at `from`.
    #[inline(always)]
    pub(super) unsafe fn load(self, from: *const u8) -> float32x4_t {
        // SAFETY: by the caller; four values are loaded, or two where two units share one.
        unsafe {
            let scales = match (self.float, self.halved) {
                (Float::F32, false) => return vreinterpretq_f32_u8(vld1q_u8(from)),
                (Float::F32, true) => vcombine_f32(vreinterpret_f32_u8(vld1_u8(from)), vdup_n_f32(0.0)),
                (half, halved) => {
                    let words = if halved {
                        vreinterpret_u16_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()))
                    } else {
                        vreinterpret_u16_u8(vld1_u8(from))
                    };
                    if half == Float::F16 {
                        super::quarter::from_f16(words)
                    } else {
                        super::quarter::from_bf16(words)
                    }
                }
            };
            if self.halved { vzip1q_f32(scales, scales) } else { scales }
        }
    }
}

/// The integer sums of the four units of quad `quad`, unit i in lane i.
///
/// # Safety
/// `codes` have four units from that quad on; `q` are all activations of the row, `integer_sums` the sums of their units.
#[inline(always)]
unsafe fn quad_sums<const BITS: usize, const UNIT: usize, const R: usize>(
    codes: &[*const u8; R],
    q: *const i8,
    integer_sums: *const f32,
    quad: usize,
) -> [int32x4_t; R] {
    let chunk = 16 * planes(BITS);
    let chunks = if UNIT > chunk { UNIT / chunk } else { 1 };
    let n_partials = QUAD * UNIT / (chunk * chunks);
    // SAFETY: passed on.
    unsafe {
        let mut partials = [[vdupq_n_s32(0); QUAD]; R];
        for i in 0..n_partials {
            let first = (quad * n_partials + i) * chunks;
            let mut codes = *codes;
            for r in 0..R {
                codes[r] = codes[r].add(i * chunks * chunk_bytes(BITS));
            }
            let sums = partial::<BITS, R>(&codes, q, first, chunks);
            for r in 0..R {
                partials[r][i] = sums[r];
            }
        }
        let mut sums = [vdupq_n_s32(0); R];
        // What is missing where codes are less 128.
        let rest = vshlq_n_s32::<7>(vcvtq_s32_f32(vld1q_f32(integer_sums.add(QUAD * quad))));
        for r in 0..R {
            let [a, b, c, d] = partials[r];
            sums[r] = match n_partials {
                1 => a,
                2 => vpaddq_s32(a, b),
                _ => vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)),
            };
            if BITS == 8 {
                sums[r] = vaddq_s32(sums[r], rest);
            }
        }
        sums
    }
}

/// The products of `n` chunks from chunk `first` of the row on.
///
/// # Safety
/// `codes` have the chunks; `q` are all activations of the row.
#[inline(always)]
unsafe fn partial<const BITS: usize, const R: usize>(
    codes: &[*const u8; R],
    q: *const i8,
    first: usize,
    n: usize,
) -> [int32x4_t; R] {
    let n_planes = planes(BITS);
    // SAFETY: by the caller.
    unsafe {
        let (mut high_sums, mut low_sums) = ([vdupq_n_s32(0); R], [vdupq_n_s32(0); R]);
        for i in 0..n {
            let chunk = first + i;
            let q = q.add(chunk / 4 * 128 * n_planes + chunk % 4 * 16);
            let mut w = [[vdupq_n_s8(0); 8]; R];
            for r in 0..R {
                w[r] = unpacked::<BITS>(codes[r].add(i * chunk_bytes(BITS)));
            }
            for j in 0..n_planes {
                let (high, low) = (vld1q_s8(q.add(128 * j)), vld1q_s8(q.add(128 * j + 64)));
                for r in 0..R {
                    high_sums[r] = dot(high_sums[r], w[r][j], high);
                    low_sums[r] = dot(low_sums[r], w[r][j], low);
                }
            }
        }
        let mut sums = low_sums;
        for r in 0..R {
            sums[r] = vmlaq_n_s32(low_sums[r], high_sums[r], 256);
        }
        sums
    }
}

/// A chunk: sixteen codes of each of the first planes, those of eight bits less 128.
///
/// # Safety
/// `chunk_load(BITS)` bytes can be read.
#[inline(always)]
pub(super) unsafe fn unpacked<const BITS: usize>(codes: *const u8) -> [int8x16_t; 8] {
    // SAFETY: by the caller.
    unsafe {
        let mut fields = [vdupq_n_u8(0); 8];
        let mask = vdupq_n_u8(((1 << BITS) - 1) as u8);
        match BITS {
            2 => {
                let a = vld1q_u8(codes);
                fields[0] = vandq_u8(a, mask);
                fields[1] = vandq_u8(vshrq_n_u8::<2>(a), mask);
                fields[2] = vandq_u8(vshrq_n_u8::<4>(a), mask);
                fields[3] = vshrq_n_u8::<6>(a);
            }
            3 => {
                let uint8x16x3_t(a, b, c) = vld3q_u8(codes);
                fields[0] = vandq_u8(a, mask);
                fields[1] = vandq_u8(vshrq_n_u8::<3>(a), mask);
                fields[2] = vandq_u8(vsliq_n_u8::<2>(vshrq_n_u8::<6>(a), b), mask);
                fields[3] = vandq_u8(vshrq_n_u8::<1>(b), mask);
                fields[4] = vandq_u8(vshrq_n_u8::<4>(b), mask);
                fields[5] = vandq_u8(vsliq_n_u8::<1>(vshrq_n_u8::<7>(b), c), mask);
                fields[6] = vandq_u8(vshrq_n_u8::<2>(c), mask);
                fields[7] = vshrq_n_u8::<5>(c);
            }
            4 => {
                let a = vld1q_u8(codes);
                fields[0] = vandq_u8(a, mask);
                fields[1] = vshrq_n_u8::<4>(a);
            }
            5 => fields[0] = straddling(codes),
            6 => {
                let uint8x16x3_t(a, b, c) = vld3q_u8(codes);
                fields[0] = vandq_u8(a, mask);
                fields[1] = vandq_u8(vsliq_n_u8::<2>(vshrq_n_u8::<6>(a), b), mask);
                fields[2] = vandq_u8(vsliq_n_u8::<4>(vshrq_n_u8::<4>(b), c), mask);
                fields[3] = vshrq_n_u8::<2>(c);
            }
            _ => fields[0] = veorq_u8(vld1q_u8(codes), vdupq_n_u8(0x80)),
        }
        let mut signed = [vdupq_n_s8(0); 8];
        for j in 0..planes(BITS) {
            signed[j] = vreinterpretq_s8_u8(fields[j]);
        }
        signed
    }
}

/// Sixteen codes of five bits in order.
///
/// # Safety
/// Sixteen bytes can be read.
#[inline(always)]
unsafe fn straddling(codes: *const u8) -> uint8x16_t {
    // Word i gets the two bytes in which codes 2 i and 2 i + 1 lie, from bit 10 i of the stream on.
    const BYTES: [u8; 16] = [0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9];
    const SHIFTS: [i16; 8] = [0, -2, -4, -6, 0, -2, -4, -6];
    // SAFETY: by the caller; the tables have a register's size.
    unsafe {
        let words = vreinterpretq_u16_u8(vqtbl1q_u8(vld1q_u8(codes), vld1q_u8(BYTES.as_ptr())));
        let pairs = vshlq_u16(words, vld1q_s16(SHIFTS.as_ptr()));
        let split = vbslq_u16(vdupq_n_u16(0x1f), pairs, vshlq_n_u16::<3>(pairs));
        vandq_u8(vreinterpretq_u8_u16(split), vdupq_n_u8(0x1f))
    }
}
