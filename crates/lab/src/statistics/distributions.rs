//! Quantiles of the normal and of Student's distribution.

use std::f64::consts::{PI, TAU};

/// Halvings of a bracket: as many as a double has digits, and some for its exponent.
const N_HALVINGS: usize = 100;

/// The value below which a standard normal variable lies with probability `p`.
///
/// # Panics
/// If `p` is not inside 0 to 1.
pub fn normal_quantile(p: f64) -> f64 {
    quantile(p, normal_above)
}

/// The value below which Student's t with `df` degrees of freedom lies with probability `p`.
///
/// # Panics
/// If `p` is not inside 0 to 1, or `df` is not positive.
pub fn student_quantile(p: f64, df: f64) -> f64 {
    assert!(df > 0.0, "{df} degrees of freedom");
    // P(T > t) = I_{df / (df + t^2)}(df / 2, 1 / 2) / 2.
    quantile(p, |t| 0.5 * beta_share(df / (df + t * t), df / 2.0, 0.5))
}

/// Inverts the tail `above` of a distribution that is symmetric around 0.
fn quantile(p: f64, above: impl Fn(f64) -> f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "a quantile at probability {p}");
    let tail = p.min(1.0 - p);
    let mut high = 1.0;
    while above(high) > tail && high < 1e300 {
        high *= 2.0;
    }
    let value = bisect(0.0, high, |x| above(x) > tail);
    if p < 0.5 { -value } else { value }
}

/// Where `is_below` turns false between `low` and `high`.
pub(super) fn bisect(mut low: f64, mut high: f64, is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..N_HALVINGS {
        let middle = 0.5 * (low + high);
        *(if is_below(middle) { &mut low } else { &mut high }) = middle;
    }
    0.5 * (low + high)
}

/// P(Z > x) for x >= 0.
fn normal_above(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / TAU.sqrt();
    if x < 3.0 {
        // G. Marsaglia, "Evaluating the normal distribution", 2004: the Taylor series x + x^3/3 + x^5/15 + ..
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term > sum * 1e-17 {
            odd += 2.0;
            term *= x * x / odd;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    // The tail, where the series loses its digits: Laplace's continued fraction, from its 60th step up.
    let fraction = (1..=60).rev().fold(x, |below, k| x + f64::from(k) / below);
    density / fraction
}

/// The regularised incomplete beta function I_x(a, b), by Lentz's evaluation of its continued fraction (DLMF 8.17.22).
pub(super) fn beta_share(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast on this side of the mean.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_share(1.0 - x, b, a);
    }
    let ln_front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) / (a + 1.0) * x);
    let (mut c, mut product) = (1.0, d);
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = product;
        for step in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + step * d);
            c = away_from_zero(1.0 + step / c);
            product *= d * c;
        }
        if (product - before).abs() <= 1e-15 * product.abs() {
            break;
        }
    }
    ln_front.exp() * product / a
}

/// ln Gamma(x) for x > 0, by Lanczos' approximation (g = 7, 9 terms), right to some 15 digits.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (PI / (PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = (1..9).fold(TERMS[0], |sum, i| sum + TERMS[i] / (x + i as f64));
    let t = x + 7.5;
    0.5 * TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}
