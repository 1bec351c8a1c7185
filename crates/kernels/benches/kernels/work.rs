//! The kernels that are measured, with work that is larger than the cache.

use flashmill_kernels::{
    Attend, Backend, Buffer, Cpu, DeltaShape, Glu, KvKind, KvShape, Matrix, PAGE_TOKENS, Page, Segment,
};
use flashmill_layout::{Affine, Encoding, Float, GgmlType, MatrixShape, MatrixView};

/// Something to measure.
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Makes the work; less of it if the level is slow.
    pub(crate) prepare: Prepare,
}

type Prepare = Box<dyn Fn(&mut Cpu, bool) -> Run>;

impl Kernel {
    fn new(name: impl Into<String>, prepare: impl Fn(&mut Cpu, bool) -> Run + 'static) -> Kernel {
        Kernel { name: name.into(), prepare: Box::new(prepare) }
    }
}

type Step = Box<dyn FnMut(&mut Cpu)>;

/// Work that is ready.
pub(crate) struct Run {
    step: Step,
    /// Bytes, or multiplications, of a step.
    pub(crate) amount: f64,
    pub(crate) unit: &'static str,
}

impl Run {
    pub(crate) fn step(&mut self, cpu: &mut Cpu) {
        (self.step)(cpu);
    }
}

/// The GGML types that have kernels of their own.
pub(crate) const FAST_TYPES: [GgmlType; 15] = {
    use GgmlType::*;
    [Q8_0, Q4_0, Q4_K, Q5_K, Q6_K, Q3_K, Q2_K, IQ4_XS, IQ4_NL, IQ3_XXS, IQ3_S, IQ2_XXS, IQ2_XS, IQ2_S, MXFP4]
};

pub(crate) fn all() -> Vec<Kernel> {
    let mut all = vec![
        Kernel::new("product 2-bit", |cpu, slow| product(cpu, affine(2, 64), slow)),
        Kernel::new("product 3-bit", |cpu, slow| product(cpu, affine(3, 64), slow)),
        Kernel::new("product 4-bit", |cpu, slow| product(cpu, affine(4, 64), slow)),
        Kernel::new("product 4-bit group 32", |cpu, slow| product(cpu, affine(4, 32), slow)),
        Kernel::new("product 5-bit", |cpu, slow| product(cpu, affine(5, 64), slow)),
        Kernel::new("product 6-bit", |cpu, slow| product(cpu, affine(6, 64), slow)),
        Kernel::new("product 8-bit", |cpu, slow| product(cpu, affine(8, 64), slow)),
        Kernel::new("product BF16", |cpu, slow| product(cpu, Encoding::Float(Float::BF16), slow)),
        Kernel::new("product FP8", |cpu, slow| product(cpu, FP8, slow)),
        Kernel::new("product F32", |cpu, slow| product(cpu, Encoding::Float(Float::F32), slow)),
        Kernel::new("expert 4-bit 4096/1024", |cpu, slow| expert(cpu, affine(4, 64), [4096, 1024], 1, slow)),
        Kernel::new("expert 4-bit 2048/512", |cpu, slow| expert(cpu, affine(4, 64), [2048, 512], 1, slow)),
        Kernel::new("prefill 4-bit 256 rows", |cpu, slow| prefill(cpu, affine(4, 64), 256, slow)),
        Kernel::new("prefill 4-bit 24 rows", |cpu, slow| prefill(cpu, affine(4, 64), 24, slow)),
        Kernel::new("prefill 8-bit 256 rows", |cpu, slow| prefill(cpu, affine(8, 64), 256, slow)),
        Kernel::new("prefill 6-bit 256 rows", |cpu, slow| prefill(cpu, affine(6, 64), 256, slow)),
        Kernel::new("prefill BF16 256 rows", |cpu, slow| {
            prefill(cpu, Encoding::Float(Float::BF16), 256, slow)
        }),
        Kernel::new("prefill FP8 256 rows", |cpu, slow| prefill(cpu, FP8, 256, slow)),
        Kernel::new("attend decode f16 16k", |cpu, slow| attend(cpu, KvKind::F16, 1, slow)),
        Kernel::new("attend decode q8 16k", |cpu, slow| attend(cpu, KvKind::Q8, 1, slow)),
        Kernel::new("attend prefill f16 16k", |cpu, slow| attend(cpu, KvKind::F16, 64, slow)),
        Kernel::new("attend prefill q8 16k", |cpu, slow| attend(cpu, KvKind::Q8, 64, slow)),
        Kernel::new("delta decode", |cpu, slow| delta(cpu, 1, slow)),
        Kernel::new("delta prefill", |cpu, slow| delta(cpu, 512, slow)),
        Kernel::new("conv decode", |cpu, slow| conv(cpu, 1, slow)),
        Kernel::new("conv prefill", |cpu, slow| conv(cpu, 512, slow)),
        Kernel::new("rms_norm 4096", |cpu, _| norm(cpu)),
    ];
    for n_rows in [4, 8, 12, 16, 64] {
        for encoding in [affine(4, 64), Encoding::Ggml(GgmlType::Q4_K)] {
            let name = format!("prefill expert {encoding} 2048/512 {n_rows} rows");
            all.push(Kernel::new(name, move |cpu, slow| expert(cpu, encoding, [2048, 512], n_rows, slow)));
        }
    }
    for n_rows in [1, 2, 3, 4, 6, 8] {
        for encoding in [affine(4, 64), Encoding::Ggml(GgmlType::Q4_K), Encoding::Ggml(GgmlType::Q6_K)] {
            let name = format!("answers {encoding} {n_rows} rows");
            all.push(Kernel::new(name, move |cpu, slow| answers(cpu, encoding, n_rows, slow)));
        }
    }
    for ty in FAST_TYPES {
        all.push(Kernel::new(format!("product {ty}"), move |cpu, slow| {
            product(cpu, Encoding::Ggml(ty), slow)
        }));
    }
    for ty in FAST_TYPES {
        let name = format!("prefill {ty} 256 rows");
        all.push(Kernel::new(name, move |cpu, slow| prefill(cpu, Encoding::Ggml(ty), 256, slow)));
    }
    all
}

