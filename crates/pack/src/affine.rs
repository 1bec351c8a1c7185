//! Quantisation to affine groups: `w = code * scale + bias`.
//!
//! Without importance the rule is MLX's (`affine_quantize`, github.com/ml-explore/mlx), to the bit: the range of the group, moved
//! so that its end farther from zero is a code exactly. With importance the range is searched and fitted.

use flashmill_layout::Affine;
use half::bf16;

/// Values of the largest group.
pub(crate) const MAX_GROUP: usize = 128;

/// One row in affine groups: writes its codes, scales and biases, the latter two in BF16.
///
/// `importance`, one weight a column, makes the weighted squared error small. Gives `false` if a value is not finite; what was
/// written then means nothing.
pub(crate) fn quantize_row(
    affine: Affine,
    row: &[f32],
    importance: Option<&[f32]>,
    parts: &mut [&mut [u8]; 3],
) -> bool {
    let group = usize::from(affine.group);
    let bits = usize::from(affine.bits);
    let mut codes = [0u8; MAX_GROUP];
    let codes = &mut codes[..group];
    let [packed, scales, biases] = parts;
    for (i, values) in row.chunks_exact(group).enumerate() {
        if !all_finite(values) {
            return false;
        }
        let (scale, bias) = match importance {
            None => quantize_group(values, affine.bits, codes),
            Some(weights) => fit_group(values, &weights[i * group..][..group], affine.bits, codes),
        };
        pack_codes(codes, bits, &mut packed[i * group * bits / 8..][..group * bits / 8]);
        scales[2 * i..][..2].copy_from_slice(&scale.to_le_bytes());
        biases[2 * i..][..2].copy_from_slice(&bias.to_le_bytes());
    }
    true
}

fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    values.iter().fold(0, |bad, value| bad | u32::from(value.to_bits() & EXPONENT == EXPONENT)) == 0
}

/// MLX's rule: gives scale and bias and writes one code a value. Codes follow from the scale and bias in f32, which are then stored in BF16.
fn quantize_group(values: &[f32], bits: u8, codes: &mut [u8]) -> (bf16, bf16) {
    let (min, max) = range(values);
    let (scale, bias) = mlx_scale(min, max, bins(bits));
    encode(values, scale, bias, bins(bits), codes);
    (bf16::from_f32(scale), bf16::from_f32(bias))
}

fn bins(bits: u8) -> f32 {
    ((1u32 << bits) - 1) as f32
}

