//! Random GGML blocks: every byte is arbitrary but for the scales, which give weights of a chosen size.

use flashmill_layout::GgmlType;
use flashmill_layout::ggml::Unpacked;
use half::f16;

use super::Random;

/// `n` blocks whose largest weights are about `4 * spread`, some of them zero or of the other sign.
pub(super) fn blocks(random: &mut Random, ty: GgmlType, n: usize, spread: f32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..n * ty.block_bytes()).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        // As fractions of the largest scale: the offsets, where there are any, are as large as the codes.
        let size = spread * random.pick(&[0.0, 0.3, 1.0, 1.0, -1.0]);
        set_scale(ty, block, 1.0);
        let mut values = vec![0.0; ty.block_values()];
        ty.decode_block(block, &mut values);
        let largest = values.iter().fold(1e-3, |max: f32, value| max.max(value.abs()));
        set_scale(ty, block, 4.0 * size * random.uniform(0.5, 1.0) / largest);
        if let GgmlType::MXFP4 | GgmlType::NVFP4 = ty {
            set_small_exponents(random, ty, block, spread);
        }
    }
    bytes
}

/// What a block's values are multiplied with, offsets included. Types whose scales are no halves stay as they are.
fn set_scale(ty: GgmlType, block: &mut [u8], scale: f32) {
    let scale = f16::from_f32(scale);
    if ty == GgmlType::IQ1_M {
        // A quarter of the scale in the upper four bits of each of four words.
        for (i, word) in block[48..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let nibble = scale.to_bits() >> (4 * i) & 15;
            word[1] = word[1] & 15 | (nibble as u8) << 4;
        }
    }
    for &at in halves(ty) {
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }
}

/// Where the halves of a block lie.
fn halves(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        GgmlType::IQ1_M | GgmlType::MXFP4 | GgmlType::NVFP4 => &[],
        _ => &[0],
    }
}

/// The 8-bit scales of the types that have no halves, for weights of about `spread`.
fn set_small_exponents(random: &mut Random, ty: GgmlType, block: &mut [u8], spread: f32) {
    if ty == GgmlType::MXFP4 {
        // The weights are up to 12 * 2^(exponent - 128).
        block[0] = (127 + spread.log2() as i32 - random.below(4) as i32) as u8;
    } else {
        // Up to 0.06, a sign that is ignored.
        block[..4].iter_mut().for_each(|scale| *scale &= 0x97);
    }
}

/// Row `row` with `code * scale` and the offset as magnitudes.
pub(super) fn magnitudes(ty: GgmlType, row: &[u8], out: &mut [f32]) {
    let mut unpacked = Unpacked::default();
    for (block, out) in row.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_values())) {
        ty.unpack_block(block, &mut unpacked);
        for (i, value) in out.iter_mut().enumerate() {
            let group = i / ty.group();
            let offset = if ty.has_offsets() { unpacked.offsets[group] } else { 0.0 };
            *value = (f32::from(unpacked.codes[i]) * unpacked.scales[group]).abs() + offset.abs();
        }
    }
}
