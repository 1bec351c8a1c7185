//! Kernels that work on rows of values: norms, rotation, activation functions, sums. All work in place.

use super::math::{sigmoid, sigmoid_one, silu, softplus};
use super::simd::{Kernel, Simd, dot, map, zip};

/// `x = x / sqrt(mean(x^2) + eps) * weight` for each run of `weight`'s length.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.weight.len()) {
            rms_norm(s, row, self.weight, self.eps);
        }
    }
}

#[inline(always)]
fn rms_norm<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    let r = s.splat(inverse_rms(s, x, eps));
    zip!(s, x, weight, |x, w| s.mul(s.mul(x, r), w));
}

#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(s, x, x) / x.len() as f32 + eps).sqrt()
}

/// `x = rms_norm(x) * silu(z)` for each run of `weight`'s length.
pub(crate) struct GatedNorm<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) z: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for GatedNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.weight.len();
        for (x, z) in self.x.chunks_exact_mut(n).zip(self.z.chunks_exact(n)) {
            let r = s.splat(inverse_rms(s, x, self.eps));
            zip!(s, x, self.weight, z, |x, w, z| s.mul(s.mul(s.mul(x, r), w), silu(s, z)));
        }
    }
}

/// RMS norm of one head, then rotation of its first `2 * cos.len()` values.
pub(crate) struct NormRotateHead<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

impl Kernel for NormRotateHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        rms_norm(s, self.x, self.weight, self.eps);
        let half = self.cos.len();
        let (low, high) = self.x[..2 * half].split_at_mut(half);
        for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
            let (x, y) = (*a, *b);
            *a = f32::mul_add(x, cos, -(y * sin));
            *b = f32::mul_add(y, cos, x * sin);
        }
    }
}

/// `x += y`.
pub(crate) struct Add<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        zip!(s, self.x, self.y, |x, y| s.add(x, y));
    }
}

/// `gate = silu(gate) * up`.
pub(crate) struct SiluMul<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        zip!(s, self.gate, self.up, |gate, up| s.mul(silu(s, gate), up));
    }
}

/// `y = fma(weight, x, y)`.
pub(crate) struct MulAdd<'a> {
    pub(crate) y: &'a mut [f32],
    pub(crate) x: &'a [f32],
    pub(crate) weight: f32,
}

impl Kernel for MulAdd<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weight = s.splat(self.weight);
        zip!(s, self.y, self.x, |y, x| s.fma(weight, x, y));
    }
}

/// `y = fma(sigmoid(logit), x, y)`.
pub(crate) struct GatedMulAdd<'a> {
    pub(crate) y: &'a mut [f32],
    pub(crate) x: &'a [f32],
    pub(crate) logit: f32,
}

impl Kernel for GatedMulAdd<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weight = s.splat(sigmoid_one(s, self.logit));
        zip!(s, self.y, self.x, |y, x| s.fma(weight, x, y));
    }
}

/// `beta = sigmoid(b)` in place of `b`, `decay * softplus(a + dt_bias)` in place of `a`, for one row of heads.
pub(crate) struct DeltaGates<'a> {
    pub(crate) b: &'a mut [f32],
    pub(crate) a: &'a mut [f32],
    pub(crate) decay: &'a [f32],
    pub(crate) dt_bias: &'a [f32],
}

impl Kernel for DeltaGates<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map!(s, self.b, |b| sigmoid(s, b));
        for ((a, &decay), &dt_bias) in self.a.iter_mut().zip(self.decay).zip(self.dt_bias) {
            *a = decay * softplus(s, *a + dt_bias);
        }
    }
}
