use super::math::{product, silu, softmax};
use crate::backend::{Glu, Picks};

/// Softmax over each row of `logits` and its `top_k` largest, best first. The order is that of the logits, which can tell apart
/// what two rounded probabilities cannot; equal ones go to the lower index. A NaN makes all weights of the row NaN.
pub(super) fn route(logits: &[f32], n_experts: usize, normalize: bool, picks: &mut Picks) {
    let top_k = picks.top_k;
    assert!(top_k <= n_experts, "{top_k} of {n_experts} experts");
    for (row, logits) in logits.chunks_exact(n_experts).enumerate() {
        let probabilities = softmax(logits);
        let mut order: Vec<usize> = (0..n_experts).collect();
        // The sort is stable; -0.0 and 0.0 are equal, as they are for the softmax.
        order.sort_by(|&a, &b| (logits[b] + 0.0).total_cmp(&(logits[a] + 0.0)));
        let chosen = &order[..top_k];
        let sum: f64 = if normalize { chosen.iter().map(|&expert| probabilities[expert]).sum() } else { 1.0 };
        for (i, &expert) in chosen.iter().enumerate() {
            picks.experts[row * top_k + i] = expert as u32;
            picks.weights[row * top_k + i] = (probabilities[expert] / sum) as f32;
        }
    }
}

/// `down(silu(gate x) * up x)` for each row of `x`.
pub(super) fn expert(glu: &Glu<'_>, x: &[f32]) -> Vec<f32> {
    let gate = product(&glu.gate, x);
    let up = product(&glu.up, x);
    let hidden: Vec<f32> = gate.iter().zip(&up).map(|(&gate, &up)| silu(gate) * up).collect();
    product(&glu.down, &hidden)
}

/// `y <- fma(weight, x, y)`.
pub(super) fn add_scaled(y: &mut [f32], weight: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = weight.mul_add(x, *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(logits: &[f32], top_k: usize, normalize: bool) -> Picks {
        let mut picks = Picks { top_k, experts: vec![0; top_k], weights: vec![0.0; top_k] };
        route(logits, logits.len(), normalize, &mut picks);
        picks
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let picks = routed(&[-0.0, 2.0, 0.0, 2.0, -1.0], 4, true);
        assert_eq!(picks.experts, [1, 3, 0, 2]);
        assert_eq!(picks.weights[0], picks.weights[1]);
    }

    #[test]
    fn weights_are_probabilities_or_add_up_to_one() {
        let logits = [1f32.ln(), 2f32.ln(), 5f32.ln()];
        let plain = routed(&logits, 2, false);
        assert!((plain.weights[0] - 0.625).abs() < 1e-6 && (plain.weights[1] - 0.25).abs() < 1e-6);
        let normalized = routed(&logits, 2, true);
        assert!((normalized.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nan_reaches_every_weight() {
        let picks = routed(&[1.0, f32::NAN, 2.0, 3.0], 2, true);
        assert!(picks.weights.iter().all(|weight| weight.is_nan()));
        assert!(picks.experts[0] < 4 && picks.experts[1] < 4 && picks.experts[0] != picks.experts[1]);
    }
}
