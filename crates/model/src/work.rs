//! The buffers between the operations of a forward pass, made once.

use flashmill_checkpoint::{DeltaNetSpec, ModelSpec};
use flashmill_kernels::{Backend, Buffer, DeltaShape, Picks, Term};

use crate::ModelOptions;
use crate::near::NearTies;
use crate::weights::delta_shape;

/// Rows up to which a pass holds every expert's output apart and adds them at the end, so that experts may be computed in the
/// order in which they arrive. Longer passes compute them in ascending order and add at once.
pub(crate) const MAX_ARRIVAL_ROWS: usize = 16;

/// All buffers hold `max_rows` rows; the comment gives the values of a row.
pub(crate) struct Work {
    /// Residual stream, hidden_size.
    pub x: Buffer,
    /// Normed input of a mixer or network, hidden_size.
    pub h: Buffer,
    /// Output of a mixer or network, hidden_size.
    pub y: Buffer,
    pub attention: Option<AttentionWork>,
    pub delta: Option<DeltaWork>,
    pub ffn: FfnWork,
    /// `[max_logit_rows][vocab_size]`.
    pub logits: Buffer,
    /// What the host prepares for a pass.
    pub host: Host,
}

pub(crate) struct AttentionWork {
    /// Queries, with their gates where gated: n_heads * head_dim * (1 or 2).
    pub q_raw: Buffer,
    /// Queries, normed and rotated: n_heads * head_dim.
    pub q: Buffer,
    /// n_kv_heads * head_dim.
    pub k: Buffer,
    /// n_kv_heads * head_dim.
    pub v: Buffer,
    /// n_heads * head_dim.
    pub out: Buffer,
    /// rotary_dim / 2.
    pub cos: Buffer,
    /// rotary_dim / 2.
    pub sin: Buffer,
}

pub(crate) struct DeltaWork {
    pub shape: DeltaShape,
    /// Projections before the convolution: conv_channels.
    pub m: Buffer,
    /// After it: conv_channels.
    pub conv_out: Buffer,
    /// Output gates: values.
    pub z: Buffer,
    /// Then beta: n_value_heads.
    pub b: Buffer,
    /// Then g: n_value_heads.
    pub a: Buffer,
    /// values.
    pub out: Buffer,
}

pub(crate) struct FfnWork {
    /// n_experts.
    pub router_logits: Buffer,
    /// Hidden units of the shared expert or the dense network.
    pub gate: Buffer,
    /// The same.
    pub up: Buffer,
    /// hidden_size.
    pub shared_out: Buffer,
    /// 1.
    pub shared_logit: Buffer,
    /// hidden_size; `max(max_rows, arrival rows * top_k)` rows.
    pub expert_out: Buffer,
}

/// Lists made by the host for each pass, with room for the longest.
pub(crate) struct Host {
    pub tokens: Vec<u32>,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// Inverse frequencies, rotary_dim / 2.
    pub inv_freq: Vec<f32>,
    pub picks: Picks,
    /// What the next layer may pick; without experts where nothing is prefetched.
    pub guess: Picks,
    /// Cache-aware routing, if it is on.
    pub near: Option<NearTies>,
    /// Bundles of the next layer that are read ahead.
    pub ahead: Vec<u32>,
    pub union: Union,
    pub terms: Vec<Term>,
    pub logit_rows: Vec<u32>,
    /// Absolute position of each row of `logit_rows`.
    pub logit_positions: Vec<usize>,
    /// `[logit_rows][vocab_size]`.
    pub logits: Vec<f32>,
}

/// The experts that a batch picked, in ascending order, and the rows that picked each.
#[derive(Default)]
pub(crate) struct Union {
    pub experts: Vec<u32>,
    /// `first[i]..first[i + 1]` are the entries of `experts[i]`.
    pub first: Vec<usize>,
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
    count: Vec<usize>,
}

impl Union {
    fn with_capacity(n_experts: usize, n_picks: usize) -> Union {
        Union {
            experts: Vec::with_capacity(n_experts),
            first: Vec::with_capacity(n_experts + 1),
            rows: vec![0; n_picks],
            weights: vec![0.0; n_picks],
            count: vec![0; n_experts],
        }
    }

    /// Sorts the picks of `n_rows` rows by expert; within an expert rows stay in order.
    pub(crate) fn gather(&mut self, picks: &Picks, n_rows: usize) {
        let chosen = &picks.experts[..n_rows * picks.top_k];
        self.count.fill(0);
        for &expert in chosen {
            self.count[expert as usize] += 1;
        }
        self.experts.clear();
        self.first.clear();
        let mut at = 0;
        for (expert, count) in self.count.iter_mut().enumerate() {
            let n = *count;
            // From here on `count` is where the expert's next row goes.
            *count = at;
            if n > 0 {
                self.experts.push(expert as u32);
                self.first.push(at);
                at += n;
            }
        }
        self.first.push(at);
        for (i, &expert) in chosen.iter().enumerate() {
            let place = &mut self.count[expert as usize];
            self.rows[*place] = (i / picks.top_k) as u32;
            self.weights[*place] = picks.weights[i];
            *place += 1;
        }
    }

    /// The entries of the `i`-th chosen expert.
    pub(crate) fn entries(&self, i: usize) -> std::ops::Range<usize> {
        self.first[i]..self.first[i + 1]
    }
}

