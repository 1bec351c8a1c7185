//! The [`Backend`] trait on the CPU: each call is one or a few regions of the team, done when it returns.

use flashmill_layout::{MAX_PARTS, MatrixShape};

use super::affine::Output;
use super::kv::KvCache;
use super::memory::Memory;
use super::norm::{Add, DeltaGates, GatedMulAdd, GatedNorm, MulAdd, NormRotateHead, RmsNorm, SiluMul};
use super::product::{MOST_ROWS, Rows, Source, Tag};
use super::route::RouteRow;
use super::{Cpu, Owned, Values, in_place};
use crate::{
    Attend, Backend, Buffer, DeltaShape, Glu, KvShape, Matrix, NormRotate, Page, Picks, Segment, Term,
};

/// Values that are a whole number of vectors and of cache lines, the unit of elementwise shares.
const LINE: usize = 16;

impl Cpu {
    fn source<'a>(&self, x: Buffer, cols: usize, rows: Rows<'a>) -> Source<'a> {
        let values = self.values(x);
        let tag = Tag { buffer: x, version: values.version };
        Source { tag, span: values.memory.span(), cols, rows }
    }

    /// A product of some rows of `x`, to the rows of `y` from `first` on.
    fn product(&mut self, x: Buffer, rows: Rows<'_>, first: usize, (matrix, y): (Matrix, Buffer)) {
        let y = self.output(y);
        let w = self.matrices[matrix.0 as usize].view();
        let source = self.source(x, w.shape.cols, rows);
        let y = Output { span: y, stride: w.shape.rows, first: 0 }.at_row(first);
        self.products.product(&mut self.team, &w, source, y);
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("cpu {} x{}", self.level, self.team.threads())
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        let values = Some(Values { memory: Memory::zeroed(4 * len), version: 0 });
        if let Some(free) = self.buffers.iter().position(Option::is_none) {
            self.buffers[free] = values;
            return Buffer(free as u32);
        }
        self.buffers.push(values);
        Buffer((self.buffers.len() - 1) as u32)
    }

    fn release(&mut self, buffer: Buffer) {
        let released = self.buffers[buffer.0 as usize].take();
        assert!(released.is_some(), "a buffer is released once");
        self.products.forget(buffer);
    }

    fn write(&mut self, buffer: Buffer, at: usize, values: &[f32]) {
        // SAFETY: no region runs, and `self` is borrowed exclusively.
        unsafe { self.output(buffer).get_mut(at, values.len()) }.copy_from_slice(values);
    }

    fn read(&mut self, buffer: Buffer, at: usize, out: &mut [f32]) {
        // SAFETY: no region runs, and `self` is borrowed exclusively.
        out.copy_from_slice(unsafe { self.input(buffer).get(at, out.len()) });
    }

    fn copy(&mut self, from: Buffer, to: Buffer) {
        assert_ne!(from, to, "a copy is into another buffer");
        let (from, to) = (self.input(from), self.output(to));
        assert_eq!(from.len(), to.len(), "both buffers have the same length");
        self.team.run_if_worth(from.len(), |part| {
            let share = part.share(from.len(), LINE);
            // SAFETY: the values of a share are this thread's own, and the buffers are two.
            unsafe { in_place(from, share.start, to, share.start, share.len()) };
        });
    }

    fn matrix(&mut self, shape: MatrixShape) -> Matrix {
        let parts = std::array::from_fn(|part| {
            Memory::zeroed(if part < shape.encoding.n_parts() { shape.part_bytes(part) } else { 0 })
        });
        self.matrices.push(Owned { shape, parts });
        Matrix((self.matrices.len() - 1) as u32)
    }

    fn matrix_part(&mut self, matrix: Matrix, part: usize) -> &mut [u8] {
        self.matrices[matrix.0 as usize].parts[part].bytes_mut()
    }

    fn all_parts(&mut self) -> Vec<[&mut [u8]; MAX_PARTS]> {
        self.matrices.iter_mut().map(|matrix| matrix.parts.each_mut().map(Memory::bytes_mut)).collect()
    }

    fn kv_cache(&mut self, shape: KvShape, n_pages: usize) {
        assert!(self.kv.is_none(), "kv_cache is called once");
        self.kv = Some(KvCache::new(shape, n_pages));
        self.attention.reserve(0, self.kv.as_ref(), self.team.threads());
    }

    fn kv_copy(&mut self, from: Page, to: Page) {
        self.kv.as_mut().expect("kv_cache has been called").copy(from, to);
    }

    fn kv_read(&mut self, page: Page, out: &mut [u8]) {
        out.copy_from_slice(self.kv.as_mut().expect("kv_cache has been called").page_mut(page));
    }

    fn kv_write(&mut self, page: Page, bytes: &[u8]) {
        self.kv.as_mut().expect("kv_cache has been called").page_mut(page).copy_from_slice(bytes);
    }

    fn bytes(&self) -> usize {
        let buffers: usize = self.buffers.iter().flatten().map(|values| values.memory.len()).sum();
        let matrices: usize = self.matrices.iter().flat_map(|matrix| &matrix.parts).map(Memory::len).sum();
        let kv = self.kv.as_ref().map_or(0, KvCache::bytes);
        buffers + matrices + kv + self.products.bytes() + self.attention.bytes()
    }

    fn reserve(&mut self, n_rows: usize, max_cols: usize, n_heads: usize) {
        self.products.reserve(n_rows, max_cols);
        self.attention.reserve(n_heads, self.kv.as_ref(), self.team.threads());
    }

    fn embed(&mut self, table: Matrix, tokens: &[u32], out: Buffer) {
        let out = self.output(out);
        let table = self.matrices[table.0 as usize].view();
        let cols = table.shape.cols;
        self.team.run_if_worth(tokens.len() * cols * 4, |part| {
            for row in part.share(tokens.len(), 1) {
                // SAFETY: the rows of a share are this thread's own.
                table.decode_row(tokens[row] as usize, unsafe { out.get_mut(row * cols, cols) });
            }
        });
    }

    fn rms_norm(&mut self, x: Buffer, weight: Buffer, eps: f32, n_rows: usize, out: Buffer) {
        let (x, weight, out, level) = (self.input(x), self.input(weight), self.output(out), self.level);
        let n = weight.len();
        self.team.run_if_worth(n_rows * n, |part| {
            let share = part.share(n_rows, 1);
            // SAFETY: the rows of a share are this thread's own, and nobody writes the weights.
            let (weight, x) = unsafe {
                (weight.get(0, n), in_place(x, share.start * n, out, share.start * n, share.len() * n))
            };
            level.run(RmsNorm { x, weight, eps });
        });
    }

    fn linear(&mut self, x: Buffer, n_rows: usize, products: &[(Matrix, Buffer)]) {
        // The products take turns, as they share what is quantised for a turn.
        for first in (0..n_rows).step_by(MOST_ROWS) {
            for &product in products {
                self.product(x, Rows::Range(first, n_rows.min(first + MOST_ROWS)), first, product);
            }
        }
    }

    fn linear_rows(&mut self, x: Buffer, rows: &[u32], product: (Matrix, Buffer)) {
        self.product(x, Rows::These(rows), 0, product);
    }

    fn add(&mut self, x: Buffer, y: Buffer, n: usize) {
        assert_ne!(x, y, "two buffers are added");
        let (y, x, level) = (self.input(y), self.output(x), self.level);
        self.team.run_if_worth(n, |part| {
            let share = part.share(n, LINE);
            // SAFETY: the values of a share are this thread's own.
            let (x, y) = unsafe { (x.get_mut(share.start, share.len()), y.get(share.start, share.len())) };
            level.run(Add { x, y });
        });
    }

    fn silu_mul(&mut self, gate: Buffer, up: Buffer, out: Buffer, n: usize) {
        assert_ne!(up, out, "the output is not `up`");
        let (gate, up, out, level) = (self.input(gate), self.input(up), self.output(out), self.level);
        self.team.run_if_worth(4 * n, |part| {
            let share = part.share(n, LINE);
            // SAFETY: the values of a share are this thread's own.
            let (gate, up) = unsafe {
                (in_place(gate, share.start, out, share.start, share.len()), up.get(share.start, share.len()))
            };
            level.run(SiluMul { gate, up });
        });
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
        assert_ne!(m, out, "the convolution's output is another buffer");
        self.convolve(shape, layer, segments, [m, weight, out]);
    }

    fn delta_gates(&mut self, b: Buffer, a: Buffer, decay: Buffer, dt_bias: Buffer, n_rows: usize) {
        assert_ne!(a, b, "two buffers are gated");
        let (decay, dt_bias, level) = (self.input(decay), self.input(dt_bias), self.level);
        let (b, a) = (self.output(b), self.output(a));
        let heads = decay.len();
        self.team.run_if_worth(16 * n_rows * heads, |part| {
            for row in part.share(n_rows, 1) {
                // SAFETY: the rows of a share are this thread's own, and nobody writes the constants.
                level.run(unsafe {
                    DeltaGates {
                        b: b.get_mut(row * heads, heads),
                        a: a.get_mut(row * heads, heads),
                        decay: decay.get(0, heads),
                        dt_bias: dt_bias.get(0, heads),
                    }
                });
            }
        });
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
        self.recur(shape, layer, segments, [qkv, g, beta, out]);
    }

    fn gated_norm(&mut self, x: Buffer, z: Buffer, weight: Buffer, eps: f32, n: usize, out: Buffer) {
        assert_ne!(z, out, "the output is not the gate");
        let (x, z, weight) = (self.input(x), self.input(z), self.input(weight));
        let (out, level) = (self.output(out), self.level);
        let run = weight.len();
        self.team.run_if_worth(4 * n, |part| {
            let share = part.share(n, run);
            // SAFETY: the runs of a share are this thread's own, and nobody writes the others.
            let (x, z, weight) = unsafe {
                (
                    in_place(x, share.start, out, share.start, share.len()),
                    z.get(share.start, share.len()),
                    weight.get(0, run),
                )
            };
            level.run(GatedNorm { x, z, weight, eps });
        });
    }

    fn norm_rotate(&mut self, args: &NormRotate) {
        let NormRotate { n_rows, n_heads, stride, head_dim, rotary_dim, eps, .. } = *args;
        assert!(args.x != args.out || stride == head_dim, "in place only where heads are neighbours");
        let (x, weight) = (self.input(args.x), self.input(args.weight));
        let (cos, sin) = (self.input(args.cos), self.input(args.sin));
        let (out, level) = (self.output(args.out), self.level);
        let half = rotary_dim / 2;
        self.team.run_if_worth(2 * n_rows * n_heads * head_dim, |part| {
            for head in part.share(n_rows * n_heads, 1) {
                let row = head / n_heads;
                // SAFETY: the heads of a share are this thread's own, and nobody writes the others.
                level.run(unsafe {
                    NormRotateHead {
                        x: in_place(x, head * stride, out, head * head_dim, head_dim),
                        weight: weight.get(0, head_dim),
                        eps,
                        cos: cos.get(row * half, half),
                        sin: sin.get(row * half, half),
                    }
                });
            }
        });
    }

    fn append_kv(&mut self, layer: usize, k: Buffer, v: Buffer, segments: &[Segment<'_>]) {
        self.store_kv(layer, k, v, segments);
    }

    fn attend(&mut self, args: &Attend<'_>) {
        assert_ne!(args.q, args.out, "the output is not the queries");
        self.attention(args);
    }

    fn route(&mut self, logits: Buffer, n_rows: usize, n_experts: usize, normalize: bool, picks: &mut Picks) {
        let top_k = picks.top_k;
        assert!(top_k <= n_experts, "{top_k} of {n_experts} experts");
        let span = self.input(logits);
        let probabilities = self.products.probabilities(n_experts);
        for row in 0..n_rows {
            let chosen = row * top_k..(row + 1) * top_k;
            self.level.run(RouteRow {
                // SAFETY: no region runs, and `self` is borrowed exclusively.
                logits: unsafe { span.get(row * n_experts, n_experts) },
                probabilities,
                normalize,
                experts: &mut picks.experts[chosen.clone()],
                weights: &mut picks.weights[chosen],
            });
        }
    }

    fn expert(&mut self, glu: &Glu<'_>, x: Buffer, rows: &[u32], out: Buffer, first_out: usize) {
        assert_ne!(x, out, "an expert's output is another buffer");
        let (gate, down) = (&glu.gate.shape, &glu.down.shape);
        assert!(
            glu.up.shape.rows == gate.rows && glu.up.shape.cols == gate.cols && down.cols == gate.rows,
            "gate and up are [intermediate, hidden], down is [hidden, intermediate]"
        );
        let span = self.output(out);
        let source = self.source(x, gate.cols, Rows::These(rows));
        let y = Output { span, stride: down.rows, first: first_out * down.rows };
        self.products.expert(&mut self.team, glu, source, y);
    }

    fn accumulate(&mut self, y: Buffer, x: Buffer, row_len: usize, terms: &[Term]) {
        assert_ne!(x, y, "a mixture adds another buffer");
        let (x, y, level) = (self.input(x), self.output(y), self.level);
        self.team.run_if_worth(terms.len() * row_len, |part| {
            let share = part.share(row_len, LINE);
            for term in terms {
                // SAFETY: the columns of a share are this thread's own.
                let (x, y) = unsafe {
                    (
                        x.get(term.from as usize * row_len + share.start, share.len()),
                        y.get_mut(term.row as usize * row_len + share.start, share.len()),
                    )
                };
                level.run(MulAdd { y, x, weight: term.weight });
            }
        });
    }

    fn accumulate_gated(&mut self, y: Buffer, x: Buffer, logit: Buffer, n_rows: usize, row_len: usize) {
        assert_ne!(x, y, "a mixture adds another buffer");
        let (x, logit, y, level) = (self.input(x), self.input(logit), self.output(y), self.level);
        self.team.run_if_worth(n_rows * row_len, |part| {
            let share = part.share(row_len, LINE);
            for row in 0..n_rows {
                // SAFETY: the columns of a share are this thread's own, and nobody writes the logits.
                level.run(unsafe {
                    GatedMulAdd {
                        y: y.get_mut(row * row_len + share.start, share.len()),
                        x: x.get(row * row_len + share.start, share.len()),
                        logit: logit.get(row, 1)[0],
                    }
                });
            }
        });
    }

    fn zero(&mut self, x: Buffer, n: usize) {
        let x = self.output(x);
        self.team.run_if_worth(n, |part| {
            let share = part.share(n, LINE);
            // SAFETY: the values of a share are this thread's own.
            unsafe { x.get_mut(share.start, share.len()) }.fill(0.0);
        });
    }
}
