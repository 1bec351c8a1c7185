//! The trait in plain scalar Rust: the definition of right, written to be read.
//!
//! Values are f32 wherever the trait shows them; sums and transcendental functions are taken in f64 and rounded once, so
//! that what other backends are measured against carries as little rounding of its own as possible. Formulas are those of
//! Hugging Face transformers' Qwen3.5-MoE. Every call works at once, and allocates as it likes.

mod attention;
mod delta_net;
mod math;
mod moe;

use flashmill_layout::{MAX_PARTS, MatrixShape, MatrixView};

use crate::backend::{
    Attend, Backend, Buffer, DeltaShape, Glu, KvShape, Matrix, NormRotate, Page, Picks, Segment, Term,
};
use attention::KvPages;
use math::{product, rms_norm, sigmoid, silu};

/// The scalar backend that all others are compared with.
#[derive(Debug, Default)]
pub struct Reference {
    /// `None` once released. A handle is never given twice, so that a stale one panics.
    buffers: Vec<Option<Vec<f32>>>,
    matrices: Vec<OwnedMatrix>,
    kv: Option<KvPages>,
}

/// A matrix of the trunk.
#[derive(Debug)]
struct OwnedMatrix {
    shape: MatrixShape,
    parts: [Vec<u8>; MAX_PARTS],
}

impl OwnedMatrix {
    fn view(&self) -> MatrixView<'_> {
        let parts: [&[u8]; MAX_PARTS] = std::array::from_fn(|part| self.parts[part].as_slice());
        MatrixView::new(self.shape, &parts[..self.shape.encoding.n_parts()])
    }
}

