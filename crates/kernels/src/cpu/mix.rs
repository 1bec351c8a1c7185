//! Mixing along the sequence: attention and Gated DeltaNet over the rows of several segments.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::attention::{AttendSpan, Finish, Merge, clear, partial_len};
use super::delta::{CHANNELS, COLUMNS, Conv, MAX_KEY, MAX_TAPS, Rows, Rule};
use super::kv::{Kv, KvCache, StoreHead, block};
use super::memory::{Memory, Span};
use super::{Cpu, Level};
use crate::team::Team;
use crate::{Attend, Buffer, DeltaShape, KvKind, KvShape, PAGE_TOKENS, Segment};

/// Spans whose partials are held at once when one row's spans are spread over the threads.
const SPANS: usize = 64;

/// Scratch memory of attention.
pub(crate) struct Scratch {
    /// For each thread: scores, one span's partials and what has been seen, of the query heads of one KV head.
    threads: Memory,
    /// `[SPANS][n_heads]` partials.
    spans: Memory,
    /// `[n_heads]` partials.
    seen: Memory,
    /// Query heads there is room for.
    n_heads: usize,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let none = || Memory::zeroed(0);
        Scratch { threads: none(), spans: none(), seen: none(), n_heads: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.threads.len() + self.spans.len() + self.seen.len()
    }

    /// Makes room for `n_heads` query heads.
    pub(crate) fn reserve(&mut self, n_heads: usize, kv: Option<&KvCache>, threads: usize) {
        self.n_heads = self.n_heads.max(n_heads);
        let Some(shape) = kv.map(|kv| kv.shape) else { return };
        let group = self.n_heads.div_ceil(shape.n_kv_heads);
        let partial = partial_len(shape.head_dim);
        let sizes = [
            threads * thread_len(group, shape.head_dim),
            SPANS * self.n_heads * partial,
            self.n_heads * partial,
        ];
        for (memory, len) in [&mut self.threads, &mut self.spans, &mut self.seen].into_iter().zip(sizes) {
            if memory.len() < 4 * len {
                *memory = Memory::zeroed(4 * len);
            }
        }
    }
}

/// Values of scratch for one thread, whole cache lines.
fn thread_len(group: usize, head_dim: usize) -> usize {
    (group * (PAGE_TOKENS + 2 * partial_len(head_dim))).next_multiple_of(32)
}

/// An attention call as the threads see it.
struct Attention<'a> {
    level: Level,
    args: &'a Attend<'a>,
    shape: KvShape,
    kv: Span<u8>,
    q: Span<f32>,
    gate: Option<Span<f32>>,
    out: Span<f32>,
    /// Query heads of a KV head.
    group: usize,
}

/// One row: its index in the batch and its position in its segment's sequence.
#[derive(Clone, Copy)]
struct Row<'a> {
    index: usize,
    position: usize,
    segment: &'a Segment<'a>,
}

impl Row<'_> {
    fn n_spans(self) -> usize {
        self.position / PAGE_TOKENS + 1
    }
}

