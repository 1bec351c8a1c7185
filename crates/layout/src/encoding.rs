use half::{bf16, f16};

use crate::{GgmlType, minifloat};

/// Rows, and columns, of the blocks of [`Encoding::Fp8`] that share a scale.
pub const FP8_BLOCK: usize = 128;

/// The most parts (planes of bytes) that an encoding has.
pub const MAX_PARTS: usize = 3;

/// A plain floating-point type, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl Float {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }

    /// Value `index` of an array of this type.
    pub fn get(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Float::F32 => f32::from_le_bytes(bytes[4 * index..][..4].try_into().expect("4 bytes")),
            Float::F16 => f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
            Float::BF16 => bf16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
        }
    }
}

/// MLX's affine groups: `w = code * scale + bias`, one scale and one bias a group of neighbouring values of a row.
///
/// Code `j` of a row occupies bits `[j * bits, (j + 1) * bits)` of the row's little-endian bit stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affine {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// Values that share a scale: 32, 64 or 128.
    pub group: u16,
    /// The type of scales and biases.
    pub scales: Float,
}

/// How a row of weights is stored. Kernels ask about nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One part: the values.
    Float(Float),
    /// Three parts: codes, scales, biases.
    Affine(Affine),
    /// One part: GGML's blocks. Never a plain float, which is [`Encoding::Float`].
    Ggml(GgmlType),
    /// Two parts: E4M3 codes, and one scale for each block of [`FP8_BLOCK`] rows and columns, the last ones of which may be short:
    /// `w = code * scale`.
    Fp8 {
        /// The type of the scales.
        scales: Float,
    },
}

impl Encoding {
    /// The encoding of a GGML type.
    pub fn of_ggml(ty: GgmlType) -> Encoding {
        ty.float().map_or(Encoding::Ggml(ty), Encoding::Float)
    }

    /// Number of parts, each an array of rows of its own.
    pub fn n_parts(self) -> usize {
        match self {
            Encoding::Float(_) | Encoding::Ggml(_) => 1,
            Encoding::Fp8 { .. } => 2,
            Encoding::Affine(_) => 3,
        }
    }

    /// A row must have a multiple of this many values.
    pub fn granularity(self) -> usize {
        match self {
            Encoding::Float(_) | Encoding::Fp8 { .. } => 1,
            Encoding::Affine(affine) => usize::from(affine.group),
            Encoding::Ggml(ty) => ty.block_values(),
        }
    }

    /// Neighbouring rows of the matrix that share one row of part `part`.
    pub fn rows_of_part_row(self, part: usize) -> usize {
        match self {
            Encoding::Fp8 { .. } if part == 1 => FP8_BLOCK,
            _ => 1,
        }
    }

    /// Rows of part `part` of a matrix of `rows` rows.
    pub fn part_rows(self, part: usize, rows: usize) -> usize {
        rows.div_ceil(self.rows_of_part_row(part))
    }

    /// Bytes of one row of part `part`, for rows of `cols` values.
    pub fn part_row_bytes(self, part: usize, cols: usize) -> usize {
        assert!(part < self.n_parts(), "{self} has no part {part}");
        match self {
            Encoding::Float(float) => cols * float.bytes(),
            Encoding::Affine(affine) if part == 0 => cols * usize::from(affine.bits) / 8,
            Encoding::Affine(affine) => cols / usize::from(affine.group) * affine.scales.bytes(),
            Encoding::Ggml(ty) => ty.row_bytes(cols),
            Encoding::Fp8 { .. } if part == 0 => cols,
            Encoding::Fp8 { scales } => cols.div_ceil(FP8_BLOCK) * scales.bytes(),
        }
    }

    /// Bytes of one row in all parts together; what it shares with other rows counts whole.
    pub fn row_bytes(self, cols: usize) -> usize {
        (0..self.n_parts()).map(|part| self.part_row_bytes(part, cols)).sum()
    }

    /// Bits stored for each value of a matrix of many rows of `cols` values, scales included.
    pub fn bits_per_weight(self, cols: usize) -> f64 {
        let part = |i| self.part_row_bytes(i, cols) as f64 / self.rows_of_part_row(i) as f64;
        (0..self.n_parts()).map(part).sum::<f64>() * 8.0 / cols as f64
    }

