//! The suite finds mistakes: `Reference` with one of them planted fails it.

use std::collections::HashMap;

use flashmill_kernels::suite::{Precision, failures};
use flashmill_kernels::{
    Attend, Backend, Buffer, DeltaShape, Glu, KvKind, KvShape, Matrix, NormRotate, Page, Picks, Reference,
    Segment, Term,
};
use flashmill_layout::{MAX_PARTS, MatrixShape};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// Inputs of products keep the upper 8 of 16 bits.
    CoarseInputs,
    LastColumn,
    RowsOfSelection,
    WrongToken,
    NormOfFirstRow,
    NormEpsilon,
    GateBeforeNorm,
    ConvStateKept,
    ConvTapsReversed,
    DeltaLayer,
    DeltaHeadOrder,
    DeltaStateKept,
    UndecayedState,
    RotatedPairs,
    RotatedFirst,
    KvKind,
    KvLayer,
    PositionOfSegment,
    PageOfSegment,
    SecondSegment,
    OneMorePosition,
    Ungated,
    TieToHigher,
    NotNormalized,
    GateAndUpSwapped,
    OutputRow,
    OrderOfTerms,
    SplitMultiplyAdd,
    NanDropped,
    WritesBehind,
    /// Inputs of products are remembered, and not forgotten when they are overwritten.
    OldInput,
}

/// `Reference` with a mistake.
struct Mistaken {
    inner: Reference,
    shapes: Vec<MatrixShape>,
    inputs: HashMap<Buffer, Vec<f32>>,
    mistake: Mistake,
}

impl Mistaken {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn values(&mut self, buffer: Buffer, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.inner.read(buffer, 0, &mut values);
        values
    }

    fn scratch(&mut self, values: &[f32]) -> Buffer {
        let buffer = self.inner.buffer(values.len());
        self.inner.write(buffer, 0, values);
        buffer
    }

