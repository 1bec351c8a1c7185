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
        self.rows * self.encoding.part_row_bytes(part, self.cols)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.rows * self.encoding.row_bytes(self.cols)
    }
}

/// A matrix whose bytes lie somewhere, at any alignment: `parts[i]` holds all rows of part `i`, one after the other.
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
