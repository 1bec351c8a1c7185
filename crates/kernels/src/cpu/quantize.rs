//! Activations in 16 bits.

use super::affine::{Blocked, Dealt, FACTORS, LEAST_UNIT, PANEL, PANEL_FACTORS, QuantizedRow, place};
use super::memory::{Memory, Span};
use super::simd::{Kernel, Simd, map};
use crate::team::Part;

/// Columns rounded up so that every block of planes and every sixteen units are whole.
pub(crate) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(1024)
}

/// What a [`Quantized`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    /// Values of a row.
    pub(crate) cols: usize,
    /// Values that a unit of the weights has: 16, 32 or 64.
    pub(crate) unit: usize,
    /// How blocks of them lie.
    pub(crate) dealt: Dealt,
    /// Whether the rows are in panels as well.
    pub(crate) blocked: bool,
}

/// Rows of activations in 16 bits, and room for more.
pub(crate) struct Quantized {
    values: Memory,
    factors: Memory,
    panel_pairs: Memory,
    panel_factors: Memory,
    form: Form,
    n_rows: usize,
}

impl Quantized {
    pub(crate) fn empty() -> Quantized {
        let none = || Memory::zeroed(0);
        let form = Form { cols: 0, unit: 64, dealt: Dealt::Words(1), blocked: false };
        Quantized {
            values: none(),
            factors: none(),
            panel_pairs: none(),
            panel_factors: none(),
            form,
            n_rows: 0,
        }
    }

    /// Makes room for `n_rows` rows of `cols` values.
    pub(crate) fn reserve(&mut self, n_rows: usize, cols: usize) {
        let n_values = n_rows.next_multiple_of(PANEL) * padded(cols);
        grow(&mut self.values, 2 * n_values);
        grow(&mut self.factors, 4 * n_values / LEAST_UNIT * FACTORS);
        if n_rows > 1 {
            grow(&mut self.panel_pairs, 2 * n_values);
            grow(&mut self.panel_factors, 4 * n_values / LEAST_UNIT * PANEL_FACTORS);
        }
    }

    /// Room that is taken.
    pub(crate) fn bytes(&self) -> usize {
        [&self.values, &self.factors, &self.panel_pairs, &self.panel_factors].iter().map(|m| m.len()).sum()
    }

    /// Says what will be written through [`Quantized::writer`].
    pub(crate) fn prepare(&mut self, form: Form, n_rows: usize) {
        self.reserve(n_rows, form.cols);
        self.form = form;
        self.n_rows = n_rows;
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer {
            values: self.values.span(),
            factors: self.factors.span(),
            panel_pairs: self.panel_pairs.span(),
            panel_factors: self.panel_factors.span(),
            form: self.form,
            n_rows: self.n_rows,
        }
    }

    /// Row `row`, which has been written.
    pub(crate) fn row(&self, row: usize) -> QuantizedRow<'_> {
        // SAFETY: writers only live inside regions, and `self` is not borrowed there by readers of the rows they write.
        unsafe { self.writer().row(row) }
    }

    /// All rows, in panels.
    pub(crate) fn panels(&self) -> Blocked<'_> {
        assert!(self.form.blocked, "the rows were prepared in panels");
        let cols = padded(self.form.cols);
        let n_values = self.n_rows.next_multiple_of(PANEL) * cols;
        // SAFETY: as in `row`.
        let (pairs, factors) = unsafe {
            let pairs: Span<i32> = self.panel_pairs.span();
            let factors: Span<f32> = self.panel_factors.span();
            (pairs.get(0, n_values / 2), factors.get(0, n_values / self.form.unit * PANEL_FACTORS))
        };
        Blocked { pairs, unit: self.form.unit, factors, padded_cols: cols, rows: self.n_rows }
    }
}

fn grow(memory: &mut Memory, bytes: usize) {
    if memory.len() < bytes {
        *memory = Memory::zeroed(bytes);
    }
}

/// The memory of a [`Quantized`] in a region, each thread writing its own rows.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    values: Span<i16>,
    factors: Span<f32>,
    panel_pairs: Span<i32>,
    panel_factors: Span<f32>,
    form: Form,
    n_rows: usize,
}

impl Writer {
    /// # Safety
    /// The row is written, and nobody writes it during `'a`.
    unsafe fn row<'a>(self, row: usize) -> QuantizedRow<'a> {
        let cols = padded(self.form.cols);
        let n_factors = cols / self.form.unit * FACTORS;
        // SAFETY: by the caller.
        unsafe {
            QuantizedRow {
                values: self.values.get(row * cols, cols),
                dealt: self.form.dealt,
                unit: self.form.unit,
                factors: self.factors.get(row * n_factors, n_factors),
            }
        }
    }
}

/// One thread's part of quantising rows.
pub(crate) struct QuantizeRows<F> {
    /// Row `i` of the activations.
    pub(crate) source: F,
    pub(crate) to: Writer,
    pub(crate) part: Part,
}

impl<'a, F: Fn(usize) -> &'a [f32]> Kernel for QuantizeRows<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Writer { values, factors, form, n_rows, .. } = self.to;
        let cols = padded(form.cols);
        let n_factors = cols / form.unit * FACTORS;
        // Whole panels, so that a panel's rows are this thread's own.
        let unit = if form.blocked { PANEL } else { 1 };
        let share = self.part.share(n_rows, unit);
        for row in share.clone() {
            // SAFETY: the rows of a share are this thread's own.
            let (values, factors) =
                unsafe { (values.get_mut(row * cols, cols), factors.get_mut(row * n_factors, n_factors)) };
            quantize(s, (self.source)(row), form, values, factors);
        }
        if form.blocked {
            for first in share.step_by(PANEL) {
                // SAFETY: the panel consists of rows of this thread's share, which are written.
                unsafe { panel(s, self.to, first) };
            }
        }
    }
}

