//! The IQ types: codes that are points of a grid, chosen by index, with signs beside them.
//!
//! ```text
//! IQ1_S    d: f16 | 32 bytes: low 8 bits of 32 indices | 8 x u16: upper 3 bits of 4 indices, scale, sign of the shift
//! IQ1_M    32 bytes: low 8 bits of 32 indices | 16 bytes: upper 3 bits and shift of 2 indices | 4 x u16: scales, quarters of d
//! IQ2_XXS  d: f16 | 8 x (4 bytes: indices | u32: 4 x 7 bits of signs, 4 bits of scale)
//! IQ2_XS   d: f16 | 32 x u16: 9 bits of index, 7 of signs | 8 bytes: 4-bit scales
//! IQ2_S    d: f16 | 32 bytes: low 8 bits of indices | 32 bytes: signs | 8 bytes: upper 2 bits | 8 bytes: 4-bit scales
//! IQ3_XXS  d: f16 | 64 bytes: indices | 8 x u32: 4 x 7 bits of signs, 4 bits of scale
//! IQ3_S    d: f16 | 64 bytes: low 8 bits of indices | 8 bytes: ninth bits | 32 bytes: signs | 4 bytes: 4-bit scales
//! IQ4_NL   d: f16 | 16 bytes: 32 indices into 16 levels
//! IQ4_XS   d: f16 | u16: upper 2 bits of 8 scales | 4 bytes: their low 4 bits | 8 x 16 bytes as IQ4_NL
//! ```

use half::f16;

use super::grids::{GRID_IQ1, GRID_IQ2_S, GRID_IQ2_XS, GRID_IQ2_XXS, GRID_IQ3_S, GRID_IQ3_XXS, signs};
use super::{Unpacked, basic::nibble, f16_at, field, u16_at, u32_at};

/// The levels of IQ4_NL and IQ4_XS, by code.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Points of a block of the one- and two-bit types, of 8 values each.
const POINTS: usize = 32;

/// Values are `d * (2 s + 1) * (point + 1/8)` or `- 1/8`: the codes are eight times that, and the scales an eighth.
pub(super) fn iq1_s(block: &[u8], out: &mut Unpacked) {
    let (d, low, words) = (f16_at(block, 0), &block[2..34], &block[34..]);
    for group in 0..8 {
        let word = u16_at(words, group);
        out.scales[group] = d * f32::from(2 * (word >> 12 & 7) + 1) * 0.125;
        for j in 0..4 {
            let high = word >> (3 * j) & 7;
            let point = 4 * group + j;
            put_shifted(out, point, u16::from(low[point]) | high << 8, word >> 15 != 0);
        }
    }
}

pub(super) fn iq1_m(block: &[u8], out: &mut Unpacked) {
    let (low, high, words) = (&block[..32], &block[32..48], &block[48..]);
    // The upper four bits of each word are a quarter of d, the lowest first; below them lie four 3-bit scales.
    let bits = (0..4).fold(0, |bits, word| bits | u16_at(words, word) >> 12 << (4 * word));
    let d = f16::from_bits(bits).to_f32();
    for group in 0..16 {
        let scale = u16_at(words, group / 4) >> (3 * (group % 4)) & 7;
        out.scales[group] = d * f32::from(2 * scale + 1) * 0.125;
    }
    for (point, &low) in low.iter().enumerate() {
        let top = field(high, 4, point);
        put_shifted(out, point, u16::from(low) | u16::from(top & 7) << 8, top & 8 != 0);
    }
}

pub(super) fn iq2_xxs(block: &[u8], out: &mut Unpacked) {
    let d = f16_at(block, 0);
    for group in 0..8 {
        let (indices, word) = (&block[2 + 8 * group..][..4], u32_at(&block[2..], 2 * group + 1));
        out.scales[group] = d * (0.5 + (word >> 28) as f32) * 0.25;
        for j in 0..4 {
            put(out, 4 * group + j, &GRID_IQ2_XXS[usize::from(indices[j])], signs((word >> (7 * j)) as u8));
        }
    }
}

