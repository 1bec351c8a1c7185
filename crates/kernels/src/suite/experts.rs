use std::rc::Rc;

use flashmill_layout::Encoding;

use super::products::product_bound;
use super::random::encodings;
use super::rows::{SIGMOID_ERROR, row_case};
use super::{Case, Precision, Random, Stage, StoredMatrix, sum_error};
use crate::{Backend, Glu, Picks, Reference};

/// Routing and experts.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for encoding in encodings() {
        let down = match random.below(3) {
            0 => random.pick(&encodings()),
            _ => encoding,
        };
        cases.push(expert(random, encoding, down));
    }
    for (n_experts, top_k) in [(10, 3), (48, 6), (8, 8), (1, 1), (77, 10), (512, 10)] {
        cases.push(route(random, n_experts, top_k, true));
        cases.push(route(random, n_experts, top_k, false));
    }
    cases.push(route_ties());
    cases.push(route_nan());
    cases
}

/// A bundle whose three matrices lie at odd addresses.
struct Bundle {
    gate: StoredMatrix,
    up: StoredMatrix,
    down: StoredMatrix,
}

impl Bundle {
    fn glu(&self) -> Glu<'_> {
        Glu { gate: self.gate.view(), up: self.up.view(), down: self.down.view() }
    }

    /// The exact products of gate and up, their bounds carried through `silu(gate) * up` and the last product.
    fn bound(&self, x: &[f32], precision: &Precision) -> Vec<f64> {
        let exact = vec![0.0; x.len()];
        let gate_error = product_bound(&self.gate, x, &exact, precision);
        let up_error = product_bound(&self.up, x, &exact, precision);
        let (gate, up) = (product(&self.gate, x), product(&self.up, x));
        let mut hidden = Vec::new();
        let mut error = Vec::new();
        for i in 0..gate.len() {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let silu = g / (1.0 + (-g).exp());
            // The slope of silu is at most 1.1.
            let slope = 1.1 * gate_error[i];
            error.push(
                slope * u.abs()
                    + (silu.abs() + slope) * up_error[i]
                    + 2.0 * SIGMOID_ERROR * (silu * u).abs()
                    + 1e-30,
            );
            hidden.push((silu * u) as f32);
        }
        product_bound(&self.down, &hidden, &error, precision)
    }
}

fn product(w: &StoredMatrix, x: &[f32]) -> Vec<f32> {
    let mut reference = Reference::new();
    let n_rows = x.len() / w.shape.cols;
    let mut stage = Stage::new(&mut reference, n_rows, w.shape.cols, 1);
    let (matrix, x, y) = (stage.matrix(w), stage.given(x), stage.room(n_rows * w.shape.rows));
    stage.backend.linear(x, n_rows, &[(matrix, y)]);
    stage.result(y, n_rows * w.shape.rows)
}

/// One expert for some rows of a batch; gate and up share an encoding, down may have another.
fn expert(random: &mut Random, encoding: Encoding, down: Encoding) -> Case {
    let step = 32.max(encoding.granularity());
    let hidden = step * random.pick(&[1, 2, 3]);
    let intermediate = down.granularity().max(16) * random.pick(&[1, 2, 3]);
    let n_rows = random.pick(&[1, 1, 2, 3, 5, 8, 13, 18]);
    let bundle = Rc::new(Bundle {
        gate: StoredMatrix::random(random, intermediate, hidden, encoding),
        up: StoredMatrix::random(random, intermediate, hidden, encoding),
        down: StoredMatrix::random(random, hidden, intermediate, down),
    });
    let x = Rc::new(random.activations(n_rows * hidden));
    let name = format!("expert, {encoding}, down {down}, {intermediate} of {hidden}, {n_rows} rows");
    let bound = {
        let (bundle, x) = (Rc::clone(&bundle), Rc::clone(&x));
        move |precision: &Precision| bundle.bound(&x, precision)
    };
    let (bundle2, x2) = (Rc::clone(&bundle), Rc::clone(&x));
    let first_out = random.below(4);
    let case = row_case(random, name, n_rows, bound, move |backend, picked| {
        let mut stage = Stage::new(backend, n_rows.max(picked.len()), hidden.max(intermediate), 1);
        let x = stage.given(&x);
        let before = vec![0.5; first_out * hidden];
        let out = stage.room((first_out + picked.len()) * hidden);
        stage.backend.write(out, 0, &before);
        let rows: Vec<u32> = picked.iter().map(|&row| row as u32).collect();
        stage.backend.expert(&bundle.glu(), x, &rows, out, first_out);
        let mut result = stage.result(out, (first_out + picked.len()) * hidden);
        assert!(result[..before.len()] == before, "rows before `first_out` are left alone");
        result.split_off(before.len())
    });
    case.way("op by op", move |backend| {
        let mut stage = Stage::new(backend, n_rows, hidden.max(intermediate), 1);
        let x = stage.given(&x2);
        let [gate, up, down] = [&bundle2.gate, &bundle2.up, &bundle2.down].map(|w| stage.matrix(w));
        let [g, u] = [0, 1].map(|_| stage.room(n_rows * intermediate));
        let y = stage.room(n_rows * hidden);
        stage.backend.linear(x, n_rows, &[(gate, g), (up, u)]);
        stage.backend.silu_mul(g, u, g, n_rows * intermediate);
        stage.backend.linear(g, n_rows, &[(down, y)]);
        stage.result(y, n_rows * hidden)
    })
}

