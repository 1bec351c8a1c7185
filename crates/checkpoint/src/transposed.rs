//! Weights of GPTQ and AWQ: words of codes that run along the outputs, not along a row. They cannot be multiplied where they lie,
//! but are affine groups all the same: `scale * (code - zero)` is `code * scale + bias` with `bias = -zero * scale`. `pack` rearranges
//! them without changing a value.
//!
//! Layouts, for a matrix of `rows` outputs and `cols` inputs, with `n = 32 / bits` codes in a word, lowest bits first:
//!
//! ```text
//! GPTQ   qweight [cols / n, rows]     code k of word [w, r] is row r, column n * w + k
//!        qzeros  [groups, rows / n]   code k of word [g, w] is row n * w + k; "gptq" stores the zero less one, "gptq_v2" the zero
//! AWQ    qweight [cols, rows / 8]     code k of word [c, w] is column c, row 8 * w + [0, 2, 4, 6, 1, 3, 5, 7][k]
//!        qzeros  [groups, rows / 8]   the same order, the zero itself
//! both   scales  [groups, rows]       g_idx [cols], of GPTQ: the group of each column
//! ```

use flashmill_layout::{Encoding, Float, MatrixShape};
use half::{bf16, f16};

/// Which code of one of AWQ's words belongs to each of its eight rows: code k is row `[0, 2, 4, 6, 1, 3, 5, 7][k]`.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// How the words of a matrix are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transposed {
    /// Along which axis codes lie.
    pub words: Words,
    /// Bits of a code: 2, 4 or 8.
    pub bits: u8,
    /// Columns that share a scale and a zero.
    pub group: usize,
    /// The type of the scales.
    pub scales: Float,
    /// All zeros are in the middle: `2^(bits - 1)`.
    pub symmetric: bool,
    /// There is a `g_idx`.
    pub has_order: bool,
}

/// The axis and order of codes in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// GPTQ's; `zero_offset` is added to a stored zero.
    Gptq {
        /// 1 for `gptq`, 0 for `gptq_v2`.
        zero_offset: u8,
    },
    /// AWQ's "gemm".
    Awq,
}

/// Why words cannot be rearranged.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum TransposedError {
    /// Columns are grouped by something else than their place.
    #[error(
        "its g_idx puts column {column} into group {group}: its columns are ordered by activation, which is not read; use an edition made without desc_act"
    )]
    Order {
        /// The first column that is out of place.
        column: usize,
        /// Its group.
        group: i32,
    },
    /// A zero that is not in the middle, against what the config says.
    #[error("it has a zero point of {zero}, but its config says sym, which is {expected}")]
    NotSymmetric {
        /// What was found.
        zero: i32,
        /// What should be.
        expected: i32,
    },
    /// A scale whose bias the type of the scales cannot hold.
    #[error("its scale {scale} times the zero point {zero} does not fit {float}")]
    Bias {
        /// The scale.
        scale: f32,
        /// The zero.
        zero: i32,
        /// The type.
        float: Float,
    },
}

impl Transposed {
    /// The encoding that holds the same values row by row; `None` if groups of neighbouring columns cannot.
    ///
    /// Symmetric biases are a power of two times the scale, so that the scales' own type holds them; others need F32.
    pub fn encoding(&self) -> Option<Encoding> {
        let group = [128, 64, 32].into_iter().find(|&group| self.group.is_multiple_of(usize::from(group)))?;
        let scales = if self.symmetric { self.scales } else { Float::F32 };
        Some(Encoding::Affine(flashmill_layout::Affine { bits: self.bits, group, scales }))
    }

    /// Number of tensors: qweight, qzeros, scales and perhaps g_idx.
    pub fn n_parts(&self) -> usize {
        3 + usize::from(self.has_order)
    }

    /// The shapes of these tensors for a matrix of `rows` outputs and `cols` inputs.
    pub(crate) fn shapes(&self, (rows, cols): (usize, usize)) -> [Vec<u64>; 4] {
        let (per_word, groups) = (self.per_word(), cols.div_ceil(self.group) as u64);
        let words = |n: usize| n.div_ceil(per_word) as u64;
        let qweight = match self.words {
            Words::Gptq { .. } => vec![words(cols), rows as u64],
            Words::Awq => vec![cols as u64, words(rows)],
        };
        [qweight, vec![groups, words(rows)], vec![groups, rows as u64], vec![cols as u64]]
    }

    /// Codes, scales and biases of the encoding of `shape`, from the bytes of the stored tensors.
    ///
    /// # Errors
    /// If the values cannot be held exactly.
    ///
    /// # Panics
    /// If `shape` has another encoding than [`Transposed::encoding`], or `stored` other lengths than the shapes say.
    pub fn affine_parts(
        &self,
        shape: &MatrixShape,
        stored: &[impl AsRef<[u8]>],
    ) -> Result<[Vec<u8>; 3], TransposedError> {
        assert_eq!(Some(shape.encoding), self.encoding(), "the encoding that these words become");
        assert_eq!(stored.len(), self.n_parts(), "tensors of a matrix");
        let stored: Vec<&[u8]> = stored.iter().map(AsRef::as_ref).collect();
        let sizes = self.shapes((shape.rows, shape.cols));
        for (part, (bytes, size)) in stored.iter().zip(&sizes).enumerate() {
            let width = if part == 2 { self.scales.bytes() } else { 4 };
            let n = size.iter().product::<u64>() as usize;
            assert_eq!(bytes.len(), n * width, "bytes of tensor {part} of {shape:?}");
        }
        if let Some(order) = stored.get(3) {
            self.check_order(order)?;
        }
        let codes = self.codes(shape, stored[0]);
        let [scales, biases] = self.scales_and_biases(shape, stored[1], stored[2])?;
        Ok([codes, scales, biases])
    }

