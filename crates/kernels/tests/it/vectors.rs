//! Vectors made with transformers and numpy: `fixtures/vectors`.

use std::path::PathBuf;

use flashmill_kernels::{Backend, Cpu, CpuOptions, DeltaShape, Level, Reference, Segment};
use flashmill_layout::{Affine, Encoding, Float, GgmlType, MatrixShape, MatrixView};
use safetensors::SafeTensors;

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect("the vector is in the file");
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
    tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")))
        .collect()
}

/// A matrix of MLX's quantiser in the file, with the values that MLX's formula gives for it.
struct Stored<'a> {
    view: MatrixView<'a>,
    values: Vec<f32>,
}

fn affine_matrix<'a>(file: &'a SafeTensors<'a>, bits: u8, group: u16) -> Stored<'a> {
    let key = format!("mlx.affine.{bits}.{group}");
    let part = |name: &str| file.tensor(&format!("{key}.{name}")).expect("the vector is in the file").data();
    let shape = MatrixShape {
        rows: 4,
        cols: 256,
        encoding: Encoding::Affine(Affine { bits, group, scales: Float::BF16 }),
    };
    let view = MatrixView::new(shape, &[part("packed"), part("scales"), part("biases")]);
    Stored { view, values: f32s(file, &format!("{key}.f32")) }
}

#[test]
fn affine_rows_decode_to_the_bit() {
    let bytes = read("dequant_vectors.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            let Stored { view, values } = affine_matrix(&file, bits, group);
            let mut row = [0.0; 256];
            for (i, expected) in values.chunks_exact(256).enumerate() {
                view.decode_row(i, &mut row);
                assert_eq!(row, expected, "{bits} bits, group {group}, row {i}");
            }
        }
    }
}

/// Products with unit vectors read the weights one by one.
fn check_products(mut backend: impl Backend, tolerance: f32) {
    let bytes = read("dequant_vectors.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    backend.reserve(256, 256, 1);
    let x = backend.buffer(256 * 256);
    let y = backend.buffer(256 * 4);
    for i in 0..256 {
        backend.write(x, i * 257, &[1.0]);
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            let Stored { view, values } = affine_matrix(&file, bits, group);
            let matrix = backend.matrix(view.shape);
            for part in 0..3 {
                backend.matrix_part(matrix, part).copy_from_slice(view.parts[part]);
            }
            backend.linear(x, 256, &[(matrix, y)]);
            let mut products = vec![0.0; 256 * 4];
            backend.read(y, 0, &mut products);
            for (i, &expected) in values.iter().enumerate() {
                let got = products[i % 256 * 4 + i / 256];
                let far = (got - expected).abs() > tolerance;
                assert!(!far, "{bits} bits, group {group}, weight {i}: {got} instead of {expected}");
            }
        }
    }
}

/// Products of GGML's blocks with unit vectors, 256 at once and one alone, read the weights one by one.
fn check_blocks(make: impl Fn() -> Box<dyn Backend>) {
    const COLS: usize = 256;
    let bytes = read("dequant_vectors.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.float().is_none()) {
        let expected = f32s(&file, &format!("ggml.{ty}.f32"));
        let rows = expected.len() / COLS;
        let shape = MatrixShape { rows, cols: COLS, encoding: Encoding::Ggml(ty) };
        let mut backend = make();
        let matrix = backend.matrix(shape);
        let raw = file.tensor(&format!("ggml.{ty}.raw")).expect("the vector is in the file").data();
        backend.matrix_part(matrix, 0).copy_from_slice(raw);
        let (x, y) = (backend.buffer(COLS * COLS), backend.buffer(COLS * rows));
        for i in 0..COLS {
            backend.write(x, i * (COLS + 1), &[1.0]);
        }
        let mut check = |columns: &[u32]| {
            backend.linear_rows(x, columns, (matrix, y));
            let mut products = vec![0.0; columns.len() * rows];
            backend.read(y, 0, &mut products);
            for (row, values) in expected.chunks_exact(COLS).enumerate() {
                let largest = values.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
                for (i, &column) in columns.iter().enumerate() {
                    let (got, expected) = (products[i * rows + row], values[column as usize]);
                    let near = (got - expected).abs() <= 1e-5 * largest;
                    assert!(near, "{ty}, row {row}, column {column}: {got:e} instead of {expected:e}");
                }
            }
        };
        check(&(0..COLS as u32).collect::<Vec<_>>());
        (3..COLS as u32).step_by(29).for_each(|column| check(&[column]));
    }
}