impl Attention<'_> {
    fn n_rows(&self) -> usize {
        self.args.segments.iter().map(|segment| segment.n_rows).sum()
    }

    /// Row `i` in the order of the segments.
    fn row(&self, mut i: usize) -> Row<'_> {
        for segment in self.args.segments {
            if i < segment.n_rows {
                return Row { index: segment.first_row + i, position: segment.position + i, segment };
            }
            i -= segment.n_rows;
        }
        unreachable!("the segments have that many rows")
    }

    /// One span of one row for the query heads of KV head `kv_head`.
    fn span(&self, row: Row<'_>, kv_head: usize, span: usize, scores: &mut [f32], partials: &mut [f32]) {
        let dim = self.shape.head_dim;
        let page = row.segment.pages[span];
        let bytes = |which| {
            let range = block(&self.shape, page, self.args.layer, which, kv_head);
            // SAFETY: nobody writes the cache while rows attend to it.
            unsafe { self.kv.get(range.start, range.len()) }
        };
        let first_head = kv_head * self.group;
        // SAFETY: nobody writes the queries in this region.
        let q = unsafe { self.q.get((row.index * self.args.n_heads + first_head) * dim, self.group * dim) };
        self.level.run(AttendSpan {
            kind: self.shape.kind,
            head_dim: dim,
            scale: self.args.scale,
            q,
            k: bytes(Kv::Keys),
            v: bytes(Kv::Values),
            n: (row.position + 1 - span * PAGE_TOKENS).min(PAGE_TOKENS),
            scores,
            partials,
        });
    }

    fn finish(&self, row: Row<'_>, head: usize, seen: &[f32]) {
        let dim = self.shape.head_dim;
        let at = row.index * self.args.n_heads + head;
        // SAFETY: nobody writes the gate in this region.
        let gate = self.gate.map(|gate| unsafe { gate.get(at * 2 * dim + dim, dim) });
        // SAFETY: the output of this row and head is this task's own.
        let out = unsafe { self.out.get_mut(at * dim, dim) };
        self.level.run(Finish { seen, gate, out });
    }

    /// All spans of one row for the query heads of one KV head.
    fn whole_row(&self, row: Row<'_>, kv_head: usize, scratch: &mut [f32]) {
        let partial = partial_len(self.shape.head_dim);
        let (scores, rest) = scratch.split_at_mut(self.group * PAGE_TOKENS);
        let (next, rest) = rest.split_at_mut(self.group * partial);
        let seen = &mut rest[..self.group * partial];
        seen.chunks_exact_mut(partial).for_each(clear);
        for span in 0..row.n_spans() {
            self.span(row, kv_head, span, scores, next);
            for (seen, next) in seen.chunks_exact_mut(partial).zip(next.chunks_exact(partial)) {
                self.level.run(Merge { seen, next });
            }
        }
        for (i, seen) in seen.chunks_exact(partial).enumerate() {
            self.finish(row, kv_head * self.group + i, seen);
        }
    }

    /// Enough rows: a task is one row and KV head.
    fn by_rows(&self, team: &mut Team, scratch: Span<f32>) {
        let per_thread = thread_len(self.group, self.shape.head_dim);
        let n_rows = self.n_rows();
        let n_tasks = n_rows * self.shape.n_kv_heads;
        let next = AtomicUsize::new(0);
        let first = self.row(0);
        let cost = n_tasks * self.group * (first.position + n_rows) * self.shape.head_dim;
        team.run_if_worth(cost, |part| {
            // SAFETY: each part has a piece of the scratch memory for itself.
            let scratch = unsafe { scratch.get_mut(part.index * per_thread, per_thread) };
            // The last rows, which see the most, come first.
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= n_tasks {
                    break;
                }
                self.whole_row(self.row(n_rows - 1 - task % n_rows), task / n_rows, scratch);
            }
        });
    }

    /// Few rows that see much: a task is one span and KV head; then the spans are merged in order, a task being one head.
    fn by_spans(&self, team: &mut Team, scratch: Span<f32>, spans: Span<f32>, seen: Span<f32>) {
        let partial = partial_len(self.shape.head_dim);
        let per_thread = thread_len(self.group, self.shape.head_dim);
        let n_heads = self.args.n_heads;
        for row in (0..self.n_rows()).map(|i| self.row(i)) {
            for start in (0..row.n_spans()).step_by(SPANS) {
                let n_spans = (row.n_spans() - start).min(SPANS);
                team.run(|part| {
                    // SAFETY: each part has a piece of the scratch memory for itself.
                    let scores =
                        unsafe { scratch.get_mut(part.index * per_thread, self.group * PAGE_TOKENS) };
                    for task in part.share(n_spans * self.shape.n_kv_heads, 1) {
                        let (kv_head, span) = (task / n_spans, task % n_spans);
                        let at = (span * n_heads + kv_head * self.group) * partial;
                        // SAFETY: the partials of this span and KV head are this task's own.
                        let partials = unsafe { spans.get_mut(at, self.group * partial) };
                        self.span(row, kv_head, start + span, scores, partials);
                    }
                });
                team.run_if_worth(n_spans * n_heads * partial, |part| {
                    for head in part.share(n_heads, 1) {
                        // SAFETY: what this head has seen is this task's own; nobody writes the spans' partials.
                        let seen = unsafe { seen.get_mut(head * partial, partial) };
                        if start == 0 {
                            clear(seen);
                        }
                        for span in 0..n_spans {
                            // SAFETY: as above.
                            let next = unsafe { spans.get((span * n_heads + head) * partial, partial) };
                            self.level.run(Merge { seen, next });
                        }
                        if start + n_spans == row.n_spans() {
                            self.finish(row, head, seen);
                        }
                    }
                });
            }
        }
    }
}

impl Cpu {
    pub(crate) fn attention(&mut self, args: &Attend<'_>) {
        self.attention.reserve(args.n_heads, self.kv.as_ref(), self.team.threads());
        let kv = self.kv.as_ref().expect("kv_cache has been called");
        let shape = kv.shape;
        assert!(args.n_heads.is_multiple_of(shape.n_kv_heads), "query heads share KV heads evenly");
        let kv = kv.span();
        let attention = Attention {
            level: self.level,
            args,
            shape,
            kv,
            q: self.input(args.q),
            gate: args.gate.map(|gate| self.input(gate)),
            out: self.output(args.out),
            group: args.n_heads / shape.n_kv_heads,
        };
        let n_rows = attention.n_rows();
        if n_rows == 0 {
            return;
        }
        let Scratch { threads, spans, seen, .. } = &self.attention;
        // Below four tasks a thread the last one is waited for too long; a single span cannot be spread.
        let spread = n_rows * shape.n_kv_heads < 4 * self.team.threads()
            && self.team.threads() > 1
            && args.segments.iter().any(|segment| segment.position + segment.n_rows > 2 * PAGE_TOKENS);
        if spread {
            attention.by_spans(&mut self.team, threads.span(), spans.span(), seen.span());
        } else {
            attention.by_rows(&mut self.team, threads.span());
        }
    }

