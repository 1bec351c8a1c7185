//! Products with quantised weights: the data, and the definition in plain Rust. docs/NUMERICS.md has the arithmetic.

use std::ops::Range;

use flashmill_layout::{Affine, Encoding, MatrixView};

use super::memory::Span;
use super::quantize::padded;

/// Neighbouring rows of a matrix in affine groups.
#[derive(Clone, Copy)]
pub(crate) struct AffineRows<'a> {
    pub(crate) affine: Affine,
    pub(crate) cols: usize,
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [u8],
    pub(crate) biases: &'a [u8],
}

impl<'a> AffineRows<'a> {
    /// Rows `rows` of `w`, which has affine groups.
    pub(crate) fn of(w: &MatrixView<'a>, rows: Range<usize>) -> AffineRows<'a> {
        let Encoding::Affine(affine) = w.shape.encoding else {
            unreachable!("affine groups, not {}", w.shape.encoding)
        };
        let part = |i: usize| {
            let bytes = w.shape.encoding.part_row_bytes(i, w.shape.cols);
            &w.parts[i][rows.start * bytes..rows.end * bytes]
        };
        AffineRows { affine, cols: w.shape.cols, codes: part(0), scales: part(1), biases: part(2) }
    }

    /// Some of the rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> AffineRows<'a> {
        let codes = self.code_bytes();
        let groups = self.group_bytes();
        AffineRows {
            codes: &self.codes[rows.start * codes..rows.end * codes],
            scales: &self.scales[rows.start * groups..rows.end * groups],
            biases: &self.biases[rows.start * groups..rows.end * groups],
            ..*self
        }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.codes.len() / self.code_bytes()
    }

    /// Bytes of a row's codes.
    pub(crate) fn code_bytes(&self) -> usize {
        self.cols * usize::from(self.affine.bits) / 8
    }

    /// Bytes of a row's scales.
    pub(crate) fn group_bytes(&self) -> usize {
        self.cols / usize::from(self.affine.group) * self.affine.scales.bytes()
    }

    /// Values of a unit.
    pub(crate) fn unit(&self) -> usize {
        usize::from(self.affine.group).min(64)
    }

    /// Units of a row.
    pub(crate) fn n_units(&self) -> usize {
        self.cols / self.unit()
    }

    /// Units that share a scale.
    pub(crate) fn units_of_group(&self) -> usize {
        usize::from(self.affine.group) / self.unit()
    }

    /// The sixteen accumulators of one row: the definition that every level equals.
    pub(crate) fn accumulate(&self, row: usize, x: QuantizedRow<'_>) -> [f32; 16] {
        let codes = &self.codes[row * self.code_bytes()..];
        let scales = &self.scales[row * self.group_bytes()..];
        let biases = &self.biases[row * self.group_bytes()..];
        let (x_scales, x_sums) = x.units(self.unit());
        let mut acc = [0.0; 16];
        for u in 0..self.n_units() {
            let values = u * self.unit()..(u + 1) * self.unit();
            let sum: i32 =
                values.map(|i| i32::from(self.affine.code(codes, i)) * i32::from(x.value(i))).sum();
            let scale = self.affine.scales.get(scales, u / self.units_of_group());
            let bias = self.affine.scales.get(biases, u / self.units_of_group());
            let lane: &mut f32 = &mut acc[u % 16];
            *lane = f32::mul_add(sum as f32, scale * x_scales[u], *lane);
            *lane = f32::mul_add(bias, x_sums[u], *lane);
        }
        acc
    }
}

/// How the values of a block lie, so that packed codes meet them with one shift and one mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "a level has its own ways"))]
pub(crate) enum Dealt {
    /// Blocks of `32 * n` in `n` planes of words, one for each field of a word of codes: value `n * l + j` is word `l` of plane `j`.
    /// `Words(1)` is the plain order.
    Words(usize),
    /// Blocks of `64 * n` in `n` pairs of planes of signed bytes, one for each field of a byte of codes: value `n * l + j` is
    /// `256 * high + low` of byte `l` of pair `j`, the high plane first.
    Bytes(usize),
    /// Blocks of `64 * n` in `n` planes of 64 words, for units of `16 * n` (n is 1 or 2): run r of sixteen values is quarter `r / n` of plane
    /// `r % n`; of two neighbouring quarters come the first eights and then the second eights.
    WordRuns(usize),
    /// The same runs in `n` pairs of planes of signed bytes as in [`Dealt::Bytes`], each in order.
    ByteRuns(usize),
}

