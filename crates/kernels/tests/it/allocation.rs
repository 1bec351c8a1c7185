//! After `reserve`, no call of `Cpu` takes memory.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use flashmill_kernels::suite::{Random, Stage, StoredMatrix};
use flashmill_kernels::{
    Attend, Backend, Buffer, Cpu, CpuOptions, DeltaShape, Glu, KvKind, KvShape, Level, NormRotate, Page,
    Picks, Segment, Term,
};
use flashmill_layout::{Affine, Encoding, Float, GgmlType};

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends may allocate after its locals are gone; it is not the one that is measured.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: by the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_ROWS: usize = 9;
const WIDTH: usize = 128;
const DELTA: DeltaShape =
    DeltaShape { n_key_heads: 2, n_value_heads: 2, key_dim: 16, value_dim: 32, conv_kernel: 4, tiled: false };

/// Runs every operation on `n_rows` rows and gives the allocations of each, by name.
fn allocations(cpu: &mut Cpu, n_rows: usize, encoding: Encoding, kind: KvKind) -> Vec<(&'static str, usize)> {
    let mut random = Random::new(3);
    cpu.kv_cache(KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 64, kind }, 2);
    let mut stage = Stage::new(cpu, N_ROWS, WIDTH, 2);
    let stored = StoredMatrix::random(&mut random, WIDTH, WIDTH, encoding);
    let matrix = stage.matrix(&stored);
    let glu = Glu { gate: stored.view(), up: stored.view(), down: stored.view() };
    let [x, y, z]: [Buffer; 3] = [0; 3].map(|_| stage.given(&random.values(N_ROWS * 2 * WIDTH)));
    let (weight, head) = (stage.exact(&[1.0; WIDTH]), stage.exact(&[1.0; 64]));
    let (taps, decay) = (stage.exact(&[0.1; WIDTH * 4]), stage.exact(&[-1.0; 2]));
    let (cos, sin) = (stage.given(&[0.6; N_ROWS * 16]), stage.given(&[0.8; N_ROWS * 16]));
    let gates: [Buffer; 2] = [0; 2].map(|_| stage.given(&[-0.5; N_ROWS * 2]));
    let state = stage.room(DELTA.state_len());
    let pages = [Page(1), Page(0)];
    let segments = [Segment { first_row: 0, n_rows, position: 60, pages: &pages, delta_state: state }];
    let rows: Vec<u32> = (0..n_rows as u32).collect();
    let terms: Vec<Term> = rows.iter().map(|&row| Term { row, from: 0, weight: 0.5 }).collect();
    let mut picks = Picks { top_k: 3, experts: vec![0; N_ROWS * 3], weights: vec![0.0; N_ROWS * 3] };
    let n = n_rows * WIDTH;
    let rotate = NormRotate {
        x,
        n_rows,
        n_heads: 2,
        stride: 64,
        head_dim: 64,
        weight: head,
        eps: 1e-6,
        rotary_dim: 32,
        cos,
        sin,
        out: y,
    };
    let attend =
        Attend { layer: 0, q: x, n_heads: 2, scale: 0.1, gate: Some(z), out: y, segments: &segments };

    let mut found = Vec::new();
    let cpu = &mut *stage.backend;
    let mut measure = |name, op: &mut dyn FnMut(&mut dyn Backend)| {
        let before = ALLOCATIONS.get();
        op(cpu);
        found.push((name, ALLOCATIONS.get() - before));
    };
    measure("embed", &mut |b| b.embed(matrix, &rows, y));
    measure("rms_norm", &mut |b| b.rms_norm(x, weight, 1e-6, n_rows, y));
    measure("linear", &mut |b| b.linear(x, n_rows, &[(matrix, y), (matrix, z)]));
    measure("linear_rows", &mut |b| b.linear_rows(x, &rows, (matrix, y)));
    measure("add", &mut |b| b.add(x, y, n));
    measure("silu_mul", &mut |b| b.silu_mul(x, y, z, n));
    measure("delta_conv", &mut |b| b.delta_conv(&DELTA, 0, &segments, x, taps, y));
    measure("delta_gates", &mut |b| b.delta_gates(gates[0], gates[1], decay, decay, n_rows));
    measure("delta_rule", &mut |b| b.delta_rule(&DELTA, 0, &segments, x, gates[1], gates[0], y));
    measure("gated_norm", &mut |b| b.gated_norm(x, y, weight, 1e-6, n, z));
    measure("norm_rotate", &mut |b| b.norm_rotate(&rotate));
    measure("append_kv", &mut |b| b.append_kv(0, x, y, &segments));
    measure("attend", &mut |b| b.attend(&attend));
    measure("route", &mut |b| b.route(x, n_rows, WIDTH, true, &mut picks));
    measure("expert", &mut |b| b.expert(&glu, x, &rows, y, 0));
    measure("accumulate", &mut |b| b.accumulate(y, x, WIDTH, &terms));
    measure("accumulate_gated", &mut |b| b.accumulate_gated(y, x, gates[0], n_rows, WIDTH));
    measure("zero", &mut |b| b.zero(x, n));
    measure("kv_copy", &mut |b| b.kv_copy(Page(0), Page(1)));
    measure("copy", &mut |b| b.copy(x, y));
    measure("write and read", &mut |b| {
        let mut values = [0.0; 4];
        b.write(x, 1, &values);
        b.read(x, 0, &mut values);
    });
    found
}

#[test]
fn calls_take_no_memory() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1, "allocations are counted");
    let affine = |bits, group| Encoding::Affine(Affine { bits, group, scales: Float::BF16 });
    for level in Level::available() {
        for threads in [1, 2] {
            for n_rows in [1, 2, N_ROWS] {
                for (encoding, kind) in [
                    (affine(4, 64), KvKind::F16),
                    (affine(3, 32), KvKind::Q8),
                    (affine(8, 128), KvKind::F32),
                    (Encoding::Float(Float::BF16), KvKind::F16),
                    (Encoding::Ggml(GgmlType::Q8_0), KvKind::F16),
                    (Encoding::Ggml(GgmlType::NVFP4), KvKind::F16),
                ] {
                    let mut cpu = Cpu::new(CpuOptions { threads, level: Some(level) }).expect("threads");
                    for (name, n) in allocations(&mut cpu, n_rows, encoding, kind) {
                        assert_eq!(n, 0, "{name} of {n_rows} rows, {level:?}, {threads} threads, {encoding}");
                    }
                }
            }
        }
    }
}
