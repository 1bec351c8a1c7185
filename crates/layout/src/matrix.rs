use std::ops::Range;

use crate::{Encoding, MAX_PARTS};

/// The shape and encoding of a matrix `W` of a product `y = W x`: `rows` outputs, `cols` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How each row is stored.
    pub encoding: Encoding,
}

impl MatrixShape {
    /// Bytes of part `part` of the whole matrix.
    pub fn part_bytes(&self, part: usize) -> usize {
        self.encoding.part_rows(part, self.rows) * self.encoding.part_row_bytes(part, self.cols)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        (0..self.encoding.n_parts()).map(|part| self.part_bytes(part)).sum()
    }

    /// Which bytes of part `part` belong to the `n` rows from `first` on; `None` where that would cut a row of the part which
    /// these rows share with others.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn part_range(&self, part: usize, first: usize, n: usize) -> Option<Range<usize>> {
        assert!(first + n <= self.rows, "rows {first}+{n} of {}", self.rows);
        let (shared, bytes) =
            (self.encoding.rows_of_part_row(part), self.encoding.part_row_bytes(part, self.cols));
        let whole = first.is_multiple_of(shared) && (n.is_multiple_of(shared) || first + n == self.rows);
        whole.then(|| first / shared * bytes..(first + n).div_ceil(shared) * bytes)
    }
}

/// A matrix whose bytes lie somewhere, at any alignment: `parts[i]` holds all rows of part `i`, one after the other. A part may
/// have fewer rows than the matrix ([`Encoding::part_rows`]).
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    /// Its shape.
    pub shape: MatrixShape,
    /// Its bytes; parts beyond the encoding's are empty.
    pub parts: [&'a [u8]; MAX_PARTS],
}

/// One row of a matrix.
pub type RowView<'a> = [&'a [u8]; MAX_PARTS];

impl<'a> MatrixView<'a> {
    /// A view of `parts`, as many as the encoding has.
    ///
    /// # Panics
    /// If a part has another length than the shape says.
    pub fn new(shape: MatrixShape, parts: &[&'a [u8]]) -> Self {
        assert_eq!(parts.len(), shape.encoding.n_parts(), "one slice for each part of {}", shape.encoding);
        let mut all: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        for (i, part) in parts.iter().enumerate() {
            assert_eq!(part.len(), shape.part_bytes(i), "part {i} of {shape:?}");
            all[i] = part;
        }
        MatrixView { shape, parts: all }
    }

    /// The bytes of row `row` in each part.
    pub fn row(&self, row: usize) -> RowView<'a> {
        let mut parts: RowView<'a> = [&[]; MAX_PARTS];
        for (i, part) in parts.iter_mut().enumerate().take(self.shape.encoding.n_parts()) {
            let bytes = self.shape.encoding.part_row_bytes(i, self.shape.cols);
            let row = row / self.shape.encoding.rows_of_part_row(i);
            *part = &self.parts[i][row * bytes..][..bytes];
        }
        parts
    }

    /// The naive truth: row `row` as f32, `out.len() == cols`.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.shape.cols, "a row has {} values", self.shape.cols);
        self.shape.encoding.decode_row(&self.row(row), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Float;

    #[test]
    fn rows_of_fp8_blocks_share_their_scales() {
        // 130 rows and columns: blocks of 128 and 2. The scales are 1, 2, 4, 8.
        let shape = MatrixShape { rows: 130, cols: 130, encoding: Encoding::Fp8 { scales: Float::F32 } };
        let scales: Vec<u8> = [1f32, 2.0, 4.0, 8.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        // 0x38 is one.
        let view = MatrixView::new(shape, &[&[0x38; 130 * 130], &scales]);
        let at = |row: usize, col: usize| {
            let mut values = vec![0.0; 130];
            view.decode_row(row, &mut values);
            values[col]
        };
        assert_eq!([at(0, 0), at(127, 127), at(127, 128), at(0, 129)], [1.0, 1.0, 2.0, 2.0]);
        assert_eq!([at(128, 0), at(129, 127), at(128, 128), at(129, 129)], [4.0, 4.0, 8.0, 8.0]);
        assert_eq!(shape.bytes(), 130 * 130 + 16);
    }

    #[test]
    fn a_range_of_rows_keeps_whole_rows_of_scales() {
        let shape = MatrixShape { rows: 300, cols: 200, encoding: Encoding::Fp8 { scales: Float::BF16 } };
        assert_eq!(shape.part_range(0, 3, 7), Some(600..2000));
        assert_eq!(shape.part_range(1, 128, 128), Some(4..8));
        assert_eq!(shape.part_range(1, 256, 44), Some(8..12));
        assert_eq!(shape.part_range(1, 0, 300), Some(0..12));
        assert_eq!(shape.part_range(1, 0, 100), None);
        assert_eq!(shape.part_range(1, 64, 128), None);
    }
}
