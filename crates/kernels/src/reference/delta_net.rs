use super::math::{dot, l2_norm, silu};
use crate::backend::DeltaShape;

/// `y_t[c] = silu(sum_j weight[c][j] m_{t-K+1+j}[c])` for the columns `m`, `[n][channels]`, of which the K - 1 before the first
/// are in `state`, oldest first; leaves the last K - 1 there.
pub(super) fn convolve(shape: &DeltaShape, m: &[f32], weight: &[f32], state: &mut [f32]) -> Vec<f32> {
    let (channels, taps) = (shape.conv_channels(), shape.conv_kernel);
    assert_eq!(weight.len(), channels * taps, "the convolution has {channels} channels of {taps} taps");
    let columns = [state, m].concat();
    let mut y = Vec::with_capacity(m.len());
    for t in 0..m.len() / channels {
        for c in 0..channels {
            let past = (0..taps).map(|j| f64::from(columns[(t + j) * channels + c]));
            let sum: f64 = past.zip(&weight[c * taps..]).map(|(m, &w)| m * f64::from(w)).sum();
            y.push(silu(sum as f32));
        }
    }
    state.copy_from_slice(&columns[m.len()..]);
    y
}

/// One token of the gated delta rule: `qkv` holds queries, keys and values of all heads; `state` is
/// `[n_value_heads][key_dim][value_dim]`; returns `[n_value_heads][value_dim]`.
pub(super) fn delta_rule(
    shape: &DeltaShape,
    qkv: &[f32],
    g: &[f32],
    beta: &[f32],
    state: &mut [f32],
) -> Vec<f32> {
    let (dk, dv) = (shape.key_dim, shape.value_dim);
    let (q, kv) = qkv.split_at(shape.n_key_heads * dk);
    let (k, v) = kv.split_at(shape.n_key_heads * dk);
    let mut out = Vec::with_capacity(shape.n_value_heads * dv);
    for (head, s) in state.chunks_exact_mut(dk * dv).enumerate() {
        let key_head = shape.key_head(head);
        let q = l2_norm(&q[key_head * dk..][..dk]);
        let k = l2_norm(&k[key_head * dk..][..dk]);
        let decay = f64::from(g[head]).exp();
        for value in s.iter_mut() {
            *value = (f64::from(*value) * decay) as f32;
        }
        for j in 0..dv {
            // The decayed state is read before it is written, and the output after.
            let column: Vec<f32> = (0..dk).map(|i| s[i * dv + j]).collect();
            let delta = f64::from(beta[head]) * (f64::from(v[head * dv + j]) - dot(&column, &k));
            let column: Vec<f32> =
                column.iter().zip(&k).map(|(&s, &k)| (f64::from(s) + f64::from(k) * delta) as f32).collect();
            out.push((dot(&column, &q) / (dk as f64).sqrt()) as f32);
            for (i, value) in column.into_iter().enumerate() {
                s[i * dv + j] = value;
            }
        }
    }
    out
}
