//! The K quants: blocks of 256 values with small integer scales for groups of 16 or 32, themselves scaled by `d`.
//!
//! ```text
//! Q2_K  16 bytes: scale and min, 4 bits each | 64 bytes: 2-bit codes | d: f16 | dmin: f16
//! Q3_K  32 bytes: third bits | 64 bytes: 2-bit codes | 12 bytes: 6-bit scales | d: f16
//! Q4_K  d: f16 | dmin: f16 | 12 bytes: 6-bit scales and mins | 128 bytes: 4-bit codes
//! Q5_K  d: f16 | dmin: f16 | 12 bytes: 6-bit scales and mins | 32 bytes: fifth bits | 128 bytes: 4-bit codes
//! Q6_K  128 bytes: 4-bit codes | 64 bytes: upper two bits | 16 bytes: signed scales | d: f16
//! ```
//!
//! Codes lie in planes of 32 bytes (Q6_K: 64 for the low bits): byte i of a plane holds the codes of values i, i + 32, ...,
//! lowest bits first. With mins, `w = d * scale * code - dmin * min`.

use super::{Unpacked, f16_at};

/// Values of a block.
const N: usize = 256;

pub(super) fn q2_k(block: &[u8], out: &mut Unpacked) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (group, &scale) in scales.iter().enumerate() {
        out.scales[group] = d * f32::from(scale & 15);
        out.offsets[group] = -(dmin * f32::from(scale >> 4));
    }
    for i in 0..N {
        out.codes[i] = plane_code(codes, 2, i) as i8;
    }
}

pub(super) fn q3_k(block: &[u8], out: &mut Unpacked) {
    let (third_bits, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = f16_at(block, 108);
    for group in 0..16 {
        // The low four bits of scales 0..8 and 8..16 are the halves of the first eight bytes; the upper two bits of all
        // sixteen are fields of the last four, bytes before fields.
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        out.scales[group] = d * f32::from((low | high << 4) as i8 - 32);
    }
    for i in 0..N {
        // A third bit that is *not* set takes 4 away.
        let third = third_bits[i % 32] >> (i / 32) & 1;
        out.codes[i] = plane_code(codes, 2, i) as i8 - 4 * (1 - third as i8);
    }
}

pub(super) fn q4_k(block: &[u8], out: &mut Unpacked) {
    scales_and_mins(block, out);
    for i in 0..N {
        out.codes[i] = plane_code(&block[16..], 4, i) as i8;
    }
}

pub(super) fn q5_k(block: &[u8], out: &mut Unpacked) {
    scales_and_mins(block, out);
    let (fifth_bits, codes) = (&block[16..48], &block[48..]);
    for i in 0..N {
        let fifth = fifth_bits[i % 32] >> (i / 32) & 1;
        out.codes[i] = (plane_code(codes, 4, i) | fifth << 4) as i8;
    }
}

pub(super) fn q6_k(block: &[u8], out: &mut Unpacked) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (group, &scale) in scales.iter().enumerate() {
        out.scales[group] = d * f32::from(scale as i8);
    }
    for i in 0..N {
        // Each half of 128 values has 64 bytes of low bits: values j and j + 64 share byte j.
        let (half, j) = (i / 128, i % 128);
        let code = low[64 * half + j % 64] >> (4 * (j / 64)) & 15 | plane_code(high, 2, i) << 4;
        out.codes[i] = code as i8 - 32;
    }
}

/// The code of value `i` among planes of 32 bytes with `8 / bits` codes a byte.
fn plane_code(planes: &[u8], bits: usize, i: usize) -> u8 {
    let per_plane = 32 * 8 / bits;
    let byte = planes[i / per_plane * 32 + i % 32];
    byte >> (bits * (i % per_plane / 32)) & ((1 << bits) - 1)
}

/// The head of Q4_K and Q5_K: `d`, `dmin`, and eight 6-bit pairs of scale and min in 12 bytes.
///
/// Bytes 0..4 hold scales 0..4 and bytes 4..8 mins 0..4 in their low six bits, with the upper two bits of scales and mins 4..8
/// above them; bytes 8..12 hold the low four bits of scales (low half) and mins (high half) 4..8.
fn scales_and_mins(block: &[u8], out: &mut Unpacked) {
    let (d, dmin, packed) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let low = packed[group + 4];
            (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
        };
        out.scales[group] = d * f32::from(scale);
        out.offsets[group] = -(dmin * f32::from(min));
    }
}
