//! The kernels, on sizes of the usual models and weights from memory.

use std::time::Instant;

use flashmill_engine::cost::{MachineProfile, RowCost};
use flashmill_kernels::{
    Attend, Backend as _, Buffer, Cpu, DeltaShape, Glu, KvKind, KvShape, PAGE_TOKENS, Page, Picks, Segment,
    Term,
};
use flashmill_layout::{Encoding, MAX_PARTS, MatrixShape, MatrixView};

/// Rows that are computed together: a token, the rows of an expert in a chunk, chunks.
const ROWS: [usize; 4] = [1, 16, 64, 512];

const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 512;
const N_HEADS: usize = 16;

/// Weights that are used in turn, so that a single row's come from memory.
const POOL_BYTES: usize = 64 << 20;

/// What does not depend on the weights.
pub(super) fn common(cpu: &mut Cpu, profile: &mut MachineProfile) {
    cpu.reserve(ROWS[ROWS.len() - 1], 2 * HIDDEN, N_HEADS);
    profile.attention = attention(cpu);
    profile.delta_rule = delta_rule(cpu);
    profile.vectors = vectors(cpu);
}

/// Experts of `encoding`: the starts of the threads and the rounding of the activations are a part of their cost.
pub(super) fn product(cpu: &mut Cpu, encoding: Encoding) -> RowCost {
    let into = MatrixShape { rows: INTERMEDIATE, cols: HIDDEN, encoding };
    let back = MatrixShape { rows: HIDDEN, cols: INTERMEDIATE, encoding };
    let size = 2 * into.bytes() + back.bytes();
    // Neither zeros, which nothing would be gained by, nor infinities: 0x22 is a small value in every type.
    let pool = vec![0x22u8; super::within_limits(POOL_BYTES).max(size)];
    let most = ROWS[ROWS.len() - 1];
    cpu.reserve(most, HIDDEN, N_HEADS);
    let (x, y) = (ones(cpu, most * HIDDEN), cpu.buffer(most * HIDDEN));
    let rows: Vec<u32> = (0..most as u32).collect();
    let mut turn = 0;
    let cost = row_cost(3.0 * (HIDDEN * INTERMEDIATE) as f64, |n| {
        turn = (turn + 1) % (pool.len() / size);
        let mut rest = &pool[turn * size..];
        let mut view = |shape: MatrixShape| {
            let mut parts: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
            for (i, part) in parts.iter_mut().enumerate().take(encoding.n_parts()) {
                (*part, rest) = rest.split_at(shape.part_bytes(i));
            }
            MatrixView::new(shape, &parts[..encoding.n_parts()])
        };
        let glu = Glu { gate: view(into), up: view(into), down: view(back) };
        cpu.expert(&glu, x, &rows[..n], y, 0);
    });
    cpu.release(x);
    cpu.release(y);
    cost
}

fn attention(cpu: &mut Cpu) -> RowCost {
    const CONTEXT: usize = 4096;
    let shape = KvShape { n_layers: 4, n_kv_heads: 2, head_dim: 256, kind: KvKind::F16 };
    let pages: Vec<Page> = (0..(CONTEXT / PAGE_TOKENS) as u32).map(Page).collect();
    cpu.kv_cache(shape, pages.len());
    let delta_state = cpu.buffer(1);
    let most = ROWS[ROWS.len() - 1];
    let q = ones(cpu, most * N_HEADS * shape.head_dim);
    for layer in 0..shape.n_layers {
        for position in (0..CONTEXT).step_by(PAGE_TOKENS) {
            let segment = Segment { first_row: 0, n_rows: PAGE_TOKENS, position, pages: &pages, delta_state };
            cpu.append_kv(layer, q, q, &[segment]);
        }
    }
    let out = cpu.buffer(most * N_HEADS * shape.head_dim);
    let mut layer = 0;
    // Each row attends to all positions up to its own; the rows of a chunk are the last.
    let mut cost = row_cost(1.0, |n_rows| {
        layer = (layer + 1) % shape.n_layers;
        let position = CONTEXT - n_rows;
        let segments = [Segment { first_row: 0, n_rows, position, pages: &pages, delta_state }];
        cpu.attend(&Attend {
            layer,
            q,
            n_heads: N_HEADS,
            scale: 0.0625,
            gate: None,
            out,
            segments: &segments,
        });
    });
    for (n, picoseconds) in &mut cost.picoseconds {
        let positions = (CONTEXT - *n) as f64 + *n as f64 / 2.0;
        *picoseconds /= 2.0 * (N_HEADS * shape.head_dim) as f64 * positions;
    }
    for buffer in [q, out, delta_state] {
        cpu.release(buffer);
    }
    cost
}

