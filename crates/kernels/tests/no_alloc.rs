//! After buffers are made and scratch memory is reserved, nothing allocates: not at any level, not for one row, not for many.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use flashmill_kernels::{
    Attend, Backend, Cpu, CpuOptions, DeltaShape, Glu, KvKind, KvShape, Level, NormRotate, Page, Picks,
    Segment, Term,
};
use flashmill_layout::{Affine, Encoding, Float, MatrixShape, MatrixView};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller says.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 128;
const N_EXPERTS: usize = 16;
const N_HEADS: usize = 4;
const MOST_ROWS: usize = 300;

#[test]
fn operations_do_not_allocate() {
    for level in Level::available() {
        for threads in [1, 3] {
            let mut cpu = Cpu::new(CpuOptions { threads, level: Some(level) }).expect("a few threads");
            let bytes = cpu.bytes();
            let mut layer = Layer::new(&mut cpu);
            cpu.reserve(MOST_ROWS, 2 * HIDDEN, N_HEADS);
            let held = cpu.bytes();
            assert!(held > bytes);
            for n_rows in [1, 7, MOST_ROWS] {
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                layer.forward(&mut cpu, n_rows);
                let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
                assert_eq!(allocations, 0, "{} allocates for {n_rows} rows", cpu.name());
                assert_eq!(cpu.bytes(), held, "{} holds more after {n_rows} rows", cpu.name());
            }
        }
    }
}

use flashmill_kernels::{Buffer, Matrix};

/// One call of everything, on buffers large enough for anything.
struct Layer {
    buffers: [Buffer; 6],
    weight: Buffer,
    square: Vec<(Matrix, Buffer)>,
    table: Matrix,
    expert: [Vec<u8>; 3],
    affine: Affine,
    delta: DeltaShape,
    state: Buffer,
    pages: Vec<Page>,
    tokens: Vec<u32>,
    rows: Vec<u32>,
    terms: Vec<Term>,
    picks: Picks,
}

impl Layer {
    fn new(cpu: &mut Cpu) -> Layer {
        let affine = Affine { bits: 4, group: 64, scales: Float::BF16 };
        let delta = DeltaShape {
            n_key_heads: 2,
            n_value_heads: 4,
            key_dim: 16,
            value_dim: 32,
            conv_kernel: 4,
            tiled: false,
        };
        let buffers = [(); 6].map(|()| {
            let buffer = cpu.buffer(MOST_ROWS * 2 * HIDDEN);
            let values: Vec<f32> =
                (0..MOST_ROWS * 2 * HIDDEN).map(|i| (i * 7 % 13) as f32 / 13.0 - 0.4).collect();
            cpu.write(buffer, 0, &values);
            buffer
        });
        let encodings = [
            Encoding::Affine(affine),
            Encoding::Affine(Affine { bits: 8, ..affine }),
            Encoding::Affine(Affine { bits: 6, ..affine }),
            Encoding::Float(Float::BF16),
        ];
        let square = encodings.map(|encoding| {
            let matrix = cpu.matrix(MatrixShape { rows: HIDDEN, cols: HIDDEN, encoding });
            (matrix, buffers[1])
        });
        let shape = KvShape { n_layers: 1, n_kv_heads: 2, head_dim: 64, kind: KvKind::F16 };
        cpu.kv_cache(shape, 16);
        let expert = MatrixShape { rows: INTERMEDIATE, cols: HIDDEN, encoding: Encoding::Affine(affine) };
        Layer {
            buffers,
            weight: cpu.buffer(HIDDEN),
            square: square.to_vec(),
            table: square[0].0,
            expert: [0, 1, 2].map(|part| vec![0; expert.part_bytes(part)]),
            affine,
            delta,
            state: cpu.buffer(delta.state_len()),
            pages: (0..16).map(Page).collect(),
            tokens: vec![3; MOST_ROWS],
            rows: (0..MOST_ROWS as u32).collect(),
            terms: (0..MOST_ROWS as u32).map(|row| Term { row, from: row / 2, weight: 0.5 }).collect(),
            picks: Picks { top_k: 4, experts: vec![0; 4 * MOST_ROWS], weights: vec![0.0; 4 * MOST_ROWS] },
        }
    }

    fn forward(&mut self, cpu: &mut Cpu, n_rows: usize) {
        let [x, y, z, a, b, c] = self.buffers;
        cpu.embed(self.table, &self.tokens[..n_rows], x);
        cpu.rms_norm(x, self.weight, 1e-6, n_rows, y);
        for product in &self.square {
            cpu.linear(x, n_rows, &[*product]);
        }
        cpu.linear_rows(x, &self.rows[..n_rows / 2 + 1], self.square[0]);
        cpu.add(x, y, n_rows * HIDDEN);
        cpu.silu_mul(x, y, z, n_rows * HIDDEN);
        for position in [0, n_rows] {
            let segment =
                Segment { first_row: 0, n_rows, position, pages: &self.pages, delta_state: self.state };
            self.mix(cpu, &segment);
        }
        cpu.route(a, n_rows, N_EXPERTS, true, &mut self.picks);
        let (into, back) = (self.matrix(INTERMEDIATE, HIDDEN), self.matrix(HIDDEN, INTERMEDIATE));
        cpu.expert(&Glu { gate: into, up: into, down: back }, x, &self.rows[..n_rows], c, 0);
        cpu.accumulate(b, c, HIDDEN, &self.terms[..n_rows]);
        cpu.accumulate_gated(b, c, a, n_rows, HIDDEN);
        cpu.zero(c, n_rows);
        cpu.copy(a, b);
        let mut out = [0.0; 8];
        cpu.read(b, 0, &mut out);
    }

    /// All that mixes along the sequence.
    fn mix(&self, cpu: &mut Cpu, segment: &Segment<'_>) {
        let [x, y, z, a, b, c] = self.buffers;
        let segments = [*segment];
        cpu.delta_conv(&self.delta, 0, &segments, x, y, z);
        cpu.delta_gates(a, b, self.weight, self.weight, 1);
        cpu.delta_rule(&self.delta, 0, &segments, z, a, b, c);
        cpu.gated_norm(c, z, self.weight, 1e-6, HIDDEN, c);
        cpu.norm_rotate(&NormRotate {
            x,
            n_rows: segment.n_rows,
            n_heads: N_HEADS,
            stride: 128,
            head_dim: 64,
            weight: self.weight,
            eps: 1e-6,
            rotary_dim: 32,
            cos: a,
            sin: b,
            out: z,
        });
        cpu.append_kv(0, a, b, &segments);
        cpu.attend(&Attend {
            layer: 0,
            q: z,
            n_heads: N_HEADS,
            scale: 0.125,
            gate: Some(x),
            out: y,
            segments: &segments,
        });
    }

    fn matrix(&self, rows: usize, cols: usize) -> MatrixView<'_> {
        let shape = MatrixShape { rows, cols, encoding: Encoding::Affine(self.affine) };
        MatrixView::new(shape, &[&self.expert[0], &self.expert[1], &self.expert[2]])
    }
}