const FP8: Encoding = Encoding::Fp8 { scales: Float::BF16 };

pub(crate) fn affine(bits: u8, group: u16) -> Encoding {
    Encoding::Affine(Affine { bits, group, scales: Float::BF16 })
}

/// A matrix of random codes; scales and biases are small and sane.
pub(crate) fn random_matrix(cpu: &mut Cpu, shape: MatrixShape) -> Matrix {
    let matrix = cpu.matrix(shape);
    for part in 0..shape.encoding.n_parts() {
        fill(shape.encoding, part, cpu.matrix_part(matrix, part));
    }
    matrix
}

pub(crate) fn random_buffer(cpu: &mut Cpu, len: usize) -> Buffer {
    let buffer = cpu.buffer(len);
    let values: Vec<f32> = (0..len).map(|i| (i * 7919 % 2001) as f32 / 1000.0 - 1.0).collect();
    cpu.write(buffer, 0, &values);
    buffer
}

fn fill(encoding: Encoding, part: usize, bytes: &mut [u8]) {
    let float = match encoding {
        Encoding::Affine(affine) if part > 0 => affine.scales,
        Encoding::Float(float) => float,
        Encoding::Fp8 { scales } if part > 0 => scales,
        Encoding::Fp8 { .. } => {
            // Small positive codes: no NaN.
            for (i, code) in bytes.iter_mut().enumerate() {
                *code = (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x3f;
            }
            return;
        }
        Encoding::Affine(_) | Encoding::Ggml(_) => {
            let mut state = 0x9e37_79b9_7f4a_7c15u64;
            for chunk in bytes.chunks_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                chunk.copy_from_slice(&(state ^ state >> 29).to_le_bytes()[..chunk.len()]);
            }
            if encoding == Encoding::Ggml(GgmlType::MXFP4) {
                // Subnormal products may be slow.
                bytes.chunks_mut(17).for_each(|block| block[0] = 120);
            }
            return;
        }
    };
    for (i, value) in bytes.chunks_exact_mut(float.bytes()).enumerate() {
        // Between 0.0078 and 0.0156, whatever the low bits.
        let bits = 0x3c00_0000u32 | (i as u32).wrapping_mul(2_654_435_761) >> 9;
        match float {
            Float::F32 => value.copy_from_slice(&bits.to_le_bytes()),
            Float::BF16 => value.copy_from_slice(&bits.to_le_bytes()[2..]),
            Float::F16 => value.copy_from_slice(&(0x2000 | (i as u16 & 0x3ff)).to_le_bytes()),
        }
    }
}

