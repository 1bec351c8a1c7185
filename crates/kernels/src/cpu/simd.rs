//! Sixteen lanes of f32: what every SIMD level provides, so that each float kernel is written once.

use flashmill_layout::minifloat;

use super::affine::{AffineRows, Blocked, Dealt, Output, PANEL, QuantizedRow};
use super::ggml::{Fast, GgmlRows};
use super::scalar::Scalar;

/// A piece of work that is compiled for every level.
///
/// `run` and all generic functions below it must be `#[inline(always)]`: they take on the instruction set of
/// [`Simd::vectorize`] by being inlined into it.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set; a value of the type proves that the CPU has it.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen lanes of f32.
    type F: Copy;

    /// Whether some 24 of `F` fit into registers.
    const WIDE: bool;

    /// Rows of activations from which on [`Simd::affine_blocked`] is used.
    const BLOCKED_FROM: usize;

    /// Runs `kernel`, compiled with this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; 16]) -> Self::F;
    fn store(self, lanes: Self::F, to: &mut [f32; 16]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where `a > b`, else `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `a < b`, else `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// The maximum of the bit patterns as signed integers.
    fn max_bits(self, a: Self::F, b: Self::F) -> Self::F;
    /// The maximum over the lanes of the bit patterns as signed integers.
    fn max_bits_across(self, a: Self::F) -> u32;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` rounded once, for integers `n` in [-151, 129].
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F;
    /// The fixed tree of docs/NUMERICS.md.
    fn tree(self, a: Self::F) -> f32;
    /// Sixteen trees: lane i is the tree of `a[i]`.
    fn trees(self, a: &[Self::F; 16]) -> Self::F;

    fn load_bf16(self, from: &[u8; 32]) -> Self::F;
    fn load_f16(self, from: &[u8; 32]) -> Self::F;
    fn load_i8(self, from: &[u8; 16]) -> Self::F;
    /// The exact values of sixteen E4M3 codes.
    #[inline(always)]
    fn load_e4m3(self, from: &[u8; 16]) -> Self::F {
        self.load(&from.map(minifloat::e4m3))
    }
    /// Rounded to nearest even.
    fn store_f16(self, lanes: Self::F, to: &mut [u8; 32]);
    /// Rounded to nearest even; NaN becomes any value.
    fn store_i16(self, lanes: Self::F, to: &mut [i16; 16]);

    /// How the activations for codes of `bits` bits are dealt.
    fn dealt(self, bits: u8, blocked: bool) -> Dealt;

    /// Deals one block.
    #[inline(always)]
    fn deal(self, dealt: Dealt, from: &[i16], to: &mut [i16]) {
        dealt.deal(from, to);
    }

    /// Eight pairs of words of each row of a panel, pair by pair: `to[PANEL * i + row] = rows[row][i]`.
    #[inline(always)]
    fn interleave(self, rows: [&[[i16; 2]; 8]; PANEL], to: &mut [i32; 8 * PANEL]) {
        for i in 0..8 {
            for row in 0..PANEL {
                let [low, high] = rows[row][i];
                to[PANEL * i + row] = i32::from(low) & 0xffff | i32::from(high) << 16;
            }
        }
    }

    /// `y = W x` for neighbouring rows of a quantised matrix.
    fn affine_rows(self, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]);

    /// The same for several rows of activations at once, unpacking each weight once.
    ///
    /// # Safety
    /// `y`'s columns are this thread's own.
    unsafe fn affine_blocked(self, w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output);

    /// `y = W x` for neighbouring rows of a matrix in blocks, `x` in plain order: Scalar's.
    #[inline(always)]
    fn ggml_rows(self, w: &GgmlRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        for (row, y) in y.iter_mut().enumerate() {
            *y = Scalar.tree(w.accumulate(row, x));
        }
    }

    /// Rows of activations from which on [`Simd::ggml_blocked`] is used.
    const GGML_BLOCKED_FROM: usize = usize::MAX;
    /// How their activations are dealt, before they come into panels.
    const GGML_BLOCKED_DEALT: Dealt = Dealt::Words(1);

    /// How the activations for fast products with units of `unit` values are dealt.
    #[inline(always)]
    fn ggml_dealt(self, _unit: usize) -> Dealt {
        Dealt::Words(1)
    }

    /// `y = W x` for a type that has a fast product, `x` dealt as [`Simd::ggml_dealt`] says. Levels without [`super::ggml::Bytes`]
    /// use Scalar's.
    #[inline(always)]
    fn ggml_fast<T: Fast>(self, w: &GgmlRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        self.ggml_rows(w, x, y);
    }

    /// The same for several rows of activations at once, dealt as [`Simd::GGML_BLOCKED_DEALT`] says.
    ///
    /// # Safety
    /// `y`'s columns are this thread's own.
    unsafe fn ggml_blocked<T: Fast>(
        self,
        w: &GgmlRows<'_>,
        x: &Blocked<'_>,
        _scratch: &mut [i32],
        _y: Output,
    ) {
        unreachable!("{} rows of {} by {}: never blocked at this level", w.n_rows(), w.ty, x.n_rows());
    }

    /// Up to 16 values; the other lanes are `fill`.
    #[inline(always)]
    fn load_part(self, from: &[f32], fill: f32) -> Self::F {
        let mut lanes = [fill; 16];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// The first sixteen values, or all there are and then zeros.
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> Self::F {
        match from.first_chunk() {
            Some(whole) => self.load(whole),
            None => self.load_part(from, 0.0),
        }
    }

    /// The reverse of [`Simd::load_some`].
    #[inline(always)]
    fn store_some(self, lanes: Self::F, to: &mut [f32]) {
        match to.first_chunk_mut() {
            Some(whole) => self.store(lanes, whole),
            None => self.store_part(lanes, to),
        }
    }

    /// The first `to.len()` lanes.
    #[inline(always)]
    fn store_part(self, lanes: Self::F, to: &mut [f32]) {
        let mut all = [0.0; 16];
        self.store(lanes, &mut all);
        to.copy_from_slice(&all[..to.len()]);
    }
}

/// The tree of sum `acc[i % 16] = fma(a[i], b[i], acc[i % 16])`.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "a dot product of equal lengths");
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut acc = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        acc = s.fma(s.load(a), s.load(b), acc);
    }
    if !a_rest.is_empty() {
        acc = s.fma(s.load_part(a_rest, 0.0), s.load_part(b_rest, 0.0), acc);
    }
    s.tree(acc)
}

/// `values[i] = f(values[i])`, sixteen at a time: `map!(s, values, |x| s.mul(x, x))`. A macro, because a closure is not sure to be inlined, and
/// would then be compiled without the instruction set.
macro_rules! map {
    ($s:expr, $values:expr, |$x:ident| $f:expr) => {
        for chunk in $values.chunks_mut(16) {
            let $x = $s.load_some(chunk);
            let result = $f;
            $s.store_some(result, chunk);
        }
    };
}

/// `values[i] = f(values[i], a[i], ..)`, sixteen at a time: `zip!(s, values, a, |x, a| s.mul(x, a))`.
macro_rules! zip {
    ($s:expr, $values:expr, $a:expr, |$x:ident, $y:ident| $f:expr) => {
        assert_eq!($values.len(), $a.len(), "as many values on both sides");
        for (chunk, a) in $values.chunks_mut(16).zip($a.chunks(16)) {
            let ($x, $y) = ($s.load_some(chunk), $s.load_some(a));
            let result = $f;
            $s.store_some(result, chunk);
        }
    };
    ($s:expr, $values:expr, $a:expr, $b:expr, |$x:ident, $y:ident, $z:ident| $f:expr) => {
        assert!($values.len() == $a.len() && $values.len() == $b.len(), "as many values on all sides");
        for ((chunk, a), b) in $values.chunks_mut(16).zip($a.chunks(16)).zip($b.chunks(16)) {
            let ($x, $y, $z) = ($s.load_some(chunk), $s.load_some(a), $s.load_some(b));
            let result = $f;
            $s.store_some(result, chunk);
        }
    };
}

pub(crate) use {map, zip};