const DELTA: DeltaShape = DeltaShape {
    n_key_heads: 16,
    n_value_heads: 32,
    key_dim: 128,
    value_dim: 128,
    conv_kernel: 4,
    tiled: false,
};

fn delta_rule(cpu: &mut Cpu) -> RowCost {
    const N_LAYERS: usize = 24;
    let most = ROWS[ROWS.len() - 1];
    let delta_state = cpu.buffer(N_LAYERS * DELTA.state_len());
    let qkv = ones(cpu, most * DELTA.conv_channels());
    let (g, beta) = (cpu.buffer(most * DELTA.n_value_heads), ones(cpu, most * DELTA.n_value_heads));
    let out = cpu.buffer(most * DELTA.n_value_heads * DELTA.value_dim);
    let mut layer = 0;
    let cost = row_cost(DELTA.recurrent_state_len() as f64, |n_rows| {
        layer = (layer + 1) % N_LAYERS;
        let segment = Segment { first_row: 0, n_rows, position: 0, pages: &[], delta_state };
        cpu.delta_rule(&DELTA, layer, &[segment], qkv, g, beta, out);
    });
    for buffer in [delta_state, qkv, g, beta, out] {
        cpu.release(buffer);
    }
    cost
}

/// Everything of a DeltaNet layer that is neither a product nor the recurrence.
fn vectors(cpu: &mut Cpu) -> RowCost {
    const N_EXPERTS: usize = 256;
    const TOP_K: usize = 8;
    let most = ROWS[ROWS.len() - 1];
    let delta_state = cpu.buffer(DELTA.state_len());
    let values = DELTA.n_value_heads * DELTA.value_dim;
    let (wide, conv_out) =
        (ones(cpu, most * DELTA.conv_channels()), cpu.buffer(most * DELTA.conv_channels()));
    let (x, h, weight) = (ones(cpu, most * HIDDEN), cpu.buffer(most * HIDDEN), ones(cpu, 8 * HIDDEN * 4));
    let logits = ones(cpu, most * N_EXPERTS);
    let expert_out = ones(cpu, most * HIDDEN);
    let one_norm = ones(cpu, HIDDEN);
    let head_norm = ones(cpu, DELTA.value_dim);
    let mut picks = Picks { top_k: TOP_K, experts: vec![0; most * TOP_K], weights: vec![0.0; most * TOP_K] };
    let terms: Vec<Term> = (0..most * TOP_K)
        .map(|i| Term { row: (i / TOP_K) as u32, from: (i / TOP_K) as u32, weight: 0.1 })
        .collect();
    let cost = row_cost(HIDDEN as f64, |n| {
        let segments = [Segment { first_row: 0, n_rows: n, position: 0, pages: &[], delta_state }];
        for _ in 0..2 {
            cpu.rms_norm(x, one_norm, 1e-6, n, h);
            cpu.add(h, x, n * HIDDEN);
        }
        cpu.delta_conv(&DELTA, 0, &segments, wide, weight, conv_out);
        cpu.gated_norm(conv_out, wide, head_norm, 1e-6, n * values, conv_out);
        cpu.route(logits, n, N_EXPERTS, true, &mut picks);
        cpu.zero(h, n * HIDDEN);
        cpu.accumulate(h, expert_out, HIDDEN, &terms[..n * TOP_K]);
        cpu.accumulate_gated(h, x, logits, n, HIDDEN);
    });
    for buffer in [delta_state, wide, conv_out, x, h, weight, logits, expert_out, one_norm, head_norm] {
        cpu.release(buffer);
    }
    cost
}

fn ones(cpu: &mut Cpu, len: usize) -> Buffer {
    let buffer = cpu.buffer(len);
    cpu.write(buffer, 0, &vec![1.0; len]);
    buffer
}

/// The cost of `step(n)`, which does `units` of work for each of `n` rows: the median of several rounds.
fn row_cost(units: f64, mut step: impl FnMut(usize)) -> RowCost {
    const ROUNDS: usize = 9;
    const ROUND_SECONDS: f64 = 0.004;
    let mut picoseconds = Vec::new();
    for n in ROWS {
        step(n);
        let mut rounds = [0.0; ROUNDS];
        for round in &mut rounds {
            let begun = Instant::now();
            let mut steps = 0;
            while steps == 0 || begun.elapsed().as_secs_f64() < ROUND_SECONDS {
                step(n);
                steps += 1;
            }
            *round = begun.elapsed().as_secs_f64() / f64::from(steps);
        }
        rounds.sort_by(f64::total_cmp);
        picoseconds.push((n, rounds[ROUNDS / 2] * 1e12 / (n as f64 * units)));
    }
    RowCost { picoseconds }
}