/// The result of routing as one list: for each row its experts, then its weights.
fn routed(
    backend: &mut dyn Backend,
    logits: &[f32],
    n_experts: usize,
    top_k: usize,
    normalize: bool,
) -> Vec<f32> {
    let n_rows = logits.len() / n_experts;
    let mut stage = Stage::new(backend, n_rows, n_experts, 1);
    let logits = stage.given(logits);
    let room = n_rows * top_k;
    let mut picks = Picks { top_k, experts: vec![u32::MAX; room + 3], weights: vec![-1.0; room + 3] };
    stage.backend.route(logits, n_rows, n_experts, normalize, &mut picks);
    assert!(picks.weights[room..] == [-1.0; 3], "room for more rows is left alone");
    let mut out = Vec::new();
    for (experts, weights) in
        picks.experts.chunks_exact(top_k).zip(picks.weights.chunks_exact(top_k)).take(n_rows)
    {
        let mut sorted = experts.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(
            sorted.len() == top_k && sorted[top_k - 1] < n_experts as u32,
            "{experts:?} are {top_k} experts"
        );
        out.extend(experts.iter().map(|&expert| expert as f32));
        out.extend(weights);
    }
    out
}

fn route(random: &mut Random, n_experts: usize, top_k: usize, normalize: bool) -> Case {
    let n_rows = random.pick(&[1, 2, 7, 33]);
    let logits: Rc<Vec<f32>> = Rc::new((0..n_rows * n_experts).map(|_| 3.0 * random.normal()).collect());
    let name = format!("route, {top_k} of {n_experts}, {n_rows} rows, normalize {normalize}");
    let bound = {
        let logits = Rc::clone(&logits);
        move |_: &Precision| {
            let truth = routed(&mut Reference::new(), &logits, n_experts, top_k, normalize);
            // Half of each row is expert numbers, which are exact; logits differ by up to 36.
            let exact_then_rounded = |i: usize, &x: &f32| match i % (2 * top_k) < top_k {
                true => 0.0,
                false => f64::from(x) * (sum_error(n_experts) + 40.0 * f64::from(f32::EPSILON)),
            };
            truth.iter().enumerate().map(|(i, x)| exact_then_rounded(i, x)).collect()
        }
    };
    row_case(random, name, n_rows, bound, move |backend, picked| {
        let chosen: Vec<f32> =
            picked.iter().flat_map(|&row| &logits[row * n_experts..][..n_experts]).copied().collect();
        routed(backend, &chosen, n_experts, top_k, normalize)
    })
}

/// Equal logits, in the last places too, and infinities of the harmless sign.
fn route_ties() -> Case {
    let mut rows: Vec<f32> = Vec::new();
    rows.extend([1.0; 20]);
    rows.extend((0..20).map(|i| (i % 3) as f32));
    rows.extend((0..20).map(|i| if i == 17 || i == 4 { 5.0 } else { -1.0 }));
    rows.extend((0..20).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }));
    rows.extend((0..20).map(|i| if i > 15 { 0.25 } else { f32::NEG_INFINITY }));
    let bound = move |_: &Precision| (0..5).flat_map(|_| [[0.0; 4], [1e-6; 4]].concat()).collect();
    Case::new("route, ties".to_owned(), move |backend| routed(backend, &rows, 20, 4, true), bound)
}

/// A NaN or a positive infinity among the logits of a row must not be lost, and not reach the next row.
fn route_nan() -> Case {
    let mut logits = vec![0.5; 3 * 40];
    logits[7] = f32::NAN;
    logits[40 + 39] = f32::INFINITY;
    let run = move |backend: &mut dyn Backend| {
        let out = routed(backend, &logits, 40, 5, true);
        out.chunks_exact(10).flat_map(|row| row[5..].to_vec()).collect()
    };
    Case::new("route, NaN".to_owned(), run, |_| [[1e-6; 5]; 3].concat())
}