    fn check_order(&self, order: &[u8]) -> Result<(), TransposedError> {
        for (column, bytes) in order.as_chunks::<4>().0.iter().enumerate() {
            let group = i32::from_le_bytes(*bytes);
            if usize::try_from(group) != Ok(column / self.group) {
                return Err(TransposedError::Order { column, group });
            }
        }
        Ok(())
    }

    /// Rows of codes, each a little-endian stream of bits.
    fn codes(&self, shape: &MatrixShape, qweight: &[u8]) -> Vec<u8> {
        let (words, _) = qweight.as_chunks::<4>();
        let (rows, row_words) = (shape.rows, shape.cols / self.per_word());
        let mut codes = vec![0; shape.part_bytes(0)];
        let (out, _) = codes.as_chunks_mut::<4>();
        // Blocks of both axes, so that neither side is read or written with a large stride only.
        const BLOCK: usize = 32;
        for first_row in (0..rows).step_by(BLOCK) {
            for first_word in (0..row_words).step_by(BLOCK) {
                for row in first_row..(first_row + BLOCK).min(rows) {
                    for word in first_word..(first_word + BLOCK).min(row_words) {
                        out[row * row_words + word] = match self.words {
                            // A word of a column is a word of the row: the same codes in the same order.
                            Words::Gptq { .. } => words[word * rows + row],
                            Words::Awq => {
                                let code =
                                    |k| u32::from(self.awq_code(words, rows, 8 * word + k, row)) << (4 * k);
                                (0..8).map(code).sum::<u32>().to_le_bytes()
                            }
                        };
                    }
                }
            }
        }
        codes
    }

    /// Row `row` of line `line` (a column, or a group) of AWQ's words.
    fn awq_code(&self, words: &[[u8; 4]], rows: usize, line: usize, row: usize) -> u8 {
        let word = u32::from_le_bytes(words[line * rows.div_ceil(8) + row / 8]);
        (word >> (4 * AWQ_PLACES[row % 8]) & 15) as u8
    }

    /// The zero of a row's group.
    fn zero(&self, qzeros: &[[u8; 4]], rows: usize, group: usize, row: usize) -> i32 {
        match self.words {
            Words::Awq => i32::from(self.awq_code(qzeros, rows, group, row)),
            Words::Gptq { zero_offset } => {
                let per_word = self.per_word();
                let word = u32::from_le_bytes(qzeros[group * rows.div_ceil(per_word) + row / per_word]);
                let code = word >> (usize::from(self.bits) * (row % per_word)) & ((1 << self.bits) - 1);
                code as i32 + i32::from(zero_offset)
            }
        }
    }

    fn scales_and_biases(
        &self,
        shape: &MatrixShape,
        qzeros: &[u8],
        scales: &[u8],
    ) -> Result<[Vec<u8>; 2], TransposedError> {
        let Encoding::Affine(affine) = shape.encoding else { unreachable!("checked by the caller") };
        let (qzeros, _) = qzeros.as_chunks::<4>();
        let middle = 1 << (self.bits - 1);
        let mut parts = [Vec::with_capacity(shape.part_bytes(1)), Vec::with_capacity(shape.part_bytes(2))];
        for row in 0..shape.rows {
            for first in (0..shape.cols).step_by(usize::from(affine.group)) {
                let group = first / self.group;
                let scale = self.scales.get(scales, group * shape.rows + row);
                let zero = self.zero(qzeros, shape.rows, group, row);
                if self.symmetric && zero != middle {
                    return Err(TransposedError::NotSymmetric { zero, expected: middle });
                }
                let bias = -(zero as f32 * scale);
                push(affine.scales, scale, &mut parts[0]);
                push(affine.scales, bias, &mut parts[1]);
                let n = parts[1].len() / affine.scales.bytes();
                let held = affine.scales.get(&parts[1], n - 1);
                if held != bias && !(held.is_nan() && bias.is_nan()) {
                    return Err(TransposedError::Bias { scale, zero, float: affine.scales });
                }
            }
        }
        Ok(parts)
    }

    /// Codes of a word.
    fn per_word(&self) -> usize {
        32 / usize::from(self.bits)
    }
}

fn push(float: Float, value: f32, to: &mut Vec<u8>) {
    match float {
        Float::F32 => to.extend(value.to_le_bytes()),
        Float::F16 => to.extend(f16::from_f32(value).to_le_bytes()),
        Float::BF16 => to.extend(bf16::from_f32(value).to_le_bytes()),
    }
}
