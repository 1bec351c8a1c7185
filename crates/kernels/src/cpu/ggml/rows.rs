//! The fast product of one row of activations, for every block type and level.
//!
//! Sixteen units, a *step*, are scaled at once. Their codes come as registers of 64 bytes whose quarters are *runs* of sixteen values:
//! units of 16 in plain order, units of 32 as two registers with the first and the second runs of four units. A register's sums
//! over its quarters are then those of four units, whatever the type.

use super::bytes::Bytes;
use super::{Fast, GgmlRows};
use crate::cpu::affine::QuantizedRow;

/// `y = W x` for neighbouring rows.
#[inline(always)]
pub(crate) fn rows<S: Bytes, T: Fast>(s: S, w: &GgmlRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
    assert_eq!(w.ty, T::TYPE, "the kernel is the type's");
    assert_eq!(w.n_rows(), y.len(), "W has as many rows as y has values");
    assert!(x.values.len() >= w.cols && x.dealt == s.ggml_dealt(T::UNIT), "x is quantised for W");
    // Two rows share the loads of the activations. They are far apart, as in the affine products.
    let distance = y.len() / 2;
    for row in 0..distance {
        let [a, b] = accumulate::<S, T>(s, w, x, [row, row + distance]);
        (y[row], y[row + distance]) = (s.tree(a), s.tree(b));
    }
    if y.len() > 2 * distance {
        let [a, _] = accumulate::<S, T>(s, w, x, [2 * distance; 2]);
        y[2 * distance] = s.tree(a);
    }
}

/// The sixteen accumulators of two rows.
#[inline(always)]
fn accumulate<S: Bytes, T: Fast>(s: S, w: &GgmlRows<'_>, x: QuantizedRow<'_>, rows: [usize; 2]) -> [S::F; 2] {
    let bytes = w.row_bytes();
    let [a, b] = rows.map(|row| &w.blocks[row * bytes..][..bytes]);
    let ((a, a_rest), (b, b_rest)) = (steps::<T>(a), steps::<T>(b));
    let x = Activations::new(x);
    let mut acc = [s.splat(0.0); 2];
    for i in 0..(w.cols / T::UNIT).div_ceil(16) {
        let x = x.step::<T>(i);
        let copies;
        let [a, b] = if i < a.len() {
            [&a[i], &b[i]]
        } else {
            // Units that do not exist have finite scales, and activations that are zero: they change nothing.
            copies = [padded::<T>(a_rest), padded::<T>(b_rest)];
            [&copies[0], &copies[1]]
        };
        let sums = [unit_sums::<S, T>(s, a, &x), unit_sums::<S, T>(s, b, &x)];
        acc = [add::<S, T>(s, acc[0], sums[0], a, &x), add::<S, T>(s, acc[1], sums[1], b, &x)];
    }
    acc
}

/// Whole steps of a row, and the bytes that are left.
#[inline(always)]
pub(super) fn steps<T: Fast>(row: &[u8]) -> (&[T::Step], &[u8]) {
    let n = row.len() / size_of::<T::Step>();
    let (whole, rest) = row.split_at(n * size_of::<T::Step>());
    // SAFETY: a step consists of bytes, and these are the bytes of `n` of them.
    (unsafe { std::slice::from_raw_parts(whole.as_ptr().cast(), n) }, rest)
}

/// A step that begins with `bytes`; the rest of it is zero.
#[inline(always)]
pub(super) fn padded<T: Fast>(bytes: &[u8]) -> T::Step {
    assert!(bytes.len() <= size_of::<T::Step>(), "less than a step");
    // SAFETY: a step consists of bytes, of which any will do, and has at least as many as are copied.
    unsafe {
        let mut step: T::Step = std::mem::zeroed();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut step).cast(), bytes.len());
        step
    }
}

/// A row of activations by step.
#[derive(Clone, Copy)]
struct Activations<'a> {
    values: &'a [[i16; 64]],
    scales: &'a [[f32; 16]],
    scaled_sums: &'a [[f32; 16]],
    sums: &'a [[f32; 16]],
}

/// Those of one step.
struct Step<'a> {
    /// As many as the step has registers.
    values: &'a [[i16; 64]],
    scales: &'a [f32; 16],
    scaled_sums: &'a [f32; 16],
    sums: &'a [f32; 16],
}

impl<'a> Activations<'a> {
    #[inline(always)]
    fn new(x: QuantizedRow<'a>) -> Self {
        let [scales, scaled_sums, sums] = x.factors();
        Activations {
            values: x.values.as_chunks().0,
            scales: scales.as_chunks().0,
            scaled_sums: scaled_sums.as_chunks().0,
            sums: sums.as_chunks().0,
        }
    }

    #[inline(always)]
    fn step<T: Fast>(&self, i: usize) -> Step<'a> {
        let n = T::UNIT / 4;
        Step {
            values: &self.values[i * n..][..n],
            scales: &self.scales[i],
            scaled_sums: &self.scaled_sums[i],
            sums: &self.sums[i],
        }
    }
}

/// The integer sums of sixteen units, unit i in lane i.
#[inline(always)]
fn unit_sums<S: Bytes, T: Fast>(s: S, w: &T::Step, x: &Step<'_>) -> S::I {
    let x_values = x.values;
    let lanes = if T::UNIT == 32 {
        let [a, b, c, d] = [T::codes(s, w, 0), T::codes(s, w, 1), T::codes(s, w, 2), T::codes(s, w, 3)];
        [
            s.dot(a, [&x_values[0], &x_values[1]]),
            s.dot(b, [&x_values[2], &x_values[3]]),
            s.dot(c, [&x_values[4], &x_values[5]]),
            s.dot(d, [&x_values[6], &x_values[7]]),
        ]
    } else {
        let [[a, b], [c, d]] = [T::codes(s, w, 0), T::codes(s, w, 1)];
        [
            s.dot([a], [&x_values[0]]),
            s.dot([b], [&x_values[1]]),
            s.dot([c], [&x_values[2]]),
            s.dot([d], [&x_values[3]]),
        ]
    };
    let sums = s.add_up(lanes);
    let sums = if T::ALTERNATE { s.of_alternate(sums) } else { sums };
    match bias::<S, T>() {
        Some(bias) => s.without_bias(sums, s.load(x.sums), bias),
        None => sums,
    }
}

/// What was added to each code, as a power of two.
#[inline(always)]
pub(super) fn bias<S: Bytes, T: Fast>() -> Option<u32> {
    if T::SIGNED { S::SIGNED_BIAS } else { T::BIAS }
}

/// The accumulators with a step added.
#[inline(always)]
fn add<S: Bytes, T: Fast>(s: S, acc: S::F, sums: S::I, w: &T::Step, x: &Step<'_>) -> S::F {
    let (scales, offsets) = T::scales(s, w);
    let acc = s.fma(s.to_f32(sums), s.mul(scales, s.load(x.scales)), acc);
    match offsets {
        Some(offsets) => s.fma(offsets, s.load(x.scaled_sums), acc),
        None => acc,
    }
}
