//! Gated DeltaNet: the convolution and the recurrence. Each thread has columns of its own and takes them through all rows.

use std::ops::Range;

use super::math::{exp_one, silu};
use super::memory::Span;
use super::simd::{Kernel, Simd, dot};
use crate::DeltaShape;

/// Channels that go through the rows together.
pub(crate) const CHANNELS: usize = 64;
/// Value columns that go through some rows together: with 128 keys their state is 16 KB.
pub(crate) const COLUMNS: usize = 32;
/// The most taps of a convolution.
pub(crate) const MAX_TAPS: usize = 8;
/// The longest key.
pub(crate) const MAX_KEY: usize = 1024;

/// The rows of one segment.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) first: usize,
    pub(crate) n: usize,
}

/// The causal convolution of channels `channels` (at most [`CHANNELS`]) through the rows of a segment.
pub(crate) struct Conv<'a> {
    pub(crate) shape: &'a DeltaShape,
    pub(crate) rows: Rows,
    pub(crate) channels: Range<usize>,
    pub(crate) m: Span<f32>,
    pub(crate) weight: &'a [f32],
    pub(crate) out: Span<f32>,
    /// The segment's state; `memory` is where this layer's convolution has its columns.
    pub(crate) state: Span<f32>,
    pub(crate) memory: usize,
}

impl Kernel for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut at = self.channels.start;
        while at < self.channels.end {
            let width = (self.channels.end - at).min(16);
            match self.shape.conv_kernel {
                4 => self.lanes(s, at, width, 4),
                taps => self.lanes(s, at, width, taps),
            }
            at += width;
        }
    }
}

impl Conv<'_> {
    /// `width` channels from `at` on.
    #[inline(always)]
    fn lanes<S: Simd>(&self, s: S, at: usize, width: usize, taps: usize) {
        let channels = self.shape.conv_channels();
        let mut weights = [s.splat(0.0); MAX_TAPS];
        for (j, w) in weights.iter_mut().enumerate().take(taps) {
            let mut lanes = [0.0; 16];
            for (c, lane) in lanes.iter_mut().enumerate().take(width) {
                *lane = self.weight[(at + c) * taps + j];
            }
            *w = s.load(&lanes);
        }
        // SAFETY: a task has channels of its own, of the rows and of the state.
        let m = |row: usize| unsafe { self.m.get((self.rows.first + row) * channels + at, width) };
        // SAFETY: as above.
        let out = |row: usize| unsafe { self.out.get_mut((self.rows.first + row) * channels + at, width) };
        // SAFETY: as above.
        let state = |j: usize| unsafe { self.state.get_mut(self.memory + j * channels + at, width) };
        // The last `taps` columns, the newest last.
        let mut window = [s.splat(0.0); MAX_TAPS];
        for j in 0..taps - 1 {
            window[j + 1] = s.load_some(state(j));
        }
        for row in 0..self.rows.n {
            for j in 1..taps {
                window[j - 1] = window[j];
            }
            window[taps - 1] = s.load_some(m(row));
            let mut y = s.mul(weights[0], window[0]);
            for j in 1..taps {
                y = s.fma(weights[j], window[j], y);
            }
            s.store_some(silu(s, y), out(row));
        }
        for j in 0..taps - 1 {
            s.store_some(window[j + 1], state(j));
        }
    }
}

/// The gated delta rule for some value columns of one value head through the rows of a segment.
pub(crate) struct Rule<'a> {
    pub(crate) shape: &'a DeltaShape,
    pub(crate) rows: Rows,
    pub(crate) head: usize,
    pub(crate) columns: Range<usize>,
    pub(crate) qkv: &'a [f32],
    pub(crate) g: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) out: Span<f32>,
    /// The segment's state; `recurrent` is where this layer's recurrent state starts.
    pub(crate) state: Span<f32>,
    pub(crate) recurrent: usize,
}

