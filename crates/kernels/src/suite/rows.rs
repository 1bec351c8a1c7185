use std::rc::Rc;

use super::{Case, Precision, Random, Stage, sum_error};
use crate::{Backend, NormRotate, Term};

/// Relative error of sigmoid and silu: an exponential, a sum, a quotient.
pub(super) const SIGMOID_ERROR: f64 = 32.0 * f32::EPSILON as f64;

/// Everything that works on rows or single values.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = vec![special_values()];
    for len in [1, 16, 24, 63, 80, 96, 192, 640] {
        cases.push(rms_norm(random, len));
        cases.push(gated_norm(random, len));
        cases.push(silu_mul(random, len));
        cases.push(accumulate(random, len));
        cases.push(accumulate_gated(random, len));
        cases.push(add_copy_zero(random, len));
    }
    for n_heads in [1, 2, 6, 33] {
        cases.push(delta_gates(random, n_heads));
    }
    for (n_heads, head_dim, rotary_dim) in [(4, 64, 16), (2, 32, 32), (1, 256, 64), (3, 40, 12), (2, 24, 2)] {
        cases.push(norm_rotate(random, n_heads, head_dim, rotary_dim, true));
        cases.push(norm_rotate(random, n_heads, head_dim, rotary_dim, false));
    }
    cases
}

/// A computation whose rows are independent: `run` does it for the given rows, in the given order, on a fresh stage.
pub(super) fn row_case(
    random: &mut Random,
    name: String,
    n_rows: usize,
    bound: impl Fn(&Precision) -> Vec<f64> + 'static,
    run: impl Fn(&mut dyn Backend, &[usize]) -> Vec<f32> + 'static,
) -> Case {
    let run = Rc::new(run);
    let (alone, beside, halves) = (Rc::clone(&run), Rc::clone(&run), Rc::clone(&run));
    // Every row once and some of them again, in random order.
    let company: Vec<usize> = random.shuffled(2 * n_rows + 3).into_iter().map(|i| i % n_rows).collect();
    let cut = random.below(n_rows + 1);
    let all: Vec<usize> = (0..n_rows).collect();
    let rows = all.clone();
    Case::new(name, move |backend| run(backend, &rows), bound)
        .way("row by row", move |backend| (0..n_rows).flat_map(|row| alone(backend, &[row])).collect())
        .way("in two calls", move |backend| {
            let halves = [&all[..cut], &all[cut..]].map(|rows| match rows {
                [] => Vec::new(),
                rows => halves(backend, rows),
            });
            halves.concat()
        })
        .way("beside other rows", move |backend| {
            let out = beside(backend, &company);
            let len = out.len() / company.len();
            let place = |row| company.iter().position(|&other| other == row).expect("every row is there");
            (0..n_rows).flat_map(|row| out[place(row) * len..][..len].to_vec()).collect()
        })
}

/// The chosen rows of an array of rows of `len` values.
pub(super) fn chosen(values: &[f32], rows: &[usize], len: usize) -> Vec<f32> {
    rows.iter().flat_map(|&row| &values[row * len..][..len]).copied().collect()
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

/// Row by row `x / rms(x)`, in f64.
fn normed(x: &[f32], len: usize, eps: f32) -> Vec<f64> {
    x.chunks_exact(len)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
            let factor = 1.0 / (sum / len as f64 + f64::from(eps)).sqrt();
            row.iter().map(move |&x| f64::from(x) * factor)
        })
        .collect()
}

fn rms_norm(random: &mut Random, len: usize) -> Case {
    let n_rows = random.pick(&[1, 3, 8, 70]);
    let x = Rc::new(random.activations(n_rows * len));
    let weight = Rc::new(random.values(len));
    let bound = {
        let (x, weight) = (Rc::clone(&x), Rc::clone(&weight));
        move |_: &Precision| {
            let values = normed(&x, len, 1e-6);
            values
                .iter()
                .enumerate()
                .map(|(i, x)| (x * f64::from(weight[i % len])).abs() * sum_error(len))
                .collect()
        }
    };
    row_case(random, format!("rms norm of {len}, {n_rows} rows"), n_rows, bound, move |backend, rows| {
        let mut stage = Stage::new(backend, rows.len(), len, 1);
        let (x, weight) = (stage.given(&chosen(&x, rows, len)), stage.exact(&weight));
        let out = stage.room(rows.len() * len);
        stage.backend.rms_norm(x, weight, 1e-6, rows.len(), out);
        stage.result(out, rows.len() * len)
    })
}

