//! The codebook types: points of eight or four magnitudes, found by index, and a bit of sign for each value.
//!
//! The sixteen points of two registers are loaded one by one; signs are applied to 64 values at once. Codes are `64 +- magnitude`.
//! No closures and no array methods here: they would stay calls.

use flashmill_layout::GgmlType;
use flashmill_layout::ggml::{GRID_IQ2_S, GRID_IQ2_XS, GRID_IQ2_XXS, GRID_IQ3_S, GRID_IQ3_XXS, signs};

use super::super::bytes::Bytes;
use super::{Fast, f16_at, nibbles, u16_at, u32_at, u64_at};

/// The signs of eight values from seven bits.
static SIGNS: [u8; 128] = {
    let mut all = [0; 128];
    let mut i = 0;
    while i < 128 {
        all[i] = signs(i as u8);
        i += 1;
    }
    all
};

static POINTS_IQ2_XXS: [u64; 256] = eights(&GRID_IQ2_XXS);
static POINTS_IQ2_XS: [u64; 512] = eights(&GRID_IQ2_XS);
static POINTS_IQ2_S: [u64; 1024] = eights(&GRID_IQ2_S);
static POINTS_IQ3_XXS: [u32; 256] = fours(&GRID_IQ3_XXS);
static POINTS_IQ3_S: [u32; 512] = fours(&GRID_IQ3_S);

/// Points of eight values as words, the first value lowest.
const fn eights<const N: usize>(grid: &[[i8; 8]; N]) -> [u64; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < 8 * N {
        words[i / 8] |= (grid[i / 8][i % 8] as u64) << (8 * (i % 8));
        i += 1;
    }
    words
}

/// Points of four values as words.
const fn fours<const N: usize>(grid: &[[i8; 4]; N]) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < 4 * N {
        words[i / 4] |= (grid[i / 4][i % 4] as u32) << (8 * (i % 4));
        i += 1;
    }
    words
}

