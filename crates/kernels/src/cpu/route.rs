//! The router's choice.

use super::math::exp;
use super::simd::{Kernel, Simd, map};

/// The `experts.len()` largest of a row's logits and their weights.
pub(crate) struct RouteRow<'a> {
    pub(crate) logits: &'a [f32],
    /// As long as `logits`; overwritten.
    pub(crate) probabilities: &'a mut [f32],
    pub(crate) normalize: bool,
    pub(crate) experts: &'a mut [u32],
    pub(crate) weights: &'a mut [f32],
}

impl Kernel for RouteRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        softmax(s, self.logits, self.probabilities);
        choose(self.logits, self.experts);
        for (weight, &expert) in self.weights.iter_mut().zip(self.experts.iter()) {
            *weight = self.probabilities[expert as usize];
        }
        if self.normalize {
            let mut sum = 0.0;
            for weight in self.weights.iter() {
                sum += weight;
            }
            for weight in self.weights {
                *weight /= sum;
            }
        }
    }
}

#[inline(always)]
fn softmax<S: Simd>(s: S, logits: &[f32], out: &mut [f32]) {
    out.copy_from_slice(logits);
    let top = out.iter().fold(f32::NEG_INFINITY, |top, &x| if top > x { top } else { x });
    let shift = s.splat(top);
    map!(s, out, |x| exp(s, s.sub(x, shift)));
    let mut acc = s.splat(0.0);
    for chunk in out.chunks(16) {
        acc = s.add(acc, s.load_part(chunk, 0.0));
    }
    let sum = s.splat(s.tree(acc));
    map!(s, out, |x| s.div(x, sum));
}

/// The indices of the largest logits, best first, ties to the lower index.
#[inline(always)]
fn choose(logits: &[f32], experts: &mut [u32]) {
    let mut n = 0;
    for (i, &logit) in logits.iter().enumerate() {
        let key = order(logit);
        if n == experts.len() && n > 0 && order(logits[experts[n - 1] as usize]) >= key {
            continue;
        }
        if n < experts.len() {
            n += 1;
        }
        let mut at = n;
        while at > 1 && order(logits[experts[at - 2] as usize]) < key {
            at -= 1;
            if at < n {
                experts[at] = experts[at - 1];
            }
        }
        if at >= 1 {
            experts[at - 1] = i as u32;
        }
    }
}

/// An integer that orders floats as `f32::total_cmp` does, with the two zeros equal.
#[inline(always)]
fn order(x: f32) -> i32 {
    let bits = (x + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_in_order_ties_to_the_lower() {
        let cases: [(&[f32], &[u32]); 5] = [
            (&[-0.0, 2.0, 0.0, 2.0, -1.0], &[1, 3, 0, 2, 4]),
            (&[1.0, 2.0, 3.0, 4.0], &[3, 2]),
            (&[4.0, 3.0, 2.0, 1.0], &[0, 1, 2]),
            (&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 1.0], &[1, 3, 0]),
            (&[5.0], &[]),
        ];
        for (logits, expected) in cases {
            let mut experts = vec![99; expected.len()];
            choose(logits, &mut experts);
            assert_eq!(experts, expected, "{logits:?}");
        }
    }
}
