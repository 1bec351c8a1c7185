//! Dealing activations to planes of bytes.

use std::arch::aarch64::*;

/// [`super::super::affine::Dealt::Bytes`] of `N` pairs: sixteen bytes of each plane at a time.
///
/// # Safety
/// Both slices have `64 * N` values.
#[inline(always)]
pub(super) unsafe fn bytes<const N: usize>(from: &[i16], to: &mut [i16]) {
    let to: *mut i8 = to.as_mut_ptr().cast();
    // SAFETY: sixteen bytes of each of the `2 * N` planes of 64 bytes take `16 * N` values.
    unsafe {
        for run in 0..4 {
            let fields = fields::<N>(from.as_ptr().add(16 * N * run));
            for (j, words) in fields.into_iter().take(N).enumerate() {
                split(words, to.add(128 * j + 16 * run));
            }
        }
    }
}

/// [`super::super::affine::Dealt::ByteRuns`] of `n` pairs.
///
/// # Safety
/// Both slices have `64 * n` values.
#[inline(always)]
pub(super) unsafe fn byte_runs(n: usize, from: &[i16], to: &mut [i16]) {
    let to: *mut i8 = to.as_mut_ptr().cast();
    // SAFETY: run `r` of sixteen words becomes sixteen bytes of both planes of pair `r % n`.
    unsafe {
        for run in 0..4 * n {
            let from = from.as_ptr().add(16 * run);
            let words = [vld1q_s16(from), vld1q_s16(from.add(8))];
            split(words, to.add(128 * (run % n) + 16 * (run / n)));
        }
    }
}

/// Sixteen words to `to` in the high plane of a pair, and in the low one behind it.
///
/// # Safety
/// There is the pair from `to` on.
#[inline(always)]
unsafe fn split([a, b]: [int16x8_t; 2], to: *mut i8) {
    // SAFETY: sixteen bytes are written to each plane of 64.
    unsafe {
        let low = vuzp1q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b));
        let (a, b) = (vaddq_s16(a, vdupq_n_s16(128)), vaddq_s16(b, vdupq_n_s16(128)));
        let high = vuzp2q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b));
        vst1q_s8(to, high);
        vst1q_s8(to.add(64), low);
    }
}

/// Values `N * l + j` for `l` from 0 to 15, for each `j` below `N`.
///
/// # Safety
/// There are `16 * N` values.
#[inline(always)]
unsafe fn fields<const N: usize>(from: *const i16) -> [[int16x8_t; 2]; 8] {
    // SAFETY: by the caller.
    unsafe {
        let mut fields = [[vdupq_n_s16(0); 2]; 8];
        for half in 0..2 {
            let from = from.add(8 * N * half);
            match N {
                1 => fields[0][half] = vld1q_s16(from),
                2 => {
                    let two = vld2q_s16(from);
                    (fields[0][half], fields[1][half]) = (two.0, two.1);
                }
                4 => {
                    let four = vld4q_s16(from);
                    let four = [four.0, four.1, four.2, four.3];
                    for j in 0..4 {
                        fields[j][half] = four[j];
                    }
                }
                _ => {
                    // Each fourth value: field j and field 4 + j by turns.
                    let (a, b) = (vld4q_s16(from), vld4q_s16(from.add(32)));
                    let (a, b) = ([a.0, a.1, a.2, a.3], [b.0, b.1, b.2, b.3]);
                    for j in 0..4 {
                        fields[j][half] = vuzp1q_s16(a[j], b[j]);
                        fields[4 + j][half] = vuzp2q_s16(a[j], b[j]);
                    }
                }
            }
        }
        fields
    }
}