/// Eight points of eight values.
type Points = [u64; 8];

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ2_XXS {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for IQ2_XXS {
    const TYPE: GgmlType = GgmlType::IQ2_XXS;
    const UNIT: usize = 32;
    const BIAS: Option<u32> = Some(6);
    type Step = [[u8; 66]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let block = &step[i / 2];
        let (mut points, mut minus) = ([[0; 8]; 2], [0; 2]);
        for unit in 0..4 {
            let at = 2 + 8 * (4 * (i % 2) + unit);
            let word = u32_at(block, at + 4);
            for run in 0..2 {
                for point in 0..2 {
                    let index = usize::from(block[at + 2 * run + point]);
                    points[run][2 * unit + point] = POINTS_IQ2_XXS[index];
                }
                minus[run] |= two_signs(word >> (14 * run)) << (16 * unit);
            }
        }
        [s.around_64(s.words(points[0]), minus[0]), s.around_64(s.words(points[1]), minus[1])]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        scales_above(s, &step[0], &step[1], [2 + 7, 8], 0.25)
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ3_XXS {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for IQ3_XXS {
    const TYPE: GgmlType = GgmlType::IQ3_XXS;
    const UNIT: usize = 32;
    const BIAS: Option<u32> = Some(6);
    type Step = [[u8; 98]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let block = &step[i / 2];
        let (mut points, mut minus) = ([[0; 8]; 2], [0; 2]);
        for unit in 0..4 {
            let group = 4 * (i % 2) + unit;
            let word = u32_at(block, 66 + 4 * group);
            for run in 0..2 {
                for point in 0..2 {
                    let at = 2 + 8 * group + 4 * run + 2 * point;
                    let low = POINTS_IQ3_XXS[usize::from(block[at])];
                    let high = POINTS_IQ3_XXS[usize::from(block[at + 1])];
                    points[run][2 * unit + point] = u64::from(low) | u64::from(high) << 32;
                }
                minus[run] |= two_signs(word >> (14 * run)) << (16 * unit);
            }
        }
        [s.around_64(s.words(points[0]), minus[0]), s.around_64(s.words(points[1]), minus[1])]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        scales_above(s, &step[0], &step[1], [66 + 3, 4], 0.5)
    }
}

/// `d * (1/2 + scale) * unit`, where the upper half of every `every`th byte from `at` on is a scale.
#[inline(always)]
fn scales_above<S: Bytes>(
    s: S,
    a: &[u8],
    b: &[u8],
    [at, every]: [usize; 2],
    unit: f32,
) -> (S::F, Option<S::F>) {
    let mut words = [0; 2];
    for (word, block) in words.iter_mut().zip([a, b]) {
        for i in 0..8 {
            *word |= u64::from(block[at + every * i] >> 4) << (8 * i);
        }
    }
    // Powers of two may be multiplied first: nothing is subnormal here.
    let d = s.pair(f16_at(s, a, 0) * unit, f16_at(s, b, 0) * unit);
    (s.mul(d, s.add(s.bytes_to_f32(words), s.splat(0.5))), None)
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ3_S {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for IQ3_S {
    const TYPE: GgmlType = GgmlType::IQ3_S;
    const UNIT: usize = 32;
    const BIAS: Option<u32> = Some(6);
    type Step = [[u8; 110]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let block = &step[i / 2];
        let (mut points, mut minus) = ([[0; 8]; 2], [0; 2]);
        for unit in 0..4 {
            let group = 4 * (i % 2) + unit;
            let ninth = usize::from(block[66 + group]) << 8;
            for run in 0..2 {
                for point in 0..2 {
                    let j = 4 * run + 2 * point;
                    let at = 2 + 8 * group + j;
                    let low = POINTS_IQ3_S[usize::from(block[at]) | ninth >> j & 256];
                    let high = POINTS_IQ3_S[usize::from(block[at + 1]) | ninth >> (j + 1) & 256];
                    points[run][2 * unit + point] = u64::from(low) | u64::from(high) << 32;
                }
                minus[run] |= u64::from(u16_at(block, 74 + 4 * group + 2 * run)) << (16 * unit);
            }
        }
        [s.around_64(s.words(points[0]), minus[0]), s.around_64(s.words(points[1]), minus[1])]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        let [a, b] = step;
        let scales = s.bytes_to_f32([nibbles(u32_at(a, 106)), nibbles(u32_at(b, 106))]);
        let d = s.pair(f16_at(s, a, 0), f16_at(s, b, 0));
        (s.mul(d, s.fma(scales, s.splat(2.0), s.splat(1.0))), None)
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ2_XS {}

// SAFETY: a step is an array of bytes.
unsafe impl Fast for IQ2_XS {
    const TYPE: GgmlType = GgmlType::IQ2_XS;
    const UNIT: usize = 16;
    const BIAS: Option<u32> = Some(6);
    type Step = [u8; 74];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, block: &Self::Step, i: usize) -> [S::B; 2] {
        let (mut points, mut minus): ([Points; 2], [u64; 2]) = ([[0; 8]; 2], [0; 2]);
        for register in 0..2 {
            for point in 0..8 {
                let word = usize::from(u16_at(block, 2 + 2 * (16 * i + 8 * register + point)));
                points[register][point] = POINTS_IQ2_XS[word & 511];
                minus[register] |= u64::from(SIGNS[word >> 9]) << (8 * point);
            }
        }
        [s.around_64(s.words(points[0]), minus[0]), s.around_64(s.words(points[1]), minus[1])]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, block: &Self::Step) -> (S::F, Option<S::F>) {
        sixteen_scales(s, f16_at(s, block, 0), u64_at(block, 66))
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ2_S {}

// SAFETY: a step is an array of bytes.
unsafe impl Fast for IQ2_S {
    const TYPE: GgmlType = GgmlType::IQ2_S;
    const UNIT: usize = 16;
    const BIAS: Option<u32> = Some(6);
    type Step = [u8; 82];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, block: &Self::Step, i: usize) -> [S::B; 2] {
        let mut points: [Points; 2] = [[0; 8]; 2];
        let first = 16 * i;
        // Two upper bits for each of sixteen points.
        let high = u32_at(block, 66 + 4 * i);
        for register in 0..2 {
            for point in 0..8 {
                let j = 8 * register + point;
                let index = u32::from(block[2 + first + j]) | (high >> (2 * j) & 3) << 8;
                points[register][point] = POINTS_IQ2_S[index as usize];
            }
        }
        let minus = [u64_at(block, 34 + first), u64_at(block, 34 + first + 8)];
        [s.around_64(s.words(points[0]), minus[0]), s.around_64(s.words(points[1]), minus[1])]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, block: &Self::Step) -> (S::F, Option<S::F>) {
        sixteen_scales(s, f16_at(s, block, 0), u64_at(block, 74))
    }
}

/// `d * (1/2 + scale) / 4` for sixteen scales of four bits.
#[inline(always)]
fn sixteen_scales<S: Bytes>(s: S, d: f32, fields: u64) -> (S::F, Option<S::F>) {
    let scales = s.bytes_to_f32([nibbles(fields as u32), nibbles((fields >> 32) as u32)]);
    (s.mul(s.splat(d * 0.25), s.add(scales, s.splat(0.5))), None)
}

/// The signs of sixteen values from twice seven bits.
#[inline(always)]
fn two_signs(bits: u32) -> u64 {
    let first = u64::from(SIGNS[(bits & 127) as usize]);
    first | u64::from(SIGNS[(bits >> 7 & 127) as usize]) << 8
}
