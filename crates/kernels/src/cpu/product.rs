//! Products `W x` of any encoding, split over the threads by rows of `W`.

use std::marker::PhantomData;
use std::ops::Range;

use flashmill_layout::{Encoding, MatrixView};

use super::Level;
use super::affine::{AffineRows, Dealt, Output, blocked_scratch};
use super::float::FloatProduct;
use super::fp8::Fp8Product;
use super::ggml::{Fast, GgmlRows, with_fast};
use super::memory::{Memory, Span};
use super::norm::SiluMul;
use super::quantize::{Form, QuantizeRows, Quantized};
use super::simd::{Kernel, Simd};
use crate::team::{Part, Team};
use crate::{Buffer, Glu};

/// Rows of activations that are multiplied together; more are taken in several turns, which bounds the scratch memory.
pub(crate) const MOST_ROWS: usize = 256;
/// Bytes of codes that stay in the cache while a few rows of activations pass.
const PIECE_BYTES: usize = 128 * 1024;
/// Rows of a share are a multiple of this: the blocked product takes sixteen at a time.
const SHARE: usize = 16;
/// A product of fewer weights is not worth the team.
const LEAST_WEIGHTS: usize = 16 * 1024;

/// What products need: scratch memory, and activations that have been quantised.
pub(crate) struct Products {
    level: Level,
    threads: usize,
    /// The last two quantised inputs; products often share theirs.
    inputs: [Input; 2],
    /// The next of `inputs` to be given up.
    oldest: usize,
    /// An expert's hidden activations.
    hidden: Quantized,
    gate: Memory,
    up: Memory,
    /// Unpacked weights, a piece for each thread.
    unpacked: Memory,
}

struct Input {
    /// Whose rows they are, none after [`Products::forget`].
    of: Option<Tag>,
    form: Form,
    rows: Vec<u32>,
    quantized: Quantized,
}

/// A buffer at one point of time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) buffer: Buffer,
    pub(crate) version: u64,
}

/// Rows of activations.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) tag: Tag,
    pub(crate) span: Span<f32>,
    pub(crate) cols: usize,
    pub(crate) rows: Rows<'a>,
}

/// Which rows of a buffer.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    Range(usize, usize),
    These(&'a [u32]),
}

impl<'a> Rows<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Rows::Range(start, end) => end - start,
            Rows::These(rows) => rows.len(),
        }
    }

    fn get(self, i: usize) -> usize {
        match self {
            Rows::Range(start, _) => start + i,
            Rows::These(rows) => rows[i] as usize,
        }
    }

    fn slice(self, range: Range<usize>) -> Rows<'a> {
        match self {
            Rows::Range(start, _) => Rows::Range(start + range.start, start + range.end),
            Rows::These(rows) => Rows::These(&rows[range]),
        }
    }
}

impl<'a> Source<'a> {
    /// Row `i`.
    ///
    /// # Safety
    /// Nobody writes the buffer during `'b`.
    unsafe fn row<'b>(self, i: usize) -> &'b [f32] {
        // SAFETY: by the caller.
        unsafe { self.span.get(self.rows.get(i) * self.cols, self.cols) }
    }

    /// At most [`MOST_ROWS`] rows at a time, each with the index of its first.
    fn turns(self) -> impl Iterator<Item = (usize, Source<'a>)> {
        (0..self.rows.len()).step_by(MOST_ROWS).map(move |first| {
            let last = (first + MOST_ROWS).min(self.rows.len());
            (first, Source { rows: self.rows.slice(first..last), ..self })
        })
    }
}

impl Products {
    pub(crate) fn new(level: Level, threads: usize) -> Products {
        let input = || Input {
            of: None,
            form: Form { cols: 0, unit: 64, dealt: Dealt::Words(1), blocked: false },
            rows: Vec::new(),
            quantized: Quantized::empty(),
        };
        Products {
            level,
            threads,
            inputs: [input(), input()],
            oldest: 0,
            hidden: Quantized::empty(),
            gate: Memory::zeroed(0),
            up: Memory::zeroed(0),
            unpacked: Memory::zeroed(0),
        }
    }

