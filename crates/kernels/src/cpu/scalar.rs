//! Plain Rust: the truth that every other level equals to the bit.

use half::{bf16, f16};

use super::affine::{AffineRows, Blocked, Dealt, Output, QuantizedRow};
use super::simd::{Kernel, Simd};

/// No instruction set at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar;

type Lanes = [f32; 16];

fn each(f: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type F = Lanes;
    const WIDE: bool = false;
    const BLOCKED_FROM: usize = usize::MAX;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    fn splat(self, value: f32) -> Lanes {
        [value; 16]
    }

    fn load(self, from: &[f32; 16]) -> Lanes {
        *from
    }

    fn store(self, lanes: Lanes, to: &mut [f32; 16]) {
        *to = lanes;
    }

    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] + b[i])
    }

    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] - b[i])
    }

    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] * b[i])
    }

    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] / b[i])
    }

    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        each(|i| f32::mul_add(a[i], b[i], c[i]))
    }

    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    fn abs(self, a: Lanes) -> Lanes {
        each(|i| a[i].abs())
    }

    fn max_bits(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| f32::from_bits((a[i].to_bits() as i32).max(b[i].to_bits() as i32) as u32))
    }

    fn max_bits_across(self, a: Lanes) -> u32 {
        a.iter().map(|x| x.to_bits() as i32).max().unwrap_or(0) as u32
    }

    fn round(self, a: Lanes) -> Lanes {
        each(|i| a[i].round_ties_even())
    }

    fn scale_by_power(self, a: Lanes, n: Lanes) -> Lanes {
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        each(|i| {
            let n = n[i] as i32;
            a[i] * power(n >> 1) * power(n - (n >> 1))
        })
    }

    fn tree(self, a: Lanes) -> f32 {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }

    fn trees(self, a: &[Lanes; 16]) -> Lanes {
        each(|i| self.tree(a[i]))
    }

    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        each(|i| bf16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        each(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    fn load_i8(self, from: &[u8; 16]) -> Lanes {
        each(|i| f32::from(from[i] as i8))
    }

    fn store_f16(self, lanes: Lanes, to: &mut [u8; 32]) {
        for (lane, to) in lanes.iter().zip(to.as_chunks_mut::<2>().0) {
            *to = f16::from_f32(*lane).to_le_bytes();
        }
    }

    fn store_i16(self, lanes: Lanes, to: &mut [i16; 16]) {
        for (lane, to) in lanes.iter().zip(to) {
            *to = lane.round_ties_even() as i16;
        }
    }

    fn dealt(self, _bits: u8, _blocked: bool) -> Dealt {
        Dealt::Words(1)
    }

    fn affine_rows(self, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
        for (row, y) in y.iter_mut().enumerate() {
            *y = self.tree(w.accumulate(row, x));
        }
    }

    unsafe fn affine_blocked(self, w: &AffineRows<'_>, x: &Blocked<'_>, _scratch: &mut [i32], _y: Output) {
        unreachable!(
            "{} rows by {} rows of activations: never blocked at this level",
            w.n_rows(),
            x.n_rows()
        );
    }
}