impl Reference {
    /// A backend that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn values(&self, buffer: Buffer) -> &[f32] {
        self.buffers[buffer.0 as usize].as_deref().expect("the buffer has not been released")
    }

    fn values_mut(&mut self, buffer: Buffer) -> &mut [f32] {
        self.buffers[buffer.0 as usize].as_deref_mut().expect("the buffer has not been released")
    }

    fn view(&self, matrix: Matrix) -> MatrixView<'_> {
        self.matrices[matrix.0 as usize].view()
    }

    fn kv(&self) -> &KvPages {
        self.kv.as_ref().expect("kv_cache has been called")
    }

    /// Rows `rows` of a buffer of rows of `row_len` values, one after the other.
    fn gather(&self, x: Buffer, rows: &[u32], row_len: usize) -> Vec<f32> {
        let x = self.values(x);
        rows.iter().flat_map(|&row| &x[row as usize * row_len..][..row_len]).copied().collect()
    }

    /// Replaces each run of `weight`'s length among the first `n` values of `x` by its norm.
    fn norms(&self, x: Buffer, weight: Buffer, eps: f32, n: usize) -> Vec<f32> {
        let weight = self.values(weight);
        assert_eq!(n % weight.len(), 0, "{n} values are whole rows of {}", weight.len());
        let mut out = self.values(x)[..n].to_vec();
        for row in out.chunks_exact_mut(weight.len()) {
            rms_norm(row, weight, eps);
        }
        out
    }
}

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        self.buffers.push(Some(vec![0.0; len]));
        Buffer((self.buffers.len() - 1) as u32)
    }

    fn release(&mut self, buffer: Buffer) {
        let released = self.buffers[buffer.0 as usize].take();
        assert!(released.is_some(), "a buffer is released once");
    }

    fn write(&mut self, buffer: Buffer, at: usize, values: &[f32]) {
        self.values_mut(buffer)[at..][..values.len()].copy_from_slice(values);
    }

    fn read(&mut self, buffer: Buffer, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values(buffer)[at..][..out.len()]);
    }

    fn copy(&mut self, from: Buffer, to: Buffer) {
        let values = self.values(from).to_vec();
        self.values_mut(to).copy_from_slice(&values);
    }

    fn matrix(&mut self, shape: MatrixShape) -> Matrix {
        let parts = std::array::from_fn(|part| {
            let bytes = if part < shape.encoding.n_parts() { shape.part_bytes(part) } else { 0 };
            vec![0; bytes]
        });
        self.matrices.push(OwnedMatrix { shape, parts });
        Matrix((self.matrices.len() - 1) as u32)
    }

    fn matrix_part(&mut self, matrix: Matrix, part: usize) -> &mut [u8] {
        &mut self.matrices[matrix.0 as usize].parts[part]
    }

    fn all_parts(&mut self) -> Vec<[&mut [u8]; MAX_PARTS]> {
        self.matrices.iter_mut().map(|matrix| matrix.parts.each_mut().map(Vec::as_mut_slice)).collect()
    }

    fn kv_cache(&mut self, shape: KvShape, n_pages: usize) {
        assert!(self.kv.is_none(), "kv_cache is called once");
        self.kv = Some(KvPages::new(shape, n_pages));
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
        let buffers: usize = self.buffers.iter().flatten().map(|values| 4 * values.len()).sum();
        let matrices: usize = self.matrices.iter().map(|matrix| matrix.shape.bytes()).sum();
        buffers + matrices + self.kv.as_ref().map_or(0, KvPages::bytes)
    }

    /// Keeps no scratch memory.
    fn reserve(&mut self, _n_rows: usize, _max_cols: usize, _n_heads: usize) {}

    fn embed(&mut self, table: Matrix, tokens: &[u32], out: Buffer) {
        let table = self.view(table);
        let mut rows = vec![0.0; tokens.len() * table.shape.cols];
        for (row, &token) in rows.chunks_exact_mut(table.shape.cols).zip(tokens) {
            table.decode_row(token as usize, row);
        }
        self.write(out, 0, &rows);
    }

    fn rms_norm(&mut self, x: Buffer, weight: Buffer, eps: f32, n_rows: usize, out: Buffer) {
        let n = n_rows * self.values(weight).len();
        let normed = self.norms(x, weight, eps, n);
        self.write(out, 0, &normed);
    }

    fn linear(&mut self, x: Buffer, n_rows: usize, products: &[(Matrix, Buffer)]) {
        for &(matrix, out) in products {
            let w = self.view(matrix);
            let y = product(&w, &self.values(x)[..n_rows * w.shape.cols]);
            self.write(out, 0, &y);
        }
    }

    fn linear_rows(&mut self, x: Buffer, rows: &[u32], (matrix, out): (Matrix, Buffer)) {
        let w = self.view(matrix);
        let y = product(&w, &self.gather(x, rows, w.shape.cols));
        self.write(out, 0, &y);
    }

    fn add(&mut self, x: Buffer, y: Buffer, n: usize) {
        let y = self.values(y)[..n].to_vec();
        for (x, y) in self.values_mut(x)[..n].iter_mut().zip(y) {
            *x += y;
        }
    }

    fn silu_mul(&mut self, gate: Buffer, up: Buffer, out: Buffer, n: usize) {
        let (gate, up) = (&self.values(gate)[..n], &self.values(up)[..n]);
        let hidden: Vec<f32> = gate.iter().zip(up).map(|(&gate, &up)| silu(gate) * up).collect();
        self.write(out, 0, &hidden);
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
        let channels = shape.conv_channels();
        for segment in segments {
            let columns =
                self.values(m)[segment.first_row * channels..][..segment.n_rows * channels].to_vec();
            let weight = self.values(weight).to_vec();
            let state = &mut self.values_mut(segment.delta_state)[layer * shape.state_len()..];
            let y = delta_net::convolve(shape, &columns, &weight, &mut state[..shape.conv_state_len()]);
            self.write(out, segment.first_row * channels, &y);
        }
    }

    fn delta_gates(&mut self, b: Buffer, a: Buffer, decay: Buffer, dt_bias: Buffer, n_rows: usize) {
        let (decay, dt_bias) = (self.values(decay).to_vec(), self.values(dt_bias).to_vec());
        let n = n_rows * decay.len();
        for beta in &mut self.values_mut(b)[..n] {
            *beta = sigmoid(*beta);
        }
        for row in self.values_mut(a)[..n].chunks_exact_mut(decay.len()) {
            for (head, g) in row.iter_mut().enumerate() {
                *g = decay[head] * math::softplus(*g + dt_bias[head]);
            }
        }
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
        let (channels, n_heads) = (shape.conv_channels(), shape.n_value_heads);
        for segment in segments {
            let first = layer * shape.state_len() + shape.conv_state_len();
            let mut state = self.values(segment.delta_state)[first..][..shape.recurrent_state_len()].to_vec();
            for row in segment.first_row..segment.first_row + segment.n_rows {
                let o = delta_net::delta_rule(
                    shape,
                    &self.values(qkv)[row * channels..][..channels],
                    &self.values(g)[row * n_heads..][..n_heads],
                    &self.values(beta)[row * n_heads..][..n_heads],
                    &mut state,
                );
                self.write(out, row * n_heads * shape.value_dim, &o);
            }
            self.write(segment.delta_state, first, &state);
        }
    }

    fn gated_norm(&mut self, x: Buffer, z: Buffer, weight: Buffer, eps: f32, n: usize, out: Buffer) {
        let mut gated = self.norms(x, weight, eps, n);
        for (value, &z) in gated.iter_mut().zip(&self.values(z)[..n]) {
            *value *= silu(z);
        }
        self.write(out, 0, &gated);
    }

    fn norm_rotate(&mut self, args: &NormRotate) {
        let half = args.rotary_dim / 2;
        let mut out = Vec::with_capacity(args.n_rows * args.n_heads * args.head_dim);
        for row in 0..args.n_rows {
            let cos = &self.values(args.cos)[row * half..][..half];
            let sin = &self.values(args.sin)[row * half..][..half];
            for head in 0..args.n_heads {
                let x = &self.values(args.x)[(row * args.n_heads + head) * args.stride..][..args.head_dim];
                let mut x = x.to_vec();
                rms_norm(&mut x, self.values(args.weight), args.eps);
                attention::rotate(&mut x[..args.rotary_dim], cos, sin);
                out.extend(x);
            }
        }
        self.write(args.out, 0, &out);
    }

    fn append_kv(&mut self, layer: usize, k: Buffer, v: Buffer, segments: &[Segment<'_>]) {
        let (k, v) = (self.values(k).to_vec(), self.values(v).to_vec());
        self.kv.as_mut().expect("kv_cache has been called").append(layer, &k, &v, segments);
    }

    fn attend(&mut self, args: &Attend<'_>) {
        let head_dim = self.kv().shape().head_dim;
        let row_len = args.n_heads * head_dim;
        for segment in args.segments {
            for i in 0..segment.n_rows {
                let row = segment.first_row + i;
                let q = &self.values(args.q)[row * row_len..][..row_len];
                let n_positions = segment.position + i + 1;
                let mut o = self.kv().attend(args.layer, q, args.scale, segment.pages, n_positions);
                if let Some(gate) = args.gate {
                    let gates = &self.values(gate)[row * 2 * row_len..][..2 * row_len];
                    attention::gate(&mut o, gates, head_dim);
                }
                self.write(args.out, row * row_len, &o);
            }
        }
    }

    fn route(&mut self, logits: Buffer, n_rows: usize, n_experts: usize, normalize: bool, picks: &mut Picks) {
        moe::route(&self.values(logits)[..n_rows * n_experts], n_experts, normalize, picks);
    }

    fn expert(&mut self, glu: &Glu<'_>, x: Buffer, rows: &[u32], out: Buffer, first_out: usize) {
        let y = moe::expert(glu, &self.gather(x, rows, glu.gate.shape.cols));
        self.write(out, first_out * glu.down.shape.rows, &y);
    }

    fn accumulate(&mut self, y: Buffer, x: Buffer, row_len: usize, terms: &[Term]) {
        for term in terms {
            let x = self.gather(x, &[term.from], row_len);
            let y = &mut self.values_mut(y)[term.row as usize * row_len..][..row_len];
            moe::add_scaled(y, term.weight, &x);
        }
    }

    fn accumulate_gated(&mut self, y: Buffer, x: Buffer, logit: Buffer, n_rows: usize, row_len: usize) {
        for row in 0..n_rows {
            let weight = sigmoid(self.values(logit)[row]);
            let x = self.values(x)[row * row_len..][..row_len].to_vec();
            moe::add_scaled(&mut self.values_mut(y)[row * row_len..][..row_len], weight, &x);
        }
    }

    fn zero(&mut self, x: Buffer, n: usize) {
        self.values_mut(x)[..n].fill(0.0);
    }
}
