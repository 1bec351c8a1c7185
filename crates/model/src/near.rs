//! Cache-aware routing: an expert that is in a slot takes the place of one that would have to be read, where the router holds both for
//! nearly as good. The one setting under which an answer depends on what the cache holds; off unless it was asked for.
//!
//! As in "Mixture of Cache-Conditional Experts for Efficient Mobile Device Inference" (Skliar et al., arXiv 2412.00099) only the choice
//! minds the cache, and weights are the router's own. Their preference is a term added to the logits; here it is a bound on what is lost.

use flashmill_kernels::{Backend, Buffer, Picks};
use flashmill_store::Store;

/// What cache-aware routing has done since the model was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Swaps {
    /// Picks that it looked at: those of tokens that came alone, as decoded ones do.
    pub picks: u64,
    /// Picks that it replaced: each is a read saved, unless a prefetch had begun it.
    pub swapped: u64,
    /// Layers of such tokens.
    pub rows: u64,
    /// The router's probability that was given up, as a share of that of the layer's own picks, summed over the rows.
    pub given_up: f64,
    /// The largest share of one row.
    pub most: f64,
}

impl Swaps {
    /// What was done since `before`; the largest share is that of all.
    #[must_use]
    pub fn since(&self, before: &Swaps) -> Swaps {
        Swaps {
            picks: self.picks - before.picks,
            swapped: self.swapped - before.swapped,
            rows: self.rows - before.rows,
            given_up: self.given_up - before.given_up,
            most: self.most,
        }
    }

    /// Share of the picks that were replaced.
    pub fn swapped_share(&self) -> f64 {
        self.swapped as f64 / self.picks.max(1) as f64
    }

    /// Mean share of the probability that was given up, of a token's layer.
    pub fn mean_given_up(&self) -> f64 {
        self.given_up / self.rows.max(1) as f64
    }
}

/// The bound, and room for a row.
pub(crate) struct NearTies {
    /// A replacement has at least 1 - `max_loss` times the probability of what it replaces, so that a row gives up no more than this share.
    max_loss: f32,
    /// `[n_experts]`.
    logits: Vec<f32>,
    pub(crate) swaps: Swaps,
}

impl NearTies {
    /// None if nothing may be lost.
    pub(crate) fn new(max_loss: f32, n_experts: usize) -> Option<NearTies> {
        let room = || vec![0.0; n_experts];
        (max_loss > 0.0).then(|| NearTies { max_loss, logits: room(), swaps: Swaps::default() })
    }

    /// Words of memory.
    pub(crate) fn words(&self) -> usize {
        self.logits.len()
    }

    /// Replaces picks of `row` that are not in `store` in favour of those that are. `router` has a row of logits for each row of the pass.
    #[expect(clippy::too_many_arguments, reason = "the pieces of one choice")]
    pub(crate) fn prefer(
        &mut self,
        b: &mut dyn Backend,
        router: Buffer,
        row: usize,
        normalize: bool,
        picks: &mut Picks,
        layer: usize,
        store: &Store,
    ) {
        let n_experts = self.logits.len();
        b.read(router, row * n_experts, &mut self.logits);
        let chosen = row * picks.top_k..(row + 1) * picks.top_k;
        let (experts, weights) = (&mut picks.experts[chosen.clone()], &mut picks.weights[chosen]);
        self.swap(experts, weights, normalize, |expert| store.resident(layer, expert));
    }

