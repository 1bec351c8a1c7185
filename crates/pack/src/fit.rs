//! Scales and biases of affine groups by search: several ranges inside that of the group, each refined by least squares over its
//! own codes. The largest weights of a matrix are never cut off: few of them carry a model, and an error summed over all weights
//! does not see them.
//!
//! With importance, a weight's squared error counts `importance of its input * sqrt(1 + (weight / rms of the row)^2)`: the form
//! that llama.cpp's quantisers use, which was the best of those in docs/EXPERIMENTS.md. Without, all count the same.

use half::bf16;

use crate::affine::{MAX_GROUP, bins, range};

/// The share of a matrix's weights, the largest, that are not cut off.
const GUARDED_SHARE: f64 = 1e-4;

/// Inputs whose importance is a smaller part of the mean's than this count as much: no group is without any.
const LEAST_IMPORTANCE: f64 = 1e-6;

/// Sums of squares of values between these fit in F32.
const MAGNITUDES: std::ops::Range<f32> = 1e-12..1e12;

/// Parts of the distance from the mean to the smallest and to the largest value of a group that are tried first.
const STARTS_OF_2_BITS: [(f32, f32); 6] =
    [(1.0, 1.0), (0.8, 0.8), (0.6, 0.6), (0.9, 0.6), (0.6, 0.9), (0.7, 0.7)];
/// The same where there are more codes, and less is gained by a smaller range.
const STARTS: [(f32, f32); 6] = [(1.0, 1.0), (0.9, 0.9), (0.8, 0.8), (0.95, 0.8), (0.8, 0.95), (0.7, 0.7)];

/// Times that codes are chosen for a start: twice they are followed by a fit.
const ROUNDS: usize = 3;

/// How the groups of a matrix are fitted.
pub(crate) struct Fit {
    /// Importance of each input, 1 in the mean.
    importance: Option<Vec<f32>>,
    /// Magnitude from which on weights are not cut off.
    guard: f32,
    /// How much the squared error of each weight of the row at hand counts.
    weights: Vec<f32>,
}

impl Fit {
    /// Of a matrix with `cols` inputs whose weights have been counted.
    pub(crate) fn new(importance: Option<&[f32]>, cols: usize, counted: &Magnitudes) -> Fit {
        let importance = importance.map(|importance| {
            let mean = importance.iter().map(|&x| f64::from(x)).sum::<f64>() / importance.len() as f64;
            importance.iter().map(|&x| (f64::from(x) / mean).max(LEAST_IMPORTANCE) as f32).collect()
        });
        Fit { importance, guard: counted.guard(), weights: vec![1.0; cols] }
    }

    /// Goes on to a row.
    pub(crate) fn begin(&mut self, row: &[f32]) {
        let Some(importance) = &self.importance else { return };
        let squares = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let rms = (squares / row.len() as f64).sqrt() as f32;
        // A row of zeros, or nearly, has no large weights.
        let inverse = if rms > f32::MIN_POSITIVE { 1.0 / rms } else { 0.0 };
        for ((weight, importance), value) in self.weights.iter_mut().zip(importance).zip(row) {
            let relative = value * inverse;
            *weight = importance * (1.0 + relative * relative).sqrt();
        }
    }

    /// Scale and bias of the row's group that starts at column `first`, and its codes; `None` if the group is constant or too far
    /// from 1 to be searched, then the codes mean nothing.
    pub(crate) fn group(
        &self,
        first: usize,
        values: &[f32],
        bits: u8,
        codes: &mut [u8],
    ) -> Option<(bf16, bf16)> {
        let weights = &self.weights[first..][..values.len()];
        let (min, max) = range(values);
        if min == max || !MAGNITUDES.contains(&max.max(-min)) {
            return None;
        }
        let bins = bins(bits);
        let whole = Grid::spanning(min, max, bins)?;
        let means = Means::of(values, weights);
        let (mut best, mut least) = (whole, whole.measure(values, weights, bins).error);
        // What the whole range may do to a weight: half a step, and BF16's error in scale and bias.
        let limit = (max - min) / (2.0 * bins) + (min.abs() + max - min) / 256.0;
        let guards = max.max(-min) >= self.guard;
        let is_cut_off = |grid: Grid| {
            values
                .iter()
                .any(|&value| value.abs() >= self.guard && (grid.nearest(value, bins) - value).abs() > limit)
        };
        let starts = if bits == 2 { STARTS_OF_2_BITS } else { STARTS };
        for (low, high) in starts {
            let (low, high) =
                (means.plain + (min - means.plain) * low, means.plain + (max - means.plain) * high);
            let mut next = Grid::spanning(low, high, bins);
            for _ in 0..ROUNDS {
                let Some(grid) = next else { break };
                let sums = grid.measure(values, weights, bins);
                if sums.error < least && !(guards && is_cut_off(grid)) {
                    (best, least) = (grid, sums.error);
                }
                next = means.least_squares(&sums).filter(|&next| next != grid);
            }
        }
        codes.iter_mut().zip(values).for_each(|(code, &value)| *code = best.code(value, bins) as u8);
        Some((bf16::from_f32(best.scale), bf16::from_f32(best.bias)))
    }
}