pub(super) fn iq2_xs(block: &[u8], out: &mut Unpacked) {
    let (d, words, scales) = (f16_at(block, 0), &block[2..66], &block[66..]);
    two_bit_scales(d, scales, out);
    for point in 0..POINTS {
        let word = u16_at(words, point);
        put(out, point, &GRID_IQ2_XS[usize::from(word & 511)], signs((word >> 9) as u8));
    }
}

pub(super) fn iq2_s(block: &[u8], out: &mut Unpacked) {
    let (d, low, signs, high, scales) =
        (f16_at(block, 0), &block[2..34], &block[34..66], &block[66..74], &block[74..]);
    two_bit_scales(d, scales, out);
    for point in 0..POINTS {
        let index = usize::from(low[point]) | usize::from(field(high, 2, point)) << 8;
        put(out, point, &GRID_IQ2_S[index], signs[point]);
    }
}

pub(super) fn iq3_xxs(block: &[u8], out: &mut Unpacked) {
    let (d, indices, words) = (f16_at(block, 0), &block[2..66], &block[66..]);
    for group in 0..8 {
        let word = u32_at(words, group);
        out.scales[group] = d * (0.5 + (word >> 28) as f32) * 0.5;
        for j in 0..4 {
            let eight = 4 * group + j;
            let pair = [indices[2 * eight], indices[2 * eight + 1]].map(|i| GRID_IQ3_XXS[usize::from(i)]);
            put(out, eight, pair.as_flattened(), signs((word >> (7 * j)) as u8));
        }
    }
}

pub(super) fn iq3_s(block: &[u8], out: &mut Unpacked) {
    let (d, low, ninth, signs, scales) =
        (f16_at(block, 0), &block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for group in 0..8 {
        out.scales[group] = d * f32::from(2 * field(scales, 4, group) + 1);
    }
    for (eight, &signs) in signs.iter().enumerate() {
        let index = |i: usize| usize::from(low[i]) | usize::from(field(ninth, 1, i)) << 8;
        let pair = [2 * eight, 2 * eight + 1].map(|i| GRID_IQ3_S[index(i)]);
        put(out, eight, pair.as_flattened(), signs);
    }
}

pub(super) fn iq4_nl(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    for i in 0..32 {
        out.codes[i] = IQ4_VALUES[usize::from(nibble(&block[2..], i))];
    }
}

pub(super) fn iq4_xs(block: &[u8], out: &mut Unpacked) {
    let (d, high, low, codes) = (f16_at(block, 0), &block[2..4], &block[4..8], &block[8..]);
    for group in 0..8 {
        let scale = field(low, 4, group) | field(high, 2, group) << 4;
        out.scales[group] = d * f32::from(scale as i8 - 32);
        for i in 0..32 {
            out.codes[32 * group + i] = IQ4_VALUES[usize::from(nibble(&codes[16 * group..], i))];
        }
    }
}

/// Sixteen 4-bit scales of IQ2_XS and IQ2_S.
fn two_bit_scales(d: f32, scales: &[u8], out: &mut Unpacked) {
    for group in 0..16 {
        out.scales[group] = d * (0.5 + f32::from(field(scales, 4, group))) * 0.25;
    }
}

/// Eight values; bit i of `signs` makes value i negative.
fn put(out: &mut Unpacked, eight: usize, values: &[i8], signs: u8) {
    for (i, (code, &value)) in out.codes[8 * eight..][..8].iter_mut().zip(values).enumerate() {
        *code = if signs >> i & 1 == 0 { value } else { -value };
    }
}

/// Eight times a point of the one-bit grid, shifted up or down by one.
fn put_shifted(out: &mut Unpacked, eight: usize, index: u16, down: bool) {
    let shift = if down { -1 } else { 1 };
    for (code, &value) in out.codes[8 * eight..][..8].iter_mut().zip(&GRID_IQ1[usize::from(index)]) {
        *code = 8 * value + shift;
    }
}
