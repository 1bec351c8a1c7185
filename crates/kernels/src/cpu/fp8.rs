//! Products with FP8 weights: E4M3 codes, a scale for each block of 128 x 128. docs/NUMERICS.md has the arithmetic.

use std::ops::Range;

use flashmill_layout::{FP8_BLOCK, Float, MatrixView};

use super::affine::Output;
use super::simd::{Kernel, Simd};

/// Rows of activations that share a decoded block of weights.
const PANEL: usize = 16;

/// `y = W x` for neighbouring rows of an FP8 matrix and some rows of activations.
pub(crate) struct Fp8Product<'a, X> {
    /// The type of the scales.
    pub(crate) scales: Float,
    /// The whole matrix: rows share their scales with rows of other threads.
    pub(crate) w: &'a MatrixView<'a>,
    /// The rows to compute.
    pub(crate) rows: Range<usize>,
    /// Rows of activations.
    pub(crate) n_x: usize,
    /// Row `i` of the activations.
    pub(crate) x: X,
    /// This thread's own columns of `y`, the first of which belongs to the first of `rows`.
    pub(crate) y: Output,
}

impl<'a, X: Fn(usize) -> &'a [f32]> Kernel for Fp8Product<'_, X> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.n_x, S::WIDE) {
            (1, _) => self.one(s),
            (_, true) => self.panels::<S, 4, 4>(s),
            (_, false) => self.panels::<S, 2, 2>(s),
        }
    }
}