/// The values that codes stand for. Scale and bias are BF16's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grid {
    scale: f32,
    bias: f32,
    inverse: f32,
}

impl Grid {
    /// As they are stored; `None` if there is no such grid.
    fn stored(scale: f32, bias: f32) -> Option<Grid> {
        let (scale, bias) = (bf16::from_f32(scale).to_f32(), bf16::from_f32(bias).to_f32());
        let inverse = 1.0 / scale;
        (inverse.is_finite() && inverse != 0.0 && bias.is_finite()).then_some(Grid { scale, bias, inverse })
    }

    fn spanning(low: f32, high: f32, bins: f32) -> Option<Grid> {
        Grid::stored((high - low) / bins, low)
    }

    /// The nearest code, a whole number in `0..=bins`; ties to even.
    #[inline(always)]
    fn code(self, value: f32, bins: f32) -> f32 {
        /// Added and taken away, it rounds what lies in `0..=255`, in every build.
        const ROUND: f32 = 12_582_912.0;
        let exact = (value - self.bias) * self.inverse;
        let exact = if exact > 0.0 { exact } else { 0.0 };
        let exact = if exact < bins { exact } else { bins };
        (exact + ROUND) - ROUND
    }

    fn nearest(self, value: f32, bins: f32) -> f32 {
        self.code(value, bins) * self.scale + self.bias
    }

    /// Sums over the group with its nearest codes.
    fn measure(self, values: &[f32], weights: &[f32], bins: f32) -> Sums {
        // One plain loop for each thing, so that each is as wide as the machine.
        let [mut codes, mut weighted, mut off] = [[0f32; MAX_GROUP]; 3];
        let n = values.len();
        let (codes, weighted, off) = (&mut codes[..n], &mut weighted[..n], &mut off[..n]);
        codes.iter_mut().zip(values).for_each(|(code, &value)| *code = self.code(value, bins));
        for ((off, &code), &value) in off.iter_mut().zip(&*codes).zip(values) {
            *off = code * self.scale + self.bias - value;
        }
        weighted.iter_mut().zip(&*off).zip(weights).for_each(|((x, off), weight)| *x = weight * off);
        let (error, wc) = (dot(weighted, off), dot(weights, codes));
        weighted.iter_mut().zip(&*codes).zip(weights).for_each(|((x, code), weight)| *x = weight * code);
        Sums { error, wc, wcc: dot(weighted, codes), wcx: dot(weighted, values) }
    }
}

/// The sum of products in F32, in chains that are added by halves: their order is fixed.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const CHAINS: usize = 16;
    let mut chains = [0f32; CHAINS];
    for (a, b) in a.as_chunks::<CHAINS>().0.iter().zip(b.as_chunks::<CHAINS>().0) {
        for i in 0..CHAINS {
            chains[i] += a[i] * b[i];
        }
    }
    let mut n = CHAINS;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            chains[i] += chains[i + n];
        }
    }
    f64::from(chains[0])
}

/// Of a group and the codes of a grid: the weighted squared error, and sums of weight times code, code squared, code times value.
struct Sums {
    error: f64,
    wc: f64,
    wcc: f64,
    wcx: f64,
}

/// Of a group alone: the mean of its values, the sum of weights, and of weight times value.
struct Means {
    plain: f32,
    w: f64,
    wx: f64,
}

