//! The KV cache: pages of keys and values as they are stored.

use std::ops::Range;

use super::memory::{Memory, Span};
use super::simd::{Kernel, Simd, map};
use crate::{KvKind, KvShape, PAGE_TOKENS, Page};

/// All pages. A page is `[layer][key or value][kv head]` of blocks; a block is `[PAGE_TOKENS][head_dim]` values, for Q8
/// followed by `[PAGE_TOKENS]` scales.
pub(crate) struct KvCache {
    pub(crate) shape: KvShape,
    memory: Memory,
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(crate) enum Kv {
    Keys,
    Values,
}

impl KvCache {
    pub(crate) fn new(shape: KvShape, n_pages: usize) -> KvCache {
        KvCache { shape, memory: Memory::zeroed(shape.page_bytes() * n_pages) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn span(&self) -> Span<u8> {
        self.memory.span()
    }

    pub(crate) fn copy(&mut self, from: Page, to: Page) {
        let bytes = self.shape.page_bytes();
        let start = from.0 as usize * bytes;
        self.memory.bytes_mut().copy_within(start..start + bytes, to.0 as usize * bytes);
    }

    pub(crate) fn page_mut(&mut self, page: Page) -> &mut [u8] {
        let bytes = self.shape.page_bytes();
        &mut self.memory.bytes_mut()[page.0 as usize * bytes..][..bytes]
    }
}

/// Where the block of one head of one layer lies in the cache.
pub(crate) fn block(shape: &KvShape, page: Page, layer: usize, which: Kv, head: usize) -> Range<usize> {
    assert!(layer < shape.n_layers, "attention layer {layer} of {}", shape.n_layers);
    let bytes = PAGE_TOKENS * shape.head_bytes();
    let index = (layer * 2 + which as usize) * shape.n_kv_heads + head;
    let start = page.0 as usize * shape.page_bytes() + index * bytes;
    start..start + bytes
}

/// Stores one head of one position into its block.
pub(crate) struct StoreHead<'a> {
    pub(crate) kind: KvKind,
    pub(crate) values: &'a [f32],
    /// The position's values in the block.
    pub(crate) to: &'a mut [u8],
    /// The position's scale, for Q8.
    pub(crate) scale: &'a mut [u8],
}

impl Kernel for StoreHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.kind {
            KvKind::F32 => {
                for (to, value) in self.to.as_chunks_mut::<4>().0.iter_mut().zip(self.values) {
                    *to = value.to_le_bytes();
                }
            }
            KvKind::F16 => {
                for (to, values) in self.to.chunks_mut(32).zip(self.values.chunks(16)) {
                    let mut halves = [0; 32];
                    s.store_f16(s.load_part(values, 0.0), &mut halves);
                    to.copy_from_slice(&halves[..to.len()]);
                }
            }
            KvKind::Q8 => {
                let scale = store_q8(s, self.values, self.to);
                self.scale.copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}

/// Signed bytes with one scale, which is returned.
#[inline(always)]
fn store_q8<S: Simd>(s: S, values: &[f32], to: &mut [u8]) -> f32 {
    let mut top = s.splat(0.0);
    for chunk in values.chunks(16) {
        top = s.max_bits(top, s.abs(s.load_part(chunk, 0.0)));
    }
    let amax = f32::from_bits(s.max_bits_across(top));
    if amax < 1e-30 || !amax.is_finite() {
        to.fill(0);
        return if amax.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = s.splat(127.0 / amax);
    for (chunk, to) in values.chunks(16).zip(to.chunks_mut(16)) {
        let mut lanes = [0.0; 16];
        lanes[..chunk.len()].copy_from_slice(chunk);
        map!(s, lanes, |x| s.mul(x, inverse));
        let mut codes = [0i16; 16];
        s.store_i16(s.load(&lanes), &mut codes);
        for (to, code) in to.iter_mut().zip(codes) {
            *to = code as i8 as u8;
        }
    }
    amax / 127.0
}
