//! The sums of squares, and the observer that collects them.

use flashmill_engine::{FfnKind, MixerKind, ModelSpec, Observer, Picks};

use super::{CalibrateError, touched};

/// What the matrices of a model were multiplied with over a text.
pub struct Calibration {
    layers: Vec<LayerSums>,
    /// Inputs of the head.
    head: Sums,
    tied: bool,
    n_tokens: u64,
    n_windows: u32,
    /// Inputs of the feed-forward network of the present layer: `[n_rows][hidden_size]`.
    inputs: Vec<f32>,
    hidden_size: usize,
}

/// Sums of squares of the inputs of one matrix, or of the matrices of all experts.
pub(super) struct Sums {
    pub(super) cols: usize,
    /// `[n_matrices][cols]`.
    pub(super) squares: Vec<f32>,
    /// Rows that went into each.
    pub(super) counts: Vec<f32>,
}

struct LayerSums {
    mixer: MixerKind,
    /// Of the mixer's first projections.
    mixer_in: Sums,
    /// Of attention's output projection; empty where the mixer is DeltaNet.
    mixer_out: Sums,
    ffn: FfnKind,
    /// Of gate and up of the shared expert or of the dense network.
    ffn_in: Sums,
    /// Of its down; without columns where there is none.
    ffn_units: Sums,
    /// Of gate and up of each expert.
    experts_in: Sums,
    /// Of down of each expert.
    experts_units: Sums,
}

impl Sums {
    fn new(n_matrices: usize, cols: usize) -> Sums {
        Sums { cols, squares: touched(n_matrices * cols), counts: vec![0.0; n_matrices] }
    }

    /// Adds rows of inputs of matrix `index`.
    fn add(&mut self, index: usize, rows: &[f32]) {
        if self.cols == 0 {
            return;
        }
        let sums = &mut self.squares[index * self.cols..][..self.cols];
        for row in rows.chunks_exact(self.cols) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
            self.counts[index] += 1.0;
        }
    }

    fn is_finite(&self) -> bool {
        self.squares.iter().all(|sum| sum.is_finite())
    }
}

impl LayerSums {
    fn of(spec: &ModelSpec, layer: usize) -> LayerSums {
        let kind = spec.layers[layer];
        let hidden = spec.hidden_size;
        let attention_cols = spec.attention.n_heads * spec.attention.head_dim;
        let (n_experts, units, ffn_units) = match (kind.ffn, spec.moe) {
            (FfnKind::Moe, Some(moe)) => {
                (moe.n_experts, moe.intermediate_size, moe.shared_intermediate_size.unwrap_or(0))
            }
            _ => (0, 0, spec.dense_intermediate_size.unwrap_or(0)),
        };
        LayerSums {
            mixer: kind.mixer,
            mixer_in: Sums::new(1, hidden),
            mixer_out: Sums::new(1, if kind.mixer == MixerKind::Attention { attention_cols } else { 0 }),
            ffn: kind.ffn,
            ffn_in: Sums::new(1, if ffn_units > 0 { hidden } else { 0 }),
            ffn_units: Sums::new(1, ffn_units),
            experts_in: Sums::new(n_experts, hidden),
            experts_units: Sums::new(n_experts, units),
        }
    }

