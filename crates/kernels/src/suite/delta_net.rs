use std::rc::Rc;

use super::rows::SIGMOID_ERROR;
use super::schedule::{self, Batch, gather, n_rows, scatter, segments};
use super::{Case, Precision, Random, Stage, sum_error};
use crate::{Backend, DeltaShape};

/// The layer of two that is computed; the other's state must stay as it is.
const LAYER: usize = 1;

/// Convolution and delta rule over several sequences.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (n_key_heads, n_value_heads, key_dim, value_dim, conv_kernel) in [
        (2, 6, 32, 32, 4),
        (2, 4, 32, 16, 4),
        (3, 3, 16, 24, 4),
        (1, 2, 128, 128, 4),
        (2, 2, 24, 40, 3),
        (1, 3, 20, 7, 2),
    ] {
        for tiled in [false, true] {
            let shape = DeltaShape { n_key_heads, n_value_heads, key_dim, value_dim, conv_kernel, tiled };
            let lens = [1 + random.below(5), 1 + random.below(70), random.pick(&[2, 3, 64, 65])];
            cases.push(Inputs::random(random, shape, &lens).convolution(random));
            cases.push(Inputs::random(random, shape, &lens).rule(random));
        }
    }
    cases
}

/// Inputs of each sequence: for the convolution its columns, for the rule what comes out of it.
struct Inputs {
    shape: DeltaShape,
    lens: Vec<usize>,
    columns: Vec<Vec<f32>>,
    taps: Vec<f32>,
    g: Vec<Vec<f32>>,
    beta: Vec<Vec<f32>>,
    /// Of both layers.
    states: Vec<Vec<f32>>,
}

impl Inputs {
    fn random(random: &mut Random, shape: DeltaShape, lens: &[usize]) -> Rc<Self> {
        let mut each = |f: &mut dyn FnMut(&mut Random, usize) -> Vec<f32>| -> Vec<Vec<f32>> {
            lens.iter().map(|&len| f(random, len)).collect()
        };
        let n_heads = shape.n_value_heads;
        let columns = each(&mut |random, len| random.values(len * shape.conv_channels()));
        let g = each(&mut |random, len| {
            (0..len * n_heads)
                .map(|_| random.pick(&[0.0, -0.01, -0.3, -0.3, -20.0]) * random.uniform(0.5, 1.0))
                .collect()
        });
        let beta = each(&mut |random, len| (0..len * n_heads).map(|_| random.uniform(0.0, 1.0)).collect());
        let states = each(&mut |random, _| random.values(2 * shape.state_len()));
        let taps = random.values(shape.conv_channels() * shape.conv_kernel);
        Rc::new(Inputs { shape, lens: lens.to_vec(), columns, taps, g, beta, states })
    }

    fn convolution(self: Rc<Self>, random: &mut Random) -> Case {
        let name = format!("convolution, {:?}, {:?} tokens", self.shape, self.lens);
        let inputs = Rc::clone(&self);
        schedule_case(
            random,
            name,
            &self.lens.clone(),
            move |_| self.convolution_bound(),
            move |backend, batches| {
                let channels = inputs.shape.conv_channels();
                inputs.run(backend, batches, channels, |stage, batch, segments, out| {
                    let m = stage.given(&gather(batch, &inputs.columns, channels));
                    let taps = stage.exact(&inputs.taps);
                    stage.backend.delta_conv(&inputs.shape, LAYER, segments, m, taps, out);
                })
            },
        )
    }

    fn rule(self: Rc<Self>, random: &mut Random) -> Case {
        let name = format!("delta rule, {:?}, {:?} tokens", self.shape, self.lens);
        let inputs = Rc::clone(&self);
        schedule_case(
            random,
            name,
            &self.lens.clone(),
            move |_| self.rule_bound(),
            move |backend, batches| {
                let n_heads = inputs.shape.n_value_heads;
                inputs.run(
                    backend,
                    batches,
                    n_heads * inputs.shape.value_dim,
                    |stage, batch, segments, out| {
                        let qkv = stage.given(&gather(batch, &inputs.columns, inputs.shape.conv_channels()));
                        let g = stage.given(&gather(batch, &inputs.g, n_heads));
                        let beta = stage.given(&gather(batch, &inputs.beta, n_heads));
                        stage.backend.delta_rule(&inputs.shape, LAYER, segments, qkv, g, beta, out);
                    },
                )
            },
        )
    }

