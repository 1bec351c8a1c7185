use flashmill_layout::{Encoding, Float, MatrixShape, MatrixView};
use half::bf16;

use crate::affine::quantize_row;
use crate::fit::{Fit, Magnitudes};

/// How the scales of a matrix are found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scales<'a> {
    /// From the range of each group.
    Range,
    /// By search, with one weight a column if there is importance.
    Fit(Option<&'a [f32]>),
}

/// Rows of a matrix from one encoding to another. `from.rows` are converted, and their largest weights guarded where scales are
/// fitted.
///
/// # Errors
/// The first row that holds a value that is not finite, where that matters.
pub(crate) fn convert(
    from: MatrixShape,
    source: &[&[u8]],
    to: Encoding,
    scales: Scales<'_>,
    row: &mut Vec<f32>,
    out: &mut [&mut [u8]],
) -> Result<(), usize> {
    if from.encoding == to {
        source.iter().zip(out).for_each(|(source, out)| out.copy_from_slice(source));
        return Ok(());
    }
    let view = MatrixView::new(from, source);
    row.resize(from.cols, 0.0);
    let decode = |i: usize, row: &mut [f32]| match from.encoding {
        Encoding::Float(float) => decode_floats(float, view.row(i)[0], row),
        _ => view.decode_row(i, row),
    };
    let mut fit = match (scales, to) {
        (Scales::Fit(importance), Encoding::Affine(_)) => {
            let mut magnitudes = Magnitudes::new();
            for i in 0..from.rows {
                decode(i, row);
                magnitudes.count(row);
            }
            Some(Fit::new(importance, from.cols, &magnitudes))
        }
        _ => None,
    };
    for i in 0..from.rows {
        decode(i, row);
        let at = |part: usize| {
            let bytes = to.part_row_bytes(part, from.cols);
            i * bytes..(i + 1) * bytes
        };
        match (to, &mut *out) {
            (Encoding::Affine(affine), [codes, scales, biases]) => {
                let parts = &mut [&mut codes[at(0)], &mut scales[at(1)], &mut biases[at(2)]];
                if !quantize_row(affine, row, fit.as_mut(), parts) {
                    return Err(i);
                }
            }
            (Encoding::Float(Float::BF16), [values]) => {
                for (bytes, &value) in values[at(0)].chunks_exact_mut(2).zip(&*row) {
                    bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
                }
            }
            _ => unreachable!("a recipe asks for affine groups, for BF16 or for no change, not for {to}"),
        }
    }
    Ok(())
}

/// As [`Encoding::decode_row`], with the type chosen once a row.
fn decode_floats(float: Float, bytes: &[u8], out: &mut [f32]) {
    match float {
        Float::BF16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
            }
        }
        Float::F16 | Float::F32 => {
            for (i, value) in out.iter_mut().enumerate() {
                *value = float.get(bytes, i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_decode_as_the_naive_truth() {
        for float in [Float::F32, Float::F16, Float::BF16] {
            let bytes: Vec<u8> = (0..128u32).map(|i| (i * 37 + 5) as u8).collect();
            let cols = bytes.len() / float.bytes();
            let (mut fast, mut naive) = (vec![0.0; cols], vec![0.0; cols]);
            decode_floats(float, &bytes, &mut fast);
            Encoding::Float(float).decode_row(&[&bytes], &mut naive);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&fast), bits(&naive));
        }
    }
}