fn product(cpu: &mut Cpu, encoding: Encoding, slow: bool) -> Run {
    let cols = 4096;
    let bytes = if slow { 2 << 20 } else { 128 << 20 };
    let shape = MatrixShape { rows: bytes / encoding.row_bytes(cols), cols, encoding };
    let w = random_matrix(cpu, shape);
    let (x, y) = (random_buffer(cpu, cols), cpu.buffer(shape.rows));
    let step = move |cpu: &mut Cpu| cpu.linear(x, 1, &[(w, y)]);
    Run { step: Box::new(step), amount: shape.bytes() as f64, unit: "GB/s" }
}

fn prefill(cpu: &mut Cpu, encoding: Encoding, n_rows: usize, slow: bool) -> Run {
    let n_rows = if slow { 2 } else { n_rows };
    let shape = MatrixShape { rows: 1024, cols: 4096, encoding };
    let w = random_matrix(cpu, shape);
    let (x, y) = (random_buffer(cpu, n_rows * shape.cols), cpu.buffer(n_rows * shape.rows));
    let step = move |cpu: &mut Cpu| {
        cpu.write(x, 0, &[0.5]); // what was quantised is out of date
        cpu.linear(x, n_rows, &[(w, y)]);
    };
    Run { step: Box::new(step), amount: (n_rows * shape.rows * shape.cols) as f64, unit: "GMAC/s" }
}

/// A matrix larger than the cache with a row for each of a few answers.
fn answers(cpu: &mut Cpu, encoding: Encoding, n_rows: usize, slow: bool) -> Run {
    let cols = 2048;
    let bytes = if slow { 1 << 20 } else { 64 << 20 };
    let shape = MatrixShape { rows: bytes / encoding.row_bytes(cols), cols, encoding };
    let w = random_matrix(cpu, shape);
    let (x, y) = (random_buffer(cpu, n_rows * cols), cpu.buffer(n_rows * shape.rows));
    let step = move |cpu: &mut Cpu| {
        cpu.write(x, 0, &[0.5]); // what was quantised is out of date
        cpu.linear(x, n_rows, &[(w, y)]);
    };
    Run { step: Box::new(step), amount: (n_rows * shape.rows * cols) as f64, unit: "GMAC/s" }
}

/// Experts in turn, so that none is in the cache.
fn expert(
    cpu: &mut Cpu,
    encoding: Encoding,
    [hidden, intermediate]: [usize; 2],
    n_rows: usize,
    slow: bool,
) -> Run {
    let into = MatrixShape { rows: intermediate, cols: hidden, encoding };
    let back = MatrixShape { rows: hidden, cols: intermediate, encoding };
    let size = 2 * into.bytes() + back.bytes();
    let n_experts = if slow { 1 } else { (128 << 20) / size };
    let mut experts: Vec<Vec<Vec<u8>>> = Vec::new();
    for _ in 0..n_experts {
        let mut parts = Vec::new();
        for shape in [into, into, back] {
            for part in 0..encoding.n_parts() {
                let mut bytes = vec![0; shape.part_bytes(part)];
                fill(encoding, part, &mut bytes);
                parts.push(bytes);
            }
        }
        experts.push(parts);
    }
    let (x, y) = (random_buffer(cpu, n_rows * hidden), cpu.buffer(n_rows * hidden));
    let rows: Vec<u32> = (0..n_rows as u32).collect();
    let mut turn = 0;
    let step = move |cpu: &mut Cpu| {
        turn = (turn + 1) % experts.len();
        let n_parts = encoding.n_parts();
        let view = |shape, at: usize| {
            let parts: Vec<&[u8]> =
                experts[turn][at * n_parts..][..n_parts].iter().map(Vec::as_slice).collect();
            MatrixView::new(shape, &parts)
        };
        let glu = Glu { gate: view(into, 0), up: view(into, 1), down: view(back, 2) };
        cpu.write(x, 0, &[0.5]); // what was quantised is out of date
        cpu.expert(&glu, x, &rows, y, 0);
    };
    let (amount, unit) =
        if n_rows == 1 { (size, "GB/s") } else { (3 * n_rows * hidden * intermediate, "GMAC/s") };
    Run { step: Box::new(step), amount: amount as f64, unit }
}

