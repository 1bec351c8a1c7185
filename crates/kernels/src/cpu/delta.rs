//! Gated DeltaNet: the convolution and the recurrence. Each thread has columns of its own and takes them through all rows.

use std::ops::Range;

use super::math::{exp_one, silu};
use super::memory::Span;
use super::simd::{Kernel, Simd, dot};
use crate::DeltaShape;

/// Channels that go through the rows together.
pub(crate) const CHANNELS: usize = 64;
/// Value columns that go through the rows together: with 128 keys their state is 16 KB.
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
            window.copy_within(1..taps, 0);
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
    /// At most [`COLUMNS`].
    pub(crate) columns: Range<usize>,
    pub(crate) qkv: &'a [f32],
    pub(crate) g: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) out: Span<f32>,
    /// The segment's state; `recurrent` is where this layer's recurrent state starts.
    pub(crate) state: Span<f32>,
    pub(crate) recurrent: usize,
}

impl Kernel for Rule<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut at = self.columns.start;
        while at < self.columns.end {
            let width = (self.columns.end - at).min(COLUMNS);
            if width == COLUMNS {
                self.lanes::<S, 2>(s, at, COLUMNS);
            } else {
                for start in (0..width).step_by(16) {
                    self.lanes::<S, 1>(s, at + start, (width - start).min(16));
                }
            }
            at += width;
        }
    }
}

impl Rule<'_> {
    /// `width` columns from `at` on, in `N` vectors.
    #[inline(always)]
    fn lanes<S: Simd, const N: usize>(&self, s: S, at: usize, width: usize) {
        let shape = self.shape;
        let (keys, values) = (shape.key_dim, shape.value_dim);
        let q_scale = 1.0 / (keys as f32).sqrt();
        let channels = shape.conv_channels();
        let key_head = shape.key_head(self.head);
        let first_k = shape.n_key_heads * keys;
        let first_v = 2 * first_k;
        let state_at = self.recurrent + self.head * keys * values + at;
        let (mut q, mut k) = ([0.0; MAX_KEY], [0.0; MAX_KEY]);
        let (q, k) = (&mut q[..keys], &mut k[..keys]);
        for row in self.rows.first..self.rows.first + self.rows.n {
            let channel = &self.qkv[row * channels..][..channels];
            normalize(s, &channel[key_head * keys..][..keys], q_scale, q);
            normalize(s, &channel[first_k + key_head * keys..][..keys], 1.0, k);
            let v = load_all::<S, N>(s, &channel[first_v + self.head * values + at..][..width]);
            let gate = row * shape.n_value_heads + self.head;
            let decay = s.splat(exp_one(s, self.g[gate]));
            let beta = s.splat(self.beta[gate]);

            let mut chains = [[s.splat(0.0); N]; 4];
            for (i, &k) in k.iter().enumerate() {
                // SAFETY: the columns of the state are this task's own.
                let state = unsafe { self.state.get(state_at + i * values, width) };
                let state = load_all::<S, N>(s, state);
                let k = s.splat(k);
                for n in 0..N {
                    chains[i % 4][n] = s.fma(s.mul(state[n], decay), k, chains[i % 4][n]);
                }
            }
            let kv = join(s, &chains);
            let mut d = [s.splat(0.0); N];
            for n in 0..N {
                d[n] = s.mul(beta, s.sub(v[n], kv[n]));
            }

            let mut chains = [[s.splat(0.0); N]; 4];
            for (i, (&k, &q)) in k.iter().zip(q.iter()).enumerate() {
                // SAFETY: as above.
                let memory = unsafe { self.state.get_mut(state_at + i * values, width) };
                let mut state = load_all::<S, N>(s, memory);
                let (k, q) = (s.splat(k), s.splat(q));
                for n in 0..N {
                    state[n] = s.fma(k, d[n], s.mul(state[n], decay));
                    chains[i % 4][n] = s.fma(state[n], q, chains[i % 4][n]);
                }
                store_all(s, &state, memory);
            }
            let o = join(s, &chains);
            let place = (row * shape.n_value_heads + self.head) * values + at;
            // SAFETY: the columns of the output are this task's own.
            let out = unsafe { self.out.get_mut(place, width) };
            store_all(s, &o, out);
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
fn join<S: Simd, const N: usize>(s: S, chains: &[[S::F; N]; 4]) -> [S::F; N] {
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