    /// Runs `op` for each batch with room for rows of `len` values; gives the outputs and then the states of each sequence.
    fn run(
        &self,
        backend: &mut dyn Backend,
        batches: &[Batch],
        len: usize,
        op: impl Fn(&mut Stage<'_>, &Batch, &[crate::Segment<'_>], crate::Buffer),
    ) -> Vec<f32> {
        let largest = batches.iter().map(n_rows).max().unwrap_or(0);
        let mut stage = Stage::new(backend, largest, self.shape.conv_channels(), self.shape.n_value_heads);
        let states: Vec<_> = self.states.iter().map(|state| stage.given(state)).collect();
        let pages = vec![Vec::new(); self.lens.len()];
        let mut outputs = vec![Vec::new(); self.lens.len()];
        for batch in batches {
            let out = stage.room(n_rows(batch) * len);
            op(&mut stage, batch, &segments(batch, &pages, &states), out);
            scatter(batch, &stage.result(out, n_rows(batch) * len), len, &mut outputs);
        }
        for (state, output) in states.into_iter().zip(&mut outputs) {
            output.extend(stage.result(state, 2 * self.shape.state_len()));
        }
        outputs.concat()
    }

    /// Each sum has `conv_kernel` addends; the slope of silu is at most 1.1. States are copies.
    fn convolution_bound(&self) -> Vec<f64> {
        let (channels, taps) = (self.shape.conv_channels(), self.shape.conv_kernel);
        let mut bounds = Vec::new();
        for (m, state) in self.columns.iter().zip(&self.states) {
            let past = &state[LAYER * self.shape.state_len()..][..self.shape.conv_state_len()];
            let columns = [past, m].concat();
            for i in 0..m.len() {
                let weights = &self.taps[i % channels * taps..][..taps];
                let size = weights
                    .iter()
                    .enumerate()
                    .map(|(j, &w)| f64::from((w * columns[i + j * channels]).abs()));
                bounds.push(1.1 * size.sum::<f64>() * (sum_error(taps) + SIGMOID_ERROR));
            }
            bounds.extend(vec![0.0; state.len()]);
        }
        bounds
    }

    /// A step `S <- (I - beta k k^T) e^g S + beta k v^T` with |k| <= 1, 0 <= beta <= 1, g <= 0 makes no column of S longer than it
    /// was by more than |v|, and no error in it larger: rounding errors of the steps add up at most. Outputs are products with
    /// |q| <= 1 / sqrt(key_dim), and are given their own rounding by taking the error after one step more.
    fn rule_bound(&self) -> Vec<f64> {
        let DeltaShape { key_dim, value_dim, n_value_heads, .. } = self.shape;
        let mut bounds = Vec::new();
        for ((columns, state), &len) in self.columns.iter().zip(&self.states).zip(&self.lens) {
            let largest = |x: &[f32]| f64::from(x.iter().fold(0.0, |max: f32, x| max.max(x.abs())));
            let v = largest(columns);
            let first = state.len() - self.shape.recurrent_state_len();
            let mut column = largest(&state[first..]) * (key_dim as f64).sqrt();
            let mut error = 0.0;
            for _ in 0..len {
                error += 2.0 * (column + v) * sum_error(key_dim);
                column += v;
                bounds.extend(vec![error + (column + v) * sum_error(key_dim); n_value_heads * value_dim]);
            }
            bounds.extend(vec![0.0; first]);
            bounds.extend(vec![error; self.shape.recurrent_state_len()]);
        }
        bounds
    }
}

/// A computation over sequences of `lens` tokens, which `run` does batch by batch.
pub(super) fn schedule_case(
    random: &mut Random,
    name: String,
    lens: &[usize],
    bound: impl Fn(&Precision) -> Vec<f64> + 'static,
    run: impl Fn(&mut dyn Backend, &[Batch]) -> Vec<f32> + 'static,
) -> Case {
    let run = Rc::new(run);
    let (single, tokens, pieces) = (Rc::clone(&run), Rc::clone(&run), Rc::clone(&run));
    let all = schedule::at_once(lens);
    let by_sequence = schedule::one_by_one(lens);
    let by_token = schedule::token_by_token(lens);
    let by_piece = schedule::in_pieces(random, lens);
    Case::new(name, move |backend| run(backend, &all), bound)
        .way("sequence by sequence", move |backend| single(backend, &by_sequence))
        .way("token by token", move |backend| tokens(backend, &by_token))
        .way("in pieces", move |backend| pieces(backend, &by_piece))
}
