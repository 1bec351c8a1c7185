//! Products with BF16, F16 and F32 weights.

use std::ops::Range;

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
        if self.n_x == 1 {
            return self.one::<S, W>(s, n_rows);
        }
        for first in (0..n_rows).step_by(CACHED_ROWS) {
            let rows = first..(first + CACHED_ROWS).min(n_rows);
            let mut x = 0;
            if S::WIDE {
                while self.n_x - x >= 4 {
                    self.band::<S, W, 4, 4>(s, rows.clone(), x);
                    x += 4;
                }
            }
            while self.n_x - x >= 2 {
                self.band::<S, W, 2, 2>(s, rows.clone(), x);
                x += 2;
            }
            if x < self.n_x {
                self.band::<S, W, 4, 1>(s, rows, x);
            }
        }
    }

    /// All rows of the weights with the only row of activations. Three rows at a time keep the multipliers busy; they are far apart, as
    /// three neighbours would be read at half the speed (see the products with quantised weights).
    #[inline(always)]
    fn one<S: Simd, W: Weight>(&self, s: S, n_rows: usize) {
        let apart = n_rows / 3;
        for row in 0..apart {
            self.tile::<S, W, 3, 1>(s, [row, row + apart, row + 2 * apart], 0);
        }
        for row in 3 * apart..n_rows {
            self.tile::<S, W, 1, 1>(s, [row], 0);
        }
    }

    /// Rows `rows` of the weights with `N` rows of activations from `x` on.
    #[inline(always)]
    fn band<S: Simd, W: Weight, const M: usize, const N: usize>(&self, s: S, rows: Range<usize>, x: usize) {
        let whole = rows.len() / M * M;
        for row in (rows.start..rows.start + whole).step_by(M) {
            self.tile::<S, W, M, N>(s, std::array::from_fn(|m| row + m), x);
        }
        for row in rows.start + whole..rows.end {
            self.tile::<S, W, 1, N>(s, [row], x);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, W: Weight, const M: usize, const N: usize>(
        &self,
        s: S,
        rows: [usize; M],
        first_x: usize,
    ) {
        let bytes = self.cols * W::BYTES;
        let w: [&[u8]; M] = std::array::from_fn(|m| &self.w[rows[m] * bytes..][..bytes]);
        let x: [&[f32]; N] = std::array::from_fn(|n| &(self.x)(first_x + n)[..self.cols]);
        let mut acc = [[s.splat(0.0); N]; M];
        let whole = self.cols / 16;
        for i in 0..whole {
            let mut values = [s.splat(0.0); N];
            for n in 0..N {
                values[n] = s.load(x[n][16 * i..].first_chunk().expect("16 values"));
            }
            for m in 0..M {
                let w = W::load(s, &w[m][16 * i * W::BYTES..][..16 * W::BYTES]);
                for n in 0..N {
                    acc[m][n] = s.fma(w, values[n], acc[m][n]);
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
            for m in 0..M {
                // SAFETY: the columns of `y` are this thread's own.
                let y = unsafe { self.y.row(first_x + n, rows[m], 1) };
                y[0] = s.tree(acc[m][n]);
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
