//! Online softmax attention over spans of [`PAGE_TOKENS`] positions, for the query heads that share a head of keys and values.
//!
//! Vectors are filled in loops, not by closures, which might not be inlined and would then lack the instruction set.
//!
//! The state of one query head is a *partial*: `[head_dim]` weighted values, then the maximum and the sum of the weights.

use super::math::{exp, exp_one, sigmoid};
use super::simd::{Kernel, Simd, map, zip};
use crate::{KvKind, PAGE_TOKENS};

/// Values of a partial.
pub(crate) fn partial_len(head_dim: usize) -> usize {
    head_dim + 2
}

/// One span for a group of query heads: scores, softmax, weighted values.
pub(crate) struct AttendSpan<'a> {
    pub(crate) kind: KvKind,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// `[heads][head_dim]`.
    pub(crate) q: &'a [f32],
    /// Blocks of the KV cache.
    pub(crate) k: &'a [u8],
    pub(crate) v: &'a [u8],
    /// Positions of the span that are seen; the others are not read.
    pub(crate) n: usize,
    /// `[heads][PAGE_TOKENS]`, overwritten.
    pub(crate) scores: &'a mut [f32],
    /// `[heads][partial_len]`, overwritten.
    pub(crate) partials: &'a mut [f32],
}

impl Kernel for AttendSpan<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.kind {
            KvKind::F32 => self.span::<S, F32>(s),
            KvKind::F16 => self.span::<S, F16>(s),
            KvKind::Q8 => self.span::<S, I8>(s),
        }
    }
}

impl AttendSpan<'_> {
    #[inline(always)]
    fn span<S: Simd, V: Stored>(&mut self, s: S) {
        let n_heads = self.q.len() / self.head_dim;
        let mut head = 0;
        if S::WIDE {
            while n_heads - head >= 4 {
                self.heads::<S, V, 4, 4>(s, head);
                head += 4;
            }
        }
        while n_heads - head >= 2 {
            self.heads::<S, V, 2, 2>(s, head);
            head += 2;
        }
        if head < n_heads {
            self.heads::<S, V, 1, 4>(s, head);
        }
    }

    /// `H` heads from `head` on, in tiles of `B` positions and of `B` vectors of values.
    #[inline(always)]
    fn heads<S: Simd, V: Stored, const H: usize, const B: usize>(&mut self, s: S, head: usize) {
        let mut p = 0;
        while self.n - p >= B {
            self.dots::<S, V, H, B>(s, head, p);
            p += B;
        }
        while p < self.n {
            self.dots::<S, V, H, 1>(s, head, p);
            p += 1;
        }
        for h in head..head + H {
            self.softmax::<S, V>(s, h);
        }
        let whole = self.head_dim / 16;
        let mut c = 0;
        while whole - c >= B {
            self.values::<S, V, H, B>(s, head, c);
            c += B;
        }
        while c < whole {
            self.values::<S, V, H, 1>(s, head, c);
            c += 1;
        }
        if !self.head_dim.is_multiple_of(16) {
            self.last_values::<S, V, H>(s, head, whole);
        }
    }

    /// `q . k` for `H` heads and `P` positions.
    #[inline(always)]
    fn dots<S: Simd, V: Stored, const H: usize, const P: usize>(
        &mut self,
        s: S,
        head: usize,
        position: usize,
    ) {
        let dim = self.head_dim;
        let q: [&[f32]; H] = std::array::from_fn(|h| &self.q[(head + h) * dim..][..dim]);
        let k: [&[u8]; P] =
            std::array::from_fn(|p| &self.k[(position + p) * dim * V::BYTES..][..dim * V::BYTES]);
        let mut acc = [s.splat(0.0); 16];
        for i in 0..dim / 16 {
            let mut query = [s.splat(0.0); H];
            for h in 0..H {
                query[h] = s.load(q[h][16 * i..].first_chunk().expect("16 values"));
            }
            for p in 0..P {
                let k = V::load(s, &k[p][16 * i * V::BYTES..]);
                for h in 0..H {
                    acc[h * P + p] = s.fma(query[h], k, acc[h * P + p]);
                }
            }
        }
        if !dim.is_multiple_of(16) {
            let done = dim / 16 * 16;
            for p in 0..P {
                let k = V::load_part(s, &k[p][done * V::BYTES..]);
                for h in 0..H {
                    acc[h * P + p] = s.fma(s.load_part(&q[h][done..], 0.0), k, acc[h * P + p]);
                }
            }
        }
        let mut sums = [0.0; 16];
        if H * P > 4 {
            s.store(s.trees(&acc), &mut sums);
        } else {
            for i in 0..H * P {
                sums[i] = s.tree(acc[i]);
            }
        }
        for h in 0..H {
            self.scores[(head + h) * PAGE_TOKENS + position..][..P].copy_from_slice(&sums[h * P..][..P]);
        }
    }

    /// Scores to weights; leaves the maximum and the sum in the partial.
    #[inline(always)]
    fn softmax<S: Simd, V: Stored>(&mut self, s: S, head: usize) {
        let scores = &mut self.scores[head * PAGE_TOKENS..][..self.n];
        let scale = s.splat(self.scale);
        if V::SCALED {
            for (score, k_scale) in scores.iter_mut().zip(scales(self.k)) {
                *score *= k_scale;
            }
        }
        map!(s, scores, |score| s.mul(score, scale));
        let top = scores.iter().fold(f32::NEG_INFINITY, |top, &score| if score > top { score } else { top });
        let shift = s.splat(top);
        map!(s, scores, |score| exp(s, s.sub(score, shift)));
        let mut acc = s.splat(0.0);
        for chunk in scores.chunks(16) {
            acc = s.add(acc, s.load_part(chunk, 0.0));
        }
        let state = &mut self.partials[head * partial_len(self.head_dim) + self.head_dim..][..2];
        state[0] = top;
        state[1] = s.tree(acc);
        if V::SCALED {
            for (weight, v_scale) in scores.iter_mut().zip(scales(self.v)) {
                *weight *= v_scale;
            }
        }
    }

    /// Weighted values of `H` heads, `C` vectors from vector `c` on.
    #[inline(always)]
    fn values<S: Simd, V: Stored, const H: usize, const C: usize>(&mut self, s: S, head: usize, c: usize) {
        let bytes = self.head_dim * V::BYTES;
        let weights: [&[f32]; H] =
            std::array::from_fn(|h| &self.scores[(head + h) * PAGE_TOKENS..][..self.n]);
        let mut acc = [[s.splat(0.0); C]; H];
        for p in 0..self.n {
            let row = &self.v[p * bytes + 16 * c * V::BYTES..][..16 * C * V::BYTES];
            let mut v = [s.splat(0.0); C];
            for c in 0..C {
                v[c] = V::load(s, &row[16 * c * V::BYTES..]);
            }
            for h in 0..H {
                let weight = s.splat(weights[h][p]);
                for c in 0..C {
                    acc[h][c] = s.fma(weight, v[c], acc[h][c]);
                }
            }
        }
        for (h, acc) in acc.iter().enumerate() {
            let out = &mut self.partials[(head + h) * partial_len(self.head_dim) + 16 * c..][..16 * C];
            for (to, &acc) in out.as_chunks_mut::<16>().0.iter_mut().zip(acc) {
                s.store(acc, to);
            }
        }
    }

    /// Weighted values of the last, short vector.
    #[inline(always)]
    fn last_values<S: Simd, V: Stored, const H: usize>(&mut self, s: S, head: usize, whole: usize) {
        let bytes = self.head_dim * V::BYTES;
        for h in head..head + H {
            let mut acc = s.splat(0.0);
            for p in 0..self.n {
                let v = V::load_part(s, &self.v[p * bytes + 16 * whole * V::BYTES..(p + 1) * bytes]);
                acc = s.fma(s.splat(self.scores[h * PAGE_TOKENS + p]), v, acc);
            }
            let start = h * partial_len(self.head_dim);
            s.store_part(acc, &mut self.partials[start + 16 * whole..start + self.head_dim]);
        }
    }
}