    /// Makes room for products of up to `n_rows` rows of `cols` values.
    pub(crate) fn reserve(&mut self, n_rows: usize, cols: usize) {
        let n_rows = n_rows.min(MOST_ROWS);
        for input in &mut self.inputs {
            input.rows.reserve(n_rows.saturating_sub(input.rows.len()));
            input.quantized.reserve(n_rows, cols);
        }
        self.hidden.reserve(n_rows, cols);
        grow(&mut self.gate, 4 * n_rows * cols);
        grow(&mut self.up, 4 * n_rows * cols);
        if n_rows > 1 {
            grow(&mut self.unpacked, 4 * self.threads * blocked_scratch(cols));
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let inputs: usize =
            self.inputs.iter().map(|input| input.quantized.bytes() + 4 * input.rows.capacity()).sum();
        inputs + self.hidden.bytes() + self.gate.len() + self.up.len() + self.unpacked.len()
    }

    /// Scratch memory for the router's `n` probabilities.
    pub(crate) fn probabilities(&mut self, n: usize) -> &mut [f32] {
        grow(&mut self.gate, 4 * n);
        // SAFETY: no region runs, and `self` stays borrowed exclusively as long as the values are used.
        unsafe { self.gate.span().get_mut(0, n) }
    }

    /// Drops what was derived from a buffer that is no more.
    pub(crate) fn forget(&mut self, buffer: Buffer) {
        for input in &mut self.inputs {
            if input.of.is_some_and(|tag| tag.buffer == buffer) {
                input.of = None;
            }
        }
    }

    /// `y = W x` for each row of the source.
    pub(crate) fn product(&mut self, team: &mut Team, w: &MatrixView<'_>, x: Source<'_>, y: Output) {
        for (first, x) in x.turns() {
            let y = y.at_row(first);
            let input = self.quantize_for(team, w, &x);
            let run = self.runner(w.shape.cols, x.rows.len());
            let x = self.operand(input, x);
            team.run_if_worth(cost(w, x.n_rows()), |part| run.rows_of(part, w, x, y));
        }
    }

    /// `down(silu(gate x) * up x)` for each row of the source.
    pub(crate) fn expert(&mut self, team: &mut Team, glu: &Glu<'_>, x: Source<'_>, y: Output) {
        let intermediate = glu.gate.shape.rows;
        for (first, x) in x.turns() {
            let n = x.rows.len();
            grow(&mut self.gate, 4 * n * intermediate);
            grow(&mut self.up, 4 * n * intermediate);
            let inputs = (self.quantize_for(team, &glu.gate, &x), self.quantize_for(team, &glu.up, &x));
            let run = self.runner(x.cols.max(intermediate), n);
            let output = |memory: &Memory| Output { span: memory.span(), stride: intermediate, first: 0 };
            let (gate, up) = (output(&self.gate), output(&self.up));
            let (gate_x, up_x) = (self.operand(inputs.0, x), self.operand(inputs.1, x));
            let level = self.level;
            team.run_if_worth(2 * cost(&glu.gate, n), |part| {
                run.rows_of(part, &glu.gate, gate_x, gate);
                run.rows_of(part, &glu.up, up_x, up);
                let share = part.share(intermediate, SHARE);
                for row in 0..n {
                    // SAFETY: the columns of the share are this thread's own, and it has just written them.
                    let (gate, up) = unsafe {
                        (gate.row(row, share.start, share.len()), up.row(row, share.start, share.len()))
                    };
                    level.run(SiluMul { gate, up });
                }
            });
            let hidden =
                Source { tag: x.tag, span: self.gate.span(), cols: intermediate, rows: Rows::Range(0, n) };
            let y = y.at_row(first);
            let hidden = match self.form(&glu.down, n) {
                Some(form) => {
                    self.hidden.prepare(form, n);
                    quantize(self.level, team, hidden, &self.hidden, n);
                    Operand::Quantized { rows: &self.hidden, n, blocked: form.blocked }
                }
                None => Operand::Float(hidden),
            };
            team.run_if_worth(cost(&glu.down, n), |part| run.rows_of(part, &glu.down, hidden, y));
        }
    }

    /// What `w` wants its activations to be; `None` for f32.
    fn form(&self, w: &MatrixView<'_>, n_rows: usize) -> Option<Form> {
        let cols = w.shape.cols;
        match w.shape.encoding {
            Encoding::Float(_) | Encoding::Fp8 { .. } => None,
            Encoding::Affine(affine) => {
                let (dealt, blocked) = self.level.run(Wanted { bits: affine.bits, n_rows });
                let unit = usize::from(affine.group).min(64);
                Some(Form { cols, unit, dealt, blocked })
            }
            Encoding::Ggml(ty) => {
                let unit = ty.group();
                let (dealt, blocked) = with_fast!(
                    ty, T => self.level.run(WantedRuns { unit: T::UNIT, n_rows }),
                    (Dealt::Words(1), false)
                );
                Some(Form { cols, unit, dealt, blocked })
            }
        }
    }

    /// Quantises the rows if `w` wants that and it has not been done; returns which of the inputs holds them.
    fn quantize_for(&mut self, team: &mut Team, w: &MatrixView<'_>, x: &Source<'_>) -> Option<usize> {
        assert_eq!(x.cols, w.shape.cols, "W has as many columns as a row of x has values");
        let n = x.rows.len();
        let form = self.form(w, n)?;
        let found = self.inputs.iter().position(|input| {
            input.of == Some(x.tag)
                && input.form == form
                && input.rows.len() == n
                && input.rows.iter().enumerate().all(|(i, &row)| row as usize == x.rows.get(i))
        });
        if let Some(found) = found {
            self.oldest = 1 - found;
            return Some(found);
        }
        let slot = self.oldest;
        let input = &mut self.inputs[slot];
        input.of = None;
        input.quantized.prepare(form, n);
        quantize(self.level, team, *x, &input.quantized, n);
        input.rows.clear();
        input.rows.extend((0..n).map(|i| x.rows.get(i) as u32));
        input.form = form;
        input.of = Some(x.tag);
        self.oldest = 1 - slot;
        Some(slot)
    }

    fn operand<'a>(&'a self, input: Option<usize>, x: Source<'a>) -> Operand<'a> {
        match input {
            Some(slot) => {
                let Input { quantized, form, .. } = &self.inputs[slot];
                Operand::Quantized { rows: quantized, n: x.rows.len(), blocked: form.blocked }
            }
            None => Operand::Float(x),
        }
    }

    fn runner(&mut self, cols: usize, n_rows: usize) -> Runner {
        let scratch = blocked_scratch(cols);
        if n_rows > 1 {
            grow(&mut self.unpacked, 4 * self.threads * scratch);
        }
        Runner { level: self.level, unpacked: self.unpacked.span(), scratch }
    }
}

fn grow(memory: &mut Memory, bytes: usize) {
    if memory.len() < bytes {
        *memory = Memory::zeroed(bytes);
    }
}

/// Work of a product, in the unit of [`Team::run_if_worth`].
fn cost(w: &MatrixView<'_>, n_rows: usize) -> usize {
    const { assert!(LEAST_WEIGHTS == 16 * 1024) };
    w.shape.rows * w.shape.cols * n_rows
}

fn quantize(level: Level, team: &mut Team, x: Source<'_>, to: &Quantized, n: usize) {
    let to = to.writer();
    // Quantising a value costs about as much as four of the values that the team counts in.
    team.run_if_worth(n * x.cols, |part| {
        // SAFETY: nobody writes the activations in this region.
        let source = |i: usize| unsafe { x.row(i) };
        level.run(QuantizeRows { source, to, part });
    });
}

/// The activations of a product, as its weights want them.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Float(Source<'a>),
    Quantized { rows: &'a Quantized, n: usize, blocked: bool },
}

impl Operand<'_> {
    fn n_rows(&self) -> usize {
        match self {
            Operand::Float(x) => x.rows.len(),
            Operand::Quantized { n, .. } => *n,
        }
    }
}

