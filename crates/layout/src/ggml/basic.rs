//! Blocks of 32 values with one scale:
//!
//! ```text
//! Q4_0  d: f16 | 16 bytes                       w = d * (code - 8)
//! Q4_1  d: f16 | m: f16 | 16 bytes              w = d * code + m
//! Q5_0  d: f16 | fifth bits: u32 | 16 bytes     w = d * (code - 16)
//! Q5_1  d: f16 | m: f16 | fifth bits | 16 bytes w = d * code + m
//! Q8_0  d: f16 | 32 bytes                       w = d * code
//! ```
//!
//! Byte i holds the code of value i in its low half and that of value i + 16 in its high half.

use super::{Unpacked, f16_at, u32_at};

/// Values of a block.
const N: usize = 32;

pub(super) fn q4_0(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    for i in 0..N {
        out.codes[i] = nibble(&block[2..], i) as i8 - 8;
    }
}

pub(super) fn q4_1(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    out.offsets[0] = f16_at(block, 2);
    for i in 0..N {
        out.codes[i] = nibble(&block[4..], i) as i8;
    }
}

pub(super) fn q5_0(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    for i in 0..N {
        out.codes[i] = five_bits(&block[2..], i) - 16;
    }
}

pub(super) fn q5_1(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    out.offsets[0] = f16_at(block, 2);
    for i in 0..N {
        out.codes[i] = five_bits(&block[4..], i);
    }
}

pub(super) fn q8_0(block: &[u8], out: &mut Unpacked) {
    out.scales[0] = f16_at(block, 0);
    for i in 0..N {
        out.codes[i] = block[2 + i] as i8;
    }
}

/// Code `i` of 16 bytes of halves: the low halves come first.
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i % 16] >> (4 * (i / 16)) & 15
}

/// Code `i` of four bytes of fifth bits and 16 bytes of halves.
fn five_bits(bytes: &[u8], i: usize) -> i8 {
    let fifth = u32_at(bytes, 0) >> i & 1;
    (nibble(&bytes[4..], i) | (fifth as u8) << 4) as i8
}