impl Means {
    fn of(values: &[f32], weights: &[f32]) -> Means {
        let ones = &[1.0; MAX_GROUP][..values.len()];
        let mean = dot(values, ones) / values.len() as f64;
        Means { plain: mean as f32, w: dot(weights, ones), wx: dot(weights, values) }
    }

    /// The grid with the least weighted error for fixed codes; `None` if all codes are equal.
    fn least_squares(&self, sums: &Sums) -> Option<Grid> {
        let determinant = self.w * sums.wcc - sums.wc * sums.wc;
        // Sums in F32 are not more exact.
        if determinant <= 1e-5 * self.w * sums.wcc {
            return None;
        }
        let scale = (self.w * sums.wcx - sums.wc * self.wx) / determinant;
        Grid::stored(scale as f32, ((self.wx - scale * sums.wc) / self.w) as f32)
    }
}

/// How many weights have which magnitude, by the upper half of their floats: exact for BF16.
pub(crate) struct Magnitudes {
    counts: Vec<u32>,
    n_values: u64,
}

impl Magnitudes {
    pub(crate) fn new() -> Magnitudes {
        Magnitudes { counts: vec![0; 1 << 15], n_values: 0 }
    }

    pub(crate) fn count(&mut self, row: &[f32]) {
        row.iter().for_each(|value| self.counts[(value.to_bits() << 1 >> 17) as usize] += 1);
        self.n_values += row.len() as u64;
    }

