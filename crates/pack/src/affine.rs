//! Quantisation to affine groups: `w = code * scale + bias`.
//!
//! By range the rule is MLX's (`affine_quantize`, github.com/ml-explore/mlx), to the bit: the range of the group, moved so that its
//! end farther from zero is a code exactly. [`Fit`] searches.

use flashmill_layout::Affine;
use half::bf16;

use crate::fit::Fit;

/// Values of the largest group.
pub(crate) const MAX_GROUP: usize = 128;

/// One row in affine groups: writes its codes, scales and biases, the latter two in BF16.
///
/// They are fitted if `fit` is given, and follow the range otherwise. Gives `false` if a value is not finite; what was written
/// then means nothing.
pub(crate) fn quantize_row(
    affine: Affine,
    row: &[f32],
    mut fit: Option<&mut Fit>,
    parts: &mut [&mut [u8]; 3],
) -> bool {
    let group = usize::from(affine.group);
    let bits = usize::from(affine.bits);
    let mut codes = [0u8; MAX_GROUP];
    let codes = &mut codes[..group];
    let [packed, scales, biases] = parts;
    if let Some(fit) = &mut fit {
        fit.begin(row);
    }
    for (i, values) in row.chunks_exact(group).enumerate() {
        if !all_finite(values) {
            return false;
        }
        let fitted = fit.as_ref().and_then(|fit| fit.group(i * group, values, affine.bits, codes));
        let (scale, bias) = fitted.unwrap_or_else(|| quantize_group(values, affine.bits, codes));
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

/// The largest code.
pub(crate) fn bins(bits: u8) -> f32 {
    ((1u32 << bits) - 1) as f32
}

/// The smallest and the largest value.
pub(crate) fn range(values: &[f32]) -> (f32, f32) {
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
    use crate::fit::Magnitudes;

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

    fn fit_of(row: &[f32]) -> Fit {
        let mut magnitudes = Magnitudes::new();
        magnitudes.count(row);
        Fit::new(Some(&vec![1.0; row.len()]), row.len(), &magnitudes)
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let affine = Affine { bits: 4, group: 32, scales: Float::BF16 };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = values(64, 3);
            row[50] = bad;
            let (mut a, mut b, mut c) = ([0; 32], [0; 4], [0; 4]);
            assert!(!quantize_row(affine, &row, None, &mut [&mut a, &mut b, &mut c]));
            assert!(!quantize_row(affine, &row, Some(&mut fit_of(&row)), &mut [&mut a, &mut b, &mut c]));
        }
    }

    /// Groups that a search has nothing to offer, beside one that it has.
    #[test]
    fn constant_and_extreme_groups_are_the_same_fitted_or_not() {
        let affine = Affine { bits: 2, group: 32, scales: Float::BF16 };
        let mut row = values(160, 9);
        row[..32].fill(0.0);
        row[32..64].fill(-2.5);
        row[64..96].iter_mut().for_each(|value| *value *= 1e25);
        row[96..128].iter_mut().for_each(|value| *value *= 1e-25);
        let quantised = |fit: Option<&mut Fit>| {
            let (mut a, mut b, mut c) = ([0; 40], [0; 10], [0; 10]);
            assert!(quantize_row(affine, &row, fit, &mut [&mut a, &mut b, &mut c]));
            (a, b, c)
        };
        let (plain, fitted) = (quantised(None), quantised(Some(&mut fit_of(&row))));
        assert_eq!(
            (&plain.0[..32], &plain.1[..8], &plain.2[..8]),
            (&fitted.0[..32], &fitted.1[..8], &fitted.2[..8])
        );
        assert_ne!(plain, fitted);
    }
}
