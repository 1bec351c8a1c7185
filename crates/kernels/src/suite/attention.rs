use std::rc::Rc;

use super::delta_net::schedule_case;
use super::rows::SIGMOID_ERROR;
use super::schedule::{self, Batch, gather, n_rows, scatter, segments};
use super::{Case, Random, Stage, sum_error};
use crate::{Attend, Backend, KvKind, KvShape, PAGE_TOKENS, Page};

/// The attention layer of two that is computed; the other holds something else.
const LAYER: usize = 1;

/// Attention over several sequences and pages, with every kind of storage.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [KvKind::F32, KvKind::F16, KvKind::Q8] {
        for (n_heads, n_kv_heads, head_dim) in
            [(4, 2, 64), (6, 1, 32), (3, 3, 24), (2, 1, 256), (8, 2, 40), (1, 1, 80), (16, 2, 16)]
        {
            let shape = KvShape { n_layers: 2, n_kv_heads, head_dim, kind };
            let longest = random.pick(&[63, 64, 65, 127, 128, 129, 200]);
            let lens = [1 + random.below(9), longest, 1 + random.below(40)];
            let gated = random.below(2) == 0;
            let inputs = Rc::new(Inputs::random(random, shape, n_heads, gated, &lens));
            cases.push(inputs.case(random));
        }
    }
    cases
}

/// Inputs of each sequence.
struct Inputs {
    shape: KvShape,
    n_heads: usize,
    scale: f32,
    gated: bool,
    lens: Vec<usize>,
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    gates: Vec<Vec<f32>>,
    /// Pages are given out in this order.
    page_order: Vec<usize>,
}

