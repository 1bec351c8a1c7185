//! Products with BF16, F16 and F32 weights.

use flashmill_layout::Float;

use super::affine::Output;
use super::simd::{Kernel, Simd};

/// `y = W x` for neighbouring rows of a float matrix and some rows of activations.
pub(crate) struct FloatProduct<'a, X> {
    pub(crate) float: Float,
    pub(crate) cols: usize,
    /// The rows' bytes.
    pub(crate) w: &'a [u8],
    /// Rows of activations.
    pub(crate) n_x: usize,
    /// Row `i` of the activations.
    pub(crate) x: X,
    /// This thread's own columns of `y`.
    pub(crate) y: Output,
}

impl<'a, X: Fn(usize) -> &'a [f32]> Kernel for FloatProduct<'_, X> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.float {
            Float::F32 => self.product::<S, F32>(s),
            Float::F16 => self.product::<S, F16>(s),
            Float::BF16 => self.product::<S, BF16>(s),
        }
    }
}

/// Rows of weights that stay in the cache while all activations pass.
const CACHED_ROWS: usize = 32;

impl<'a, X: Fn(usize) -> &'a [f32]> FloatProduct<'_, X> {
    #[inline(always)]
    fn product<S: Simd, W: Weight>(&self, s: S) {
        let n_rows = self.w.len() / (self.cols * W::BYTES);
        for first in (0..n_rows).step_by(CACHED_ROWS) {
            let last = (first + CACHED_ROWS).min(n_rows);
            let mut x = 0;
            if S::WIDE {
                while self.n_x - x >= 4 {
                    self.band::<S, W, 4, 4>(s, first, last, x);
                    x += 4;
                }
                while self.n_x - x >= 1 {
                    self.band::<S, W, 8, 1>(s, first, last, x);
                    x += 1;
                }
            } else {
                while self.n_x - x >= 2 {
                    self.band::<S, W, 2, 2>(s, first, last, x);
                    x += 2;
                }
                while self.n_x - x >= 1 {
                    self.band::<S, W, 4, 1>(s, first, last, x);
                    x += 1;
                }
            }
        }
    }

    /// Rows `first..last` of the weights with `N` rows of activations from `x` on.
    #[inline(always)]
    fn band<S: Simd, W: Weight, const M: usize, const N: usize>(
        &self,
        s: S,
        first: usize,
        last: usize,
        x: usize,
    ) {
        let mut row = first;
        while last - row >= M {
            self.tile::<S, W, M, N>(s, row, x);
            row += M;
        }
        while row < last {
            self.tile::<S, W, 1, N>(s, row, x);
            row += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, W: Weight, const M: usize, const N: usize>(&self, s: S, row: usize, first_x: usize) {
        let bytes = self.cols * W::BYTES;
        let w: [&[u8]; M] = std::array::from_fn(|m| &self.w[(row + m) * bytes..][..bytes]);
        let x: [&[f32]; N] = std::array::from_fn(|n| &(self.x)(first_x + n)[..self.cols]);
        let mut acc = [[s.splat(0.0); N]; M];
        let whole = self.cols / 16;
        for i in 0..whole {
            let x: [S::F; N] =
                std::array::from_fn(|n| s.load(x[n][16 * i..].first_chunk().expect("16 values")));
            for m in 0..M {
                let w = W::load(s, &w[m][16 * i * W::BYTES..][..16 * W::BYTES]);
                for n in 0..N {
                    acc[m][n] = s.fma(w, x[n], acc[m][n]);
                }
            }
        }
        let rest = self.cols % 16;
        if rest != 0 {
            for m in 0..M {
                let mut lanes = [0u8; 64];
                lanes[..rest * W::BYTES].copy_from_slice(&w[m][16 * whole * W::BYTES..]);
                let w = W::load(s, &lanes[..16 * W::BYTES]);
                for n in 0..N {
                    acc[m][n] = s.fma(w, s.load_part(&x[n][16 * whole..], 0.0), acc[m][n]);
                }
            }
        }
        for n in 0..N {
            // SAFETY: the columns of `y` are this thread's own.
            let y = unsafe { self.y.row(first_x + n, row, M) };
            for (y, acc) in y.iter_mut().zip(&acc) {
                *y = s.tree(acc[n]);
            }
        }
    }
}

/// A type of weights.
trait Weight {
    const BYTES: usize;
    /// Sixteen weights.
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F;
}

struct F32;
struct F16;
struct BF16;

impl Weight for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        let (values, _) = from.as_chunks::<4>();
        s.load(&std::array::from_fn(|i| f32::from_le_bytes(values[i])))
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.load_f16(from.first_chunk().expect("16 values"))
    }
}

impl Weight for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.load_bf16(from.first_chunk().expect("16 values"))
    }
}