/// What a thread needs to compute its share of a product.
#[derive(Clone, Copy)]
struct Runner {
    level: Level,
    unpacked: Span<i32>,
    /// Words of `unpacked` that each thread has.
    scratch: usize,
}

impl Runner {
    /// This part's scratch memory, if it needs any.
    fn scratch<'a>(&self, part: Part, blocked: bool) -> &'a mut [i32] {
        if !blocked {
            return &mut [];
        }
        // SAFETY: each part has a piece of the scratch memory for itself.
        unsafe { self.unpacked.get_mut(part.index * self.scratch, self.scratch) }
    }

    /// This part's rows of `W`, that is, columns of `y`.
    fn rows_of(&self, part: Part, w: &MatrixView<'_>, x: Operand<'_>, y: Output) {
        let share = part.share(w.shape.rows, SHARE);
        if share.is_empty() {
            return;
        }
        let y = y.at_col(share.start);
        match (w.shape.encoding, x) {
            (Encoding::Affine(_), Operand::Quantized { rows, n, blocked }) => {
                let w = AffineRows::of(w, share);
                let scratch = self.scratch(part, blocked);
                self.level.run(AffineProduct { w, x: rows, n, blocked, scratch, y });
            }
            (Encoding::Ggml(ty), Operand::Quantized { rows, n, blocked }) => {
                let scratch = self.scratch(part, blocked);
                let product = GgmlProduct { w: GgmlRows::of(w, share), x: rows, n, blocked, scratch, y };
                with_fast!(ty, T => self.level.run(FastProduct::<T>(product, PhantomData)), self.level.run(product));
            }
            (Encoding::Fp8 { scales }, Operand::Float(x)) => {
                // SAFETY: nobody writes the activations in this region.
                let (n_x, x) = (x.rows.len(), |i| unsafe { x.row(i) });
                self.level.run(Fp8Product { scales, w, rows: share, n_x, x, y });
            }
            (Encoding::Float(float), Operand::Float(x)) => {
                let bytes = w.shape.encoding.part_row_bytes(0, w.shape.cols);
                self.level.run(FloatProduct {
                    float,
                    cols: w.shape.cols,
                    w: &w.parts[0][share.start * bytes..share.end * bytes],
                    n_x: x.rows.len(),
                    // SAFETY: nobody writes the activations in this region.
                    x: |i| unsafe { x.row(i) },
                    y,
                });
            }
            _ => unreachable!("activations have the form that the weights want"),
        }
    }
}

