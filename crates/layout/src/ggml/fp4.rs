//! Blocks of E2M1 codes with 8-bit scales:
//!
//! ```text
//! MXFP4  e: E8M0 | 16 bytes                  32 values, one scale
//! NVFP4  4 scales: unsigned E4M3 | 32 bytes  64 values, four groups of 16
//! ```
//!
//! The codes are held as twice their value, so that they are whole, and the scales are halved. The OCP Microscaling
//! specification 1.0 defines E2M1 and E8M0.

use super::{Unpacked, basic::nibble, field};
use crate::minifloat::{e4m3, e8m0};

/// Twice the value of each E2M1 code: sign, two bits of exponent, one of mantissa.
pub const FP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn mxfp4(block: &[u8], out: &mut Unpacked) {
    // GGML reads all 256 exponents as powers of two, the one that means NaN included.
    out.scales[0] = match block[0] {
        255 => 2f32.powi(127),
        exponent => e8m0(exponent) * 0.5,
    };
    for i in 0..32 {
        out.codes[i] = FP4_DOUBLED[usize::from(nibble(&block[1..], i))];
    }
}

pub(super) fn nvfp4(block: &[u8], out: &mut Unpacked) {
    for group in 0..4 {
        // The sign is ignored, and the code of NaN counts as zero when the sign is clear: as in ggml-impl.h.
        out.scales[group] = match block[group] {
            0x7f => 0.0,
            0xff => 240.0,
            code => e4m3(code & 0x7f) * 0.5,
        };
        let codes = &block[4 + 8 * group..][..8];
        for i in 0..16 {
            out.codes[16 * group + i] = FP4_DOUBLED[usize::from(field(&codes[i % 8..], 4, i / 8))];
        }
    }
}