/// Rows that are taken together by [`Rule`], if their keys fit into [`KEYS`] values.
const ROWS: usize = 16;
/// Values of the keys of some rows: 8 KB.
const KEYS: usize = 2048;
const _: () = assert!(MAX_KEY <= KEYS);

/// Some rows of a segment: normalised queries and keys, `[rows][key_dim]`, and the decay of each row.
struct Block {
    rows: Rows,
    q: [f32; KEYS],
    k: [f32; KEYS],
    decay: [f32; ROWS],
}

/// What one pass over the state does to it.
struct Pass<'a, S: Simd, const N: usize> {
    /// The columns' correction, the row's key and its query.
    d: [S::F; N],
    k: &'a [f32],
    q: &'a [f32],
    /// The next row's decay and key.
    decay: S::F,
    next_k: &'a [f32],
}

/// A sum over the keys for `N` vectors of columns, in four chains.
type Chains<S, const N: usize> = [[<S as Simd>::F; N]; 4];

impl Kernel for Rule<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut block =
            Block { rows: Rows { first: 0, n: 0 }, q: [0.0; KEYS], k: [0.0; KEYS], decay: [0.0; ROWS] };
        let most = ROWS.min(KEYS / self.shape.key_dim);
        for first in (0..self.rows.n).step_by(most) {
            block.rows = Rows { first: self.rows.first + first, n: (self.rows.n - first).min(most) };
            self.fill(s, &mut block);
            let mut at = self.columns.start;
            while at < self.columns.end {
                let width = self.columns.end - at;
                if width >= COLUMNS {
                    self.lanes::<S, 2>(s, &block, at, COLUMNS);
                    at += COLUMNS;
                } else {
                    self.lanes::<S, 1>(s, &block, at, width.min(16));
                    at += width.min(16);
                }
            }
        }
    }
}