impl Dealt {
    /// Values of a block, at most 512.
    pub(crate) fn block(self) -> usize {
        match self {
            Dealt::Words(n) => 32 * n,
            Dealt::Bytes(n) | Dealt::WordRuns(n) | Dealt::ByteRuns(n) => 64 * n,
        }
    }

    /// Neighbouring pairs of words that stay neighbours when a unit of `unit` values is put together again.
    pub(crate) fn run(self, unit: usize) -> usize {
        match self {
            Dealt::Words(n) => unit / 2 / n,
            Dealt::Bytes(n) => unit / 4 / n,
            Dealt::WordRuns(_) | Dealt::ByteRuns(_) => unreachable!("{self:?} is not for panels"),
        }
    }

    /// The first pair of run `run` of unit `u`: a unit has a run in each plane, those of high bytes before those of low bytes.
    pub(crate) fn start_of_run(self, unit: usize, u: usize, run: usize) -> usize {
        let first = u * self.run(unit);
        match self {
            Dealt::Words(n) => first / 16 * 16 * n + first % 16 + 16 * run,
            Dealt::Bytes(n) => first / 16 * 32 * n + first % 16 + 32 * (run % n) + 16 * (run / n),
            Dealt::WordRuns(_) | Dealt::ByteRuns(_) => unreachable!("{self:?} is not for panels"),
        }
    }

    /// Deals one block: the definition that every level equals.
    pub(crate) fn deal(self, from: &[i16], to: &mut [i16]) {
        match self {
            Dealt::Words(n) => {
                for (i, &value) in from.iter().enumerate() {
                    to[i % n * 32 + i / n] = value;
                }
            }
            Dealt::Bytes(n) => {
                for pair in 0..n {
                    for word in 0..32 {
                        let value = |byte: usize| from[(2 * word + byte) * n + pair];
                        [to[64 * pair + word], to[64 * pair + 32 + word]] = planes([value(0), value(1)]);
                    }
                }
            }
            Dealt::WordRuns(n) => {
                for (i, values) in from.chunks_exact(8).enumerate() {
                    let (run, half) = (i / 2, i % 2);
                    let (plane, quarter) = (run % n, run / n);
                    to[64 * plane + 32 * (quarter / 2) + 16 * half + 8 * (quarter % 2)..][..8]
                        .copy_from_slice(values);
                }
            }
            Dealt::ByteRuns(n) => {
                for (run, values) in from.chunks_exact(16).enumerate() {
                    let at = 64 * (run % n) + 8 * (run / n);
                    for (i, pair) in values.as_chunks::<2>().0.iter().enumerate() {
                        [to[at + i], to[at + 32 + i]] = planes(*pair);
                    }
                }
            }
        }
    }
}

/// Factors of a unit of activations: scale, scaled sum, integer sum.
pub(crate) const FACTORS: usize = 3;

/// Two neighbouring values as bytes: a word of the high plane and one of the low plane.
fn planes(values: [i16; 2]) -> [i16; 2] {
    let join = |low: i16, high: i16| low & 0xff | high << 8;
    let [low, high] = values.map(|q| (q + 128) >> 8);
    [join(low, high), join(values[0], values[1])]
}

/// A row of activations in signed 16 bits.
///
/// `values` come in blocks, each dealt to planes as [`Dealt`] says; the last block is padded with zeros.
#[derive(Clone, Copy)]
pub(crate) struct QuantizedRow<'a> {
    pub(crate) values: &'a [i16],
    pub(crate) dealt: Dealt,
    /// Values of a unit: 16, 32 or 64.
    pub(crate) unit: usize,
    /// Of each unit its scale, then of each its scaled sum, then of each its integer sum (exact), padded with zeros.
    pub(crate) factors: &'a [f32],
}

impl<'a> QuantizedRow<'a> {
    /// Scales and scaled sums of the units of `unit` values; at least `n_units` rounded up to 16 of each.
    pub(crate) fn units(self, unit: usize) -> (&'a [f32], &'a [f32]) {
        assert_eq!(unit, self.unit, "the row is quantised for the weights' units");
        let n = self.factors.len() / FACTORS;
        (&self.factors[..n], &self.factors[n..2 * n])
    }