/// A share of the rows of quantised weights.
struct AffineProduct<'a> {
    w: AffineRows<'a>,
    x: &'a Quantized,
    n: usize,
    blocked: bool,
    scratch: &'a mut [i32],
    y: Output,
}

impl Kernel for AffineProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.blocked {
            // SAFETY: the columns of `y` are this thread's own.
            unsafe { s.affine_blocked(&self.w, &self.x.panels(), self.scratch, self.y) };
            return;
        }
        // Several rows of activations meet a piece of the weights while it is in the cache.
        let n_rows = self.w.n_rows();
        let piece = if self.n == 1 { n_rows } else { (PIECE_BYTES / self.w.code_bytes()).max(1) };
        for first in (0..n_rows).step_by(piece) {
            let last = (first + piece).min(n_rows);
            let w = self.w.rows(first..last);
            for row in 0..self.n {
                // SAFETY: as above.
                let y = unsafe { self.y.row(row, first, last - first) };
                s.affine_rows(&w, self.x.row(row), y);
            }
        }
    }
}

/// A share of the rows of weights in blocks.
struct GgmlProduct<'a> {
    w: GgmlRows<'a>,
    x: &'a Quantized,
    n: usize,
    blocked: bool,
    scratch: &'a mut [i32],
    y: Output,
}

impl GgmlProduct<'_> {
    /// Rows of `W` that stay in the cache while all activations pass.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n_rows = self.w.n_rows();
        let piece = if self.n == 1 { n_rows } else { (PIECE_BYTES / self.w.row_bytes()).max(1) };
        (0..n_rows).step_by(piece).map(move |first| first..(first + piece).min(n_rows))
    }
}

impl Kernel for GgmlProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for piece in self.pieces() {
            for row in 0..self.n {
                // SAFETY: the columns of `y` are this thread's own.
                let y = unsafe { self.y.row(row, piece.start, piece.len()) };
                s.ggml_rows(&self.w.rows(piece.clone()), self.x.row(row), y);
            }
        }
    }
}

/// The same for a type that has a fast product.
struct FastProduct<'a, T>(GgmlProduct<'a>, PhantomData<T>);

impl<T: Fast> Kernel for FastProduct<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FastProduct(product, _) = self;
        if product.blocked {
            // SAFETY: the columns of `y` are this thread's own.
            unsafe { s.ggml_blocked::<T>(&product.w, &product.x.panels(), product.scratch, product.y) };
            return;
        }
        for piece in product.pieces() {
            for row in 0..product.n {
                // SAFETY: the columns of `y` are this thread's own.
                let y = unsafe { product.y.row(row, piece.start, piece.len()) };
                s.ggml_fast::<T>(&product.w.rows(piece.clone()), product.x.row(row), y);
            }
        }
    }
}

/// How a level wants activations for fast products with units of `unit` values.
struct WantedRuns {
    unit: usize,
    n_rows: usize,
}

impl Kernel for WantedRuns {
    type Output = (Dealt, bool);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Dealt, bool) {
        let blocked = self.n_rows >= S::GGML_BLOCKED_FROM;
        (if blocked { S::GGML_BLOCKED_DEALT } else { s.ggml_dealt(self.unit) }, blocked)
    }
}

/// How a level wants activations for codes of `bits` bits: dealt in this way, and whether in panels.
struct Wanted {
    bits: u8,
    n_rows: usize,
}

impl Kernel for Wanted {
    type Output = (Dealt, bool);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Dealt, bool) {
        let blocked = self.n_rows >= S::BLOCKED_FROM;
        (s.dealt(self.bits, blocked), blocked)
    }
}
