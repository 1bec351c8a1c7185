use flashmill_layout::MatrixView;

/// `sum x y`.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "both vectors of a dot product have as many values");
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// `y = W x` for each row of `x`, `[n_rows][cols]` to `[n_rows][rows]`.
pub(super) fn product(w: &MatrixView<'_>, x: &[f32]) -> Vec<f32> {
    let (rows, cols) = (w.shape.rows, w.shape.cols);
    let mut y = vec![0.0; x.len() / cols * rows];
    let mut weights = vec![0.0; cols];
    for i in 0..rows {
        w.decode_row(i, &mut weights);
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(rows)) {
            y[i] = dot(&weights, x) as f32;
        }
    }
    y
}

/// `x <- x / sqrt(mean(x^2) + eps) * weight`, one row.
pub(super) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "a norm has a weight for each value");
    let mean = dot(x, x) / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    for (x, &weight) in x.iter_mut().zip(weight) {
        *x = (f64::from(*x) * factor * f64::from(weight)) as f32;
    }
}

/// `x / sqrt(sum(x^2) + 1e-6)`: a sum, not a mean, and an epsilon that no config changes.
pub(super) fn l2_norm(x: &[f32]) -> Vec<f32> {
    let factor = 1.0 / (dot(x, x) + 1e-6).sqrt();
    x.iter().map(|&x| (f64::from(x) * factor) as f32).collect()
}

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// `x sigmoid(x)`.
pub(super) fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

/// `ln(1 + e^x)`; `x` itself beyond 20, where PyTorch stops adding the 2e-9 that are left.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { f64::from(x).exp().ln_1p() as f32 }
}

/// The largest value; a NaN counts for nothing here, it comes back in what is computed from the others.
pub(super) fn max(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^(x_i - max x) / sum`.
pub(super) fn softmax(x: &[f32]) -> Vec<f64> {
    let max = f64::from(max(x));
    let powers: Vec<f64> = x.iter().map(|&x| (f64::from(x) - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_at_known_points() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(sigmoid(-200.0), 0.0);
        assert_eq!(silu(-f32::MAX), 0.0);
        assert_eq!(softplus(0.0), std::f32::consts::LN_2);
        assert_eq!(softplus(20.5), 20.5);
        assert_eq!(softplus(-30.0), 9.357_623e-14);
    }

    #[test]
    fn nan_comes_through() {
        assert!(sigmoid(f32::NAN).is_nan());
        assert!(silu(f32::NAN).is_nan());
        assert!(softplus(f32::NAN).is_nan());
        assert!(softmax(&[1.0, f32::NAN, 2.0]).iter().all(|p| p.is_nan()));
        let mut x = [1.0, f32::NAN];
        rms_norm(&mut x, &[1.0, 1.0], 1e-6);
        assert!(x.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn the_l2_epsilon_joins_a_sum() {
        let x = [3e-3, 4e-3];
        let expected = 3e-3 / (25e-6_f64 + 1e-6).sqrt();
        assert_eq!(l2_norm(&x)[0], expected as f32);
    }
}
