//! IQ4_NL, IQ4_XS and MXFP4: sixteen levels that a table gives.

use flashmill_layout::GgmlType;
use flashmill_layout::ggml::{FP4_DOUBLED, IQ4_VALUES};

use super::super::bytes::Bytes;
use super::basic::{first_halves, halves, low_and_high};
use super::{Fast, nibbles, quarters_of_bytes, register, u16_at, u32_at};

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ4_NL {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for IQ4_NL {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const UNIT: usize = 32;
    const SIGNED: bool = true;
    type Step = [[u8; 18]; 16];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let [low, high] = halves(s, step, i, 2);
        let table = iq4_table(s);
        [s.lookup(table, low), s.lookup(table, high)]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        (first_halves(s, step), None)
    }
}

#[expect(non_camel_case_types, reason = "GGML's name")]
pub(crate) enum IQ4_XS {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for IQ4_XS {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const UNIT: usize = 32;
    const SIGNED: bool = true;
    type Step = [[u8; 136]; 2];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        let [low, high] = low_and_high(s, s.bytes(register(&step[i / 2], 8 + 64 * (i % 2))));
        let table = iq4_table(s);
        [s.lookup(table, low), s.lookup(table, high)]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        let [a, b] = step;
        let scales = s.bytes_to_f32([iq4_xs_scales(a), iq4_xs_scales(b)]);
        let [d, _] = s.pairs(u32_at(a, 0), u32_at(b, 0));
        (s.mul(d, s.sub(scales, s.splat(32.0))), None)
    }
}

/// The eight scales of a block, each with 32 too much.
#[inline(always)]
fn iq4_xs_scales(block: &[u8; 136]) -> u64 {
    nibbles(u32_at(block, 4)) | quarters_of_bytes(u16_at(block, 2)) << 4
}

#[inline(always)]
fn iq4_table<S: Bytes>(s: S) -> S::B {
    const TABLE: [u8; 16] = as_bytes(IQ4_VALUES, 0);
    s.signed(s.four_times(&TABLE))
}

pub(crate) enum MXFP4 {}

// SAFETY: a step is an array of arrays of bytes.
unsafe impl Fast for MXFP4 {
    const TYPE: GgmlType = GgmlType::MXFP4;
    const UNIT: usize = 32;
    const BIAS: Option<u32> = Some(4);
    type Step = [[u8; 17]; 16];

    #[inline(always)]
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2] {
        const TABLE: [u8; 16] = as_bytes(FP4_DOUBLED, 16);
        let [low, high] = halves(s, step, i, 1);
        let table = s.four_times(&TABLE);
        [s.lookup(table, low), s.lookup(table, high)]
    }

    #[inline(always)]
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>) {
        let mut scales = [0.0; 16];
        for (block, scale) in step.iter().zip(&mut scales) {
            // 2^(e - 128): the lowest two are subnormal.
            let e = u32::from(block[0]);
            *scale = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
        }
        (s.load(&scales), None)
    }
}

/// Signed levels with something added.
const fn as_bytes(levels: [i8; 16], plus: i8) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = (levels[i] + plus) as u8;
        i += 1;
    }
    bytes
}
