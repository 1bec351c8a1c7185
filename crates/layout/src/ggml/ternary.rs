//! Blocks of 256 values -1, 0 and 1 with one scale:
//!
//! ```text
//! TQ1_0  48 bytes: five codes each | 4 bytes: four codes each | d: f16
//! TQ2_0  64 bytes: four codes each | d: f16
//! ```
//!
//! A byte of TQ1_0 is a fraction in base 3: multiplied by 3^n, modulo 256, its first digit is digit n of the number. TQ2_0 is laid
//! out like the codes of Q2_K.

use super::{Unpacked, f16_at, field};

pub(super) fn tq1_0(block: &[u8], out: &mut Unpacked) {
    out.scales[..8].fill(f16_at(block, 52));
    // Runs of 32, 16 and 4 bytes: digit 0 of every byte of the run, then digit 1 of every byte, ...
    let mut codes = out.codes.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for digit in 0..digits {
            for byte in bytes {
                let fraction = byte.wrapping_mul(3u8.pow(digit));
                *codes.next().expect("160 + 80 + 16 codes") = ((u16::from(fraction) * 3) >> 8) as i8 - 1;
            }
        }
    }
}

pub(super) fn tq2_0(block: &[u8], out: &mut Unpacked) {
    out.scales[..8].fill(f16_at(block, 64));
    for (i, code) in out.codes.iter_mut().enumerate() {
        let (plane, i) = (i / 128, i % 128);
        *code = field(&block[32 * plane + i % 32..], 2, i / 32) as i8 - 1;
    }
}
