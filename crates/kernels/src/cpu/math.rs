//! The functions of docs/NUMERICS.md.

use super::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 to 16 bits, so that a small integer times it is exact.
const LN_2_HIGH: f32 = 0.693_145_75;
/// What is missing of ln 2.
const LN_2_LOW: f32 = 1.428_606_8e-6;
/// 1/7!, 1/6!, .. 1/0!: on [-ln 2 / 2, ln 2 / 2] the next term is below 6e-9 of the sum.
const EXP: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x in each lane.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The order of the arguments lets a NaN through. exp(-104) rounds to 0 and exp(89) to infinity.
    let x = s.max(s.splat(-104.0), x);
    let x = s.min(s.splat(89.0), x);
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN_2_HIGH), x);
    let r = s.fma(n, s.splat(-LN_2_LOW), r);
    let mut p = s.splat(EXP[0]);
    for &coefficient in &EXP[1..] {
        p = s.fma(p, r, s.splat(coefficient));
    }
    s.scale_by_power(p, n)
}

/// 1 / (1 + e^-x) in each lane.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(-0.0), x))))
}

/// x / (1 + e^-x) in each lane.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(-0.0), x))))
}

/// e^x of one value, the same bits as in a lane.
#[inline(always)]
pub(crate) fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    s.store(exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}

/// 1 / (1 + e^-x) of one value.
#[inline(always)]
pub(crate) fn sigmoid_one<S: Simd>(s: S, x: f32) -> f32 {
    1.0 / (1.0 + exp_one(s, -x))
}

/// ln(1 + e^x), and x above 20.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: f32) -> f32 {
    if x > 20.0 { x } else { log1p(exp_one(s, x)) }
}

/// ln(1 + y) for y in [0, e^20].
#[inline(always)]
fn log1p(y: f32) -> f32 {
    let u = 1.0 + y;
    ln(u) + (y - (u - 1.0)) / u
}

/// ln u for normal u >= 1.
#[inline(always)]
fn ln(u: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let shifted = u.to_bits().wrapping_sub(SQRT_HALF);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(SQRT_HALF));
    let t = (m - 1.0) / (m + 1.0);
    let z = t * t;
    let mut p = 1.0 / 9.0;
    for coefficient in [1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0] {
        p = f32::mul_add(p, z, coefficient);
    }
    let two_t = 2.0 * t;
    let series = p * z * two_t;
    let low = f32::mul_add(e, LN_2_LOW, series);
    f32::mul_add(e, LN_2_HIGH, low + two_t)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::simd::{Kernel, map};
    use super::*;

    struct Apply<'a>(&'a [f32], u8);
    impl Kernel for Apply<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = self.0.to_vec();
            match self.1 {
                0 => map!(s, out, |x| exp(s, x)),
                1 => map!(s, out, |x| sigmoid(s, x)),
                2 => map!(s, out, |x| silu(s, x)),
                _ => out.iter_mut().for_each(|x| *x = softplus(s, *x)),
            }
            out
        }
    }

    fn arguments() -> Vec<f32> {
        let mut x: Vec<f32> = (-110_000..95_000).map(|i| i as f32 * 1e-3 + 1e-5).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-42, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN]);
        x.extend([88.72, 88.723, -87.3, -103.2, -103.98, 20.0, 20.000002]);
        x
    }

    /// Distance in units of the last place of the exact value.
    fn ulps(got: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if got.is_infinite() && rounded.is_infinite() {
            return 0.0;
        }
        let ulp = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    type Truth = fn(f64) -> f64;

    #[test]
    fn functions_are_accurate_and_equal_at_every_level() {
        let x = arguments();
        let truths: [(Truth, f64); 4] = [
            (f64::exp, 1.5),
            (|x| 1.0 / (1.0 + (-x).exp()), 3.0),
            (|x| if x == f64::INFINITY { x } else { x / (1.0 + (-x).exp()) }, 3.5),
            (|x| if x > 20.0 { x } else { x.exp().ln_1p() }, 3.5),
        ];
        for (function, (truth, limit)) in truths.iter().enumerate() {
            let scalar = Level::SCALAR.run(Apply(&x, function as u8));
            for (&x, &got) in x.iter().zip(&scalar) {
                let exact = truth(f64::from(x));
                if exact.is_nan() || (function == 2 && (x < -80.0)) || (function == 1 && x < -87.0) {
                    continue; // -inf / inf; and quotients whose divisor has overflowed are below 1e-36
                }
                let error = ulps(got, exact);
                assert!(error < *limit, "function {function} of {x}: {got}, exact {exact}, {error} ulp");
            }
            for level in Level::available() {
                let out = level.run(Apply(&x, function as u8));
                for ((x, a), b) in x.iter().zip(&scalar).zip(&out) {
                    assert!(
                        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
                        "{level} {function} of {x}: {a} {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn nan_stays_and_infinities_are_exact() {
        for level in Level::available() {
            let out = level.run(Apply(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0], 0));
            assert!(out[0].is_nan());
            assert_eq!(out[1..], [f32::INFINITY, 0.0, 1.0]);
            assert!(level.run(Apply(&[f32::NAN], 3))[0].is_nan());
        }
    }
}