/// One row to 16 bits; `values` and `factors` as in [`QuantizedRow`].
#[inline(always)]
fn quantize<S: Simd>(s: S, x: &[f32], form: Form, values: &mut [i16], factors: &mut [f32]) {
    let Form { unit, dealt, .. } = form;
    let n_units = values.len() / unit;
    let (scales, sums) = factors.split_at_mut(n_units);
    let (scaled_sums, sums) = sums.split_at_mut(n_units);
    let block = dealt.block().max(64);
    let mut natural = [0i16; 512];
    for first in (0..x.len()).step_by(block) {
        let natural = &mut natural[..block];
        for g in (0..block).step_by(64) {
            let start = (first + g).min(x.len());
            let group = &x[start..(start + 64).min(x.len())];
            let scale = quantize_group(s, group, &mut natural[g..g + 64]);
            let first_unit = (first + g) / unit;
            for (i, values) in natural[g..g + 64].chunks_exact(unit).enumerate() {
                let sum: i32 = values.iter().map(|&q| i32::from(q)).sum();
                scales[first_unit + i] = scale;
                scaled_sums[first_unit + i] = sum as f32 * scale;
                sums[first_unit + i] = sum as f32;
            }
        }
        let to = &mut values[first..first + block];
        if dealt == Dealt::Words(1) {
            to.copy_from_slice(natural);
        } else {
            for (from, to) in natural.chunks_exact(dealt.block()).zip(to.chunks_exact_mut(dealt.block())) {
                s.deal(dealt, from, to);
            }
        }
    }
    let filled = x.len().next_multiple_of(block);
    values[filled..].fill(0);
    for factor in [scales, scaled_sums, sums] {
        factor[filled / unit..].fill(0.0);
    }
}

/// Up to 64 values to 16 bits, the rest zero; returns the scale.
#[inline(always)]
fn quantize_group<S: Simd>(s: S, x: &[f32], q: &mut [i16]) -> f32 {
    const LIMIT: f32 = 32639.0;
    let mut lanes = [0.0f32; 64];
    lanes[..x.len()].copy_from_slice(x);
    let mut top = s.splat(0.0);
    for chunk in lanes.as_chunks::<16>().0 {
        top = s.max_bits(top, s.abs(s.load(chunk)));
    }
    let amax = f32::from_bits(s.max_bits_across(top));
    if amax < 1e-30 || !amax.is_finite() {
        q.fill(0);
        return if amax.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = s.splat(LIMIT / amax);
    map!(s, lanes, |x| s.mul(x, inverse));
    for (chunk, q) in lanes.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0) {
        s.store_i16(s.load(chunk), q);
    }
    amax / LIMIT
}

/// Brings the rows from `first` on into their panel; the last row stands in for rows that do not exist.
///
/// # Safety
/// The rows are written and nobody writes them; the panel is this thread's own.
#[inline(always)]
unsafe fn panel<S: Simd>(s: S, to: Writer, first: usize) {
    let Form { unit, dealt, .. } = to.form;
    let cols = padded(to.form.cols);
    let (n_units, run) = (cols / unit, dealt.run(unit));
    let n_factors = n_units * PANEL_FACTORS * PANEL;
    let index = first / PANEL;
    // SAFETY: by the caller.
    let (pairs, factors) = unsafe {
        (
            to.panel_pairs.get_mut(index * cols / 2 * PANEL, cols / 2 * PANEL),
            to.panel_factors.get_mut(index * n_factors, n_factors),
        )
    };
    // SAFETY: by the caller.
    let rows: [_; PANEL] = std::array::from_fn(|lane| unsafe { to.row((first + lane).min(to.n_rows - 1)) });
    let values = rows.map(|row| row.values.as_chunks::<2>().0);
    let (scales, sums) = factors.as_chunks_mut::<PANEL>().0.split_at_mut(n_units);
    for u in 0..n_units {
        let place = place(u, n_units);
        let pairs = &mut pairs[place * unit / 2 * PANEL..][..unit / 2 * PANEL];
        for (i, pairs) in pairs.chunks_exact_mut(run * PANEL).enumerate() {
            interleave(s, values, dealt.start_of_run(unit, u, i), pairs);
        }
        for (lane, row) in rows.iter().enumerate() {
            (scales[place][lane], sums[place][lane]) = (row.factors[u], row.factors[n_units + u]);
        }
    }
}

/// Pairs of each row from `start` on, pair by pair.
#[inline(always)]
fn interleave<S: Simd>(s: S, rows: [&[[i16; 2]]; PANEL], start: usize, to: &mut [i32]) {
    let (eights, rest) = to.as_chunks_mut::<{ 8 * PANEL }>();
    for (i, to) in eights.iter_mut().enumerate() {
        let mut from = [&[[0; 2]; 8]; PANEL];
        for lane in 0..PANEL {
            from[lane] = rows[lane][start + 8 * i..].first_chunk().expect("eight pairs");
        }
        s.interleave(from, to);
    }
    let start = start + 8 * eights.len();
    for (i, to) in rest.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        for lane in 0..PANEL {
            let [low, high] = rows[lane][start + i];
            to[lane] = i32::from(low) & 0xffff | i32::from(high) << 16;
        }
    }
}
