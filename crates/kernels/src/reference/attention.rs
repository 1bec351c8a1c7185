use half::f16;

use super::math::{dot, sigmoid, softmax};
use crate::backend::{KvKind, KvShape, PAGE_TOKENS, Page, Segment};

/// The KV cache, in bytes as its kind stores them: `[page][layer][key, value][position][head]`.
#[derive(Debug)]
pub(super) struct KvPages {
    shape: KvShape,
    pages: Vec<Vec<u8>>,
}

impl KvPages {
    pub(super) fn new(shape: KvShape, n_pages: usize) -> Self {
        KvPages { shape, pages: vec![vec![0; shape.page_bytes()]; n_pages] }
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * self.shape.page_bytes()
    }

    pub(super) fn copy(&mut self, from: Page, to: Page) {
        self.pages[to.0 as usize] = self.pages[from.0 as usize].clone();
    }

    pub(super) fn page_mut(&mut self, page: Page) -> &mut [u8] {
        &mut self.pages[page.0 as usize]
    }

    /// Stores the keys and values of each segment's rows, `[n_rows][n_kv_heads][head_dim]`.
    pub(super) fn append(&mut self, layer: usize, k: &[f32], v: &[f32], segments: &[Segment<'_>]) {
        let KvShape { n_kv_heads, head_dim, kind, .. } = self.shape;
        for segment in segments {
            for i in 0..segment.n_rows {
                for head in 0..n_kv_heads {
                    let at = ((segment.first_row + i) * n_kv_heads + head) * head_dim;
                    for (side, values) in [k, v].into_iter().enumerate() {
                        let (page, bytes) =
                            self.place(layer, side, segment.position + i, head, segment.pages);
                        encode_head(kind, &values[at..][..head_dim], &mut self.pages[page][bytes]);
                    }
                }
            }
        }
    }

    /// Softmax attention of one row's queries `[n_heads][head_dim]` over the first `n_positions` positions of a sequence.
    pub(super) fn attend(
        &self,
        layer: usize,
        q: &[f32],
        scale: f32,
        pages: &[Page],
        n_positions: usize,
    ) -> Vec<f32> {
        let head_dim = self.shape.head_dim;
        let queries_per_kv_head = q.len() / head_dim / self.shape.n_kv_heads;
        let mut stored = vec![0.0; head_dim];
        let mut out = Vec::with_capacity(q.len());
        for (head, q) in q.chunks_exact(head_dim).enumerate() {
            let kv_head = head / queries_per_kv_head;
            let mut scores = Vec::with_capacity(n_positions);
            for p in 0..n_positions {
                self.load(layer, 0, p, kv_head, pages, &mut stored);
                scores.push((f64::from(scale) * dot(q, &stored)) as f32);
            }
            let mut sum = vec![0.0f64; head_dim];
            for (p, weight) in softmax(&scores).into_iter().enumerate() {
                self.load(layer, 1, p, kv_head, pages, &mut stored);
                for (sum, &v) in sum.iter_mut().zip(&stored) {
                    *sum += weight * f64::from(v);
                }
            }
            out.extend(sum.into_iter().map(|sum| sum as f32));
        }
        out
    }

    /// The stored key (`side` 0) or value (`side` 1) of a head at a position.
    fn load(&self, layer: usize, side: usize, position: usize, head: usize, pages: &[Page], out: &mut [f32]) {
        let (page, bytes) = self.place(layer, side, position, head, pages);
        decode_head(self.shape.kind, &self.pages[page][bytes], out);
    }

    /// The page and its bytes that hold a head at a position.
    fn place(
        &self,
        layer: usize,
        side: usize,
        position: usize,
        head: usize,
        pages: &[Page],
    ) -> (usize, std::ops::Range<usize>) {
        let page = pages[position / PAGE_TOKENS].0 as usize;
        let index =
            ((layer * 2 + side) * PAGE_TOKENS + position % PAGE_TOKENS) * self.shape.n_kv_heads + head;
        let len = self.shape.head_bytes();
        (page, index * len..(index + 1) * len)
    }
}

/// Stores one head. 8-bit storage is a scale, then a code for each value: `scale = max |x| / 127` and
/// `code = round(x * (127 / max |x|))` with ties to even, all in f32; heads below 1e-30 are zero. A NaN or an infinity makes the
/// scale, and so the whole head, not a number.
fn encode_head(kind: KvKind, values: &[f32], bytes: &mut [u8]) {
    match kind {
        KvKind::F32 => {
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        KvKind::F16 => {
            for (bytes, &value) in bytes.chunks_exact_mut(2).zip(values) {
                bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes());
            }
        }
        KvKind::Q8 => {
            let largest = values.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
            let finite = values.iter().all(|value| value.is_finite());
            let (scale, inverse) = match largest {
                _ if !finite => (f32::NAN, 0.0),
                ..1e-30 => (0.0, 0.0),
                _ => (largest / 127.0, 127.0 / largest),
            };
            let (scale_bytes, codes) = bytes.split_at_mut(4);
            scale_bytes.copy_from_slice(&scale.to_le_bytes());
            for (code, value) in codes.iter_mut().zip(values) {
                *code = ((value * inverse).round_ties_even() as i8) as u8;
            }
        }
    }
}

/// The values of a stored head.
fn decode_head(kind: KvKind, bytes: &[u8], values: &mut [f32]) {
    match kind {
        KvKind::F32 => {
            for (bytes, value) in bytes.chunks_exact(4).zip(values) {
                *value = f32::from_le_bytes(bytes.try_into().expect("4 bytes"));
            }
        }
        KvKind::F16 => {
            for (bytes, value) in bytes.chunks_exact(2).zip(values) {
                *value = f16::from_le_bytes(bytes.try_into().expect("2 bytes")).to_f32();
            }
        }
        KvKind::Q8 => {
            let (scale, codes) = bytes.split_at(4);
            let scale = f32::from_le_bytes(scale.try_into().expect("4 bytes"));
            for (&code, value) in codes.iter().zip(values) {
                *value = f32::from(code as i8) * scale;
            }
        }
    }
}

/// Turns the pairs `(x_j, x_{j + n/2})` by the angles whose cosines and sines are given.
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    for (j, (a, b)) in low.iter_mut().zip(high).enumerate() {
        let (x, y) = (f64::from(*a), f64::from(*b));
        let (cos, sin) = (f64::from(cos[j]), f64::from(sin[j]));
        *a = (x * cos - y * sin) as f32;
        *b = (y * cos + x * sin) as f32;
    }
}