fn gated_norm(random: &mut Random, len: usize) -> Case {
    let n_rows = random.pick(&[1, 2, 5]);
    let n_heads = random.pick(&[1, 3, 6]);
    let width = n_heads * len;
    let x = Rc::new(random.activations(n_rows * width));
    let z = Rc::new((0..n_rows * width).map(|_| 4.0 * random.normal()).collect::<Vec<f32>>());
    let weight = Rc::new(random.values(len));
    let bound = {
        let (x, z, weight) = (Rc::clone(&x), Rc::clone(&z), Rc::clone(&weight));
        move |_: &Precision| {
            let values = normed(&x, len, 1e-6).into_iter().zip(z.iter()).enumerate();
            values
                .map(|(i, (x, &z))| {
                    let exact = x * f64::from(weight[i % len]) * f64::from(z) * sigmoid(z);
                    exact.abs() * (sum_error(len) + SIGMOID_ERROR) + 1e-36
                })
                .collect()
        }
    };
    let run = Rc::new(move |backend: &mut dyn Backend, rows: &[usize], in_place: bool| {
        let mut stage = Stage::new(backend, rows.len(), width, 1);
        let x = stage.given(&chosen(&x, rows, width));
        let (z, weight) = (stage.given(&chosen(&z, rows, width)), stage.exact(&weight));
        let n = rows.len() * width;
        let out = if in_place { x } else { stage.room(n) };
        stage.backend.gated_norm(x, z, weight, 1e-6, n, out);
        stage.result(out, n)
    });
    let in_place = Rc::clone(&run);
    let all: Vec<usize> = (0..n_rows).collect();
    row_case(
        random,
        format!("gated norm of {n_heads} x {len}, {n_rows} rows"),
        n_rows,
        bound,
        move |b, rows| run(b, rows, false),
    )
    .way("in place", move |backend| in_place(backend, &all, true))
}

fn silu_mul(random: &mut Random, len: usize) -> Case {
    let gate = Rc::new((0..len).map(|_| 20.0 * random.normal()).collect::<Vec<f32>>());
    let up = Rc::new(random.values(len));
    let bound = {
        let (gate, up) = (Rc::clone(&gate), Rc::clone(&up));
        move |_: &Precision| {
            let exact = gate
                .iter()
                .zip(up.iter())
                .map(|(&gate, &up)| f64::from(gate) * sigmoid(gate) * f64::from(up));
            exact.map(|x| x.abs() * SIGMOID_ERROR + 1e-36).collect()
        }
    };
    let run = Rc::new(move |backend: &mut dyn Backend, values: &[usize], in_place: bool| {
        let n = values.len();
        let mut stage = Stage::new(backend, 1, n, 1);
        let (gate, up) = (stage.given(&chosen(&gate, values, 1)), stage.given(&chosen(&up, values, 1)));
        let out = if in_place { gate } else { stage.room(n) };
        stage.backend.silu_mul(gate, up, out, n);
        stage.result(out, n)
    });
    let in_place = Rc::clone(&run);
    let all: Vec<usize> = (0..len).collect();
    row_case(random, format!("silu times up, {len} values"), len, bound, move |b, rows| run(b, rows, false))
        .way("in place", move |backend| in_place(backend, &all, true))
}

/// Exact: one fused multiply-add a value, in the order of the terms.
fn accumulate(random: &mut Random, len: usize) -> Case {
    let n_rows = random.pick(&[1, 2, 9]);
    let n_from = random.pick(&[1, 4, 17]);
    let y = Rc::new(random.values(n_rows * len));
    let x = Rc::new(random.activations(n_from * len));
    let terms: Rc<Vec<Term>> = Rc::new(
        (0..random.below(40))
            .map(|_| Term {
                row: random.below(n_rows) as u32,
                from: random.below(n_from) as u32,
                weight: random.uniform(0.0, 1.0),
            })
            .collect(),
    );
    let run = Rc::new(move |backend: &mut dyn Backend, parts: usize| {
        let mut stage = Stage::new(backend, n_rows.max(n_from), len, 1);
        let (y, x) = (stage.given(&y), stage.given(&x));
        for terms in terms.chunks(terms.len().div_ceil(parts).max(1)) {
            stage.backend.accumulate(y, x, len, terms);
        }
        stage.result(y, n_rows * len)
    });
    let parts = Rc::clone(&run);
    let name = format!("accumulate, rows of {len}, {n_rows} from {n_from}");
    Case::new(name, move |backend| run(backend, 1), move |_| vec![0.0; n_rows * len])
        .way("in three calls", move |backend| parts(backend, 3))
}