    /// One row: `experts` best first, and the weights of each, which sum to 1 if `normalize`.
    fn swap(
        &mut self,
        experts: &mut [u32],
        weights: &mut [f32],
        normalize: bool,
        is_resident: impl Fn(u32) -> bool,
    ) {
        let whole: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let mut given_up = 0.0;
        let mut swapped = 0;
        let most_below = (-self.max_loss).ln_1p();
        // The least of the picks first: it has the most near-ties, and the least to give up.
        for at in (0..experts.len()).rev() {
            if is_resident(experts[at]) {
                continue;
            }
            let least = self.logits[experts[at] as usize] + most_below;
            let candidates = (0..self.logits.len() as u32).filter(|expert| {
                self.logits[*expert as usize] >= least && !experts.contains(expert) && is_resident(*expert)
            });
            // The first of equals.
            let better =
                |a: u32, b: u32| if self.logits[b as usize] > self.logits[a as usize] { b } else { a };
            let Some(best) = candidates.reduce(better) else { continue };
            // Probabilities are exponentials of logits over one sum.
            let ratio = (self.logits[best as usize] - self.logits[experts[at] as usize]).exp().min(1.0);
            given_up += f64::from(weights[at]) * f64::from(1.0 - ratio);
            weights[at] *= ratio;
            experts[at] = best;
            swapped += 1;
        }
        if normalize && swapped > 0 {
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        let share = if whole > 0.0 { given_up / whole } else { 0.0 };
        self.swaps.rows += 1;
        self.swaps.picks += experts.len() as u64;
        self.swaps.swapped += swapped;
        self.swaps.given_up += share;
        self.swaps.most = self.swaps.most.max(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax of the logits, in f64.
    fn probabilities(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        logits.iter().map(|&logit| f64::from(logit).exp() / sum).collect()
    }

    fn swapped(logits: &[f32], max_loss: f32, normalize: bool, held: &[u32]) -> (Vec<u32>, Vec<f32>, Swaps) {
        let all = probabilities(logits);
        let mut experts: Vec<u32> = (0..logits.len() as u32).collect();
        experts.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        experts.truncate(2);
        let picked: f64 = experts.iter().map(|&expert| all[expert as usize]).sum();
        let scale = if normalize { picked } else { 1.0 };
        let mut weights: Vec<f32> =
            experts.iter().map(|&expert| (all[expert as usize] / scale) as f32).collect();
        let mut near = NearTies::new(max_loss, logits.len()).expect("something may be lost");
        near.logits.copy_from_slice(logits);
        near.swap(&mut experts, &mut weights, normalize, |expert| held.contains(&expert));
        (experts, weights, near.swaps)
    }

    #[test]
    fn near_ties_go_to_what_is_held() {
        // Probabilities fall from expert 0 on; 1 and 2 are 5 % apart, 3 is far below.
        let logits = [2.0, 1.0, 0.95, -1.0];
        let all = probabilities(&logits);
        for normalize in [true, false] {
            let (experts, weights, swaps) = swapped(&logits, 0.1, normalize, &[0, 2, 3]);
            assert_eq!(experts, [0, 2], "2 is nearly as good as 1");
            let scale = if normalize { all[0] + all[2] } else { 1.0 };
            for (weight, expert) in weights.iter().zip(&experts) {
                let expected = all[*expert as usize] / scale;
                assert!(
                    (f64::from(*weight) - expected).abs() < 1e-6,
                    "the router's own weights: {weights:?}"
                );
            }
            let given_up = (all[1] - all[2]) / (all[0] + all[1]);
            assert!((swaps.given_up - given_up).abs() < 1e-6 && swaps.most == swaps.given_up);
            assert_eq!((swaps.picks, swaps.swapped, swaps.rows), (2, 1, 1));
        }
        for (max_loss, held) in [(0.01, &[0, 2, 3][..]), (0.1, &[0, 1, 2]), (0.1, &[0, 3]), (0.1, &[])] {
            let (experts, _, swaps) = swapped(&logits, max_loss, true, held);
            assert_eq!((&experts[..], swaps.swapped), (&[0, 1][..], 0), "{max_loss}, {held:?}");
        }
        assert!(NearTies::new(0.0, 4).is_none());
    }

    /// Random rows: no row gives up more than the bound, picks stay distinct, and what is held stays.
    #[test]
    fn the_bound_holds() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut n_swapped = 0;
        for round in 0..2000 {
            let max_loss = [0.05, 0.3, 0.9][round % 3];
            let logits: Vec<f32> = (0..12).map(|_| 3.0 * random()).collect();
            let held: Vec<u32> = (0..12).filter(|_| random() < 0.5).collect();
            let (experts, weights, swaps) = swapped(&logits, max_loss, true, &held);
            let (own, ..) = swapped(&logits, max_loss, true, &(0..12).collect::<Vec<_>>());
            assert!(swaps.most <= f64::from(max_loss) + 1e-6, "round {round}: {swaps:?}");
            assert_ne!(experts[0], experts[1], "round {round}");
            for (own, now) in own.iter().zip(&experts) {
                assert!(own == now || !held.contains(own) && held.contains(now), "round {round}");
            }
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "round {round}");
            n_swapped += swaps.swapped;
        }
        assert!(n_swapped > 500, "{n_swapped}");
    }
}