    /// The magnitude that [`GUARDED_SHARE`] of the weights have, or a little more of them.
    fn guard(&self) -> f32 {
        let mut left = (self.n_values as f64 * GUARDED_SHARE).ceil() as i64;
        let largest_first = self.counts.iter().enumerate().rev();
        let at = largest_first.take_while(|&(_, &count)| {
            let goes_on = left > 0;
            left -= i64::from(count);
            goes_on
        });
        at.last().map_or(0.0, |(magnitude, _)| f32::from_bits((magnitude as u32) << 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a normal distribution, or of one with long tails, the same everywhere.
    fn values(n: usize, seed: u32, has_tails: bool) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from((state >> 8) + 1) / f64::from(1 << 24)
        };
        let mut normal = || (-2.0 * next().ln()).sqrt() * (std::f64::consts::TAU * next()).cos();
        (0..n)
            .map(|_| {
                let value = normal();
                (if has_tails { value * normal().powi(2) } else { value }) as f32
            })
            .collect()
    }

    fn fit_of(row: &[f32], importance: Option<&[f32]>) -> Fit {
        let mut magnitudes = Magnitudes::new();
        magnitudes.count(row);
        let mut fit = Fit::new(importance, row.len(), &magnitudes);
        fit.begin(row);
        fit
    }

    /// What is read back of a group.
    fn back(fit: &Fit, first: usize, values: &[f32], bits: u8) -> Vec<f32> {
        let mut codes = vec![0; values.len()];
        let (scale, bias) = fit.group(first, values, bits, &mut codes).expect("a group to be searched");
        assert!(codes.iter().all(|&code| u32::from(code) < 1 << bits));
        codes.iter().map(|&code| f32::from(code) * scale.to_f32() + bias.to_f32()).collect()
    }

    /// The plain rule: from the smallest to the largest value, nearest codes.
    fn min_max(values: &[f32], bits: u8) -> Vec<f32> {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let most = f32::from((1u16 << bits) - 1);
        let scale = bf16::from_f32((high - low) / most).to_f32();
        let bias = bf16::from_f32(low).to_f32();
        values.iter().map(|x| ((x - bias) / scale).round().clamp(0.0, most) * scale + bias).collect()
    }

    fn error(values: &[f32], back: &[f32], weights: &[f32]) -> f64 {
        let each = values.iter().zip(back).zip(weights);
        each.map(|((a, b), w)| f64::from(*w) * (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }

    #[test]
    fn no_group_is_worse_than_by_min_and_max() {
        for seed in 0..40 {
            let row = values(512, seed, seed % 2 == 1);
            let importance: Vec<f32> = values(512, seed + 1000, true).iter().map(|x| x * x).collect();
            for importance in [None, Some(&importance[..])] {
                let fit = fit_of(&row, importance);
                for bits in [2, 3, 4, 5, 6, 8] {
                    for group in [32, 64, 128] {
                        for (i, values) in row.chunks_exact(group).enumerate() {
                            let weights = &fit.weights[i * group..][..group];
                            let found = error(values, &back(&fit, i * group, values, bits), weights);
                            let plain = error(values, &min_max(values, bits), weights);
                            assert!(
                                found <= plain * 1.0001,
                                "seed {seed}, {bits} bits, group {group}, {i}: {found} against {plain}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// A search over all uniform grids of four values leaves 0.319 of the spread of normal weights in groups of 64, the plain rule
    /// 0.450, as computed apart from this.
    #[test]
    fn two_bits_of_normal_weights_are_near_the_best_there_is() {
        let row = values(64 * 400, 7, false);
        let fit = fit_of(&row, None);
        let spread = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let share = |quantised: &dyn Fn(usize, &[f32]) -> Vec<f32>| {
            let errors = row
                .chunks_exact(64)
                .enumerate()
                .map(|(i, values)| error(values, &quantised(64 * i, values), &fit.weights[64 * i..][..64]));
            (errors.sum::<f64>() / spread).sqrt()
        };
        let found = share(&|first, values| back(&fit, first, values, 2));
        let plain = share(&|_, values| min_max(values, 2));
        assert!((0.31..0.33).contains(&found), "{found}");
        assert!((0.44..0.46).contains(&plain), "{plain}");
    }

    #[test]
    fn the_largest_weights_are_not_cut_off() {
        let mut row = values(64 * 320, 11, false);
        // Three of 20,480: the share that is guarded, far from the rest.
        (row[70], row[9000], row[15000]) = (9.0, -11.0, 10.0);
        let mut fit = fit_of(&row, None);
        assert_eq!(fit.guard, 9.0);
        let off = |fit: &Fit, at: usize| {
            let first = at / 64 * 64;
            (back(fit, first, &row[first..][..64], 2)[at - first] - row[at]).abs()
        };
        for at in [70, 9000, 15000] {
            let group = &row[at / 64 * 64..][..64];
            let (min, max) = range(group);
            assert!(off(&fit, at) <= (max - min) / 6.0 * 1.05, "{}", off(&fit, at));
        }
        fit.guard = f32::INFINITY;
        assert!(off(&fit, 70).max(off(&fit, 9000)) > 4.0, "the least error alone cuts them off");
    }

    #[test]
    fn the_guard_takes_a_ten_thousandth() {
        for (n, expected) in [(1, 1), (20_000, 2), (20_001, 3)] {
            let mut magnitudes = Magnitudes::new();
            let row: Vec<f32> = (1..=n).map(|i| bf16::from_bits(i as u16).to_f32()).collect();
            magnitudes.count(&row);
            let guarded = row.iter().filter(|&&value| value >= magnitudes.guard()).count();
            assert_eq!(guarded, expected, "of {n}");
        }
    }

    #[test]
    fn what_cannot_be_searched_is_left_to_the_range() {
        for value in [0.0f32, 1.0, -0.375, 1e-30, 1e30] {
            let row = [value; 64];
            assert_eq!(fit_of(&row, None).group(0, &row, 2, &mut [0; 64]), None, "{value}");
        }
        for far in [1e-20, 1e20] {
            let row: Vec<f32> = values(64, 5, false).iter().map(|x| x * far).collect();
            assert_eq!(fit_of(&row, Some(&[1.0; 64])).group(0, &row, 2, &mut [0; 64]), None, "{far}");
        }
    }

    /// Importance of any size, and none for most inputs.
    #[test]
    fn only_the_proportions_of_importance_count() {
        let row = values(256, 3, true);
        let importance: Vec<f32> = (0..256).map(|i| if i % 5 == 0 { 0.3 + i as f32 } else { 0.0 }).collect();
        let once = back(&fit_of(&row, Some(&importance)), 0, &row[..64], 3);
        for factor in [1e-30f32, 1e30] {
            let scaled: Vec<f32> = importance.iter().map(|x| x * factor).collect();
            assert_eq!(once, back(&fit_of(&row, Some(&scaled)), 0, &row[..64], 3), "{factor}");
        }
    }
}
