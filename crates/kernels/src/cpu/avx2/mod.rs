//! AVX2 with FMA and F16C: sixteen lanes in two registers.

use std::arch::x86_64::*;

use super::affine::{AffineRows, Blocked, Dealt, Output, PANEL, QuantizedRow};
use super::ggml::{self, Fast, GgmlRows};
use super::simd::{Kernel, Simd};

mod affine;
mod blocked;
mod bytes;

pub(super) use blocked::interleave;

/// The proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Avx2> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn vectorized<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(__m256, __m256);

/// The same operation on both halves.
macro_rules! both {
    ($operation:path, $($operand:expr),+) => {
        // SAFETY: the token `self` proves that the CPU has AVX2, FMA and F16C.
        unsafe { Lanes($operation($($operand.0),+), $operation($($operand.1),+)) }
    };
}

/// Halves of operations that take more than one instruction.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
mod half {
    use std::arch::x86_64::*;

    #[inline(always)]
    pub(super) unsafe fn max_bits(a: __m256, b: __m256) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))) }
    }

    #[inline(always)]
    pub(super) unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    pub(super) unsafe fn power(n: __m256i) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
    }

    #[inline(always)]
    pub(super) unsafe fn scale_by_power(a: __m256, n: __m256) -> __m256 {
        // SAFETY: by the caller.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(n, half)))
        }
    }

    #[inline(always)]
    pub(super) unsafe fn from_bf16(words: __m128i) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words))) }
    }

    #[inline(always)]
    pub(super) unsafe fn from_i8(bytes: __m128i) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) }
    }
}

/// Sixteen E4M3 codes as binary16 values 256 times too small: the same fields, whose exponents differ by 8 in their bias. A
/// code that is NaN becomes all ones, which is NaN too.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn e4m3_as_f16(codes: __m128i) -> __m256i {
    // SAFETY: by the caller.
    unsafe {
        let words = _mm256_cvtepi8_epi16(codes);
        let magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7f));
        let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
        let sign = _mm256_and_si256(words, _mm256_set1_epi16(i16::MIN));
        _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16::<7>(magnitude), sign), nan)
    }
}

impl Simd for Avx2 {
    type F = Lanes;
    const WIDE: bool = false;
    const BLOCKED_FROM: usize = blocked::FROM;
    const GGML_BLOCKED_FROM: usize = blocked::FROM;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Avx2` is only made on a CPU that has AVX2, FMA and F16C.
        unsafe { vectorized(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        // SAFETY: the token proves the CPU's features.
        let v = unsafe { _mm256_set1_ps(value) };
        Lanes(v, v)
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Lanes {
        // SAFETY: sixteen values can be read; the token proves the features.
        unsafe { Lanes(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn store(self, lanes: Lanes, to: &mut [f32; 16]) {
        // SAFETY: sixteen values can be written; the token proves the features.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), lanes.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), lanes.1);
        }
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        both!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        let mask = self.splat(f32::from_bits(0x7fff_ffff));
        both!(_mm256_and_ps, a, mask)
    }

    #[inline(always)]
    fn max_bits(self, a: Lanes, b: Lanes) -> Lanes {
        both!(half::max_bits, a, b)
    }

    #[inline(always)]
    fn max_bits_across(self, a: Lanes) -> u32 {
        // SAFETY: the token proves the CPU's features.
        unsafe {
            let v = _mm256_max_epi32(_mm256_castps_si256(a.0), _mm256_castps_si256(a.1));
            let v = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
            _mm_cvtsi128_si32(v) as u32
        }
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        both!(half::round, a)
    }

    #[inline(always)]
    fn scale_by_power(self, a: Lanes, n: Lanes) -> Lanes {
        both!(half::scale_by_power, a, n)
    }

    #[inline(always)]
    fn tree(self, a: Lanes) -> f32 {
        // SAFETY: the token proves the CPU's features.
        unsafe {
            let b = _mm256_add_ps(a.0, a.1);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }

    #[inline(always)]
    fn trees(self, a: &[Lanes; 16]) -> Lanes {
        let mut sums = [0.0; 16];
        for (sum, &lanes) in sums.iter_mut().zip(a) {
            *sum = self.tree(lanes);
        }
        self.load(&sums)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        // SAFETY: sixteen values can be read; the token proves the features.
        unsafe {
            let from = from.as_ptr();
            Lanes(
                half::from_bf16(_mm_loadu_si128(from.cast())),
                half::from_bf16(_mm_loadu_si128(from.add(16).cast())),
            )
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        // SAFETY: sixteen values can be read; the token proves the features.
        unsafe {
            let from = from.as_ptr();
            Lanes(
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())),
            )
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> Lanes {
        // SAFETY: sixteen values can be read; the token proves the features.
        unsafe {
            let from = from.as_ptr();
            Lanes(
                half::from_i8(_mm_loadl_epi64(from.cast())),
                half::from_i8(_mm_loadl_epi64(from.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    fn load_e4m3(self, from: &[u8; 16]) -> Lanes {
        // SAFETY: sixteen bytes can be read; the token proves the features.
        unsafe {
            let halves = e4m3_as_f16(_mm_loadu_si128(from.as_ptr().cast()));
            let scale = _mm256_set1_ps(256.0);
            Lanes(
                _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), scale),
                _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)), scale),
            )
        }
    }

    #[inline(always)]
    fn store_f16(self, lanes: Lanes, to: &mut [u8; 32]) {
        // SAFETY: eight 16-bit values can be written to each half; the token proves the features.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes.0);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes.1);
            _mm_storeu_si128(to.as_mut_ptr().cast(), low);
            _mm_storeu_si128(to.as_mut_ptr().add(16).cast(), high);
        }
    }

    #[inline(always)]
    fn store_i16(self, lanes: Lanes, to: &mut [i16; 16]) {
        // SAFETY: sixteen 16-bit values can be written; the token proves the features.
        unsafe {
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(lanes.0), _mm256_cvtps_epi32(lanes.1));
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }

    #[inline(always)]
    fn dealt(self, bits: u8, _blocked: bool) -> Dealt {
        Dealt::Words(affine::planes(bits))
    }

    #[inline(always)]
    fn interleave(self, rows: [&[[i16; 2]; 8]; PANEL], to: &mut [i32; 8 * PANEL]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { interleave(rows, to) }
    }

    #[inline(always)]
    fn affine_rows(self, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { affine::rows(self, w, x, y) }
    }

    #[inline(always)]
    fn ggml_dealt(self, unit: usize) -> Dealt {
        Dealt::WordRuns(unit / 16)
    }

    #[inline(always)]
    fn ggml_fast<T: Fast>(self, w: &GgmlRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        ggml::rows::<Avx2, T>(self, w, x, y);
    }

    #[inline(always)]
    unsafe fn ggml_blocked<T: Fast>(self, w: &GgmlRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
        // SAFETY: the token proves the CPU's features; `y` as the caller says.
        unsafe { blocked::ggml::<T>(self, w, x, scratch, y) }
    }

    #[inline(always)]
    unsafe fn affine_blocked(self, w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
        // SAFETY: the token proves the CPU's features; `y` as the caller says.
        unsafe { blocked::product(self, w, x, scratch, y) }
    }
}