/// The scales at the end of a Q8 block.
#[inline(always)]
fn scales(block: &[u8]) -> impl Iterator<Item = f32> {
    let (scales, _) = block[block.len() - 4 * PAGE_TOKENS..].as_chunks::<4>();
    scales.iter().map(|&scale| f32::from_le_bytes(scale))
}

/// Makes a partial that has seen nothing.
pub(crate) fn clear(partial: &mut [f32]) {
    let (values, state) = partial.split_at_mut(partial.len() - 2);
    values.fill(0.0);
    state[0] = f32::NEG_INFINITY;
    state[1] = 0.0;
}

/// Merges the next span's partial into what has been seen so far.
pub(crate) struct Merge<'a> {
    pub(crate) seen: &'a mut [f32],
    pub(crate) next: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.next.len() - 2;
        let (values, state) = self.seen.split_at_mut(dim);
        let (next, next_state) = self.next.split_at(dim);
        let top = if state[0] > next_state[0] { state[0] } else { next_state[0] };
        let a = exp_one(s, state[0] - top);
        let b = exp_one(s, next_state[0] - top);
        state[0] = top;
        state[1] = f32::mul_add(state[1], a, next_state[1] * b);
        let (a, b) = (s.splat(a), s.splat(b));
        zip!(s, values, next, |seen, next| s.fma(seen, a, s.mul(next, b)));
    }
}

/// The output of a head: values over sum, times the sigmoid of the gate.
pub(crate) struct Finish<'a> {
    pub(crate) seen: &'a [f32],
    pub(crate) gate: Option<&'a [f32]>,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.out.len();
        let sum = s.splat(self.seen[dim + 1]);
        zip!(s, self.out, &self.seen[..dim], |_out, seen| s.div(seen, sum));
        if let Some(gate) = self.gate {
            zip!(s, self.out, gate, |out, gate| s.mul(out, sigmoid(s, gate)));
        }
    }
}

/// How keys and values are stored.
trait Stored {
    const BYTES: usize;
    /// Whether a position has a scale.
    const SCALED: bool;
    /// Sixteen values.
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F;

    /// Fewer than sixteen values, then zeros.
    #[inline(always)]
    fn load_part<S: Simd>(s: S, from: &[u8]) -> S::F {
        let mut bytes = [0; 64];
        bytes[..from.len()].copy_from_slice(from);
        Self::load(s, &bytes)
    }
}

struct F32;
struct F16;
struct I8;

impl Stored for F32 {
    const BYTES: usize = 4;
    const SCALED: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        let (values, _) = from.as_chunks::<4>();
        s.load(&std::array::from_fn(|i| f32::from_le_bytes(values[i])))
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;
    const SCALED: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.load_f16(from.first_chunk().expect("16 values"))
    }
}

impl Stored for I8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.load_i8(from.first_chunk().expect("16 values"))
    }
}