fn range(values: &[f32]) -> (f32, f32) {
    // Eight chains, so that the loop is as wide as the machine.
    let (mut min, mut max) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for chunk in values.chunks_exact(8) {
        for (i, &value) in chunk.iter().enumerate() {
            min[i] = if value < min[i] { value } else { min[i] };
            max[i] = if value > max[i] { value } else { max[i] };
        }
    }
    (min.into_iter().fold(f32::INFINITY, f32::min), max.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

fn mlx_scale(min: f32, max: f32, bins: f32) -> (f32, f32) {
    let scale = ((max - min) / bins).max(1e-7);
    let (scale, edge) = if min.abs() > max.abs() { (scale, min) } else { (-scale, max) };
    match (edge / scale).round_ties_even() {
        0.0 => (scale, 0.0),
        q => (edge / q, edge),
    }
}

/// The nearest codes of `values`; ties to even.
fn encode(values: &[f32], scale: f32, bias: f32, bins: f32, codes: &mut [u8]) {
    /// Added and taken away, it rounds what lies in `0..=255` to a whole number, ties to even, in every build.
    const ROUND: f32 = 12_582_912.0;
    for (code, value) in codes.iter_mut().zip(values) {
        let exact = (value - bias) / scale;
        let exact = if exact > 0.0 { exact } else { 0.0 };
        let exact = if exact < bins { exact } else { bins };
        *code = ((exact + ROUND).to_bits() & 0xff) as u8;
    }
}

/// Shares of the range that are tried: outliers may be cut off if the rest gains more.
const SHARES: [f32; 8] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6];

/// The best of several ranges, each refined by weighted least squares over its codes; never worse than MLX's rule, since that is
/// one of them. Errors are those of the scale and bias as stored.
fn fit_group(values: &[f32], weights: &[f32], bits: u8, codes: &mut [u8]) -> (bf16, bf16) {
    let mut best = quantize_group(values, bits, codes);
    let mut least = weighted_error(values, weights, codes, best);
    let mut trial = [0u8; MAX_GROUP];
    let trial = &mut trial[..values.len()];
    let (min, max) = range(values);
    for share in SHARES {
        let (scale, bias) = mlx_scale(min * share, max * share, bins(bits));
        let mut pair = (bf16::from_f32(scale), bf16::from_f32(bias));
        for _ in 0..2 {
            // A scale that BF16 rounds to zero has no codes.
            if pair.0 == bf16::ZERO {
                break;
            }
            encode(values, pair.0.to_f32(), pair.1.to_f32(), bins(bits), trial);
            let error = weighted_error(values, weights, trial, pair);
            if error < least {
                (least, best) = (error, pair);
                codes.copy_from_slice(trial);
            }
            match least_squares(values, weights, trial) {
                Some((scale, bias)) => pair = (bf16::from_f32(scale), bf16::from_f32(bias)),
                None => break,
            }
        }
    }
    best
}

fn weighted_error(values: &[f32], weights: &[f32], codes: &[u8], (scale, bias): (bf16, bf16)) -> f64 {
    let (scale, bias) = (scale.to_f32(), bias.to_f32());
    let error = |((value, weight), code): ((&f32, &f32), &u8)| {
        let error = f64::from(f32::from(*code) * scale + bias - value);
        f64::from(*weight) * error * error
    };
    values.iter().zip(weights).zip(codes).map(error).sum()
}

/// Scale and bias with the least weighted error for fixed codes; `None` if all codes are equal.
fn least_squares(values: &[f32], weights: &[f32], codes: &[u8]) -> Option<(f32, f32)> {
    let (mut w, mut wc, mut wx, mut wcc, mut wcx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ((&value, &weight), &code) in values.iter().zip(weights).zip(codes) {
        let (weight, code, value) = (f64::from(weight), f64::from(code), f64::from(value));
        w += weight;
        wc += weight * code;
        wx += weight * value;
        wcc += weight * code * code;
        wcx += weight * code * value;
    }
    let determinant = w * wcc - wc * wc;
    if determinant <= 1e-12 * w * wcc {
        return None;
    }
    let scale = (w * wcx - wc * wx) / determinant;
    Some((scale as f32, ((wx - scale * wc) / w) as f32))
}

/// Codes into their bit stream: eight of them are `bits` whole bytes.
fn pack_codes(codes: &[u8], bits: usize, out: &mut [u8]) {
    match bits {
        8 => out.copy_from_slice(codes),
        4 => {
            out.iter_mut().zip(codes.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] | pair[1] << 4)
        }
        _ => {
            for (bytes, eight) in out.chunks_exact_mut(bits).zip(codes.chunks_exact(8)) {
                let word = eight
                    .iter()
                    .enumerate()
                    .fold(0u64, |word, (i, &code)| word | u64::from(code) << (i * bits));
                bytes.copy_from_slice(&word.to_le_bytes()[..bits]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flashmill_layout::{Encoding, Float};

    use super::*;

    /// Numbers that look random, and the same everywhere.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * next()).collect()
    }

    #[test]
    fn rows_come_back_within_the_grid() {
        for bits in [2u8, 3, 4, 5, 6, 8] {
            for group in [32u16, 64, 128] {
                let affine = Affine { bits, group, scales: Float::BF16 };
                let row = values(256, u32::from(bits) * 7 + u32::from(group));
                let encoding = Encoding::Affine(affine);
                let mut parts: Vec<Vec<u8>> =
                    (0..3).map(|i| vec![0; encoding.part_row_bytes(i, 256)]).collect();
                let [a, b, c] = parts.as_mut_slice() else { unreachable!() };
                assert!(quantize_row(affine, &row, None, &mut [a, b, c]));
                let views: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                let mut back = vec![0.0; 256];
                encoding.decode_row(&views, &mut back);
                for (group_values, back) in row.chunks(group.into()).zip(back.chunks(group.into())) {
                    let (min, max) = range(group_values);
                    // The grid ends at the range's farther end and may miss the other by a step; then half a step between
                    // codes, and BF16's error in both terms.
                    let limit = (max - min) / bins(bits) * 1.5 + 2.0 * min.abs().max(max.abs()) / 256.0;
                    for (value, back) in group_values.iter().zip(back) {
                        assert!((value - back).abs() <= limit, "{bits} bits: {value} became {back}");
                    }
                }
            }
        }
    }

    #[test]
    fn constants_and_zeros_come_back() {
        for value in [0.0f32, 1.0, -0.375, 1e-9] {
            let mut codes = [0; 32];
            let (scale, bias) = quantize_group(&[value; 32], 4, &mut codes);
            let back = f32::from(codes[0]) * scale.to_f32() + bias.to_f32();
            assert!((back - value).abs() < 1e-7, "{value} became {back}");
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let affine = Affine { bits: 4, group: 32, scales: Float::BF16 };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = values(64, 3);
            row[50] = bad;
            let (mut a, mut b, mut c) = ([0; 32], [0; 4], [0; 4]);
            assert!(!quantize_row(affine, &row, None, &mut [&mut a, &mut b, &mut c]));
        }
    }
}