/// The gated delta rule over 150 tokens from a non-zero state, against transformers' recurrence in f32, whose own distance from
/// its chunked form was asserted to be below 1e-4 when the vectors were made. All tokens at once, and in calls of 1 to 64.
fn check_delta_rule(make: impl Fn() -> Box<dyn Backend>) {
    let bytes = read("delta_rule.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let [q, k, v, g, beta, out] = ["q", "k", "v", "g", "beta", "out"].map(|name| f32s(&file, name));
    let (n, heads, dk, dv) = (150, 3, 16, 24);
    let shape = DeltaShape {
        n_key_heads: heads,
        n_value_heads: heads,
        key_dim: dk,
        value_dim: dv,
        conv_kernel: 4,
        tiled: false,
    };
    let row = |t: usize| {
        let key = t * heads * dk..(t + 1) * heads * dk;
        [&q[key.clone()], &k[key], &v[t * heads * dv..][..heads * dv]].concat()
    };
    let qkv: Vec<f32> = (0..n).flat_map(row).collect();
    for calls in [vec![150], vec![64, 64, 22], vec![1; 150]] {
        let mut backend = make();
        backend.reserve(n, shape.conv_channels(), heads);
        let state = backend.buffer(shape.state_len());
        backend.write(state, shape.conv_state_len(), &f32s(&file, "initial_state"));
        let mut position = 0;
        for n_rows in calls {
            let mut given = |values: &[f32], row_len: usize| {
                let buffer = backend.buffer(n_rows * row_len);
                backend.write(buffer, 0, &values[position * row_len..][..n_rows * row_len]);
                buffer
            };
            let (x, gates) = (given(&qkv, shape.conv_channels()), given(&g, heads));
            let (betas, y) = (given(&beta, heads), given(&out, heads * dv));
            backend.zero(y, n_rows * heads * dv);
            let segment = Segment { first_row: 0, n_rows, position, pages: &[], delta_state: state };
            backend.delta_rule(&shape, 0, &[segment], x, gates, betas, y);
            let mut got = vec![0.0; n_rows * heads * dv];
            backend.read(y, 0, &mut got);
            close(&got, &out[position * heads * dv..][..got.len()], 2e-6, "outputs");
            position += n_rows;
        }
        let mut last = vec![0.0; shape.recurrent_state_len()];
        backend.read(state, shape.conv_state_len(), &mut last);
        close(&last, &f32s(&file, "final_state"), 5e-6, "the state after 150 tokens");
    }
}

fn close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}, allowed {tolerance:e}");
    assert!(got.iter().all(|x| x.is_finite()), "{what} are finite");
}

#[test]
fn reference_multiplies_affine_weights() {
    check_products(Reference::new(), 0.0);
}

#[test]
fn reference_follows_the_delta_rule() {
    check_delta_rule(|| Box::new(Reference::new()));
}

fn cpu(level: Level) -> Cpu {
    Cpu::new(CpuOptions { threads: 2, level: Some(level) }).expect("two threads")
}

/// The input is a one, which 16 bits hold to 1 part in 32639.
#[test]
fn every_level_multiplies_affine_weights() {
    for level in Level::available() {
        check_products(cpu(level), 0.5 / 32639.0);
    }
}

#[test]
fn every_level_follows_the_delta_rule() {
    for level in Level::available() {
        check_delta_rule(|| Box::new(cpu(level)));
    }
}

#[test]
fn blocks_hold_the_values_of_ggml() {
    check_blocks(|| Box::new(Reference::new()));
    for level in Level::available() {
        check_blocks(|| Box::new(Cpu::new(CpuOptions { threads: 1, level: Some(level) }).expect("threads")));
    }
}
