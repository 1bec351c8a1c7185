//! Log-probabilities for those who ask how sure the model was.

use super::select::max;

/// A token with the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability at temperature 1, without any filter.
    pub logprob: f32,
}

/// The log-probability of `chosen`, and in `top` (cleared first) those of the `n` likeliest tokens, likeliest first.
pub fn logprobs(logits: &[f32], chosen: u32, n: usize, top: &mut Vec<TokenLogprob>) -> TokenLogprob {
    let largest = max(logits);
    let sum: f64 = logits.iter().map(|&x| ((x - largest) as f64).exp()).sum();
    let log_sum = largest as f64 + sum.ln();
    let logprob = |id: usize| (logits[id] as f64 - log_sum) as f32;
    top.clear();
    let n = n.min(logits.len());
    for (id, &x) in logits.iter().enumerate() {
        let is_in = n > 0 && (top.len() < n || x > logits[top[n - 1].id as usize]);
        if is_in {
            top.truncate(n - 1);
            let at = top.partition_point(|other| logits[other.id as usize] >= x);
            top.insert(at, TokenLogprob { id: id as u32, logprob: logprob(id) });
        }
    }
    TokenLogprob { id: chosen, logprob: logprob(chosen as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_likeliest_come_first() {
        let logits = [1.0, 3.0, -2.0, 3.0, 0.5];
        let mut top = Vec::new();
        let chosen = logprobs(&logits, 2, 5, &mut top);
        let sum: f64 = top.iter().map(|token| (token.logprob as f64).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(top.iter().map(|token| token.id).collect::<Vec<_>>(), [1, 3, 0, 4, 2]);
        assert_eq!(chosen, top[4]);
        logprobs(&logits, 2, 2, &mut top);
        assert_eq!(top.iter().map(|token| token.id).collect::<Vec<_>>(), [1, 3]);
        logprobs(&logits, 2, 0, &mut top);
        assert!(top.is_empty());
    }
}
