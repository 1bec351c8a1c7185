//! Q4_0 and Q8_0: 32 values with one half as their scale. A step is sixteen blocks.

use flashmill_layout::GgmlType;

use super::super::bytes::Bytes;
use super::{Fast, run};

pub(crate) enum Q4_0 {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const UNIT: usize = 32;
    const BIAS: Option<u32> = Some(3);
    type Step = [[u8; 18]; 16];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        halves(s, step, i, 2)
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        (first_halves(s, step), None)
    }
}

pub(crate) enum Q8_0 {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const UNIT: usize = 32;
    const SIGNED: bool = true;
    type Step = [[u8; 34]; 16];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let [a, b, c, d] = [&step[4 * i], &step[4 * i + 1], &step[4 * i + 2], &step[4 * i + 3]];
        [
            s.signed(s.quarters([run(a, 2), run(b, 2), run(c, 2), run(d, 2)])),
            s.signed(s.quarters([run(a, 18), run(b, 18), run(c, 18), run(d, 18)])),
        ]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        (first_halves(s, step), None)
    }
}

/// The halves of sixteen bytes at `at` of four blocks: the low ones are the first runs.
#[inline(always)]
pub(super) fn halves<S: Bytes, const N: usize>(s: S, step: &[[u8; N]; 16], i: usize, at: usize) -> [S::B; 2] {
    let [a, b, c, d] = [&step[4 * i], &step[4 * i + 1], &step[4 * i + 2], &step[4 * i + 3]];
    low_and_high(s, s.quarters([run(a, at), run(b, at), run(c, at), run(d, at)]))
}

/// The low and the high halves of bytes.
#[inline(always)]
pub(super) fn low_and_high<S: Bytes>(s: S, bytes: S::B) -> [S::B; 2] {
    [s.and(bytes, 15), s.and(s.down(bytes, [4; 4]), 15)]
}

/// The binary16 that each block begins with.
#[inline(always)]
pub(super) fn first_halves<S: Bytes, const N: usize>(s: S, step: &[[u8; N]; 16]) -> S::F {
    let mut scales = [0; 32];
    for (block, scale) in step.iter().zip(scales.as_chunks_mut::<2>().0) {
        *scale = [block[0], block[1]];
    }
    s.load_f16(&scales)
}
