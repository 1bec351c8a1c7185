use std::rc::Rc;

use flashmill_layout::Encoding;

use super::random::{encodings, some_cols};
use super::rows::row_case;
use super::{Case, Precision, Random, Stage, StoredMatrix, sum_error};

/// Embedding and products, with every encoding.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for encoding in encodings() {
        cases.push(linear(random, encoding));
        cases.push(embed(random, encoding));
    }
    for _ in 0..6 {
        cases.push(two_products(random));
    }
    cases
}

/// How far `W x` may lie from the exact product where `x` is off by `input_error`.
///
/// A rounded input meets code, scale and bias before anything cancels, so that magnitudes count.
pub(super) fn product_bound(
    w: &StoredMatrix,
    x: &[f32],
    input_error: &[f64],
    precision: &Precision,
) -> Vec<f64> {
    let cols = w.shape.cols;
    let activation_error = match w.shape.encoding {
        Encoding::Float(_) | Encoding::Fp8 { .. } => 0.0,
        Encoding::Affine(_) | Encoding::Ggml(_) => precision.activation_error,
    };
    let mut bounds = vec![0.0; x.len() / cols * w.shape.rows];
    for i in 0..w.shape.rows {
        let magnitudes = w.magnitudes(i);
        for (row, x) in x.chunks_exact(cols).enumerate() {
            let input_error = &input_error[row * cols..];
            let mut bound = 1e-30;
            for (first, group) in
                (0..cols).step_by(precision.activation_group).zip(x.chunks(precision.activation_group))
            {
                let largest = group.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
                for (j, x) in group.iter().enumerate() {
                    let rounding =
                        activation_error * f64::from(largest) + sum_error(cols) * f64::from(x.abs());
                    bound += f64::from(magnitudes[first + j]) * (rounding + input_error[first + j]);
                }
            }
            bounds[row * w.shape.rows + i] = bound;
        }
    }
    bounds
}

/// `linear`, and the same through `linear_rows`.
fn linear(random: &mut Random, encoding: Encoding) -> Case {
    let cols = some_cols(random, encoding);
    let rows = random.pick(&[1, 3, 5, 8, 16, 17, 33, 66, 130]);
    let n_rows = random.pick(&[1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 70]);
    let w = Rc::new(StoredMatrix::random(random, rows, cols, encoding));
    let x = Rc::new(random.activations(n_rows * cols));
    let name = format!("linear, {encoding}, {rows} x {cols}, {n_rows} rows");
    let bound = {
        let (w, x) = (Rc::clone(&w), Rc::clone(&x));
        move |precision: &Precision| product_bound(&w, &x, &vec![0.0; x.len()], precision)
    };
    let (w2, x2) = (Rc::clone(&w), Rc::clone(&x));
    let case = row_case(random, name, n_rows, bound, move |backend, picked| {
        let mut stage = Stage::new(backend, picked.len(), cols, 1);
        let matrix = stage.matrix(&w);
        let values: Vec<f32> = picked.iter().flat_map(|&row| &x[row * cols..][..cols]).copied().collect();
        let x = stage.given(&values);
        let y = stage.room(picked.len() * rows);
        stage.backend.linear(x, picked.len(), &[(matrix, y)]);
        stage.result(y, picked.len() * rows)
    });
    case.way("as a selection of rows", move |backend| {
        let mut stage = Stage::new(backend, n_rows, cols, 1);
        let matrix = stage.matrix(&w2);
        let reversed: Vec<f32> = x2.chunks_exact(cols).rev().flatten().copied().collect();
        let x = stage.given(&reversed);
        let y = stage.room(n_rows * rows);
        let selection: Vec<u32> = (0..n_rows as u32).rev().collect();
        stage.backend.linear_rows(x, &selection, (matrix, y));
        stage.result(y, n_rows * rows)
    })
}

/// Several products of one input, as for queries, keys and values; with mixed encodings, as two calls or one.
fn two_products(random: &mut Random) -> Case {
    let encodings = encodings();
    let cols = random.pick(&[256, 512, 768]);
    let n_rows = random.pick(&[1, 2, 5, 17]);
    let w: Rc<[StoredMatrix; 2]> = Rc::new([1, 19].map(|rows| {
        let encoding = random.pick(&encodings);
        StoredMatrix::random(random, rows, cols, encoding)
    }));
    let x = Rc::new(random.activations(n_rows * cols));
    let name = format!(
        "two products, {} and {}, {cols} columns, {n_rows} rows",
        w[0].shape.encoding, w[1].shape.encoding
    );
    let run = {
        let (w, x) = (Rc::clone(&w), Rc::clone(&x));
        move |backend: &mut dyn crate::Backend, at_once: bool| {
            let mut stage = Stage::new(backend, n_rows, cols, 1);
            let x = stage.given(&x);
            let products = [0, 1].map(|i| (stage.matrix(&w[i]), stage.room(n_rows * w[i].shape.rows)));
            if at_once {
                stage.backend.linear(x, n_rows, &products);
            } else {
                stage.backend.linear(x, n_rows, &products[1..]);
                stage.backend.linear(x, n_rows, &products[..1]);
            }
            [0, 1].map(|i| stage.result(products[i].1, n_rows * w[i].shape.rows)).concat()
        }
    };
    let other = run.clone();
    let bound = move |precision: &Precision| {
        w.iter().flat_map(|w| product_bound(w, &x, &vec![0.0; x.len()], precision)).collect()
    };
    Case::new(name, move |backend| run(backend, true), bound)
        .way("one by one", move |backend| other(backend, false))
}

/// Rows of a table; a fused multiply-add may differ from the two roundings of the naive decoder.
fn embed(random: &mut Random, encoding: Encoding) -> Case {
    let cols = some_cols(random, encoding);
    let table = Rc::new(StoredMatrix::random(random, 9, cols, encoding));
    let tokens: Rc<Vec<u32>> =
        Rc::new((0..random.pick(&[1, 4, 12])).map(|_| random.below(9) as u32).collect());
    let bound = {
        let (table, tokens) = (Rc::clone(&table), Rc::clone(&tokens));
        let error = if matches!(encoding, Encoding::Float(_)) { 0.0 } else { f64::from(f32::EPSILON) };
        move |_: &Precision| {
            tokens
                .iter()
                .flat_map(|&token| table.magnitudes(token as usize))
                .map(|m| f64::from(m) * error)
                .collect()
        }
    };
    let n_tokens = tokens.len();
    row_case(random, format!("embed, {encoding}, {cols} columns"), n_tokens, bound, move |backend, picked| {
        let mut stage = Stage::new(backend, picked.len(), cols, 1);
        let matrix = stage.matrix(&table);
        let tokens: Vec<u32> = picked.iter().map(|&row| tokens[row]).collect();
        let out = stage.room(picked.len() * cols);
        stage.backend.embed(matrix, &tokens, out);
        stage.result(out, picked.len() * cols)
    })
}