fn accumulate_gated(random: &mut Random, len: usize) -> Case {
    let n_rows = random.pick(&[1, 3, 18]);
    let y = Rc::new(random.values(n_rows * len));
    let x = Rc::new(random.activations(n_rows * len));
    let logits = Rc::new((0..n_rows).map(|_| 5.0 * random.normal()).collect::<Vec<f32>>());
    let bound = {
        let (y, x, logits) = (Rc::clone(&y), Rc::clone(&x), Rc::clone(&logits));
        move |_: &Precision| {
            let addend = |i: usize| sigmoid(logits[i / len]) * f64::from(x[i].abs());
            let rounding = |i: usize| (addend(i) + f64::from(y[i].abs())) * f64::from(f32::EPSILON);
            (0..y.len()).map(|i| addend(i) * SIGMOID_ERROR + rounding(i)).collect()
        }
    };
    row_case(
        random,
        format!("accumulate gated, {n_rows} rows of {len}"),
        n_rows,
        bound,
        move |backend, rows| {
            let mut stage = Stage::new(backend, rows.len(), len, 1);
            let (y, x) = (stage.given(&chosen(&y, rows, len)), stage.given(&chosen(&x, rows, len)));
            let logits = stage.given(&chosen(&logits, rows, 1));
            stage.backend.accumulate_gated(y, x, logits, rows.len(), len);
            stage.result(y, rows.len() * len)
        },
    )
}

/// `add`, `copy`, `zero`, and reading and writing in the middle: all exact.
fn add_copy_zero(random: &mut Random, len: usize) -> Case {
    let (x, y) = (random.values(len), random.activations(len));
    let zeros = random.below(len + 1);
    let at = random.below(len);
    let run = move |backend: &mut dyn Backend| {
        let mut stage = Stage::new(backend, 1, len, 1);
        let (x, y) = (stage.given(&x), stage.given(&y));
        stage.backend.add(x, y, len);
        let copy = stage.room(len);
        stage.backend.copy(x, copy);
        stage.backend.zero(x, zeros);
        stage.backend.write(y, at, &[0.125]);
        let mut middle = vec![0.0; len - at];
        stage.backend.read(copy, at, &mut middle);
        [stage.result(x, len), stage.result(y, len), stage.result(copy, len), middle].concat()
    };
    Case::new(format!("add, copy, zero, read, write, {len} values"), run, move |_| vec![0.0; 4 * len - at])
}

fn delta_gates(random: &mut Random, n_heads: usize) -> Case {
    let n_rows = random.pick(&[1, 2, 17]);
    let b = Rc::new((0..n_rows * n_heads).map(|_| 6.0 * random.normal()).collect::<Vec<f32>>());
    let a = Rc::new((0..n_rows * n_heads).map(|_| 12.0 * random.normal()).collect::<Vec<f32>>());
    let decay = Rc::new((0..n_heads).map(|_| -random.uniform(0.01, 8.0)).collect::<Vec<f32>>());
    let dt_bias = Rc::new(random.values(n_heads));
    let bound = {
        let (b, a, decay, dt_bias) = (Rc::clone(&b), Rc::clone(&a), Rc::clone(&decay), Rc::clone(&dt_bias));
        move |_: &Precision| {
            (0..n_rows)
                .flat_map(|row| {
                    let at = row * n_heads..(row + 1) * n_heads;
                    let beta = b[at.clone()].iter().map(|&b| sigmoid(b) * SIGMOID_ERROR);
                    let g = a[at].iter().enumerate().map(|(head, &a)| {
                        let x = f64::from(a) + f64::from(dt_bias[head]);
                        // Rounding the sum moves e^x by |x| epsilon; a logarithm of 1 + e^x is good to an epsilon.
                        let softplus = x.exp().ln_1p();
                        let relative = SIGMOID_ERROR + x.abs() * f64::from(f32::EPSILON);
                        let error = softplus * relative + f64::from(f32::EPSILON);
                        f64::from(decay[head].abs()) * error
                    });
                    beta.chain(g).collect::<Vec<f64>>()
                })
                .collect()
        }
    };
    row_case(
        random,
        format!("gates of {n_heads} heads, {n_rows} rows"),
        n_rows,
        bound,
        move |backend, rows| {
            let mut stage = Stage::new(backend, rows.len(), n_heads, 1);
            let (b, a) = (stage.given(&chosen(&b, rows, n_heads)), stage.given(&chosen(&a, rows, n_heads)));
            let (decay, dt_bias) = (stage.exact(&decay), stage.exact(&dt_bias));
            stage.backend.delta_gates(b, a, decay, dt_bias, rows.len());
            let n = rows.len() * n_heads;
            let (beta, g) = (stage.result(b, n), stage.result(a, n));
            beta.chunks_exact(n_heads)
                .zip(g.chunks_exact(n_heads))
                .flat_map(|(beta, g)| [beta, g].concat())
                .collect()
        },
    )
}