    /// The naive truth: one row as f32. `parts[i]` holds the row's bytes of part `i`; `out.len()` is the number of columns.
    pub fn decode_row(self, parts: &[&[u8]], out: &mut [f32]) {
        match self {
            Encoding::Float(float) => {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = float.get(parts[0], i);
                }
            }
            Encoding::Affine(affine) => {
                let group = usize::from(affine.group);
                for (i, value) in out.iter_mut().enumerate() {
                    let scale = affine.scales.get(parts[1], i / group);
                    let bias = affine.scales.get(parts[2], i / group);
                    *value = f32::from(affine.code(parts[0], i)) * scale + bias;
                }
            }
            Encoding::Ggml(ty) => ty.decode_row(parts[0], out),
            Encoding::Fp8 { scales } => {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = minifloat::e4m3(parts[0][i]) * scales.get(parts[1], i / FP8_BLOCK);
                }
            }
        }
    }
}

impl Affine {
    /// Code `index` of a row.
    pub fn code(self, codes: &[u8], index: usize) -> u8 {
        let bits = usize::from(self.bits);
        let first = index * bits;
        let low = u16::from(codes[first / 8]);
        let high = codes.get(first / 8 + 1).map_or(0, |&byte| u16::from(byte));
        let word = (low | high << 8) >> (first % 8);
        (word & ((1 << bits) - 1)) as u8
    }
}

impl std::fmt::Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Float::F32 => "F32",
            Float::F16 => "F16",
            Float::BF16 => "BF16",
        })
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encoding::Float(float) => float.fmt(f),
            Encoding::Affine(affine) => {
                write!(f, "affine {}-bit, group {}, {} scales", affine.bits, affine.group, affine.scales)
            }
            Encoding::Ggml(ty) => f.write_str(ty.name()),
            Encoding::Fp8 { scales } => write!(f, "FP8 E4M3, {scales} scales"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_width_come_back() {
        for bits in [2u8, 3, 4, 5, 6, 8] {
            let affine = Affine { bits, group: 32, scales: Float::F32 };
            let codes: Vec<u8> = (0..64u32).map(|i| ((i * 37 + 11) % (1 << bits)) as u8).collect();
            let mut stream = vec![0u8; 64 * usize::from(bits) / 8];
            for (i, &code) in codes.iter().enumerate() {
                for bit in 0..usize::from(bits) {
                    let at = i * usize::from(bits) + bit;
                    stream[at / 8] |= (code >> bit & 1) << (at % 8);
                }
            }
            let back: Vec<u8> = (0..64).map(|i| affine.code(&stream, i)).collect();
            assert_eq!(codes, back, "{bits} bits");
        }
    }

    #[test]
    fn an_affine_row_decodes() {
        let affine = Affine { bits: 4, group: 32, scales: Float::BF16 };
        let codes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let scale = bf16::from_f32(0.5).to_le_bytes();
        let bias = bf16::from_f32(-1.0).to_le_bytes();
        let mut row = [0.0; 32];
        Encoding::Affine(affine).decode_row(&[&codes, &scale, &bias], &mut row);
        assert_eq!(row[..4], [-1.0, 6.5, -0.5, 6.0]);
    }

    #[test]
    fn sizes() {
        let affine = Encoding::Affine(Affine { bits: 4, group: 64, scales: Float::BF16 });
        assert_eq!(affine.row_bytes(4096), 2048 + 128 + 128);
        assert_eq!(affine.bits_per_weight(4096), 4.5);
        assert_eq!(Encoding::Float(Float::BF16).row_bytes(10), 20);
        let fp8 = Encoding::Fp8 { scales: Float::BF16 };
        assert_eq!(fp8.bits_per_weight(4096), 8.0 + 16.0 / 128.0 / 128.0);
        assert_eq!((fp8.part_rows(0, 129), fp8.part_rows(1, 129), fp8.part_rows(1, 128)), (129, 2, 1));
    }
}