    /// The names of llama.cpp's files, and the sums of each.
    ///
    /// The output projection of DeltaNet has none: llama.cpp's converter changes the order of its inputs in some families.
    fn named(&self) -> Vec<(&'static str, &Sums)> {
        let mixer_in: &[&str] = match self.mixer {
            MixerKind::Attention => &["attn_q", "attn_k", "attn_v"],
            MixerKind::DeltaNet => &["attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha"],
        };
        let (ffn_in, ffn_down): (&[&str], _) = match self.ffn {
            FfnKind::Moe => (&["ffn_gate_shexp", "ffn_up_shexp"], "ffn_down_shexp"),
            FfnKind::Dense => (&["ffn_gate", "ffn_up"], "ffn_down"),
        };
        let mut named = Vec::new();
        named.extend(mixer_in.iter().map(|&name| (name, &self.mixer_in)));
        named.push(("attn_output", &self.mixer_out));
        named.extend(ffn_in.iter().map(|&name| (name, &self.ffn_in)));
        named.push((ffn_down, &self.ffn_units));
        named.extend(["ffn_gate_exps", "ffn_up_exps"].map(|name| (name, &self.experts_in)));
        named.push(("ffn_down_exps", &self.experts_units));
        named.retain(|(_, sums)| !sums.squares.is_empty());
        named
    }
}

impl Calibration {
    /// Room for all sums of a model, and for the inputs of a pass of `n_rows`.
    pub(super) fn of(spec: &ModelSpec, n_rows: usize) -> Calibration {
        Calibration {
            layers: (0..spec.layers.len()).map(|layer| LayerSums::of(spec, layer)).collect(),
            head: Sums::new(1, spec.hidden_size),
            tied: spec.tied_embeddings,
            n_tokens: 0,
            n_windows: 0,
            inputs: touched(n_rows * spec.hidden_size),
            hidden_size: spec.hidden_size,
        }
    }

    /// Tokens that were read.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Windows that were read.
    pub fn n_windows(&self) -> u32 {
        self.n_windows
    }

    /// Experts of all layers that no token picked, and experts of all layers.
    pub fn unused_experts(&self) -> (usize, usize) {
        let counts = self.layers.iter().flat_map(|layer| &layer.experts_in.counts);
        (counts.clone().filter(|&&count| count == 0.0).count(), counts.count())
    }

    pub(super) fn end_window(&mut self, n_tokens: usize) {
        self.n_tokens += n_tokens as u64;
        self.n_windows += 1;
    }

    /// Every name of the file and its sums.
    pub(super) fn named(&self) -> Vec<(String, &Sums)> {
        let mut named = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            named.extend(
                layer.named().into_iter().map(|(name, sums)| (format!("blk.{i}.{name}.weight"), sums)),
            );
        }
        let head = if self.tied { "token_embd.weight" } else { "output.weight" };
        named.push((head.to_owned(), &self.head));
        named
    }

    /// Something was read, and all of it was numbers.
    pub(super) fn check(&self) -> Result<(), CalibrateError> {
        if self.n_tokens == 0 {
            return Err(CalibrateError::Empty);
        }
        match self.named().into_iter().find(|(_, sums)| !sums.is_finite()) {
            Some((tensor, _)) => Err(CalibrateError::NotFinite { tensor }),
            None => Ok(()),
        }
    }
}

impl Observer for Calibration {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, _n_rows: usize, values: &[f32]) {
        let Some(layer) = layer else {
            if name == "final_norm" {
                self.head.add(0, values);
            }
            return;
        };
        let sums = &mut self.layers[layer];
        match name {
            "attn_in" => sums.mixer_in.add(0, values),
            "o_proj_in" => sums.mixer_out.add(0, values),
            "mlp_in" => {
                sums.ffn_in.add(0, values);
                self.inputs.clear();
                self.inputs.extend_from_slice(values);
            }
            "shared_units" | "dense_units" => sums.ffn_units.add(0, values),
            _ => {}
        }
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        let sums = &mut self.layers[layer].experts_in;
        let rows = self.inputs.chunks_exact(self.hidden_size);
        for (row, experts) in rows.zip(picks.experts.chunks_exact(picks.top_k)) {
            experts.iter().for_each(|&expert| sums.add(expert as usize, row));
        }
    }

    fn wants_units(&self) -> bool {
        true
    }

    fn units(&mut self, layer: usize, expert: u32, _rows: &[u32], values: &[f32]) {
        self.layers[layer].experts_units.add(expert as usize, values);
    }
}