impl Work {
    pub(crate) fn new(
        backend: &mut dyn Backend,
        spec: &ModelSpec,
        options: &ModelOptions,
        top_k: usize,
    ) -> Work {
        let n = options.max_rows;
        let hidden = spec.hidden_size;
        let attn = &spec.attention;
        let has_attention = crate::weights::n_attention_layers(spec) > 0;
        let of_attention = |values: usize| if has_attention { values } else { 0 };
        let of_delta = |values: fn(&DeltaNetSpec) -> usize| spec.delta_net.as_ref().map_or(0, values);
        let (queries, keys) = (attn.n_heads * attn.head_dim, attn.n_kv_heads * attn.head_dim);
        // A layer has one mixer, so that the widest buffers serve both kinds.
        let mut of_either =
            |attention, delta| backend.buffer(n * of_attention(attention).max(of_delta(delta)));
        let projected = of_either(queries * if attn.gated { 2 } else { 1 }, DeltaNetSpec::conv_channels);
        let mixed = of_either(queries, DeltaNetSpec::conv_channels);
        let out = of_either(queries, DeltaNetSpec::values);
        let attention = has_attention.then(|| AttentionWork {
            q_raw: projected,
            q: mixed,
            k: backend.buffer(n * keys),
            v: backend.buffer(n * keys),
            out,
            cos: backend.buffer(n * attn.rotary_dim / 2),
            sin: backend.buffer(n * attn.rotary_dim / 2),
        });
        let delta = spec.delta_net.as_ref().map(|delta| DeltaWork {
            shape: delta_shape(delta),
            m: projected,
            conv_out: mixed,
            z: backend.buffer(n * delta.values()),
            b: backend.buffer(n * delta.n_value_heads),
            a: backend.buffer(n * delta.n_value_heads),
            out,
        });
        let n_experts = spec.moe.map_or(0, |moe| moe.n_experts);
        let shared = spec.moe.and_then(|moe| moe.shared_intermediate_size).unwrap_or(0);
        let units = shared.max(spec.dense_intermediate_size.unwrap_or(0));
        let expert_rows = if n_experts == 0 { 0 } else { n.max(n.min(MAX_ARRIVAL_ROWS) * top_k) };
        let ffn = FfnWork {
            router_logits: backend.buffer(n * n_experts),
            gate: backend.buffer(n * units),
            up: backend.buffer(n * units),
            shared_out: backend.buffer(if shared > 0 { n * hidden } else { 0 }),
            shared_logit: backend.buffer(n),
            expert_out: backend.buffer(expert_rows * hidden),
        };
        Work {
            x: backend.buffer(n * hidden),
            h: backend.buffer(n * hidden),
            y: backend.buffer(n * hidden),
            attention,
            delta,
            ffn,
            logits: backend.buffer(options.max_logit_rows * spec.vocab_size),
            host: Host::new(spec, options, top_k),
        }
    }
}

impl Host {
    fn new(spec: &ModelSpec, options: &ModelOptions, top_k: usize) -> Host {
        let n = options.max_rows;
        let half = spec.attention.rotary_dim / 2;
        let theta = spec.attention.rope_theta as f32;
        let inv_freq = (0..half)
            .map(|j| (1.0 / f64::from(theta).powf(2.0 * j as f64 / spec.attention.rotary_dim as f64)) as f32)
            .collect();
        let n_experts = spec.moe.map_or(0, |moe| moe.n_experts);
        let n_guesses = options.prefetch.n_guesses(top_k, n_experts);
        Host {
            tokens: Vec::with_capacity(n),
            cos: vec![0.0; n * half],
            sin: vec![0.0; n * half],
            inv_freq,
            picks: Picks { top_k, experts: vec![0; n * top_k], weights: vec![0.0; n * top_k] },
            guess: Picks {
                top_k: n_guesses,
                experts: vec![0; n.min(MAX_ARRIVAL_ROWS) * n_guesses],
                weights: vec![0.0; n.min(MAX_ARRIVAL_ROWS) * n_guesses],
            },
            ahead: Vec::with_capacity(n_experts.max(n.min(MAX_ARRIVAL_ROWS) * n_guesses)),
            near: NearTies::new(options.cache_aware as f32, n_experts),
            union: Union::with_capacity(n_experts, n * top_k),
            terms: Vec::with_capacity(n * top_k),
            logit_rows: Vec::with_capacity(options.max_logit_rows),
            logit_positions: Vec::with_capacity(options.max_logit_rows),
            logits: vec![0.0; options.max_logit_rows * spec.vocab_size],
        }
    }

    /// Bytes of the lists.
    pub(crate) fn bytes(&self) -> usize {
        let words = self.tokens.capacity()
            + self.cos.len()
            + self.sin.len()
            + 2 * self.picks.experts.len()
            + 2 * self.guess.experts.len()
            + self.ahead.capacity()
            + self.near.as_ref().map_or(0, NearTies::words)
            + 2 * self.union.rows.len()
            + 3 * self.terms.capacity()
            + self.logits.len();
        4 * words
    }

    /// Angles of row `row` at absolute position `position`, in float32 as the models were trained.
    pub(crate) fn rotate(&mut self, row: usize, position: usize) {
        let half = self.inv_freq.len();
        for (j, &frequency) in self.inv_freq.iter().enumerate() {
            let angle = f64::from(position as f32 * frequency);
            self.cos[row * half + j] = angle.cos() as f32;
            self.sin[row * half + j] = angle.sin() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_union_lists_each_expert_once_with_its_rows() {
        let picks =
            Picks { top_k: 2, experts: vec![3, 1, 1, 0, 3, 1], weights: vec![0.6, 0.4, 0.7, 0.3, 0.9, 0.1] };
        let mut union = Union::with_capacity(5, 6);
        for _ in 0..2 {
            union.gather(&picks, 3);
            assert_eq!(union.experts, [0, 1, 3]);
            assert_eq!(union.first, [0, 1, 4, 6]);
            assert_eq!(union.rows, [1, 0, 1, 2, 0, 2]);
            assert_eq!(union.weights, [0.3, 0.4, 0.7, 0.1, 0.6, 0.9]);
        }
    }
}
