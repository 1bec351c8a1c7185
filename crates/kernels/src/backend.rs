//! The trait that every device implements: few, coarse calls on buffers that the backend owns.

use flashmill_layout::{MAX_PARTS, MatrixShape, MatrixView};

/// An array of f32 activations owned by the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer(pub u32);

/// A matrix of the trunk, owned by the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix(pub u32);

/// A page of the KV cache: [`PAGE_TOKENS`] neighbouring positions of one sequence, keys and values of all attention layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page(pub u32);

/// Positions in a page. Attention merges its spans of this many absolute positions in ascending order.
pub const PAGE_TOKENS: usize = 64;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvKind {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    #[default]
    F16,
    /// Signed bytes and an f32 scale for each head of each position.
    Q8,
}

/// The shape of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Attention layers (not all layers).
    pub n_layers: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Storage.
    pub kind: KvKind,
}

impl KvShape {
    /// Bytes of one head of one position, keys or values.
    pub fn head_bytes(&self) -> usize {
        match self.kind {
            KvKind::F32 => 4 * self.head_dim,
            KvKind::F16 => 2 * self.head_dim,
            KvKind::Q8 => self.head_dim + 4,
        }
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        PAGE_TOKENS * self.n_layers * 2 * self.n_kv_heads * self.head_bytes()
    }
}

/// Neighbouring rows of a batch that belong to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// First row of the batch.
    pub first_row: usize,
    /// Number of rows.
    pub n_rows: usize,
    /// Absolute position of the first row.
    pub position: usize,
    /// The sequence's KV pages, position `p` in page `p / PAGE_TOKENS`; they cover all rows.
    pub pages: &'a [Page],
    /// The sequence's DeltaNet state, see [`DeltaShape::state_len`]; of all DeltaNet layers, one after the other.
    pub delta_state: Buffer,
}

/// Sizes of a Gated DeltaNet layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Query and key heads.
    pub n_key_heads: usize,
    /// Value heads.
    pub n_value_heads: usize,
    /// Values of a key head.
    pub key_dim: usize,
    /// Values of a value head.
    pub value_dim: usize,
    /// Taps of the convolution.
    pub conv_kernel: usize,
    /// Value head h uses key head `h % n_key_heads` instead of `h / (n_value_heads / n_key_heads)`.
    pub tiled: bool,
}

impl DeltaShape {
    /// Channels of the convolution: queries, keys, values.
    pub fn conv_channels(&self) -> usize {
        2 * self.n_key_heads * self.key_dim + self.n_value_heads * self.value_dim
    }

    /// Values of the convolution's memory: the last `conv_kernel - 1` columns, oldest first, `[conv_kernel - 1][channels]`.
    pub fn conv_state_len(&self) -> usize {
        (self.conv_kernel - 1) * self.conv_channels()
    }

    /// Values of the recurrent state, `[n_value_heads][key_dim][value_dim]`.
    pub fn recurrent_state_len(&self) -> usize {
        self.n_value_heads * self.key_dim * self.value_dim
    }

    /// Values of one layer's state: the convolution's memory, then the recurrent state.
    pub fn state_len(&self) -> usize {
        self.conv_state_len() + self.recurrent_state_len()
    }

    /// The key head that serves value head `head`.
    pub fn key_head(&self, head: usize) -> usize {
        if self.tiled { head % self.n_key_heads } else { head / (self.n_value_heads / self.n_key_heads) }
    }
}

/// Norm and rotation of queries and keys ([`Backend::norm_rotate`]).
#[derive(Clone, Copy, Debug)]
pub struct NormRotate {
    /// `[n_rows][n_heads][stride]`.
    pub x: Buffer,
    /// Rows of the batch.
    pub n_rows: usize,
    /// Heads of a row.
    pub n_heads: usize,
    /// Values from one head to the next; `2 * head_dim` where a gate follows each query.
    pub stride: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Weights of the RMS norm, `[head_dim]`.
    pub weight: Buffer,
    /// Its epsilon.
    pub eps: f32,
    /// Values that are rotated, in pairs `(j, j + rotary_dim / 2)`.
    pub rotary_dim: usize,
    /// `[n_rows][rotary_dim / 2]`.
    pub cos: Buffer,
    /// `[n_rows][rotary_dim / 2]`.
    pub sin: Buffer,
    /// `[n_rows][n_heads][head_dim]`; may be `x` where `stride == head_dim`.
    pub out: Buffer,
}