    /// Scales, scaled sums and integer sums of the units.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        allow(dead_code, reason = "for levels with products of bytes")
    )]
    pub(crate) fn factors(self) -> [&'a [f32]; FACTORS] {
        let n = self.factors.len() / FACTORS;
        [&self.factors[..n], &self.factors[n..2 * n], &self.factors[2 * n..]]
    }

    /// Value `i` of a row that is in order.
    pub(crate) fn value(self, i: usize) -> i16 {
        debug_assert_eq!(self.dealt, Dealt::Words(1), "the row is in order");
        self.values[i]
    }
}

/// Rows of activations for the blocked product, in panels of [`PANEL`] rows.
///
/// A panel holds, for each pair of values, that pair of each of its rows. The units follow each other as a tile takes them (see
/// [`place`]), and the pairs of a unit are its runs in [`QuantizedRow::values`].
#[derive(Clone, Copy)]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "Scalar has no blocked product")
)]
pub(crate) struct Blocked<'a> {
    /// `[panel][place of the unit][pair][PANEL]`.
    pub(crate) pairs: &'a [i32],
    /// Values of a unit.
    pub(crate) unit: usize,
    /// `[panel]` of scales and scaled sums, `[place of the unit][PANEL]` each.
    pub(crate) factors: &'a [f32],
    /// Values of a row, padded.
    pub(crate) padded_cols: usize,
    pub(crate) rows: usize,
}

/// Accumulators in the order in which their tree adds them: each next one is added to the last as soon as that is possible. It is its
/// own reverse.
pub(crate) const TREE_ORDER: [usize; 16] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

/// The place of unit `u` of `n_units` (a multiple of sixteen) where units follow each other as a blocked product takes them: those of
/// one accumulator together, the accumulators in the order of the tree.
#[inline(always)]
pub(crate) fn place(u: usize, n_units: usize) -> usize {
    TREE_ORDER[u % 16] * (n_units / 16) + u / 16
}

/// Rows of a panel.
pub(crate) const PANEL: usize = 8;

/// Factors of a unit in a panel: scale and scaled sum.
pub(crate) const PANEL_FACTORS: usize = 2;

impl<'a> Blocked<'a> {
    pub(crate) fn n_rows(&self) -> usize {
        self.rows
    }

    /// The pairs of panel `panel`, and scales and sums for units of `unit` values.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        allow(dead_code, reason = "Scalar has no blocked product")
    )]
    pub(crate) fn panel(&self, panel: usize, unit: usize) -> (&'a [i32], &'a [f32], &'a [f32]) {
        let pairs = self.padded_cols / 2 * PANEL;
        assert_eq!(unit, self.unit, "the rows are quantised for the weights' units");
        let n = self.padded_cols / unit * PANEL;
        let (scales, sums) = self.factors[panel * PANEL_FACTORS * n..][..PANEL_FACTORS * n].split_at(n);
        (&self.pairs[panel * pairs..][..pairs], scales, sums)
    }
}

/// Values of the smallest unit.
pub(crate) const LEAST_UNIT: usize = 16;

/// Words of scratch that a thread needs for the blocked product with `cols` columns: sixteen rows of pairs, scales and biases.
pub(crate) fn blocked_scratch(cols: usize) -> usize {
    let cols = padded(cols);
    16 * (cols / 2 + 2 * cols / LEAST_UNIT)
}

/// Where a product goes: row `i` of the activations to `span[first + i * stride ..]`.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) span: Span<f32>,
    /// Values from one row of `y` to the next.
    pub(crate) stride: usize,
    /// The value of row 0, column 0.
    pub(crate) first: usize,
}

impl Output {
    /// The same for columns from `col` on.
    pub(crate) fn at_col(self, col: usize) -> Output {
        Output { first: self.first + col, ..self }
    }

    /// The same for rows from `row` on.
    pub(crate) fn at_row(self, row: usize) -> Output {
        Output { first: self.first + row * self.stride, ..self }
    }

    /// `len` values of row `row` from column `col` on.
    ///
    /// # Safety
    /// As [`Span::get_mut`]: no other thread uses these values.
    pub(crate) unsafe fn row<'a>(self, row: usize, col: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: passed on to the caller.
        unsafe { self.span.get_mut(self.first + row * self.stride + col, len) }
    }
}
