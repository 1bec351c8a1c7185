//! Sixty-four bytes in four registers.

use std::arch::aarch64::*;

use super::super::ggml::Bytes;
use super::{Lanes, Neon, dot, quarter};

/// Sixteen bytes each.
#[derive(Clone, Copy)]
pub(crate) struct Quarters([uint8x16_t; 4]);

/// Four integers each.
#[derive(Clone, Copy)]
pub(crate) struct Integers([int32x4_t; 4]);

/// The same operation on all quarters.
macro_rules! each {
    ($operation:path, $($operand:expr),+) => {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            Quarters([
                $operation($($operand.0[0]),+),
                $operation($($operand.0[1]),+),
                $operation($($operand.0[2]),+),
                $operation($($operand.0[3]),+),
            ])
        }
    };
}

impl Bytes for Neon {
    type B = Quarters;
    type I = Integers;

    const SIGNED_BIAS: Option<u32> = None;

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Quarters {
        let from = from.as_ptr();
        // SAFETY: 64 bytes can be read.
        unsafe {
            Quarters([vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))])
        }
    }

    #[inline(always)]
    fn quarters(self, [a, b, c, d]: [&[u8; 16]; 4]) -> Quarters {
        // SAFETY: sixteen bytes can be read at each place.
        unsafe {
            Quarters([vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()), vld1q_u8(c.as_ptr()), vld1q_u8(d.as_ptr())])
        }
    }

    #[inline(always)]
    fn four_times(self, from: &[u8; 16]) -> Quarters {
        // SAFETY: sixteen bytes can be read.
        Quarters([unsafe { vld1q_u8(from.as_ptr()) }; 4])
    }

    #[inline(always)]
    fn twice(self, from: &[u8; 32]) -> Quarters {
        let from = from.as_ptr();
        // SAFETY: 32 bytes can be read.
        let (a, b) = unsafe { (vld1q_u8(from), vld1q_u8(from.add(16))) };
        Quarters([a, b, a, b])
    }

    #[inline(always)]
    fn words(self, from: [u64; 8]) -> Quarters {
        let mut bytes = [0; 64];
        for (word, bytes) in from.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes();
        }
        self.bytes(&bytes)
    }

    #[inline(always)]
    fn store_bytes(self, b: Quarters, to: &mut [u8; 64]) {
        for (b, to) in b.0.into_iter().zip(to.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen bytes can be written.
            unsafe { vst1q_u8(to.as_mut_ptr(), b) }
        }
    }

    #[inline(always)]
    fn even_twice(self, Quarters(b): Quarters) -> Quarters {
        Quarters([b[0], b[0], b[2], b[2]])
    }

    #[inline(always)]
    fn odd_twice(self, Quarters(b): Quarters) -> Quarters {
        Quarters([b[1], b[1], b[3], b[3]])
    }

    #[inline(always)]
    fn down(self, mut b: Quarters, by: [u32; 4]) -> Quarters {
        for q in 0..4 {
            // SAFETY: every 64-bit ARM has NEON.
            b.0[q] = unsafe { vshlq_u8(b.0[q], vdupq_n_s8(-(by[q] as i8))) };
        }
        b
    }

    #[inline(always)]
    fn up(self, mut b: Quarters, by: [u32; 4]) -> Quarters {
        for q in 0..4 {
            // SAFETY: every 64-bit ARM has NEON.
            b.0[q] = unsafe { vshlq_u8(b.0[q], vdupq_n_s8(by[q] as i8)) };
        }
        b
    }

    #[inline(always)]
    fn less(self, b: Quarters, n: u8) -> Quarters {
        // SAFETY: every 64-bit ARM has NEON.
        let n = Quarters([unsafe { vdupq_n_u8(n) }; 4]);
        each!(vsubq_u8, b, n)
    }

    #[inline(always)]
    fn and(self, b: Quarters, mask: u8) -> Quarters {
        // SAFETY: every 64-bit ARM has NEON.
        let mask = Quarters([unsafe { vdupq_n_u8(mask) }; 4]);
        each!(vandq_u8, b, mask)
    }

    #[inline(always)]
    fn or(self, a: Quarters, b: Quarters) -> Quarters {
        each!(vorrq_u8, a, b)
    }

    #[inline(always)]
    fn lookup(self, table: Quarters, index: Quarters) -> Quarters {
        each!(vqtbl1q_u8, table, index)
    }

    #[inline(always)]
    fn signed(self, b: Quarters) -> Quarters {
        b
    }

    #[inline(always)]
    fn around_64(self, mut b: Quarters, minus: u64) -> Quarters {
        // SAFETY: the table has sixteen bytes.
        unsafe {
            let bit = vld1q_u8([1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128].as_ptr());
            let middle = vdupq_n_u8(64);
            for q in 0..4 {
                let signs = (minus >> (16 * q)) as u16;
                let spread = vcombine_u8(vdup_n_u8(signs as u8), vdup_n_u8((signs >> 8) as u8));
                let minus = vtstq_u8(spread, bit);
                b.0[q] = vbslq_u8(minus, vsubq_u8(middle, b.0[q]), vaddq_u8(middle, b.0[q]));
            }
        }
        b
    }

    #[inline(always)]
    fn dot<const N: usize>(self, codes: [Quarters; N], x: [&[i16; 64]; N]) -> Integers {
        // SAFETY: each of `x` has 64 bytes of the high plane and 64 of the low one; the token proves the CPU's features.
        unsafe {
            let mut sums = [vdupq_n_s32(0); 4];
            for q in 0..4 {
                let (mut high, mut low) = (sums[q], sums[q]);
                for n in 0..N {
                    let codes = vreinterpretq_s8_u8(codes[n].0[q]);
                    let x: *const i8 = x[n].as_ptr().cast();
                    high = dot(high, codes, vld1q_s8(x.add(16 * q)));
                    low = dot(low, codes, vld1q_s8(x.add(64 + 16 * q)));
                }
                sums[q] = vmlaq_n_s32(low, high, 256);
            }
            Integers(sums)
        }
    }

    #[inline(always)]
    fn add_up(self, lanes: [Integers; 4]) -> Integers {
        let mut sums = lanes[0];
        for i in 0..4 {
            let [a, b, c, d] = lanes[i].0;
            // SAFETY: every 64-bit ARM has NEON.
            sums.0[i] = unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) };
        }
        sums
    }

    #[inline(always)]
    fn without_bias(self, mut sums: Integers, of: Lanes, bias: u32) -> Integers {
        for q in 0..4 {
            // SAFETY: every 64-bit ARM has NEON.
            unsafe {
                let bias = vshlq_s32(vcvtq_s32_f32(of.0[q]), vdupq_n_s32(bias as i32));
                sums.0[q] = vsubq_s32(sums.0[q], bias);
            }
        }
        sums
    }

    #[inline(always)]
    fn to_f32(self, Integers([a, b, c, d]): Integers) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { Lanes([vcvtq_f32_s32(a), vcvtq_f32_s32(b), vcvtq_f32_s32(c), vcvtq_f32_s32(d)]) }
    }

    #[inline(always)]
    fn bytes_to_f32(self, [low, high]: [u64; 2]) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let (a, b) = (vmovl_s8(vcreate_s8(low)), vmovl_s8(vcreate_s8(high)));
            Lanes([
                quarter::from_i16(vget_low_s16(a)),
                quarter::from_i16(vget_high_s16(a)),
                quarter::from_i16(vget_low_s16(b)),
                quarter::from_i16(vget_high_s16(b)),
            ])
        }
    }

    #[inline(always)]
    fn f16(self, bits: u16) -> f32 {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { vgetq_lane_f32::<0>(quarter::from_f16(vdup_n_u16(bits))) }
    }

    #[inline(always)]
    fn pair(self, low: f32, high: f32) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        let (low, high) = unsafe { (vdupq_n_f32(low), vdupq_n_f32(high)) };
        Lanes([low, low, high, high])
    }
}