/// Causal softmax attention over the KV cache ([`Backend::attend`]).
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// Which attention layer of the KV cache.
    pub layer: usize,
    /// `[n_rows][n_heads][head_dim]`, normed and rotated.
    pub q: Buffer,
    /// Query heads; the KV shape has the rest.
    pub n_heads: usize,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// `[n_rows][n_heads][2 * head_dim]`: the second half of each head is the gate whose sigmoid scales the output.
    pub gate: Option<Buffer>,
    /// `[n_rows][n_heads][head_dim]`.
    pub out: Buffer,
    /// The rows; each attends to all positions of its sequence up to its own.
    pub segments: &'a [Segment<'a>],
}

/// The experts chosen for a batch of rows, best first within a row.
#[derive(Clone, Debug, Default)]
pub struct Picks {
    /// Experts of a row.
    pub top_k: usize,
    /// `[n_rows][top_k]`.
    pub experts: Vec<u32>,
    /// `[n_rows][top_k]`, what each expert's output is multiplied by.
    pub weights: Vec<f32>,
}

/// A bundle's weights: `down(silu(gate x) * up x)`.
#[derive(Clone, Copy, Debug)]
pub struct Glu<'a> {
    /// `[intermediate, hidden]`.
    pub gate: MatrixView<'a>,
    /// `[intermediate, hidden]`.
    pub up: MatrixView<'a>,
    /// `[hidden, intermediate]`.
    pub down: MatrixView<'a>,
}

/// One addend of a mixture: `y[row] += weight * x[from]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Row that is added to.
    pub row: u32,
    /// Row that is added.
    pub from: u32,
    /// Its factor.
    pub weight: f32,
}

/// A device that computes. Every call may only record work; [`Backend::read`] and [`Backend::route`] wait for it.
///
/// All buffers are row-major f32. `n_rows` may be smaller than a buffer's capacity, and rows are independent: what is
/// computed for one never depends on the others, on their number, or on how calls are split, to the bit.
/// Shapes are promises of the caller; a broken one is a panic.
pub trait Backend: Send {
    /// Name and settings for people, such as `cpu avx512 x2`.
    fn name(&self) -> String;

    /// A zeroed buffer of `len` values.
    fn buffer(&mut self, len: usize) -> Buffer;

    /// Gives a buffer's memory back.
    fn release(&mut self, buffer: Buffer);

    /// Overwrites values of a buffer from `at` on.
    fn write(&mut self, buffer: Buffer, at: usize, values: &[f32]);

    /// Waits for all recorded work and copies values of a buffer from `at` on.
    fn read(&mut self, buffer: Buffer, at: usize, out: &mut [f32]);

    /// Copies one whole buffer into another of the same length.
    fn copy(&mut self, from: Buffer, to: Buffer);

    /// Room for a matrix of the trunk, to be filled through [`Backend::matrix_part`].
    fn matrix(&mut self, shape: MatrixShape) -> Matrix;

    /// The bytes of part `part`, all rows.
    fn matrix_part(&mut self, matrix: Matrix, part: usize) -> &mut [u8];

    /// The bytes of all matrices at once, `[matrix][part]` in the order in which they were made; parts that a matrix has not are empty.
    fn all_parts(&mut self) -> Vec<[&mut [u8]; MAX_PARTS]>;

    /// Makes the KV cache of `n_pages` pages; called once.
    fn kv_cache(&mut self, shape: KvShape, n_pages: usize);

    /// Copies a page.
    fn kv_copy(&mut self, from: Page, to: Page);

    /// Waits for all recorded work and copies the bytes of a page, [`KvShape::page_bytes`] of them. Their order is the backend's own.
    fn kv_read(&mut self, page: Page, out: &mut [u8]);

    /// Overwrites a page with bytes that [`Backend::kv_read`] of a backend of the same kind has given.
    fn kv_write(&mut self, page: Page, bytes: &[u8]);

    /// Bytes of memory that the backend itself holds: buffers, matrices, pages, scratch.
    fn bytes(&self) -> usize;

    /// Reserves the scratch memory for batches of up to `n_rows` rows of products up to `max_cols` inputs wide and
    /// attention of up to `n_heads` heads, so that no later call allocates.
    fn reserve(&mut self, n_rows: usize, max_cols: usize, n_heads: usize);

