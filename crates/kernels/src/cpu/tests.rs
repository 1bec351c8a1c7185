//! Every level against Scalar, to the bit, on shapes that the fast paths find awkward.

use flashmill_layout::{Affine, Encoding, Float, GgmlType, MatrixShape};

use super::{Cpu, CpuOptions, Level};
use crate::{Backend, Buffer, Matrix};

/// xorshift64*
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In [-1, 1).
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.bits() >> 56) as u8).collect()
    }

    fn floats(&mut self, float: Float, n: usize) -> Vec<u8> {
        let values = (0..n).map(|_| self.value());
        match float {
            Float::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Float::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            Float::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        }
    }
}

/// Bytes of each part.
fn weights(random: &mut Random, shape: MatrixShape) -> Vec<Vec<u8>> {
    match shape.encoding {
        Encoding::Float(float) => vec![random.floats(float, shape.rows * shape.cols)],
        Encoding::Affine(affine) => {
            let groups = shape.part_bytes(1) / affine.scales.bytes();
            let codes = random.bytes(shape.part_bytes(0));
            vec![codes, random.floats(affine.scales, groups), random.floats(affine.scales, groups)]
        }
        Encoding::Fp8 { scales } => {
            let n_scales = shape.part_bytes(1) / scales.bytes();
            vec![random.bytes(shape.part_bytes(0)), random.floats(scales, n_scales)]
        }
        Encoding::Ggml(ty) => {
            let n = shape.rows * shape.cols / ty.block_values();
            vec![(0..n).flat_map(|_| finite_block(random, ty)).collect()]
        }
    }
}

/// Arbitrary bytes that are finite values.
fn finite_block(random: &mut Random, ty: GgmlType) -> Vec<u8> {
    loop {
        let block = random.bytes(ty.block_bytes());
        let mut values = vec![0.0; ty.block_values()];
        ty.decode_block(&block, &mut values);
        if values.iter().all(|value: &f32| value.is_finite()) {
            return block;
        }
    }
}

fn cpu(level: Level, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads, level: Some(level) }).unwrap()
}

fn matrix(cpu: &mut Cpu, shape: MatrixShape, parts: &[Vec<u8>]) -> Matrix {
    let matrix = cpu.matrix(shape);
    for (i, part) in parts.iter().enumerate() {
        cpu.matrix_part(matrix, i).copy_from_slice(part);
    }
    matrix
}

fn filled(cpu: &mut Cpu, values: &[f32]) -> Buffer {
    let buffer = cpu.buffer(values.len());
    cpu.write(buffer, 0, values);
    buffer
}

fn encodings() -> Vec<Encoding> {
    let mut encodings = Vec::new();
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            for scales in [Float::BF16, Float::F16, Float::F32] {
                encodings.push(Encoding::Affine(Affine { bits, group, scales }));
            }
        }
    }
    encodings.extend([Float::BF16, Float::F16, Float::F32].map(Encoding::Float));
    encodings.extend(GgmlType::ALL.into_iter().filter(|ty| ty.float().is_none()).map(Encoding::Ggml));
    encodings
}

/// The bits of products of `n_x` rows, at a level; one NaN is as good as another.
fn products(level: Level, shape: MatrixShape, parts: &[Vec<u8>], x: &[f32], n_x: usize) -> Vec<u32> {
    let mut cpu = cpu(level, 1);
    let w = matrix(&mut cpu, shape, parts);
    let x = filled(&mut cpu, x);
    let y = cpu.buffer(n_x * shape.rows);
    cpu.linear(x, n_x, &[(w, y)]);
    let mut out = vec![0.0; n_x * shape.rows];
    cpu.read(y, 0, &mut out);
    out.iter().map(|y| if y.is_nan() { f32::NAN } else { *y }.to_bits()).collect()
}

#[test]
fn products_are_the_same_at_every_level() {
    let mut random = Random(2026);
    for encoding in encodings() {
        // One unit; half and whole blocks; ragged ends; one row more or fewer than a block of rows.
        for (rows, cols, n_x) in
            [(1, 1, 1), (3, 4, 2), (2, 8, 1), (17, 9, 9), (33, 33, 3), (16, 16, 4), (5, 31, 12), (48, 5, 17)]
        {
            let shape = MatrixShape { rows, cols: cols * encoding.granularity(), encoding };
            let parts = weights(&mut random, shape);
            let x: Vec<f32> = (0..n_x * shape.cols).map(|_| random.value()).collect();
            let truth = products(Level::SCALAR, shape, &parts, &x, n_x);
            for level in Level::available() {
                let got = products(level, shape, &parts, &x, n_x);
                assert!(got == truth, "{level}, {encoding}, {rows} x {} by {n_x} rows", shape.cols);
            }
            if n_x > 1 {
                let alone = products(Level::best(), shape, &parts, &x[..shape.cols], 1);
                assert!(alone == truth[..rows], "a row alone, {encoding}, {rows} x {}", shape.cols);
            }
        }
    }
}
