//! The K quants: blocks of 256 values. A step is two blocks with units of 32, or one with units of 16.

use flashmill_layout::GgmlType;

use super::super::bytes::Bytes;
use super::{Fast, f16_at, plane, register, run, u32_at, u64_at};

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum Q4_K {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for Q4_K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const UNIT: usize = 32;
    const ALTERNATE: bool = true;
    const SIX_BITS: bool = true;
    type Step = [[u8; 144]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        s.alternate(Self::planes(s, step, i))
    }

    #[inline(always)]
    fn planes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> S::B {
        s.bytes(register(&step[i / 2], 16 + 64 * (i % 2)))
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        scales_and_mins(s, &step[0], &step[1])
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum Q5_K {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for Q5_K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const UNIT: usize = 32;
    const SIX_BITS: bool = true;
    type Step = [[u8; 176]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let block = &step[i / 2];
        let [first, second] = low_bits(s, s.bytes(register(block, 48 + 64 * (i % 2))));
        // Bit u of each byte belongs to unit u: it moves to place 4.
        let fifth = [s.four_times(run(block, 16)), s.four_times(run(block, 32))];
        let fifth = if i.is_multiple_of(2) {
            [s.up(fifth[0], [4, 3, 2, 1]), s.up(fifth[1], [4, 3, 2, 1])]
        } else {
            [s.down(fifth[0], [0, 1, 2, 3]), s.down(fifth[1], [0, 1, 2, 3])]
        };
        [s.or(first, s.and(fifth[0], 16)), s.or(second, s.and(fifth[1], 16))]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        scales_and_mins(s, &step[0], &step[1])
    }
}

/// Two planes of 32 bytes, whose halves are two units each: the first and the second runs of these four.
#[inline(always)]
fn low_bits<S: Bytes>(s: S, planes: S::B) -> [S::B; 2] {
    let by = [0, 4, 0, 4];
    [s.and(s.down(s.even_twice(planes), by), 15), s.and(s.down(s.odd_twice(planes), by), 15)]
}

/// Scales and offsets of two blocks of Q4_K or Q5_K.
#[inline(always)]
fn scales_and_mins<S: Bytes>(s: S, a: &[u8], b: &[u8]) -> (S::F, Option<S::F>) {
    let ([a_scales, a_mins], [b_scales, b_mins]) = (six_bits(a), six_bits(b));
    // `d` and `dmin`, with the sign of the second turned.
    let [d, minus_dmin] = s.pairs(u32_at(a, 0) ^ 0x8000_0000, u32_at(b, 0) ^ 0x8000_0000);
    let scales = s.mul(d, s.bytes_to_f32([a_scales, b_scales]));
    let offsets = s.mul(minus_dmin, s.bytes_to_f32([a_mins, b_mins]));
    (scales, Some(offsets))
}

/// Eight scales and eight mins of six bits.
#[inline(always)]
fn six_bits(block: &[u8]) -> [u64; 2] {
    let [scales, mins, both] = [u32_at(block, 4), u32_at(block, 8), u32_at(block, 12)];
    let eight = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [
        eight(scales & 0x3f3f_3f3f, both & 0x0f0f_0f0f | scales >> 2 & 0x3030_3030),
        eight(mins & 0x3f3f_3f3f, both >> 4 & 0x0f0f_0f0f | mins >> 2 & 0x3030_3030),
    ]
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum Q6_K {}

// SAFETY: a step is an array of bytes.
unsafe impl Fast for Q6_K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const UNIT: usize = 16;
    const BIAS: Option<u32> = Some(5);
    type Step = [u8; 210];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, block: &Self::Step, i: usize) -> [S::B; 2] {
        let low = s.bytes(register(block, 64 * i));
        let high = s.twice(plane(block, 128 + 32 * i));
        [
            s.or(s.and(low, 15), s.and(s.up(high, [4, 4, 2, 2]), 0x30)),
            s.or(s.and(s.down(low, [4; 4]), 15), s.and(s.down(high, [0, 0, 2, 2]), 0x30)),
        ]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, block: &Self::Step) -> (S::F, Option<S::F>) {
        let scales = s.load_i8(run(block, 192));
        (s.mul(s.splat(f16_at(s, block, 208)), scales), None)
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum Q3_K {}

// SAFETY: a step is an array of bytes.
unsafe impl Fast for Q3_K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const UNIT: usize = 16;
    const BIAS: Option<u32> = Some(2);
    type Step = [u8; 110];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, block: &Self::Step, i: usize) -> [S::B; 2] {
        let [first, second] = two_bits(s, plane(block, 32 + 32 * i));
        // Bit j of each byte belongs to values 32 * j ..: it moves to place 2.
        let third = s.twice(plane(block, 0));
        let third = if i == 0 {
            [s.up(third, [2, 2, 1, 1]), s.down(third, [0, 0, 1, 1])]
        } else {
            [s.down(third, [2, 2, 3, 3]), s.down(third, [4, 4, 5, 5])]
        };
        [s.or(first, s.and(third[0], 4)), s.or(second, s.and(third[1], 4))]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, block: &Self::Step) -> (S::F, Option<S::F>) {
        let (low, high) = (u64_at(block, 96), u32_at(block, 104));
        // Two bits of each of the four bytes, at place 4.
        let first = u64::from(high << 4 & 0x3030_3030) | u64::from(high << 2 & 0x3030_3030) << 32;
        let second = u64::from(high & 0x3030_3030) | u64::from(high >> 2 & 0x3030_3030) << 32;
        let scales =
            s.bytes_to_f32([low & 0x0f0f_0f0f_0f0f_0f0f | first, low >> 4 & 0x0f0f_0f0f_0f0f_0f0f | second]);
        (s.mul(s.splat(f16_at(s, block, 108)), s.sub(scales, s.splat(32.0))), None)
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum Q2_K {}

// SAFETY: a step is an array of bytes.
unsafe impl Fast for Q2_K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const UNIT: usize = 16;
    type Step = [u8; 84];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, block: &Self::Step, i: usize) -> [S::B; 2] {
        two_bits(s, plane(block, 16 + 32 * i))
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, block: &Self::Step) -> (S::F, Option<S::F>) {
        let low = 0x0f0f_0f0f_0f0f_0f0f;
        let (a, b) = (u64_at(block, 0), u64_at(block, 8));
        let scales = s.bytes_to_f32([a & low, b & low]);
        let mins = s.bytes_to_f32([a >> 4 & low, b >> 4 & low]);
        let (d, minus_dmin) = (s.splat(f16_at(s, block, 80)), s.splat(-f16_at(s, block, 82)));
        (s.mul(d, scales), Some(s.mul(minus_dmin, mins)))
    }
}

/// 32 bytes of four codes each, the lowest bits first: 128 codes.
#[inline(always)]
fn two_bits<S: Bytes>(s: S, plane: &[u8; 32]) -> [S::B; 2] {
    let plane = s.twice(plane);
    [s.and(s.down(plane, [0, 0, 2, 2]), 3), s.and(s.down(plane, [4, 4, 6, 6]), 3)]
}