    fn state_before(&mut self, shape: &DeltaShape, segments: &[Segment<'_>]) -> Vec<Vec<f32>> {
        let kept = self.is(Mistake::ConvStateKept) || self.is(Mistake::DeltaStateKept);
        let n = if kept { 2 * shape.state_len() } else { 0 };
        segments.iter().map(|segment| self.values(segment.delta_state, n)).collect()
    }
}

impl Backend for Mistaken {
    fn name(&self) -> String {
        format!("{:?}", self.mistake)
    }
    fn buffer(&mut self, len: usize) -> Buffer {
        self.inner.buffer(len)
    }
    fn release(&mut self, buffer: Buffer) {
        self.inner.release(buffer);
    }
    fn write(&mut self, buffer: Buffer, at: usize, values: &[f32]) {
        self.inner.write(buffer, at, values);
    }
    fn read(&mut self, buffer: Buffer, at: usize, out: &mut [f32]) {
        self.inner.read(buffer, at, out);
    }
    fn copy(&mut self, from: Buffer, to: Buffer) {
        self.inner.copy(from, to);
    }
    fn matrix(&mut self, shape: MatrixShape) -> Matrix {
        self.shapes.push(shape);
        self.inner.matrix(shape)
    }
    fn matrix_part(&mut self, matrix: Matrix, part: usize) -> &mut [u8] {
        self.inner.matrix_part(matrix, part)
    }
    fn all_parts(&mut self) -> Vec<[&mut [u8]; MAX_PARTS]> {
        self.inner.all_parts()
    }
    fn kv_cache(&mut self, mut shape: KvShape, n_pages: usize) {
        if self.is(Mistake::KvKind) {
            shape.kind = if shape.kind == KvKind::F16 { KvKind::F32 } else { KvKind::F16 };
        }
        self.inner.kv_cache(shape, n_pages);
    }
    fn kv_copy(&mut self, from: Page, to: Page) {
        self.inner.kv_copy(from, to);
    }
    fn kv_read(&mut self, page: Page, out: &mut [u8]) {
        self.inner.kv_read(page, out);
    }
    fn kv_write(&mut self, page: Page, bytes: &[u8]) {
        self.inner.kv_write(page, bytes);
    }
    fn bytes(&self) -> usize {
        self.inner.bytes()
    }
    fn reserve(&mut self, n_rows: usize, max_cols: usize, n_heads: usize) {
        self.inner.reserve(n_rows, max_cols, n_heads);
    }
    fn embed(&mut self, table: Matrix, tokens: &[u32], out: Buffer) {
        let wrong: Vec<u32> = tokens.iter().map(|&token| token.saturating_sub(1)).collect();
        self.inner.embed(table, if self.is(Mistake::WrongToken) { &wrong } else { tokens }, out);
    }
    fn rms_norm(&mut self, x: Buffer, weight: Buffer, eps: f32, n_rows: usize, out: Buffer) {
        let eps = if self.is(Mistake::NormEpsilon) { 10.0 * eps } else { eps };
        self.inner.rms_norm(x, weight, eps, n_rows, out);
        if self.is(Mistake::NormOfFirstRow) && n_rows > 1 {
            let mut first = [0.0];
            self.inner.read(out, 0, &mut first);
            self.inner.write(out, 1, &[first[0]]);
        }
    }
    fn linear(&mut self, x: Buffer, n_rows: usize, products: &[(Matrix, Buffer)]) {
        for &(matrix, out) in products {
            let MatrixShape { rows, cols, .. } = self.shapes[matrix.0 as usize];
            let mut values = self.values(x, n_rows * cols);
            match self.mistake {
                Mistake::CoarseInputs => values.chunks_mut(64).for_each(to_8_bits),
                Mistake::LastColumn => values.iter_mut().skip(cols - 1).step_by(cols).for_each(|x| *x = 0.0),
                Mistake::NanDropped => values.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0),
                Mistake::OldInput => values = self.inputs.entry(x).or_insert(values).clone(),
                _ => {}
            }
            let x = self.scratch(&values);
            self.inner.linear(x, n_rows, &[(matrix, out)]);
            if self.is(Mistake::WritesBehind) {
                self.inner.write(out, n_rows * rows, &[0.0]);
            }
        }
    }
    fn linear_rows(&mut self, x: Buffer, rows: &[u32], product: (Matrix, Buffer)) {
        if self.is(Mistake::RowsOfSelection) {
            self.inner.linear(x, rows.len(), &[product]);
        } else {
            self.inner.linear_rows(x, rows, product);
        }
    }
    fn add(&mut self, x: Buffer, y: Buffer, n: usize) {
        self.inner.add(x, y, n);
    }
    fn silu_mul(&mut self, gate: Buffer, up: Buffer, out: Buffer, n: usize) {
        let (gate, up) = if self.is(Mistake::GateAndUpSwapped) { (up, gate) } else { (gate, up) };
        self.inner.silu_mul(gate, up, out, n);
    }
    fn delta_conv(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        m: Buffer,
        weight: Buffer,
        out: Buffer,
    ) {
        let layer = if self.is(Mistake::DeltaLayer) { 0 } else { layer };
        let before = self.state_before(shape, segments);
        let mut taps = self.values(weight, shape.conv_channels() * shape.conv_kernel);
        if self.is(Mistake::ConvTapsReversed) {
            taps.chunks_exact_mut(shape.conv_kernel).for_each(|taps| taps.reverse());
        }
        let weight = self.scratch(&taps);
        self.inner.delta_conv(shape, layer, segments, m, weight, out);
        if self.is(Mistake::ConvStateKept) {
            for (segment, state) in segments.iter().zip(before) {
                self.inner.write(segment.delta_state, 0, &state);
            }
        }
    }
    fn delta_gates(&mut self, b: Buffer, a: Buffer, decay: Buffer, dt_bias: Buffer, n_rows: usize) {
        self.inner.delta_gates(b, a, decay, dt_bias, n_rows);
    }
    fn delta_rule(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        qkv: Buffer,
        g: Buffer,
        beta: Buffer,
        out: Buffer,
    ) {
        let tiled = shape.tiled != self.is(Mistake::DeltaHeadOrder);
        let before = self.state_before(shape, segments);
        if self.is(Mistake::UndecayedState) {
            let n = segments.iter().map(|segment| segment.n_rows).sum::<usize>() * shape.n_value_heads;
            self.inner.zero(g, n);
        }
        self.inner.delta_rule(&DeltaShape { tiled, ..*shape }, layer, segments, qkv, g, beta, out);
        if self.is(Mistake::DeltaStateKept) {
            for (segment, state) in segments.iter().zip(before) {
                self.inner.write(segment.delta_state, 0, &state);
            }
        }
    }
    fn gated_norm(&mut self, x: Buffer, z: Buffer, weight: Buffer, eps: f32, n: usize, out: Buffer) {
        if self.is(Mistake::GateBeforeNorm) {
            let ones = self.scratch(&vec![1.0; n]);
            self.inner.silu_mul(z, x, out, n);
            self.inner.gated_norm(out, ones, weight, eps, n, out);
        } else {
            self.inner.gated_norm(x, z, weight, eps, n, out);
        }
    }
    fn norm_rotate(&mut self, args: &NormRotate) {
        let mut args = *args;
        if self.is(Mistake::RotatedPairs) {
            let n = args.n_rows * args.rotary_dim / 2;
            let minus: Vec<f32> = self.values(args.sin, n).iter().map(|sin| -sin).collect();
            args.sin = self.scratch(&minus);
        }
        if self.is(Mistake::RotatedFirst) {
            let ones = self.scratch(&vec![1.0; args.head_dim]);
            let weight = std::mem::replace(&mut args.weight, ones);
            self.inner.norm_rotate(&args);
            let rows = args.n_rows * args.n_heads;
            self.inner.rms_norm(args.out, weight, args.eps, rows, args.out);
        } else {
            self.inner.norm_rotate(&args);
        }
    }
    fn append_kv(&mut self, layer: usize, k: Buffer, v: Buffer, segments: &[Segment<'_>]) {
        let layer = if self.is(Mistake::KvLayer) { 0 } else { layer };
        let mut segments = segments.to_vec();
        if self.is(Mistake::PositionOfSegment) {
            segments.iter_mut().for_each(|segment| segment.position = 0);
        }
        self.inner.append_kv(layer, k, v, &segments);
    }
    fn attend(&mut self, args: &Attend<'_>) {
        let mut segments = args.segments.to_vec();
        let mut args = *args;
        if self.is(Mistake::SecondSegment) {
            segments.iter_mut().skip(1).for_each(|segment| segment.first_row = 0);
        }
        if self.is(Mistake::PageOfSegment) {
            let pages = segments[0].pages;
            segments.iter_mut().filter(|s| s.pages.len() == pages.len()).for_each(|s| s.pages = pages);
        }
        if self.is(Mistake::OneMorePosition) {
            segments.iter_mut().filter(|s| s.position % 64 + s.n_rows < 64).for_each(|s| s.position += 1);
        }
        if self.is(Mistake::Ungated) {
            args.gate = None;
        }
        if self.is(Mistake::KvLayer) {
            args.layer = 0;
        }
        self.inner.attend(&Attend { segments: &segments, ..args });
    }
    fn route(&mut self, logits: Buffer, n_rows: usize, n_experts: usize, normalize: bool, picks: &mut Picks) {
        let normalize = normalize && !self.is(Mistake::NotNormalized);
        if self.is(Mistake::TieToHigher) {
            let mut reversed = self.values(logits, n_rows * n_experts);
            reversed.chunks_exact_mut(n_experts).for_each(|row| row.reverse());
            let logits = self.scratch(&reversed);
            self.inner.route(logits, n_rows, n_experts, normalize, picks);
            let chosen = &mut picks.experts[..n_rows * picks.top_k];
            chosen.iter_mut().for_each(|expert| *expert = n_experts as u32 - 1 - *expert);
        } else {
            self.inner.route(logits, n_rows, n_experts, normalize, picks);
        }
    }
    fn expert(&mut self, glu: &Glu<'_>, x: Buffer, rows: &[u32], out: Buffer, first_out: usize) {
        let first_out = if self.is(Mistake::OutputRow) { 0 } else { first_out };
        self.inner.expert(glu, x, rows, out, first_out);
    }
    fn accumulate(&mut self, y: Buffer, x: Buffer, row_len: usize, terms: &[Term]) {
        let mut terms = terms.to_vec();
        if self.is(Mistake::OrderOfTerms) {
            terms.reverse();
        }
        for term in terms {
            if self.is(Mistake::SplitMultiplyAdd) {
                let x = self.values(x, (term.from as usize + 1) * row_len);
                let mut sum = self.values(y, (term.row as usize + 1) * row_len);
                let at = term.row as usize * row_len;
                for (y, x) in sum[at..].iter_mut().zip(&x[term.from as usize * row_len..]) {
                    *y += term.weight * x;
                }
                self.inner.write(y, 0, &sum);
            } else {
                self.inner.accumulate(y, x, row_len, &[term]);
            }
        }
    }
    fn accumulate_gated(&mut self, y: Buffer, x: Buffer, logit: Buffer, n_rows: usize, row_len: usize) {
        self.inner.accumulate_gated(y, x, logit, n_rows, row_len);
    }
    fn zero(&mut self, x: Buffer, n: usize) {
        self.inner.zero(x, n);
    }
}

fn to_8_bits(x: &mut [f32]) {
    let step = x.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0;
    x.iter_mut().for_each(|x| *x = if step > 0.0 { (*x / step).round() * step } else { 0.0 });
}

/// What the suite finds first in the cases whose name starts with `name`; a panic counts.
fn first_failure(mistake: Mistake, name: &str) -> Option<String> {
    let make = move || -> Box<dyn Backend> {
        Box::new(Mistaken { inner: Reference::new(), shapes: Vec::new(), inputs: HashMap::new(), mistake })
    };
    let found = std::panic::catch_unwind(|| failures(&make, &Precision::i16(64), 5, name).next());
    found.unwrap_or_else(|_| Some("a panic".to_owned()))
}

#[test]
fn planted_mistakes_are_found() {
    use Mistake::*;
    let planted = [
        (CoarseInputs, "linear, affine"),
        (LastColumn, "linear"),
        (RowsOfSelection, "linear"),
        (WritesBehind, "linear"),
        (OldInput, "product after"),
        (NanDropped, "NaN"),
        (WrongToken, "embed"),
        (NormOfFirstRow, "rms norm"),
        (NormEpsilon, "rms norm"),
        (GateBeforeNorm, "gated norm"),
        (GateAndUpSwapped, "silu"),
        (OrderOfTerms, "accumulate"),
        (SplitMultiplyAdd, "accumulate"),
        (RotatedPairs, "norm and rotate"),
        (RotatedFirst, "norm and rotate"),
        (ConvStateKept, "convolution"),
        (ConvTapsReversed, "convolution"),
        (DeltaLayer, "convolution"),
        (DeltaHeadOrder, "delta rule"),
        (DeltaStateKept, "delta rule"),
        (UndecayedState, "delta rule"),
        (KvKind, "attention"),
        (KvLayer, "attention"),
        (PositionOfSegment, "attention"),
        (PageOfSegment, "attention"),
        (SecondSegment, "attention"),
        (OneMorePosition, "attention"),
        (Ungated, "attention"),
        (TieToHigher, "route"),
        (NotNormalized, "route"),
        (OutputRow, "expert"),
    ];
    let names: std::collections::BTreeSet<&str> = planted.iter().map(|&(_, name)| name).collect();
    for name in names {
        assert_eq!(first_failure(None, name), Option::None, "no mistake in {name}");
    }
    for (mistake, name) in planted {
        assert!(first_failure(mistake, name).is_some(), "{mistake:?} is not found among the cases of {name}");
    }
}