    pub(crate) fn store_kv(&mut self, layer: usize, k: Buffer, v: Buffer, segments: &[Segment<'_>]) {
        let kv = self.kv.as_ref().expect("kv_cache has been called");
        let (shape, cache, level) = (kv.shape, kv.span(), self.level);
        let (k, v) = (self.input(k), self.input(v));
        let (heads, dim) = (shape.n_kv_heads, shape.head_dim);
        let value_bytes = if shape.kind == KvKind::Q8 { dim } else { shape.head_bytes() };
        for segment in segments {
            self.team.run_if_worth(2 * segment.n_rows * heads * dim, |part| {
                for task in part.share(segment.n_rows * heads, 1) {
                    let (row, head) = (task / heads, task % heads);
                    let position = segment.position + row;
                    let page = segment.pages[position / PAGE_TOKENS];
                    let slot = position % PAGE_TOKENS;
                    for (which, from) in [(Kv::Keys, k), (Kv::Values, v)] {
                        let start = block(&shape, page, layer, which, head).start;
                        let scale = start + PAGE_TOKENS * dim + 4 * slot;
                        let scale_bytes = if shape.kind == KvKind::Q8 { 4 } else { 0 };
                        // SAFETY: nobody writes `from`; this position of this head is this task's own, and its values and its
                        // scale do not overlap.
                        let (values, to, scale) = unsafe {
                            (
                                from.get(((segment.first_row + row) * heads + head) * dim, dim),
                                cache.get_mut(start + slot * value_bytes, value_bytes),
                                cache.get_mut(if scale_bytes == 0 { start } else { scale }, scale_bytes),
                            )
                        };
                        level.run(StoreHead { kind: shape.kind, values, to, scale });
                    }
                }
            });
        }
    }

    pub(crate) fn convolve(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        [m, weight, out]: [Buffer; 3],
    ) {
        assert!((2..=MAX_TAPS).contains(&shape.conv_kernel), "a convolution of 2 to {MAX_TAPS} taps");
        let level = self.level;
        let (m, weight, out) = (self.input(m), self.input(weight), self.output(out));
        let channels = shape.conv_channels();
        for segment in segments.iter().filter(|segment| segment.n_rows > 0) {
            let state = self.output(segment.delta_state);
            self.team.run_if_worth(segment.n_rows * channels * 8, |part| {
                // SAFETY: nobody writes the weights.
                let weight = unsafe { weight.get(0, channels * shape.conv_kernel) };
                let share = part.share(channels, 16);
                for start in share.clone().step_by(CHANNELS) {
                    level.run(Conv {
                        shape,
                        rows: Rows { first: segment.first_row, n: segment.n_rows },
                        channels: start..(start + CHANNELS).min(share.end),
                        m,
                        weight,
                        out,
                        state,
                        memory: layer * shape.state_len(),
                    });
                }
            });
        }
    }

    pub(crate) fn recur(
        &mut self,
        shape: &DeltaShape,
        layer: usize,
        segments: &[Segment<'_>],
        [qkv, g, beta, out]: [Buffer; 4],
    ) {
        assert!(shape.key_dim <= MAX_KEY, "keys of at most {MAX_KEY} values");
        let level = self.level;
        let (qkv, g, beta) = (self.input(qkv), self.input(g), self.input(beta));
        let out = self.output(out);
        let heads = shape.n_value_heads;
        let blocks = shape.value_dim.div_ceil(COLUMNS);
        for segment in segments.iter().filter(|segment| segment.n_rows > 0) {
            let state = self.output(segment.delta_state);
            let rows = segment.first_row + segment.n_rows;
            self.team.run_if_worth(segment.n_rows * shape.recurrent_state_len(), |part| {
                // SAFETY: nobody writes the inputs in this region.
                let (qkv, g, beta) = unsafe {
                    (
                        qkv.get(0, rows * shape.conv_channels()),
                        g.get(0, rows * heads),
                        beta.get(0, rows * heads),
                    )
                };
                // Neighbouring blocks of a head go together.
                let share = part.share(heads * blocks, 1);
                for head in share.start / blocks..share.end.div_ceil(blocks) {
                    let first = share.start.max(head * blocks) - head * blocks;
                    let last = share.end.min((head + 1) * blocks) - head * blocks;
                    level.run(Rule {
                        shape,
                        rows: Rows { first: segment.first_row, n: segment.n_rows },
                        head,
                        columns: first * COLUMNS..(last * COLUMNS).min(shape.value_dim),
                        qkv,
                        g,
                        beta,
                        out,
                        state,
                        recurrent: layer * shape.state_len() + shape.conv_state_len(),
                    });
                }
            });
        }
    }
}
