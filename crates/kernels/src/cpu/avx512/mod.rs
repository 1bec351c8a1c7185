//! AVX-512 with VNNI: sixteen lanes in one register.

use std::arch::x86_64::*;

use super::affine::{AffineRows, Blocked, Dealt, Output, PANEL, QuantizedRow};
use super::ggml::{self, Fast, GgmlRows};
use super::simd::{Kernel, Simd};

mod affine;
mod blocked;
mod bytes;
mod deal;
mod unpack;

/// The proof that the CPU has AVX-512 F, BW, VL, DQ and VNNI (and all of AVX2, FMA and F16C).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && super::avx2::Avx2::new().is_some();
        has.then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn vectorized<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.run(token)
}

impl Simd for Avx512 {
    type F = __m512;
    const WIDE: bool = true;
    const BLOCKED_FROM: usize = blocked::FROM;
    const GGML_BLOCKED_FROM: usize = blocked::FROM;
    const GGML_BLOCKED_DEALT: Dealt = blocked::BLOCKS_DEALT;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Avx512` is only made on a CPU that has these features.
        unsafe { vectorized(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> __m512 {
        // SAFETY: sixteen values can be read; the token proves the features.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m512, to: &mut [f32; 16]) {
        // SAFETY: sixteen values can be written; the token proves the features.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_abs_ps(a) }
    }

    #[inline(always)]
    fn max_bits(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
    }

    #[inline(always)]
    fn max_bits_across(self, a: __m512) -> u32 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_reduce_max_epi32(_mm512_castps_si512(a)) as u32 }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale_by_power(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    fn tree(self, a: __m512) -> f32 {
        // SAFETY: the token proves the CPU's features.
        unsafe {
            let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }

    #[inline(always)]
    fn trees(self, a: &[__m512; 16]) -> __m512 {
        // SAFETY: the token proves the CPU's features.
        unsafe { trees(a) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: sixteen 16-bit values can be read; the token proves the features.
        unsafe {
            let words = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: sixteen 16-bit values can be read; the token proves the features.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> __m512 {
        // SAFETY: sixteen bytes can be read; the token proves the features.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_e4m3(self, from: &[u8; 16]) -> __m512 {
        // SAFETY: sixteen bytes can be read; the token proves the features, AVX2 among them.
        unsafe {
            let halves = super::avx2::e4m3_as_f16(_mm_loadu_si128(from.as_ptr().cast()));
            _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0))
        }
    }

    #[inline(always)]
    fn store_f16(self, lanes: __m512, to: &mut [u8; 32]) {
        // SAFETY: sixteen 16-bit values can be written; the token proves the features.
        unsafe {
            let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(lanes);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn store_i16(self, lanes: __m512, to: &mut [i16; 16]) {
        // SAFETY: sixteen 16-bit values can be written; the token proves the features.
        unsafe {
            let words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(lanes));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words);
        }
    }

    #[inline(always)]
    fn dealt(self, bits: u8, blocked: bool) -> Dealt {
        match bits {
            2 | 4 | 8 if blocked => Dealt::Words(16 / usize::from(bits)),
            2 | 4 | 8 => Dealt::Bytes(8 / usize::from(bits)),
            _ => Dealt::Words(1),
        }
    }

    #[inline(always)]
    fn deal(self, dealt: Dealt, from: &[i16], to: &mut [i16]) {
        assert!(from.len() == dealt.block() && to.len() == dealt.block(), "one block");
        // SAFETY: the token proves the CPU's features, and the lengths were checked.
        unsafe {
            match dealt {
                Dealt::Bytes(1) => deal::bytes::<1>(from, to),
                Dealt::Bytes(2) => deal::bytes::<2>(from, to),
                Dealt::Bytes(4) => deal::bytes::<4>(from, to),
                Dealt::ByteRuns(n) => deal::byte_runs(n, from, to),
                Dealt::Words(2) => deal::words::<2>(from, to),
                Dealt::Words(4) => deal::words::<4>(from, to),
                other => other.deal(from, to),
            }
        }
    }

    #[inline(always)]
    fn interleave(self, rows: [&[[i16; 2]; 8]; PANEL], to: &mut [i32; 8 * PANEL]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { super::avx2::interleave(rows, to) }
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
        ggml::rows::<Avx512, T>(self, w, x, y);
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

/// Sixteen trees at once: each step adds the halves of two neighbours side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn trees(a: &[__m512; 16]) -> __m512 {
    // Lanes i and i + 8: quarters 0, 1 of the sum belong to a[i], quarters 2, 3 to a[i + 8].
    let b: [__m512; 8] = std::array::from_fn(|i| {
        let (x, y) = (a[i], a[i + 8]);
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(x, y),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(x, y),
        )
    });
    // Lanes i and i + 4: the quarters belong to b[i]: a[i], a[i + 8]; b[i + 4]: a[i + 4], a[i + 12].
    let c: [__m512; 4] = std::array::from_fn(|i| {
        let (x, y) = (b[i], b[i + 4]);
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(x, y),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(x, y),
        )
    });
    // Lanes i and i + 2, within quarters: pairs of c[i], then of c[i + 2].
    let d: [__m512; 2] = std::array::from_fn(|i| {
        let (x, y) = (_mm512_castps_pd(c[i]), _mm512_castps_pd(c[i + 2]));
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)))
    });
    // Lanes i and i + 1: each quarter has the sums of c[0], c[2], c[1], c[3].
    let (x, y) = (d[0], d[1]);
    let sums =
        _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(x, y), _mm512_shuffle_ps::<0b11_01_11_01>(x, y));
    // Quarter q, lane j holds a[[0, 8, 4, 12][q] + [0, 2, 1, 3][j]].
    let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    _mm512_permutexvar_ps(order, sums)
}