/// Multiplies the heads `o`, `[n_heads][head_dim]`, by the sigmoid of the second half of each head of `gates`,
/// `[n_heads][2 * head_dim]`.
pub(super) fn gate(o: &mut [f32], gates: &[f32], head_dim: usize) {
    for (o, gates) in o.chunks_exact_mut(head_dim).zip(gates.chunks_exact(2 * head_dim)) {
        for (o, &gate) in o.iter_mut().zip(&gates[head_dim..]) {
            *o *= sigmoid(gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(kind: KvKind, values: &[f32]) -> Vec<f32> {
        let shape = KvShape { n_layers: 1, n_kv_heads: 1, head_dim: values.len(), kind };
        let mut bytes = vec![0; shape.head_bytes()];
        encode_head(kind, values, &mut bytes);
        let mut out = vec![0.0; values.len()];
        decode_head(kind, &bytes, &mut out);
        out
    }

    #[test]
    fn each_kind_rounds_as_it_says() {
        let x = [0.1, -127.0, 63.5, 0.5, 1.5, 2.49];
        assert_eq!(stored(KvKind::F32, &x), x);
        assert_eq!(stored(KvKind::F16, &x)[0], f16::from_f32(0.1).to_f32());
        assert_eq!(stored(KvKind::Q8, &x), [0.0, -127.0, 64.0, 0.0, 2.0, 2.0]);
    }

    #[test]
    fn eight_bits_survive_extremes() {
        assert_eq!(stored(KvKind::Q8, &[0.0, -0.0]), [0.0, 0.0]);
        assert_eq!(stored(KvKind::Q8, &[1e-45, 1e-31]), [0.0, 0.0]);
        assert_eq!(stored(KvKind::Q8, &[f32::MAX, -f32::MAX])[1], -(f32::MAX / 127.0 * 127.0));
        assert!(stored(KvKind::Q8, &[1.0, f32::NAN]).iter().all(|x| x.is_nan()));
        assert!(stored(KvKind::Q8, &[1.0, f32::INFINITY]).iter().all(|x| x.is_nan()));
    }
}
