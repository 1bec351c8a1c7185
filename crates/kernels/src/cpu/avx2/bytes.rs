//! Sixty-four bytes in two registers.

use std::arch::x86_64::*;

use super::super::ggml::Bytes;
use super::{Avx2, Lanes};

/// Quarters 0 and 1, and quarters 2 and 3.
#[derive(Clone, Copy)]
pub(crate) struct Halves(__m256i, __m256i);

/// The same operation on both halves.
macro_rules! both {
    ($operation:expr, $($operand:expr),+) => {
        // SAFETY: the token `self` proves that the CPU has AVX2, FMA and F16C.
        unsafe { Halves($operation($($operand.0),+), $operation($($operand.1),+)) }
    };
}

impl Bytes for Avx2 {
    type B = Halves;
    type I = Halves;

    // Codes become words by putting zeros above them.
    const SIGNED_BIAS: Option<u32> = Some(7);

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Halves {
        // SAFETY: 64 bytes can be read; the token proves the CPU's features. So for all loads below.
        unsafe {
            let from: *const __m256i = from.as_ptr().cast();
            Halves(_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)))
        }
    }

    #[inline(always)]
    fn quarters(self, from: [&[u8; 16]; 4]) -> Halves {
        // SAFETY: as in `bytes`.
        unsafe {
            let [a, b, c, d] = from;
            Halves(
                _mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast()),
                _mm256_loadu2_m128i(d.as_ptr().cast(), c.as_ptr().cast()),
            )
        }
    }

    #[inline(always)]
    fn four_times(self, from: &[u8; 16]) -> Halves {
        // SAFETY: as in `bytes`.
        let half = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.as_ptr().cast())) };
        Halves(half, half)
    }

    #[inline(always)]
    fn twice(self, from: &[u8; 32]) -> Halves {
        // SAFETY: as in `bytes`.
        let half = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        Halves(half, half)
    }

    #[inline(always)]
    fn words(self, from: [u64; 8]) -> Halves {
        let [a, b, c, d, e, f, g, h] = from;
        // SAFETY: the token proves the CPU's features. So for all operations below.
        unsafe {
            Halves(
                _mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64),
                _mm256_setr_epi64x(e as i64, f as i64, g as i64, h as i64),
            )
        }
    }

    #[inline(always)]
    fn store_bytes(self, b: Halves, to: &mut [u8; 64]) {
        // SAFETY: 64 bytes can be written; the token proves the CPU's features.
        unsafe {
            let to: *mut __m256i = to.as_mut_ptr().cast();
            _mm256_storeu_si256(to, b.0);
            _mm256_storeu_si256(to.add(1), b.1);
        }
    }

    #[inline(always)]
    fn even_twice(self, b: Halves) -> Halves {
        // SAFETY: as in `words`.
        unsafe {
            Halves(
                _mm256_permute4x64_epi64::<0b01_00_01_00>(b.0),
                _mm256_permute4x64_epi64::<0b01_00_01_00>(b.1),
            )
        }
    }

    #[inline(always)]
    fn odd_twice(self, b: Halves) -> Halves {
        // SAFETY: as in `words`.
        unsafe {
            Halves(
                _mm256_permute4x64_epi64::<0b11_10_11_10>(b.0),
                _mm256_permute4x64_epi64::<0b11_10_11_10>(b.1),
            )
        }
    }

    const HIGH_IN_PLACE: bool = true;

    #[inline(always)]
    fn alternate(self, planes: Halves) -> [Halves; 2] {
        let (low, high) = (0x0f0f_0f0f_0f0f_0f0f_i64, 0xf0f0_f0f0_f0f0_f0f0_u64.cast_signed());
        // SAFETY: as in `words`.
        let mask = unsafe { _mm256_setr_epi64x(low, low, high, high) };
        let (even, odd) = (self.even_twice(planes), self.odd_twice(planes));
        let mask = Halves(mask, mask);
        [both!(_mm256_and_si256, even, mask), both!(_mm256_and_si256, odd, mask)]
    }

    #[inline(always)]
    fn of_alternate(self, sums: Halves) -> Halves {
        // SAFETY: as in `words`.
        let by = unsafe { _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4) };
        both!(_mm256_srav_epi32, sums, Halves(by, by))
    }

    #[inline(always)]
    fn down(self, b: Halves, by: [u32; 4]) -> Halves {
        let by = self.by_quarter(by);
        both!(_mm256_srlv_epi32, b, by)
    }

    #[inline(always)]
    fn up(self, b: Halves, by: [u32; 4]) -> Halves {
        let by = self.by_quarter(by);
        both!(_mm256_sllv_epi32, b, by)
    }

    #[inline(always)]
    fn less(self, b: Halves, n: u8) -> Halves {
        // SAFETY: as in `words`.
        let n = unsafe { _mm256_set1_epi8(n.cast_signed()) };
        both!(_mm256_sub_epi8, b, Halves(n, n))
    }

    #[inline(always)]
    fn and(self, b: Halves, mask: u8) -> Halves {
        // SAFETY: as in `words`.
        let mask = unsafe { _mm256_set1_epi8(mask.cast_signed()) };
        both!(_mm256_and_si256, b, Halves(mask, mask))
    }

    #[inline(always)]
    fn or(self, a: Halves, b: Halves) -> Halves {
        both!(_mm256_or_si256, a, b)
    }

    #[inline(always)]
    fn lookup(self, table: Halves, index: Halves) -> Halves {
        both!(_mm256_shuffle_epi8, table, index)
    }

    #[inline(always)]
    fn signed(self, b: Halves) -> Halves {
        // SAFETY: as in `words`.
        let top = unsafe { _mm256_set1_epi8(-128) };
        both!(_mm256_xor_si256, b, Halves(top, top))
    }

    #[inline(always)]
    fn around_64(self, b: Halves, minus: u64) -> Halves {
        // SAFETY: as in `words`.
        unsafe {
            // Each byte gets the byte of signs that its own bit lies in.
            let byte =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
            let signs = [minus as i32, (minus >> 32) as i32];
            let mut halves = [b.0, b.1];
            for i in 0..2 {
                let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(signs[i]), byte);
                let minus = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
                // Minus one where the sign is set: `(b ^ -1) - -1` is `-b`.
                let signed = _mm256_sub_epi8(_mm256_xor_si256(halves[i], minus), minus);
                halves[i] = _mm256_add_epi8(signed, _mm256_set1_epi8(64));
            }
            Halves(halves[0], halves[1])
        }
    }

    #[inline(always)]
    fn dot<const N: usize>(self, codes: [Halves; N], x: [&[i16; 64]; N]) -> Halves {
        // SAFETY: each of `x` has four times sixteen words; the token proves the CPU's features.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); 2];
            for n in 0..N {
                let codes = [codes[n].0, codes[n].1];
                let x: *const __m256i = x[n].as_ptr().cast();
                for half in 0..2 {
                    let low = _mm256_unpacklo_epi8(codes[half], _mm256_setzero_si256());
                    let high = _mm256_unpackhi_epi8(codes[half], _mm256_setzero_si256());
                    let low = _mm256_madd_epi16(low, _mm256_loadu_si256(x.add(2 * half)));
                    let high = _mm256_madd_epi16(high, _mm256_loadu_si256(x.add(2 * half + 1)));
                    sums[half] = _mm256_add_epi32(sums[half], _mm256_add_epi32(low, high));
                }
            }
            Halves(sums[0], sums[1])
        }
    }

    #[inline(always)]
    fn add_up(self, [a, b, c, d]: [Halves; 4]) -> Halves {
        // SAFETY: as in `words`.
        unsafe {
            // Lane i of the halves of x are the sums of quarters 0 and 1 of register i, of y those of quarters 2 and 3.
            let x = _mm256_hadd_epi32(_mm256_hadd_epi32(a.0, b.0), _mm256_hadd_epi32(c.0, d.0));
            let y = _mm256_hadd_epi32(_mm256_hadd_epi32(a.1, b.1), _mm256_hadd_epi32(c.1, d.1));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            Halves(
                _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi32(x, y), order),
                _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi32(x, y), order),
            )
        }
    }

    #[inline(always)]
    fn without_bias(self, sums: Halves, of: Lanes, bias: u32) -> Halves {
        // SAFETY: as in `words`.
        unsafe {
            let count = _mm_cvtsi32_si128(bias as i32);
            Halves(
                _mm256_sub_epi32(sums.0, _mm256_sll_epi32(_mm256_cvtps_epi32(of.0), count)),
                _mm256_sub_epi32(sums.1, _mm256_sll_epi32(_mm256_cvtps_epi32(of.1), count)),
            )
        }
    }

    #[inline(always)]
    fn to_f32(self, lanes: Halves) -> Lanes {
        // SAFETY: as in `words`.
        unsafe { Lanes(_mm256_cvtepi32_ps(lanes.0), _mm256_cvtepi32_ps(lanes.1)) }
    }

    #[inline(always)]
    fn bytes_to_f32(self, bytes: [u64; 2]) -> Lanes {
        let [low, high] = [bytes[0].cast_signed(), bytes[1].cast_signed()];
        // SAFETY: as in `words`.
        unsafe {
            Lanes(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(low))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(high))),
            )
        }
    }

    #[inline(always)]
    fn f16(self, bits: u16) -> f32 {
        // SAFETY: as in `words`.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
    }

    #[inline(always)]
    fn pair(self, low: f32, high: f32) -> Lanes {
        // SAFETY: as in `words`.
        unsafe { Lanes(_mm256_set1_ps(low), _mm256_set1_ps(high)) }
    }
}

impl Avx2 {
    /// A count of bits for the dwords of each quarter.
    #[inline(always)]
    fn by_quarter(self, by: [u32; 4]) -> Halves {
        let [a, b, c, d] = [by[0] as i32, by[1] as i32, by[2] as i32, by[3] as i32];
        // SAFETY: the token proves the CPU's features.
        unsafe {
            Halves(_mm256_setr_epi32(a, a, a, a, b, b, b, b), _mm256_setr_epi32(c, c, c, c, d, d, d, d))
        }
    }
}
