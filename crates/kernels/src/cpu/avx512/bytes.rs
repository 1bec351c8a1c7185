//! Sixty-four bytes in one register.

use std::arch::x86_64::*;

use super::super::ggml::Bytes;
use super::Avx512;
use super::affine::{even_plus_odd, halves};

impl Bytes for Avx512 {
    type B = __m512i;
    type I = __m512i;

    // `vpdpbusd` takes unsigned codes.
    const SIGNED_BIAS: Option<u32> = Some(7);

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> __m512i {
        // SAFETY: 64 bytes can be read; the token proves the CPU's features. So for all loads below.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn quarters(self, from: [&[u8; 16]; 4]) -> __m512i {
        // SAFETY: as in `bytes`.
        unsafe {
            let [a, b, c, d] = from;
            let low = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(_mm_loadu_si128(a.as_ptr().cast())),
                _mm_loadu_si128(b.as_ptr().cast()),
            );
            let high = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(_mm_loadu_si128(c.as_ptr().cast())),
                _mm_loadu_si128(d.as_ptr().cast()),
            );
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    fn four_times(self, from: &[u8; 16]) -> __m512i {
        // SAFETY: as in `bytes`.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn twice(self, from: &[u8; 32]) -> __m512i {
        // SAFETY: as in `bytes`.
        unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn words(self, from: [u64; 8]) -> __m512i {
        let [a, b, c, d, e, f, g, h] = from;
        // SAFETY: the token proves the CPU's features. So for all operations below.
        unsafe {
            _mm512_setr_epi64(a as i64, b as i64, c as i64, d as i64, e as i64, f as i64, g as i64, h as i64)
        }
    }

    #[inline(always)]
    fn store_bytes(self, b: __m512i, to: &mut [u8; 64]) {
        // SAFETY: 64 bytes can be written; the token proves the CPU's features.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), b) }
    }

    #[inline(always)]
    fn even_twice(self, b: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_shuffle_i64x2::<0b10_10_00_00>(b, b) }
    }

    #[inline(always)]
    fn odd_twice(self, b: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_shuffle_i64x2::<0b11_11_01_01>(b, b) }
    }

    const HIGH_IN_PLACE: bool = true;

    #[inline(always)]
    fn alternate(self, planes: __m512i) -> [__m512i; 2] {
        // SAFETY: as in `words`.
        unsafe {
            let (low, high) = (0x0f0f_0f0f_0f0f_0f0f_i64, 0xf0f0_f0f0_f0f0_f0f0_u64.cast_signed());
            let mask = _mm512_setr_epi64(low, low, high, high, low, low, high, high);
            [_mm512_and_si512(self.even_twice(planes), mask), _mm512_and_si512(self.odd_twice(planes), mask)]
        }
    }

    #[inline(always)]
    fn of_alternate(self, sums: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_mask_srai_epi32::<4>(sums, 0xaaaa, sums) }
    }

    #[inline(always)]
    fn down(self, b: __m512i, by: [u32; 4]) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_srlv_epi16(b, by_quarter(by)) }
    }

    #[inline(always)]
    fn up(self, b: __m512i, by: [u32; 4]) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_sllv_epi16(b, by_quarter(by)) }
    }

    #[inline(always)]
    fn less(self, b: __m512i, n: u8) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_sub_epi8(b, _mm512_set1_epi8(n.cast_signed())) }
    }

    #[inline(always)]
    fn and(self, b: __m512i, mask: u8) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_and_si512(b, _mm512_set1_epi8(mask.cast_signed())) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, index: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    fn signed(self, b: __m512i) -> __m512i {
        // SAFETY: as in `words`.
        unsafe { _mm512_xor_si512(b, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn around_64(self, b: __m512i, minus: u64) -> __m512i {
        // SAFETY: as in `words`.
        unsafe {
            let middle = _mm512_set1_epi8(64);
            _mm512_mask_sub_epi8(_mm512_add_epi8(middle, b), minus, middle, b)
        }
    }

    #[inline(always)]
    fn dot<const N: usize>(self, codes: [__m512i; N], x: [&[i16; 64]; N]) -> __m512i {
        // SAFETY: each of `x` is two planes of 64 bytes; the token proves the CPU's features.
        unsafe {
            let mut sums = _mm512_setzero_si512();
            for n in 0..N {
                sums = _mm512_dpbusd_epi32(sums, codes[n], _mm512_loadu_si512(x[n].as_ptr().cast()));
            }
            sums = _mm512_slli_epi32::<8>(sums);
            for n in 0..N {
                sums = _mm512_dpbusd_epi32(sums, codes[n], _mm512_loadu_si512(x[n].as_ptr().add(32).cast()));
            }
            sums
        }
    }

    #[inline(always)]
    fn add_up(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        // SAFETY: as in `words`.
        unsafe {
            // Lane i of quarter q is the sum of that quarter of register i.
            let sums = even_plus_odd(halves(a, b), halves(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, sums)
        }
    }

    #[inline(always)]
    fn without_bias(self, sums: __m512i, of: __m512, bias: u32) -> __m512i {
        // SAFETY: as in `words`.
        unsafe {
            let count = _mm_cvtsi32_si128(bias as i32);
            _mm512_sub_epi32(sums, _mm512_sll_epi32(_mm512_cvtps_epi32(of), count))
        }
    }

    #[inline(always)]
    fn to_f32(self, lanes: __m512i) -> __m512 {
        // SAFETY: as in `words`.
        unsafe { _mm512_cvtepi32_ps(lanes) }
    }

    #[inline(always)]
    fn bytes_to_f32(self, bytes: [u64; 2]) -> __m512 {
        let [low, high] = [bytes[0].cast_signed(), bytes[1].cast_signed()];
        // SAFETY: as in `words`.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_set_epi64x(high, low))) }
    }

    #[inline(always)]
    fn f16(self, bits: u16) -> f32 {
        // SAFETY: as in `words`.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
    }

    #[inline(always)]
    fn pairs(self, low: u32, high: u32) -> [__m512; 2] {
        // SAFETY: as in `words`.
        unsafe {
            let halves = _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32).cast_signed());
            let four = _mm512_castps128_ps512(_mm_cvtph_ps(halves));
            let first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
            let second = _mm512_setr_epi32(1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3);
            [_mm512_permutexvar_ps(first, four), _mm512_permutexvar_ps(second, four)]
        }
    }

    #[inline(always)]
    fn pair(self, low: f32, high: f32) -> __m512 {
        // SAFETY: as in `words`.
        unsafe { _mm512_mask_broadcastss_ps(_mm512_set1_ps(low), 0xff00, _mm_set_ss(high)) }
    }
}

/// A count of bits for the words of each quarter.
#[inline(always)]
unsafe fn by_quarter(by: [u32; 4]) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        let words = 0x0001_0001_0001_0001;
        let (a, b) = (i64::from(by[0]) * words, i64::from(by[1]) * words);
        let (c, d) = (i64::from(by[2]) * words, i64::from(by[3]) * words);
        _mm512_setr_epi64(a, a, b, b, c, c, d, d)
    }
}