    /// `out[i] = table[tokens[i]]`.
    fn embed(&mut self, table: Matrix, tokens: &[u32], out: Buffer);

    /// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `weight`'s length (docs/NUMERICS.md, "Norms and rotation").
    fn rms_norm(&mut self, x: Buffer, weight: Buffer, eps: f32, n_rows: usize, out: Buffer);

    /// `y = W x` for each row and each of `products`, which share `x`: `[n_rows][cols]` to `[n_rows][rows]`.
    fn linear(&mut self, x: Buffer, n_rows: usize, products: &[(Matrix, Buffer)]);

    /// The same for a given selection of rows: `y[i] = W x[rows[i]]`.
    fn linear_rows(&mut self, x: Buffer, rows: &[u32], product: (Matrix, Buffer));

    /// `x += y`, `n` values.
    fn add(&mut self, x: Buffer, y: Buffer, n: usize);

    /// `out = silu(gate) * up`, `n` values; `out` may be `gate`.
    fn silu_mul(&mut self, gate: Buffer, up: Buffer, out: Buffer, n: usize);

    /// Causal depthwise convolution and silu over each segment's rows: `y_t[c] = silu(sum_j w[c][j] m_{t-K+1+j}[c])`.
    ///
    /// `m` and `out` are `[n_rows][conv_channels]`, `weight` is `[conv_channels][conv_kernel]`. The last `conv_kernel - 1` columns
    /// of `m` are left in the state of each segment (layer `layer` of the DeltaNet layers). See docs/NUMERICS.md, "Gated DeltaNet".
    fn delta_conv(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        m: Buffer,
        weight: Buffer,
        out: Buffer,
    );

    /// `beta = sigmoid(b)` in place of `b`; `g = decay * softplus(a + dt_bias)` in place of `a`: `[n_rows][n_value_heads]`.
    fn delta_gates(&mut self, b: Buffer, a: Buffer, decay: Buffer, dt_bias: Buffer, n_rows: usize);

    /// The gated delta rule over each segment's rows (docs/NUMERICS.md, "Gated DeltaNet").
    ///
    /// `qkv` is the convolution's output, `g` and `beta` are `[n_rows][n_value_heads]`, `out` is `[n_rows][n_value_heads][value_dim]`.
    #[expect(clippy::too_many_arguments, reason = "one formula with many inputs")]
    fn delta_rule(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        qkv: Buffer,
        g: Buffer,
        beta: Buffer,
        out: Buffer,
    );

    /// `out = rms_norm(x) * silu(z)` for each run of `weight`'s length; `n` values in all; `out` may be `x`.
    fn gated_norm(&mut self, x: Buffer, z: Buffer, weight: Buffer, eps: f32, n: usize, out: Buffer);

    /// RMS norm of each head, then rotation of its first values (docs/NUMERICS.md, "Norms and rotation").
    fn norm_rotate(&mut self, args: &NormRotate);

    /// Stores keys and values `[n_rows][n_kv_heads][head_dim]` of attention layer `layer` into the segments' pages.
    fn append_kv(&mut self, layer: usize, k: Buffer, v: Buffer, segments: &[Segment<'_>]);

    /// Attention over the pages, as stored.
    fn attend(&mut self, args: &Attend<'_>);

    /// Softmax over `n_experts` logits a row and the `top_k` largest, ties to the lower index; weights are divided by their
    /// sum if `normalize`. `picks` has room for `n_rows * top_k`. Waits.
    fn route(&mut self, logits: Buffer, n_rows: usize, n_experts: usize, normalize: bool, picks: &mut Picks);

    /// One bundle for the rows `rows` of `x`: `out[first_out + i] = down(silu(gate x[rows[i]]) * up x[rows[i]])`.
    fn expert(&mut self, glu: &Glu<'_>, x: Buffer, rows: &[u32], out: Buffer, first_out: usize);

    /// `y[term.row] = fma(term.weight, x[term.from], y[term.row])` for rows of `row_len` values, in the order of `terms`.
    fn accumulate(&mut self, y: Buffer, x: Buffer, row_len: usize, terms: &[Term]);

    /// `y = fma(sigmoid(logit[row]), x, y)` for each row of `row_len` values.
    fn accumulate_gated(&mut self, y: Buffer, x: Buffer, logit: Buffer, n_rows: usize, row_len: usize);

    /// Sets `n` values to zero.
    fn zero(&mut self, x: Buffer, n: usize);
}