fn norm_rotate(random: &mut Random, n_heads: usize, head_dim: usize, rotary_dim: usize, gated: bool) -> Case {
    let n_rows = random.pick(&[1, 2, 9]);
    let stride = if gated { 2 * head_dim } else { head_dim };
    let half = rotary_dim / 2;
    let x = Rc::new(random.activations(n_rows * n_heads * stride));
    let weight = Rc::new(random.values(head_dim));
    let angles: Vec<f32> = (0..n_rows * half).map(|_| random.uniform(-3.2, 3.2)).collect();
    let cos: Rc<Vec<f32>> = Rc::new(angles.iter().map(|angle| angle.cos()).collect());
    let sin: Rc<Vec<f32>> = Rc::new(angles.iter().map(|angle| angle.sin()).collect());
    let bound = {
        let (x, weight) = (Rc::clone(&x), Rc::clone(&weight));
        move |_: &Precision| {
            let mut bounds = Vec::new();
            for head in x.chunks_exact(stride) {
                let size: Vec<f64> = normed(&head[..head_dim], head_dim, 1e-6)
                    .into_iter()
                    .zip(weight.iter())
                    .map(|(x, &weight)| (x * f64::from(weight)).abs())
                    .collect();
                let pair = |j: usize| match j < rotary_dim {
                    true => size[j % half] + size[j % half + half],
                    false => size[j],
                };
                bounds.extend((0..head_dim).map(|j| pair(j) * sum_error(head_dim)));
            }
            bounds
        }
    };
    let run = Rc::new(move |backend: &mut dyn Backend, rows: &[usize], in_place: bool| {
        let mut stage = Stage::new(backend, rows.len(), n_heads * stride, n_heads);
        let x = stage.given(&chosen(&x, rows, n_heads * stride));
        let weight = stage.exact(&weight);
        let (cos, sin) = (stage.given(&chosen(&cos, rows, half)), stage.given(&chosen(&sin, rows, half)));
        let n = rows.len() * n_heads * head_dim;
        let out = if in_place { x } else { stage.room(n) };
        let (n_rows, eps) = (rows.len(), 1e-6);
        stage.backend.norm_rotate(&NormRotate {
            x,
            n_rows,
            n_heads,
            stride,
            head_dim,
            weight,
            eps,
            rotary_dim,
            cos,
            sin,
            out,
        });
        stage.result(out, n)
    });
    let in_place = Rc::clone(&run);
    let all: Vec<usize> = (0..n_rows).collect();
    let name =
        format!("norm and rotate {rotary_dim} of {n_heads} x {head_dim}, gated {gated}, {n_rows} rows");
    let case = row_case(random, name, n_rows, bound, move |backend, rows| run(backend, rows, false));
    if gated { case } else { case.way("in place", move |backend| in_place(backend, &all, true)) }
}

/// What is infinite or not a number stays so, and goes nowhere else; sizes that overflow or vanish in an exponential.
fn special_values() -> Case {
    let x = [
        f32::NAN,
        90.0,
        -90.0,
        200.0,
        -200.0,
        1e30,
        -1e30,
        f32::INFINITY,
        0.0,
        -0.0,
        1e-40,
        -1e-3,
        88.8,
        -88.8,
    ];
    let run = move |backend: &mut dyn Backend| {
        let n = x.len();
        let mut stage = Stage::new(backend, n, n, 1);
        let (gate, ones, decay) = (stage.given(&x), stage.given(&vec![1.0; n]), stage.exact(&[-1.0]));
        let (bias, out, twos) = (stage.exact(&[0.0]), stage.room(n), stage.given(&vec![2.0; n]));
        stage.backend.silu_mul(gate, ones, out, n);
        let silu = stage.result(out, n);
        stage.backend.accumulate_gated(twos, ones, gate, n, 1);
        let gated = stage.result(twos, n);
        let (b, a) = (stage.given(&x), stage.given(&x));
        stage.backend.delta_gates(b, a, decay, bias, n);
        let (beta, g) = (stage.result(b, n), stage.result(a, n));
        let weight = stage.exact(&vec![1.0; n]);
        let rows = stage.given(&[x, [3.0; 14]].concat());
        let normed = stage.room(2 * n);
        stage.backend.rms_norm(rows, weight, 1e-6, 2, normed);
        [silu, gated, beta, g, stage.result(normed, 2 * n)].concat()
    };
    let bound = move |_: &Precision| {
        let mut truth = Vec::new();
        truth.extend(x.map(|x| SIGMOID_ERROR * f64::from(x).abs()));
        truth.extend([1e-5; 14]);
        truth.extend([1e-5; 14]);
        truth.extend(x.map(|x| SIGMOID_ERROR * f64::from(x).abs() + 1e-6));
        truth.extend([1e-5; 28]);
        truth
    };
    Case::new("special values".to_owned(), run, bound)
}