impl<'a, X: Fn(usize) -> &'a [f32]> Fp8Product<'_, X> {
    /// All rows of the weights with the only row of activations, three at a time and far apart as in the products with floats.
    #[inline(always)]
    fn one<S: Simd>(&self, s: S) {
        let apart = self.rows.len() / 3;
        for row in self.rows.start..self.rows.start + apart {
            self.row_tile::<S, 3>(s, [row, row + apart, row + 2 * apart]);
        }
        for row in self.rows.start + 3 * apart..self.rows.end {
            self.row_tile::<S, 1>(s, [row]);
        }
    }

    #[inline(always)]
    fn row_tile<S: Simd, const M: usize>(&self, s: S, rows: [usize; M]) {
        let x = &(self.x)(0)[..self.w.shape.cols];
        let w = rows.map(|row| self.w.row(row));
        let mut acc = [s.splat(0.0); M];
        for (block, x) in x.chunks(FP8_BLOCK).enumerate() {
            let first = block * FP8_BLOCK;
            let codes: [&[u8]; M] = std::array::from_fn(|m| &w[m][0][first..][..x.len()]);
            let mut sums = [s.splat(0.0); M];
            let (whole, rest) = x.as_chunks::<16>();
            for (i, x) in whole.iter().enumerate() {
                let x = s.load(x);
                for m in 0..M {
                    let w = s.load_e4m3(codes[m][16 * i..].first_chunk().expect("16 codes"));
                    sums[m] = s.fma(w, x, sums[m]);
                }
            }
            if !rest.is_empty() {
                let x = s.load_part(rest, 0.0);
                for m in 0..M {
                    sums[m] = s.fma(load_rest(s, &codes[m][16 * whole.len()..]), x, sums[m]);
                }
            }
            for m in 0..M {
                acc[m] = s.fma(sums[m], s.splat(self.scales.get(w[m][1], block)), acc[m]);
            }
        }
        for m in 0..M {
            self.put(s, rows[m], 0, acc[m]);
        }
    }

    /// Several rows of activations: `M` rows of a block are decoded once for [`PANEL`] of them.
    #[inline(always)]
    fn panels<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let whole = self.rows.len() / M * M;
        for row in (self.rows.start..self.rows.start + whole).step_by(M) {
            for x in (0..self.n_x).step_by(PANEL) {
                self.panel::<S, M, N>(s, std::array::from_fn(|m| row + m), x);
            }
        }
        for row in self.rows.start + whole..self.rows.end {
            for x in (0..self.n_x).step_by(PANEL) {
                self.panel::<S, 1, N>(s, [row], x);
            }
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const M: usize, const N: usize>(&self, s: S, rows: [usize; M], first_x: usize) {
        let n_x = PANEL.min(self.n_x - first_x);
        let w = rows.map(|row| self.w.row(row));
        let cols = self.w.shape.cols;
        let mut acc = [[s.splat(0.0); PANEL]; M];
        let mut values = [[0.0; FP8_BLOCK]; M];
        for (block, first) in (0..cols).step_by(FP8_BLOCK).enumerate() {
            let range = first..(first + FP8_BLOCK).min(cols);
            for m in 0..M {
                decode(s, &w[m][0][range.clone()], &mut values[m]);
            }
            let scales = w.map(|row| s.splat(self.scales.get(row[1], block)));
            let mut x = 0;
            while n_x - x >= N {
                self.tile::<S, M, N>(s, &values, range.clone(), scales, (first_x, x), &mut acc);
                x += N;
            }
            for x in x..n_x {
                self.tile::<S, M, 1>(s, &values, range.clone(), scales, (first_x, x), &mut acc);
            }
        }
        for m in 0..M {
            for (x, &lanes) in acc[m][..n_x].iter().enumerate() {
                self.put(s, rows[m], first_x + x, lanes);
            }
        }
    }

    /// Adds one block of `M` rows of weights with `N` rows of activations, the first of which is `x` of the panel from `first_x` on.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        values: &[[f32; FP8_BLOCK]; M],
        cols: Range<usize>,
        scales: [S::F; M],
        (first_x, x): (usize, usize),
        acc: &mut [[S::F; PANEL]; M],
    ) {
        let inputs: [&[f32]; N] = std::array::from_fn(|n| &(self.x)(first_x + x + n)[cols.clone()]);
        let mut sums = [[s.splat(0.0); N]; M];
        for i in (0..cols.len()).step_by(16) {
            let lanes: [S::F; N] = std::array::from_fn(|n| s.load_some(&inputs[n][i..]));
            for m in 0..M {
                let w = s.load(values[m][i..].first_chunk().expect("16 values"));
                for n in 0..N {
                    sums[m][n] = s.fma(w, lanes[n], sums[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                acc[m][x + n] = s.fma(sums[m][n], scales[m], acc[m][x + n]);
            }
        }
    }

    #[inline(always)]
    fn put<S: Simd>(&self, s: S, row: usize, x: usize, lanes: S::F) {
        // SAFETY: the columns of `y` are this thread's own.
        let y = unsafe { self.y.row(x, row - self.rows.start, 1) };
        y[0] = s.tree(lanes);
    }
}

/// The values of up to 128 codes, and zeros up to a multiple of sixteen.
#[inline(always)]
fn decode<S: Simd>(s: S, codes: &[u8], values: &mut [f32; FP8_BLOCK]) {
    let (to, _) = values.as_chunks_mut::<16>();
    let (whole, rest) = codes.as_chunks::<16>();
    for (codes, to) in whole.iter().zip(to.iter_mut()) {
        s.store(s.load_e4m3(codes), to);
    }
    if !rest.is_empty() {
        s.store(load_rest(s, rest), &mut to[whole.len()]);
    }
}

/// Fewer than sixteen codes, and zeros.
#[inline(always)]
fn load_rest<S: Simd>(s: S, codes: &[u8]) -> S::F {
    let mut all = [0; 16];
    all[..codes.len()].copy_from_slice(codes);
    s.load_e4m3(&all)
}

#[cfg(test)]
mod tests {
    use flashmill_layout::{Encoding, MatrixShape, minifloat};

    use super::super::{Cpu, CpuOptions, Level};
    use super::*;
    use crate::Backend;

    struct LoadAll;

    impl Kernel for LoadAll {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let codes: [[u8; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u8));
            let mut values = [[0.0; 16]; 16];
            for (codes, values) in codes.iter().zip(&mut values) {
                s.store(s.load_e4m3(codes), values);
            }
            values.concat()
        }
    }

    #[test]
    fn every_code_is_exact_at_every_level() {
        for level in Level::available() {
            for (code, value) in (0..=255u8).zip(level.run(LoadAll)) {
                let truth = minifloat::e4m3(code);
                let same = value.to_bits() == truth.to_bits() || (value.is_nan() && truth.is_nan());
                assert!(same, "{level}: code {code:#x} is {value:e} instead of {truth:e}");
            }
        }
    }

    /// The definition, as docs/NUMERICS.md writes it.
    fn defined(codes: &[u8], scales: &[f32], x: &[f32]) -> f32 {
        let mut acc = [0.0f32; 16];
        for (block, &scale) in scales.iter().enumerate() {
            let mut t = [0.0f32; 16];
            let end = x.len().min(128 * (block + 1));
            for i in 128 * block..end {
                t[i % 16] = minifloat::e4m3(codes[i]).mul_add(x[i], t[i % 16]);
            }
            for lane in 0..16 {
                acc[lane] = t[lane].mul_add(scale, acc[lane]);
            }
        }
        let b: Vec<f32> = (0..8).map(|i| acc[i] + acc[i + 8]).collect();
        let c: Vec<f32> = (0..4).map(|i| b[i] + b[i + 4]).collect();
        (c[0] + c[2]) + (c[1] + c[3])
    }

    #[test]
    fn products_follow_the_definition_to_the_bit() {
        let mut state = 2026u64;
        let mut bits = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for (rows, cols, n_x) in [
            (1, 1, 1),
            (3, 130, 1),
            (300, 320, 1),
            (131, 192, 3),
            (129, 16, 16),
            (7, 255, 33),
            (130, 384, 18),
        ] {
            let encoding = Encoding::Fp8 { scales: Float::F32 };
            let shape = MatrixShape { rows, cols, encoding };
            // All codes but the NaNs.
            let codes: Vec<u8> = (0..rows * cols)
                .map(|_| bits() as u8)
                .map(|c| if c & 0x7f == 0x7f { 0x35 } else { c })
                .collect();
            let wide = cols.div_ceil(128);
            let scales: Vec<f32> =
                (0..rows.div_ceil(128) * wide).map(|_| bits() as f32 / (1u64 << 31) as f32).collect();
            let x: Vec<f32> = (0..n_x * cols).map(|_| bits() as f32 / (1u64 << 30) as f32 - 1.0).collect();
            for level in Level::available() {
                let mut cpu = Cpu::new(CpuOptions { threads: 2, level: Some(level) }).unwrap();
                let w = cpu.matrix(shape);
                cpu.matrix_part(w, 0).copy_from_slice(&codes);
                let scale_bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                cpu.matrix_part(w, 1).copy_from_slice(&scale_bytes);
                let (input, y) = (cpu.buffer(x.len()), cpu.buffer(n_x * rows));
                cpu.write(input, 0, &x);
                cpu.linear(input, n_x, &[(w, y)]);
                let mut got = vec![0.0; n_x * rows];
                cpu.read(y, 0, &mut got);
                for (i, got) in got.iter().enumerate() {
                    let (row, x) = (i % rows, &x[i / rows * cols..][..cols]);
                    let truth = defined(&codes[row * cols..][..cols], &scales[row / 128 * wide..][..wide], x);
                    assert_eq!(got.to_bits(), truth.to_bits(), "{level}, {rows} x {cols}, value {i}");
                }
            }
        }
    }
}