impl Rule<'_> {
    /// Normalises the queries and keys of the block's rows.
    #[inline(always)]
    fn fill<S: Simd>(&self, s: S, block: &mut Block) {
        let shape = self.shape;
        let keys = shape.key_dim;
        let q_scale = 1.0 / (keys as f32).sqrt();
        let (first_q, first_k) = (shape.key_head(self.head) * keys, shape.n_key_heads * keys);
        for i in 0..block.rows.n {
            let row = block.rows.first + i;
            let channel = &self.qkv[row * shape.conv_channels()..][..shape.conv_channels()];
            normalize(s, &channel[first_q..][..keys], q_scale, &mut block.q[i * keys..][..keys]);
            normalize(s, &channel[first_k + first_q..][..keys], 1.0, &mut block.k[i * keys..][..keys]);
            block.decay[i] = exp_one(s, self.g[row * shape.n_value_heads + self.head]);
        }
    }

    /// `width` columns from `at` on, in `N` vectors, through the block's rows.
    ///
    /// A pass over the state does two things at once: the update by one row with its output, and the decay for the next row with
    /// the product with its key. So in between the memory holds a state that has decayed already.
    #[inline(always)]
    fn lanes<S: Simd, const N: usize>(&self, s: S, block: &Block, at: usize, width: usize) {
        let shape = self.shape;
        let (keys, heads) = (shape.key_dim, shape.n_value_heads);
        let Rows { first, n } = block.rows;
        let none = [[s.splat(0.0); N]; 4];
        let (mut kv, mut o) = (none, none);
        let pass = Pass { d: none[0], k: &[], q: &[], decay: s.splat(block.decay[0]), next_k: &block.k };
        self.pass::<S, N, false, true>(s, at, width, &pass, &mut o, &mut kv);
        for i in 0..n {
            let channel = &self.qkv[(first + i) * shape.conv_channels()..][..shape.conv_channels()];
            let first_v = 2 * shape.n_key_heads * keys + self.head * shape.value_dim + at;
            let v = load_all::<S, N>(s, &channel[first_v..][..width]);
            let beta = s.splat(self.beta[(first + i) * heads + self.head]);
            let joined = join(s, &kv);
            let mut d = none[0];
            for n in 0..N {
                d[n] = s.mul(beta, s.sub(v[n], joined[n]));
            }
            let next = (i + 1).min(n - 1);
            let pass = Pass {
                d,
                k: &block.k[i * keys..],
                q: &block.q[i * keys..],
                decay: s.splat(block.decay[next]),
                next_k: &block.k[next * keys..],
            };
            (kv, o) = (none, none);
            if i + 1 < n {
                self.pass::<S, N, true, true>(s, at, width, &pass, &mut o, &mut kv);
            } else {
                self.pass::<S, N, true, false>(s, at, width, &pass, &mut o, &mut kv);
            }
            let place = ((first + i) * heads + self.head) * shape.value_dim + at;
            // SAFETY: the columns of the output are this task's own.
            let out = unsafe { self.out.get_mut(place, width) };
            store_all(s, &join(s, &o), out);
        }
    }

    /// One pass over `width` columns of the state: if `UPDATE`, by a row, whose output is added to `o`; if `DECAY`, for the next row, whose
    /// product with the key is added to `kv`.
    #[inline(always)]
    fn pass<S: Simd, const N: usize, const UPDATE: bool, const DECAY: bool>(
        &self,
        s: S,
        at: usize,
        width: usize,
        pass: &Pass<'_, S, N>,
        o: &mut Chains<S, N>,
        kv: &mut Chains<S, N>,
    ) {
        let (keys, values) = (self.shape.key_dim, self.shape.value_dim);
        let start = self.recurrent + self.head * keys * values + at;
        for first in (0..keys).step_by(4) {
            // Chain c by its number, so that it stays in registers.
            for c in 0..4 {
                let i = first + c;
                if i >= keys {
                    break;
                }
                // SAFETY: the columns of the state are this task's own.
                let memory = unsafe { self.state.get_mut(start + i * values, width) };
                let mut state = load_all::<S, N>(s, memory);
                if UPDATE {
                    let (k, q) = (s.splat(pass.k[i]), s.splat(pass.q[i]));
                    for n in 0..N {
                        state[n] = s.fma(k, pass.d[n], state[n]);
                        o[c][n] = s.fma(state[n], q, o[c][n]);
                    }
                }
                if DECAY {
                    let k = s.splat(pass.next_k[i]);
                    for n in 0..N {
                        state[n] = s.mul(state[n], pass.decay);
                        kv[c][n] = s.fma(state[n], k, kv[c][n]);
                    }
                }
                store_all(s, &state, memory);
            }
        }
    }
}

/// `out = x / sqrt(sum(x^2) + 1e-6) * scale`.
#[inline(always)]
fn normalize<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]) {
    let r = 1.0 / (dot(s, x, x) + 1e-6).sqrt() * scale;
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x * r;
    }
}

#[inline(always)]
fn join<S: Simd, const N: usize>(s: S, chains: &Chains<S, N>) -> [S::F; N] {
    let mut sums = [s.splat(0.0); N];
    for n in 0..N {
        sums[n] = s.add(s.add(chains[0][n], chains[2][n]), s.add(chains[1][n], chains[3][n]));
    }
    sums
}

/// `N` vectors; a short slice only where `N` is 1.
#[inline(always)]
fn load_all<S: Simd, const N: usize>(s: S, from: &[f32]) -> [S::F; N] {
    let mut all = [s.splat(0.0); N];
    for n in 0..N {
        all[n] = s.load_some(&from[16 * n..]);
    }
    all
}

#[inline(always)]
fn store_all<S: Simd, const N: usize>(s: S, lanes: &[S::F; N], to: &mut [f32]) {
    for n in 0..N {
        s.store_some(lanes[n], &mut to[16 * n..]);
    }
}
