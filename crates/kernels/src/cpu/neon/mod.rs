//! NEON with dot products of bytes: sixteen lanes in four registers.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::affine::{AffineRows, Blocked, Dealt, Output, QuantizedRow};
use super::ggml::{self, Fast, GgmlRows};
use super::simd::{Kernel, Simd};

mod affine;
mod blocked;
mod bytes;
mod deal;

/// The proof that the CPU has the instructions `sdot`; every 64-bit ARM has the rest of NEON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Neon> {
        is_aarch64_feature_detected!("dotprod").then_some(Neon(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
fn vectorized<K: Kernel>(token: Neon, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Four lanes each.
#[derive(Clone, Copy)]
pub(crate) struct Lanes([float32x4_t; 4]);

/// The same operation on all quarters.
macro_rules! each {
    ($operation:path, $($operand:expr),+) => {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            Lanes([
                $operation($($operand.0[0]),+),
                $operation($($operand.0[1]),+),
                $operation($($operand.0[2]),+),
                $operation($($operand.0[3]),+),
            ])
        }
    };
}

/// `sums + a . b` in each lane, for the four bytes of the lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction only touches these registers. (Its intrinsic is not stable.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// `sums + a . b` in each lane, with the four bytes of lane `LANE` of `b` for all lanes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_lane<const LANE: usize>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction only touches these registers. (Its intrinsic is not stable.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Quarters of operations that take more than one instruction, or one whose intrinsic is not stable.
///
/// # Safety
/// None is needed but NEON, which every 64-bit ARM has; they are unsafe as the intrinsics are.
mod quarter {
    use std::arch::aarch64::*;
    use std::arch::asm;

    #[inline(always)]
    pub(super) unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vfmaq_f32(c, a, b) }
    }

    /// `fmax` and `fmin` treat NaN and zeros in their own way.
    #[inline(always)]
    pub(super) unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    pub(super) unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }

    #[inline(always)]
    pub(super) unsafe fn max_bits(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b))) }
    }

    #[inline(always)]
    unsafe fn power(n: int32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
    }

    #[inline(always)]
    pub(super) unsafe fn scale_by_power(a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe {
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            vmulq_f32(vmulq_f32(a, power(half)), power(vsubq_s32(n, half)))
        }
    }

    /// Lanes 0 and 1 plus lanes 2 and 3: the third step of the tree.
    #[inline(always)]
    pub(super) unsafe fn halves(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe {
            let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
            let (low, high) = (vzip1q_f64(a, b), vzip2q_f64(a, b));
            vaddq_f32(vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
        }
    }

    #[inline(always)]
    pub(super) unsafe fn from_f16(halves: uint16x4_t) -> float32x4_t {
        let values: float32x4_t;
        // SAFETY: the instruction only touches these registers.
        unsafe {
            asm!(
                "fcvtl {values:v}.4s, {halves:v}.4h",
                values = out(vreg) values,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        values
    }

    #[inline(always)]
    pub(super) unsafe fn to_f16(values: float32x4_t) -> uint16x4_t {
        let halves: uint16x4_t;
        // SAFETY: the instruction only touches these registers.
        unsafe {
            asm!(
                "fcvtn {halves:v}.4h, {values:v}.4s",
                halves = out(vreg) halves,
                values = in(vreg) values,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        halves
    }

    #[inline(always)]
    pub(super) unsafe fn from_bf16(words: uint16x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(words)) }
    }

    #[inline(always)]
    pub(super) unsafe fn from_i16(words: int16x4_t) -> float32x4_t {
        // SAFETY: by the caller.
        unsafe { vcvtq_f32_s32(vmovl_s16(words)) }
    }

    #[inline(always)]
    pub(super) unsafe fn to_i16(values: float32x4_t) -> int16x4_t {
        // SAFETY: by the caller.
        unsafe { vqmovn_s32(vcvtnq_s32_f32(values)) }
    }
}

impl Simd for Neon {
    type F = Lanes;
    const WIDE: bool = false;
    const BLOCKED_FROM: usize = blocked::FROM;
    const GGML_BLOCKED_FROM: usize = blocked::FROM;
    const GGML_BLOCKED_DEALT: Dealt = Dealt::Bytes(1);

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a `Neon` is only made on a CPU that has the dot products.
        unsafe { vectorized(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        Lanes([unsafe { vdupq_n_f32(value) }; 4])
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Lanes {
        let from = from.as_ptr();
        // SAFETY: sixteen values can be read.
        unsafe {
            Lanes([vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))])
        }
    }

    #[inline(always)]
    fn store(self, lanes: Lanes, to: &mut [f32; 16]) {
        for (lanes, to) in lanes.0.into_iter().zip(to.as_chunks_mut::<4>().0) {
            // SAFETY: four values can be written.
            unsafe { vst1q_f32(to.as_mut_ptr(), lanes) }
        }
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each!(vsubq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each!(vdivq_f32, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        each!(quarter::fma, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each!(quarter::max, a, b)
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each!(quarter::min, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        each!(vabsq_f32, a)
    }

    #[inline(always)]
    fn max_bits(self, a: Lanes, b: Lanes) -> Lanes {
        each!(quarter::max_bits, a, b)
    }

    #[inline(always)]
    fn max_bits_across(self, a: Lanes) -> u32 {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let top = quarter::max_bits(quarter::max_bits(a.0[0], a.0[1]), quarter::max_bits(a.0[2], a.0[3]));
            vmaxvq_s32(vreinterpretq_s32_f32(top)) as u32
        }
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        each!(vrndnq_f32, a)
    }

    #[inline(always)]
    fn scale_by_power(self, a: Lanes, n: Lanes) -> Lanes {
        each!(quarter::scale_by_power, a, n)
    }

    #[inline(always)]
    fn tree(self, a: Lanes) -> f32 {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let c = vaddq_f32(vaddq_f32(a.0[0], a.0[2]), vaddq_f32(a.0[1], a.0[3]));
            vpadds_f32(vadd_f32(vget_low_f32(c), vget_high_f32(c)))
        }
    }

    #[inline(always)]
    fn trees(self, a: &[Lanes; 16]) -> Lanes {
        let mut sums = self.splat(0.0);
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            for (sums, a) in sums.0.iter_mut().zip(a.as_chunks::<4>().0) {
                let mut c = [vdupq_n_f32(0.0); 4];
                for i in 0..4 {
                    let a = a[i].0;
                    c[i] = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
                }
                *sums = vpaddq_f32(quarter::halves(c[0], c[1]), quarter::halves(c[2], c[3]));
            }
        }
        sums
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        // SAFETY: sixteen 16-bit values can be read.
        unsafe {
            let (a, b) = words(from);
            Lanes([
                quarter::from_bf16(vget_low_u16(a)),
                quarter::from_bf16(vget_high_u16(a)),
                quarter::from_bf16(vget_low_u16(b)),
                quarter::from_bf16(vget_high_u16(b)),
            ])
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let (a, b) = words(from);
            Lanes([
                quarter::from_f16(vget_low_u16(a)),
                quarter::from_f16(vget_high_u16(a)),
                quarter::from_f16(vget_low_u16(b)),
                quarter::from_f16(vget_high_u16(b)),
            ])
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> Lanes {
        // SAFETY: sixteen bytes can be read.
        unsafe {
            let bytes = vreinterpretq_s8_u8(vld1q_u8(from.as_ptr()));
            let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            Lanes([
                quarter::from_i16(vget_low_s16(a)),
                quarter::from_i16(vget_high_s16(a)),
                quarter::from_i16(vget_low_s16(b)),
                quarter::from_i16(vget_high_s16(b)),
            ])
        }
    }

    #[inline(always)]
    fn load_e4m3(self, from: &[u8; 16]) -> Lanes {
        // SAFETY: sixteen bytes can be read.
        unsafe {
            let codes = vreinterpretq_s8_u8(vld1q_u8(from.as_ptr()));
            let (a, b) = (e4m3_as_f16(vget_low_s8(codes)), e4m3_as_f16(vget_high_s8(codes)));
            let values = Lanes([
                quarter::from_f16(vget_low_u16(a)),
                quarter::from_f16(vget_high_u16(a)),
                quarter::from_f16(vget_low_u16(b)),
                quarter::from_f16(vget_high_u16(b)),
            ]);
            self.mul(values, self.splat(256.0))
        }
    }

    #[inline(always)]
    fn store_f16(self, lanes: Lanes, to: &mut [u8; 32]) {
        for (lanes, to) in lanes.0.into_iter().zip(to.as_chunks_mut::<8>().0) {
            // SAFETY: eight bytes can be written.
            unsafe { vst1_u8(to.as_mut_ptr(), vreinterpret_u8_u16(quarter::to_f16(lanes))) }
        }
    }

    #[inline(always)]
    fn store_i16(self, lanes: Lanes, to: &mut [i16; 16]) {
        for (lanes, to) in lanes.0.into_iter().zip(to.as_chunks_mut::<4>().0) {
            // SAFETY: four values can be written.
            unsafe { vst1_s16(to.as_mut_ptr(), quarter::to_i16(lanes)) }
        }
    }

    #[inline(always)]
    fn dealt(self, bits: u8, _blocked: bool) -> Dealt {
        Dealt::Bytes(affine::planes(usize::from(bits)))
    }

    #[inline(always)]
    fn deal(self, dealt: Dealt, from: &[i16], to: &mut [i16]) {
        assert!(from.len() == dealt.block() && to.len() == dealt.block(), "one block");
        // SAFETY: the lengths were checked.
        unsafe {
            match dealt {
                Dealt::Bytes(1) => deal::bytes::<1>(from, to),
                Dealt::Bytes(2) => deal::bytes::<2>(from, to),
                Dealt::Bytes(4) => deal::bytes::<4>(from, to),
                Dealt::Bytes(8) => deal::bytes::<8>(from, to),
                Dealt::ByteRuns(n) => deal::byte_runs(n, from, to),
                other => other.deal(from, to),
            }
        }
    }

    #[inline(always)]
    fn affine_rows(self, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { affine::rows(self, w, x, y) }
    }

    #[inline(always)]
    fn ggml_dealt(self, unit: usize) -> Dealt {
        Dealt::ByteRuns(unit / 16)
    }

    #[inline(always)]
    fn ggml_fast<T: Fast>(self, w: &GgmlRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        ggml::rows::<Neon, T>(self, w, x, y);
    }

    #[inline(always)]
    unsafe fn affine_blocked(self, w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
        // SAFETY: the token proves the CPU's features; `y` as the caller says.
        unsafe { blocked::product(w, x, scratch, y) }
    }

    #[inline(always)]
    unsafe fn ggml_blocked<T: Fast>(self, w: &GgmlRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
        // SAFETY: the token proves the CPU's features; `y` as the caller says.
        unsafe { blocked::ggml::<T>(self, w, x, scratch, y) }
    }
}

/// Sixteen 16-bit values, at any address.
#[inline(always)]
unsafe fn words(from: &[u8; 32]) -> (uint16x8_t, uint16x8_t) {
    let from = from.as_ptr();
    // SAFETY: 32 bytes can be read.
    unsafe { (vreinterpretq_u16_u8(vld1q_u8(from)), vreinterpretq_u16_u8(vld1q_u8(from.add(16)))) }
}

/// Eight E4M3 codes as binary16 values 256 times too small: the same fields, whose exponents differ by 8 in their bias. A code
/// that is NaN becomes all ones, which is NaN too.
#[inline(always)]
unsafe fn e4m3_as_f16(codes: int8x8_t) -> uint16x8_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let words = vreinterpretq_u16_s16(vmovl_s8(codes));
        let magnitude = vandq_u16(words, vdupq_n_u16(0x7f));
        let nan = vceqq_u16(magnitude, vdupq_n_u16(0x7f));
        let sign = vandq_u16(words, vdupq_n_u16(0x8000));
        vorrq_u16(vorrq_u16(vshlq_n_u16::<7>(magnitude), sign), nan)
    }
}