impl Inputs {
    fn random(random: &mut Random, shape: KvShape, n_heads: usize, gated: bool, lens: &[usize]) -> Self {
        let mut each = |len_of_row: usize, size: f32| -> Vec<Vec<f32>> {
            let values = |&len: &usize| (0..len * len_of_row).map(|_| size * random.normal()).collect();
            lens.iter().map(values).collect()
        };
        let (width, kv_width) = (n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let (q, k, v, gates) =
            (each(width, 2.0), each(kv_width, 1.5), each(kv_width, 1.0), each(2 * width, 3.0));
        let n_pages: usize = lens.iter().map(|len| len.div_ceil(PAGE_TOKENS)).sum();
        let page_order = random.shuffled(n_pages + 2);
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        Inputs { shape, n_heads, scale, gated, lens: lens.to_vec(), q, k, v, gates, page_order }
    }

    fn case(self: &Rc<Self>, random: &mut Random) -> Case {
        let name = format!(
            "attention, {} heads, {:?}, gated {}, {:?} tokens",
            self.n_heads, self.shape, self.gated, self.lens
        );
        let (bound, run, dirty, moved) = (Rc::clone(self), Rc::clone(self), Rc::clone(self), Rc::clone(self));
        let batches = schedule::in_pieces(random, &self.lens);
        let others = schedule::token_by_token(&self.lens);
        schedule_case(
            random,
            name,
            &self.lens,
            move |_| bound.bound(),
            move |b, batches| run.run(b, batches, Pages::Clean),
        )
        .way("in pages that held NaN", move |backend| dirty.run(backend, &batches, Pages::HeldNan))
        .way("in pages that are copied", move |backend| moved.run(backend, &others, Pages::Moved))
    }

    fn run(&self, backend: &mut dyn Backend, batches: &[Batch], pages: Pages) -> Vec<f32> {
        let row_len = self.n_heads * self.shape.head_dim;
        let kv_len = self.shape.n_kv_heads * self.shape.head_dim;
        let largest = batches.iter().map(n_rows).max().unwrap_or(0);
        backend.kv_cache(self.shape, self.page_order.len());
        let mut stage = Stage::new(backend, largest, 2 * row_len, self.n_heads);
        let state = stage.room(0);
        let states = vec![state; self.lens.len()];
        let mut tables = self.tables();
        if pages == Pages::HeldNan {
            self.fill_with_nan(&mut stage, &tables, &states);
        }
        let mut outputs = vec![Vec::new(); self.lens.len()];
        for (i, batch) in batches.iter().enumerate() {
            if pages == Pages::Moved && i == batches.len() / 2 {
                self.rotate_pages(&mut stage, &mut tables);
            }
            let segments = segments(batch, &tables, &states);
            let (k, v) =
                (stage.given(&gather(batch, &self.k, kv_len)), stage.given(&gather(batch, &self.v, kv_len)));
            stage.backend.append_kv(LAYER, k, v, &segments);
            stage.backend.append_kv(1 - LAYER, v, k, &segments);
            let q = stage.given(&gather(batch, &self.q, row_len));
            let gate = self.gated.then(|| stage.given(&gather(batch, &self.gates, 2 * row_len)));
            let out = stage.room(n_rows(batch) * row_len);
            let (n_heads, scale) = (self.n_heads, self.scale);
            stage.backend.attend(&Attend { layer: LAYER, q, n_heads, scale, gate, out, segments: &segments });
            scatter(batch, &stage.result(out, n_rows(batch) * row_len), row_len, &mut outputs);
        }
        outputs.concat()
    }

    /// The pages of each sequence.
    fn tables(&self) -> Vec<Vec<Page>> {
        let mut order = self.page_order.iter().map(|&page| Page(page as u32));
        self.lens.iter().map(|len| order.by_ref().take(len.div_ceil(PAGE_TOKENS)).collect()).collect()
    }

    /// Stores NaN at every position of every sequence's pages.
    fn fill_with_nan(&self, stage: &mut Stage<'_>, tables: &[Vec<Page>], states: &[crate::Buffer]) {
        for sequence in 0..self.lens.len() {
            let n_rows = tables[sequence].len() * PAGE_TOKENS;
            let nan = stage.given(&vec![f32::NAN; n_rows * self.shape.n_kv_heads * self.shape.head_dim]);
            for position in 0..n_rows {
                let batch = vec![schedule::Piece { sequence, position, n_rows: 1 }];
                for layer in 0..2 {
                    stage.backend.append_kv(layer, nan, nan, &segments(&batch, tables, states));
                }
            }
        }
    }

    /// Moves each sequence's first page into the one that is free, which frees its own.
    fn rotate_pages(&self, stage: &mut Stage<'_>, tables: &mut [Vec<Page>]) {
        let mut free = Page(self.page_order[self.page_order.len() - 1] as u32);
        for table in tables {
            stage.backend.kv_copy(table[0], free);
            std::mem::swap(&mut table[0], &mut free);
        }
    }

    /// A score is off by `d`, so a weight by a factor of at most `e^(2d)` after the division by the sum: the output moves by at
    /// most that part of the largest value. Stored keys and values are at most 1 % larger than what was given.
    fn bound(&self) -> Vec<f64> {
        let head_dim = self.shape.head_dim;
        let length = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let mut bounds = Vec::new();
        for (sequence, &len) in self.lens.iter().enumerate() {
            let longest_key = 1.01 * self.k[sequence].chunks_exact(head_dim).map(length).fold(0.0, f64::max);
            let largest = 1.01 * f64::from(self.v[sequence].iter().fold(0.0, |max: f32, v| max.max(v.abs())));
            for row in 0..len {
                for head in 0..self.n_heads {
                    let q = &self.q[sequence][(row * self.n_heads + head) * head_dim..][..head_dim];
                    let score = f64::from(self.scale) * length(q) * longest_key;
                    let score_error = score * sum_error(head_dim);
                    // The exponential: its own error, and that of an argument of up to twice the largest score.
                    let weight_error =
                        2.0 * (score_error + SIGMOID_ERROR + 2.0 * score * f64::from(f32::EPSILON));
                    bounds.extend(vec![
                        largest * (weight_error + sum_error(row + 1) + SIGMOID_ERROR);
                        head_dim
                    ]);
                }
            }
        }
        bounds
    }
}

/// What is done to the pages besides attention.
#[derive(Clone, Copy, PartialEq)]
enum Pages {
    Clean,
    /// Positions that are not filled yet hold NaN, which must not be read.
    HeldNan,
    /// Half-way, pages are copied and the sequences go on in the copies.
    Moved,
}
