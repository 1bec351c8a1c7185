use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{PackedError, Problem};
use crate::config::{self, MAX_LAYERS};
use crate::error::CheckpointError;
use crate::spec::{Family, FfnKind, MixerKind, ModelSpec};

/// A model in the words of Hugging Face's `config.json`, complete: no default of a family is left to the reader.
///
/// It is read back by the parser of `config.json`, so that it is checked as any config is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    hidden_act: String,
    tie_word_embeddings: bool,
    eos_token_id: Vec<u32>,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    rope_parameters: Rope,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_types: Option<Vec<LayerType>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mlp_only_layers: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_sparse_step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intermediate_size: Option<usize>,
    num_experts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_experts_per_tok: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moe_intermediate_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_expert_intermediate_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm_topk_prob: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_num_key_heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_num_value_heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_key_head_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_value_head_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_conv_kernel_dim: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rope {
    rope_type: String,
    rope_theta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_rotary_factor: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    LinearAttention,
}

impl ModelConfig {
    /// The config of a model. Which key head serves a value head is not in it: no config says it.
    pub fn of(spec: &ModelSpec) -> ModelConfig {
        let (attention, delta, moe) = (&spec.attention, spec.delta_net.as_ref(), spec.moe.as_ref());
        let is_qwen35 = spec.family == Family::Qwen35Moe;
        let layers = || spec.layers.iter();
        let layer_type = |mixer| match mixer {
            MixerKind::Attention => LayerType::FullAttention,
            MixerKind::DeltaNet => LayerType::LinearAttention,
        };
        let dense = layers().enumerate().filter(|(_, layer)| layer.ffn == FfnKind::Dense).map(|(i, _)| i);
        ModelConfig {
            model_type: match spec.family {
                Family::Qwen35Moe => "qwen3_5_moe_text",
                Family::Qwen3Next => "qwen3_next",
                Family::Qwen3Moe => "qwen3_moe",
            }
            .to_owned(),
            hidden_size: spec.hidden_size,
            num_hidden_layers: spec.layers.len(),
            vocab_size: spec.vocab_size,
            max_position_embeddings: spec.max_positions,
            rms_norm_eps: spec.rms_norm_eps.into(),
            hidden_act: "silu".to_owned(),
            tie_word_embeddings: spec.tied_embeddings,
            eos_token_id: spec.eos_token_ids.clone(),
            num_attention_heads: attention.n_heads,
            num_key_value_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            rope_parameters: Rope {
                rope_type: "default".to_owned(),
                rope_theta: attention.rope_theta,
                partial_rotary_factor: delta.map(|_| factor(attention.rotary_dim, attention.head_dim)),
            },
            layer_types: delta.map(|_| layers().map(|layer| layer_type(layer.mixer)).collect()),
            mlp_only_layers: (!is_qwen35).then(|| dense.collect()),
            decoder_sparse_step: (!is_qwen35).then_some(1),
            intermediate_size: spec.dense_intermediate_size,
            num_experts: moe.map_or(0, |moe| moe.n_experts),
            num_experts_per_tok: moe.map(|moe| moe.top_k),
            moe_intermediate_size: moe.map(|moe| moe.intermediate_size),
            shared_expert_intermediate_size: moe.map(|moe| moe.shared_intermediate_size.unwrap_or(0)),
            norm_topk_prob: moe.map(|moe| moe.normalize_top_k),
            linear_num_key_heads: delta.map(|delta| delta.n_key_heads),
            linear_num_value_heads: delta.map(|delta| delta.n_value_heads),
            linear_key_head_dim: delta.map(|delta| delta.key_dim),
            linear_value_head_dim: delta.map(|delta| delta.value_dim),
            linear_conv_kernel_dim: delta.map(|delta| delta.conv_kernel),
        }
    }

    /// The model of a config, checked; `path` is for messages.
    pub(super) fn spec(&self, path: &Path) -> Result<ModelSpec, CheckpointError> {
        let lists = [
            ("layer_types", self.layer_types.as_ref().map_or(0, Vec::len)),
            ("mlp_only_layers", self.mlp_only_layers.as_ref().map_or(0, Vec::len)),
            ("eos_token_id", self.eos_token_id.len()),
        ];
        for (what, len) in lists {
            if len > MAX_LAYERS {
                return Err(PackedError::new(path, Problem::TooMany { what, len, limit: MAX_LAYERS }).into());
            }
        }
        let json = serde_json::to_vec(self).expect("numbers, flags and texts have a JSON form");
        config::parse(path, &json).map(|config| config.spec)
    }
}

/// The factor whose product with `head_dim`, cut to a whole number, is `rotary_dim`.
fn factor(rotary_dim: usize, head_dim: usize) -> f64 {
    let factor = rotary_dim as f64 / head_dim as f64;
    match (head_dim as f64 * factor) as usize == rotary_dim {
        true => factor,
        false => factor.next_up(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_sizes_come_back() {
        for head_dim in 1..600usize {
            for rotary_dim in 1..=head_dim {
                assert_eq!((head_dim as f64 * factor(rotary_dim, head_dim)) as usize, rotary_dim);
            }
        }
    }
}