fn attend(cpu: &mut Cpu, kind: KvKind, n_rows: usize, slow: bool) -> Run {
    let shape = KvShape { n_layers: if slow { 1 } else { 4 }, n_kv_heads: 2, head_dim: 256, kind };
    let n_heads = 32;
    let context = if slow { 512 } else { 16_384 };
    let pages: Vec<Page> = (0..(context / PAGE_TOKENS) as u32).map(Page).collect();
    cpu.kv_cache(shape, pages.len());
    let kv_row = shape.n_kv_heads * shape.head_dim;
    let (k, v) = (random_buffer(cpu, PAGE_TOKENS * kv_row), random_buffer(cpu, PAGE_TOKENS * kv_row));
    let delta_state = cpu.buffer(1);
    for layer in 0..shape.n_layers {
        for position in (0..context).step_by(PAGE_TOKENS) {
            let segment = Segment { first_row: 0, n_rows: PAGE_TOKENS, position, pages: &pages, delta_state };
            cpu.append_kv(layer, k, v, &[segment]);
        }
    }
    let q = random_buffer(cpu, n_rows * n_heads * shape.head_dim);
    let out = cpu.buffer(n_rows * n_heads * shape.head_dim);
    let amount = if n_rows == 1 {
        (2 * context * shape.n_kv_heads * shape.head_bytes()) as f64
    } else {
        (2 * n_rows * n_heads * context * shape.head_dim) as f64
    };
    let mut layer = 0;
    let step = move |cpu: &mut Cpu| {
        layer = (layer + 1) % shape.n_layers;
        let segment =
            Segment { first_row: 0, n_rows, position: context - n_rows, pages: &pages, delta_state };
        let segments = [segment];
        cpu.attend(&Attend { layer, q, n_heads, scale: 0.0625, gate: None, out, segments: &segments });
    };
    Run { step: Box::new(step), amount, unit: if n_rows == 1 { "GB/s" } else { "GMAC/s" } }
}

fn delta_shape(slow: bool) -> DeltaShape {
    let n_value_heads = if slow { 16 } else { 64 };
    DeltaShape { n_key_heads: 16, n_value_heads, key_dim: 128, value_dim: 128, conv_kernel: 4, tiled: false }
}

/// Layers in turn; the state is read and written.
fn delta(cpu: &mut Cpu, n_rows: usize, slow: bool) -> Run {
    let shape = delta_shape(slow);
    let n_layers = if slow { 1 } else { 24 };
    let delta_state = cpu.buffer(n_layers * shape.state_len());
    let qkv = random_buffer(cpu, n_rows * shape.conv_channels());
    let g = cpu.buffer(n_rows * shape.n_value_heads);
    let beta = cpu.buffer(n_rows * shape.n_value_heads);
    cpu.write(g, 0, &vec![-0.1; n_rows * shape.n_value_heads]);
    cpu.write(beta, 0, &vec![0.5; n_rows * shape.n_value_heads]);
    let out = cpu.buffer(n_rows * shape.n_value_heads * shape.value_dim);
    let mut layer = 0;
    let step = move |cpu: &mut Cpu| {
        layer = (layer + 1) % n_layers;
        let segment = Segment { first_row: 0, n_rows, position: 0, pages: &[], delta_state };
        cpu.delta_rule(&shape, layer, &[segment], qkv, g, beta, out);
    };
    let state = shape.recurrent_state_len() as f64;
    let (amount, unit) =
        if n_rows == 1 { (8.0 * state, "GB/s") } else { (3.0 * state * n_rows as f64, "GMAC/s") };
    Run { step: Box::new(step), amount, unit }
}

fn conv(cpu: &mut Cpu, n_rows: usize, slow: bool) -> Run {
    let shape = delta_shape(slow);
    let channels = shape.conv_channels();
    let delta_state = cpu.buffer(shape.state_len());
    let (m, out) = (random_buffer(cpu, n_rows * channels), cpu.buffer(n_rows * channels));
    let weight = random_buffer(cpu, channels * shape.conv_kernel);
    let step = move |cpu: &mut Cpu| {
        let segment = Segment { first_row: 0, n_rows, position: 0, pages: &[], delta_state };
        cpu.delta_conv(&shape, 0, &[segment], m, weight, out);
    };
    let bytes = channels * (2 * n_rows + 2 * 3 + 4) * 4;
    Run { step: Box::new(step), amount: bytes as f64, unit: "GB/s" }
}

fn norm(cpu: &mut Cpu) -> Run {
    let n = 4096;
    let (x, weight, out) = (random_buffer(cpu, n), random_buffer(cpu, n), cpu.buffer(n));
    let step = move |cpu: &mut Cpu| cpu.rms_norm(x, weight, 1e-6, 1, out);
    Run { step: Box::new(step), amount: (8 * n) as f64, unit: "GB/s" }
}
