//! Dealing activations to planes: the fields of wider lanes, narrowed.

use std::arch::x86_64::*;

/// [`super::super::affine::Dealt::Words`] of `N` planes: field `j` of each lane of `16 * N` bits.
///
/// # Safety
/// The CPU has what [`super::Avx512`] proves; both slices have `32 * N` values.
#[inline(always)]
pub(super) unsafe fn words<const N: usize>(from: &[i16], to: &mut [i16]) {
    // SAFETY: register `i` of `N` gives `32 / N` words to each of the `N` planes.
    unsafe {
        for i in 0..N {
            let lanes = _mm512_loadu_si512(from.as_ptr().add(32 * i).cast());
            for j in 0..N {
                let to = to.as_mut_ptr().add(32 * j + 32 / N * i);
                match N {
                    2 => _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(down::<N>(lanes, j))),
                    _ => _mm_storeu_si128(to.cast(), _mm512_cvtepi64_epi16(down::<N>(lanes, j))),
                }
            }
        }
    }
}

/// [`super::super::affine::Dealt::Bytes`] of `N` pairs: field `j` of each lane of `16 * N` bits, its high and its low byte.
///
/// # Safety
/// The CPU has what [`super::Avx512`] proves; both slices have `64 * N` values.
#[inline(always)]
pub(super) unsafe fn bytes<const N: usize>(from: &[i16], to: &mut [i16]) {
    // SAFETY: register `i` of `2 * N` gives `32 / N` bytes to each of the `2 * N` planes of 64 bytes.
    unsafe {
        let to: *mut u8 = to.as_mut_ptr().cast();
        for i in 0..2 * N {
            let low = _mm512_loadu_si512(from.as_ptr().add(32 * i).cast());
            let high = _mm512_srai_epi16::<8>(_mm512_add_epi16(low, _mm512_set1_epi16(128)));
            for j in 0..N {
                let pair = to.add(128 * j + 32 / N * i);
                for (plane, lanes) in [(pair, high), (pair.add(64), low)] {
                    let field = down::<N>(lanes, j);
                    match N {
                        1 => _mm256_storeu_si256(plane.cast(), _mm512_cvtepi16_epi8(field)),
                        2 => _mm_storeu_si128(plane.cast(), _mm512_cvtepi32_epi8(field)),
                        _ => _mm_storel_epi64(plane.cast(), _mm512_cvtepi64_epi8(field)),
                    }
                }
            }
        }
    }
}

/// [`super::super::affine::Dealt::ByteRuns`] of `n` pairs.
///
/// # Safety
/// The CPU has what [`super::Avx512`] proves; both slices have `64 * n` values.
#[inline(always)]
pub(super) unsafe fn byte_runs(n: usize, from: &[i16], to: &mut [i16]) {
    // SAFETY: run `r` of sixteen words becomes sixteen bytes of both planes of pair `r % n`.
    unsafe {
        let to: *mut u8 = to.as_mut_ptr().cast();
        for run in 0..4 * n {
            let low = _mm256_loadu_si256(from.as_ptr().add(16 * run).cast());
            let high = _mm256_srai_epi16::<8>(_mm256_add_epi16(low, _mm256_set1_epi16(128)));
            let pair = to.add(128 * (run % n) + 16 * (run / n));
            _mm_storeu_si128(pair.cast(), _mm256_cvtepi16_epi8(high));
            _mm_storeu_si128(pair.add(64).cast(), _mm256_cvtepi16_epi8(low));
        }
    }
}

/// Word `j` of each lane of `16 * N` bits, moved to the bottom.
#[inline(always)]
unsafe fn down<const N: usize>(lanes: __m512i, j: usize) -> __m512i {
    // SAFETY: the CPU's features, by the caller.
    unsafe {
        match (N, j) {
            (_, 0) => lanes,
            (2, _) => _mm512_srli_epi32::<16>(lanes),
            (_, 1) => _mm512_srli_epi64::<16>(lanes),
            (_, 2) => _mm512_srli_epi64::<32>(lanes),
            _ => _mm512_srli_epi64::<48>(lanes),
        }
    }
}
