//! `config.json`: the three shapes in which it comes (nested, flat, legacy) and the three families, read as transformers
//! 5.17 reads them. A field that would change the computation to one that is not implemented is an error; a field that
//! transformers does not read either is listed in the notes.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::{Fields, short};
use crate::layers;
use crate::note::Note;
use crate::quantization::{self, Quantization};
use crate::rope;
use crate::spec::{AttentionSpec, DeltaNetSpec, Family, FfnKind, HeadOrder, LayerKind, ModelSpec, MoeSpec};

/// What `config.json` says.
#[derive(Debug)]
pub(crate) struct Config {
    /// The model; `tied_embeddings` is what the config claims.
    pub(crate) spec: ModelSpec,
    /// MLX's affine settings.
    pub(crate) quantization: Option<Quantization>,
    pub(crate) notes: Vec<Note>,
}

/// Bounds of the sizes: far above any model, and low enough that no product of three of them leaves 64 bits.
pub(crate) const MAX_LAYERS: usize = 4096;
const LAYERS: (usize, usize) = (1, MAX_LAYERS);
const WIDTH: (usize, usize) = (1, 1 << 20);
const VOCABULARY: (usize, usize) = (1, 1 << 24);
const POSITIONS: (usize, usize) = (1, 1 << 31);
const HEADS: (usize, usize) = (1, 1 << 14);
const HEAD_DIM: (usize, usize) = (1, 1 << 14);
const EXPERTS: (usize, usize) = (1, 1 << 16);
const TAPS: (usize, usize) = (1, 64);

/// Fields that say nothing about inference and are not worth a note: names, training, defaults of other programs.
const BOOKKEEPING: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "image_token_id",
    "initializer_range",
    "output_router_logits",
    "pad_token_id",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
];

/// What the family's config class in transformers takes where the file is silent.
struct Defaults {
    vocab_size: usize,
    hidden_size: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    /// `None`: hidden size over heads.
    head_dim: Option<usize>,
    /// `None`: the whole head is rotated and the field is not read.
    partial_rotary_factor: Option<f64>,
    intermediate_size: usize,
    n_experts: usize,
    top_k: usize,
    moe_intermediate_size: usize,
    /// `None`: the family has no shared expert.
    shared_intermediate_size: Option<usize>,
    norm_topk_prob: bool,
    n_value_heads: usize,
}

impl Defaults {
    fn of(family: Family) -> Defaults {
        match family {
            Family::Qwen35Moe => Defaults {
                vocab_size: 248_320,
                hidden_size: 2048,
                n_layers: 40,
                n_heads: 16,
                n_kv_heads: 2,
                head_dim: Some(256),
                partial_rotary_factor: Some(0.25),
                intermediate_size: 0,
                n_experts: 256,
                top_k: 8,
                moe_intermediate_size: 512,
                shared_intermediate_size: Some(512),
                norm_topk_prob: true,
                n_value_heads: 32,
            },
            Family::Qwen3Next => Defaults {
                vocab_size: 151_936,
                n_layers: 48,
                intermediate_size: 5632,
                n_experts: 512,
                top_k: 10,
                ..Defaults::of(Family::Qwen35Moe)
            },
            Family::Qwen3Moe => Defaults {
                vocab_size: 151_936,
                hidden_size: 2048,
                n_layers: 24,
                n_heads: 32,
                n_kv_heads: 4,
                head_dim: None,
                partial_rotary_factor: None,
                intermediate_size: 6144,
                n_experts: 128,
                top_k: 8,
                moe_intermediate_size: 768,
                shared_intermediate_size: None,
                norm_topk_prob: false,
                n_value_heads: 0,
            },
        }
    }
}

/// Reads the bytes of a `config.json`; `path` is for messages.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Config, CheckpointError> {
    let json: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|source| CheckpointError::Json { path: path.to_owned(), source })?;
    let mut outer = Fields::new(path, "", &json);
    let family = family(&mut outer)?;
    let nested = match family {
        Family::Qwen35Moe => outer.object("text_config")?,
        _ => None,
    };
    let quantization = quantization::parse(&mut outer)?;

    let Some(map) = nested else {
        let spec = text_model(&mut outer, family)?;
        return Ok(Config { spec, quantization, notes: outer.into_notes(BOOKKEEPING) });
    };
    let mut inner = Fields::new(path, "text_config.", map);
    inner.value("model_type");
    let inner_quantization = quantization::parse(&mut inner)?;
    let mut spec = text_model(&mut inner, family)?;
    // Published files say it outside, mlx-lm reads it inside.
    spec.tied_embeddings |= outer.flag("tie_word_embeddings")?.unwrap_or(false);
    let outer_eos = eos_token_ids(&mut outer)?;
    if spec.eos_token_ids.is_empty() {
        spec.eos_token_ids = outer_eos;
    }
    let mut notes = outer.into_notes(BOOKKEEPING);
    notes.extend(inner.into_notes(BOOKKEEPING));
    Ok(Config { spec, quantization: quantization.or(inner_quantization), notes })
}

fn family(fields: &mut Fields<'_>) -> Result<Family, CheckpointError> {
    let model_type = fields.value("model_type").ok_or_else(|| fields.missing("model_type"))?;
    match model_type.as_str() {
        Some("qwen3_5_moe" | "qwen3_5_moe_text") => Ok(Family::Qwen35Moe),
        Some("qwen3_next") => Ok(Family::Qwen3Next),
        Some("qwen3_moe") => Ok(Family::Qwen3Moe),
        _ => Err(CheckpointError::UnknownArchitecture {
            path: fields.path().to_owned(),
            model_type: short(model_type),
        }),
    }
}

fn text_model(fields: &mut Fields<'_>, family: Family) -> Result<ModelSpec, CheckpointError> {
    let defaults = Defaults::of(family);
    refuse_other_computations(fields, family)?;
    let hidden_size = fields.size("hidden_size", Some(defaults.hidden_size), WIDTH)?;
    let n_layers = fields.size("num_hidden_layers", Some(defaults.n_layers), LAYERS)?;
    let mixers = layers::mixers(fields, family, n_layers)?;
    let n_experts = n_experts(fields, family, &defaults)?;
    let ffns = layers::ffns(fields, family, n_layers, n_experts)?;
    let layers: Vec<LayerKind> =
        mixers.into_iter().zip(ffns).map(|(mixer, ffn)| LayerKind { mixer, ffn }).collect();

    let moe = match layers.iter().any(|layer| layer.ffn == FfnKind::Moe) {
        true => Some(moe(fields, family, n_experts, &defaults)?),
        false => None,
    };
    let dense_intermediate_size = match layers.iter().any(|layer| layer.ffn == FfnKind::Dense) {
        true => Some(fields.size("intermediate_size", Some(defaults.intermediate_size), WIDTH)?),
        false => None,
    };
    let delta_net = match family {
        Family::Qwen35Moe | Family::Qwen3Next => Some(delta_net(fields, &defaults)?),
        Family::Qwen3Moe => None,
    };
    Ok(ModelSpec {
        family,
        hidden_size,
        vocab_size: fields.size("vocab_size", Some(defaults.vocab_size), VOCABULARY)?,
        max_positions: fields.size("max_position_embeddings", Some(32_768), POSITIONS)?,
        rms_norm_eps: rms_norm_eps(fields)?,
        layers,
        attention: attention(fields, family, hidden_size, &defaults)?,
        delta_net,
        moe,
        dense_intermediate_size,
        tied_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: eos_token_ids(fields)?,
    })
}

/// Fields that transformers reads and whose other values ask for a computation that is not implemented.
fn refuse_other_computations(fields: &mut Fields<'_>, family: Family) -> Result<(), CheckpointError> {
    if let Some(value) = fields.value("hidden_act")
        && !matches!(value.as_str(), Some("silu" | "swish"))
    {
        return Err(fields.unsupported("hidden_act", value, "silu"));
    }
    if fields.flag("attention_bias")? == Some(true) {
        return Err(fields.unsupported("attention_bias", &Value::Bool(true), "false"));
    }
    match family {
        Family::Qwen35Moe | Family::Qwen3Next => {
            // transformers does not read it and always has the gate; vLLM reads it.
            if fields.flag("attn_output_gate")? == Some(false) {
                return Err(fields.unsupported("attn_output_gate", &Value::Bool(false), "true"));
            }
        }
        Family::Qwen3Moe => {
            // The window's size is 4096 where the field is missing, and there is none where it is null.
            let window = fields.value("sliding_window").is_some() || !fields.has("sliding_window");
            if fields.flag("use_sliding_window")? == Some(true) && window {
                return Err(fields.unsupported("use_sliding_window", &Value::Bool(true), "false"));
            }
        }
    }
    Ok(())
}

/// Re-saved configs write `num_local_experts`.
fn n_experts(fields: &mut Fields<'_>, family: Family, defaults: &Defaults) -> Result<usize, CheckpointError> {
    let bounds = match family {
        Family::Qwen35Moe => EXPERTS,
        // 0: every layer is dense.
        Family::Qwen3Next | Family::Qwen3Moe => (0, EXPERTS.1),
    };
    let Some(local) = fields.value("num_local_experts") else {
        return fields.size("num_experts", Some(defaults.n_experts), bounds);
    };
    let local = fields.bounded("num_local_experts", local, bounds)?;
    let n_experts = fields.value("num_experts");
    match n_experts.map(|value| fields.bounded("num_experts", value, bounds)).transpose()? {
        Some(n) if n != local => Err(fields.disagree(
            ("num_experts", n),
            ("num_local_experts", local),
            "they are two names of one number",
        )),
        _ => Ok(local),
    }
}

fn moe(
    fields: &mut Fields<'_>,
    family: Family,
    n_experts: usize,
    defaults: &Defaults,
) -> Result<MoeSpec, CheckpointError> {
    let top_k = fields.size("num_experts_per_tok", Some(defaults.top_k), EXPERTS)?;
    if top_k > n_experts {
        return Err(fields.disagree(
            ("num_experts_per_tok", top_k),
            ("num_experts", n_experts),
            "a token cannot use more experts than there are",
        ));
    }
    let shared = match defaults.shared_intermediate_size {
        Some(default) => Some(fields.size("shared_expert_intermediate_size", Some(default), (0, WIDTH.1))?),
        None => None,
    };
    Ok(MoeSpec {
        n_experts,
        top_k,
        intermediate_size: fields.size(
            "moe_intermediate_size",
            Some(defaults.moe_intermediate_size),
            WIDTH,
        )?,
        shared_intermediate_size: shared.filter(|&size| size > 0),
        normalize_top_k: match family {
            Family::Qwen35Moe => true,
            Family::Qwen3Next | Family::Qwen3Moe => {
                fields.flag_or("norm_topk_prob", defaults.norm_topk_prob)?
            }
        },
    })
}

fn delta_net(fields: &mut Fields<'_>, defaults: &Defaults) -> Result<DeltaNetSpec, CheckpointError> {
    let n_key_heads = fields.size("linear_num_key_heads", Some(16), HEADS)?;
    let n_value_heads = fields.size("linear_num_value_heads", Some(defaults.n_value_heads), HEADS)?;
    if n_value_heads % n_key_heads != 0 {
        return Err(fields.disagree(
            ("linear_num_value_heads", n_value_heads),
            ("linear_num_key_heads", n_key_heads),
            "it must be a multiple",
        ));
    }
    Ok(DeltaNetSpec {
        n_key_heads,
        n_value_heads,
        key_dim: fields.size("linear_key_head_dim", Some(128), HEAD_DIM)?,
        value_dim: fields.size("linear_value_head_dim", Some(128), HEAD_DIM)?,
        conv_kernel: fields.size("linear_conv_kernel_dim", Some(4), TAPS)?,
        head_order: HeadOrder::Grouped,
    })
}

fn attention(
    fields: &mut Fields<'_>,
    family: Family,
    hidden_size: usize,
    defaults: &Defaults,
) -> Result<AttentionSpec, CheckpointError> {
    let n_heads = fields.size("num_attention_heads", Some(defaults.n_heads), HEADS)?;
    let n_kv_heads = fields.size("num_key_value_heads", Some(defaults.n_kv_heads), HEADS)?;
    if n_heads % n_kv_heads != 0 {
        return Err(fields.disagree(
            ("num_attention_heads", n_heads),
            ("num_key_value_heads", n_kv_heads),
            "it must be a multiple",
        ));
    }
    let head_dim = match (fields.value("head_dim"), defaults.head_dim) {
        (Some(value), _) => fields.bounded("head_dim", value, HEAD_DIM)?,
        (None, Some(default)) => fields.size("head_dim", Some(default), HEAD_DIM)?,
        (None, None) if hidden_size < n_heads => {
            return Err(fields.disagree(
                ("num_attention_heads", n_heads),
                ("hidden_size", hidden_size),
                "head_dim is missing, and a head would have no values",
            ));
        }
        (None, None) => fields.size("head_dim", Some(hidden_size / n_heads), HEAD_DIM)?,
    };
    let (rope_theta, rotary_dim) = rope::parse(fields, head_dim, defaults.partial_rotary_factor)?;
    Ok(AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        rotary_dim,
        rope_theta,
        gated: family != Family::Qwen3Moe,
    })
}

fn rms_norm_eps(fields: &mut Fields<'_>) -> Result<f32, CheckpointError> {
    let eps = fields.number("rms_norm_eps")?.unwrap_or_else(|| {
        fields.note_defaulted("rms_norm_eps", 1e-6);
        1e-6
    });
    match (0.0..1.0).contains(&eps) {
        true => Ok(eps as f32),
        false => Err(fields.unsupported("rms_norm_eps", &Value::from(eps), "a number in 0..1")),
    }
}

/// A number or a list of numbers.
fn eos_token_ids(fields: &mut Fields<'_>) -> Result<Vec<u32>, CheckpointError> {
    const NAME: &str = "eos_token_id";
    let Some(value) = fields.value(NAME) else { return Ok(Vec::new()) };
    let ids = match value {
        Value::Array(ids) => ids.as_slice(),
        one => std::slice::from_ref(one),
    };
    ids.iter().map(|id| Ok(fields.bounded(NAME, id, (0, VOCABULARY.1))? as u32)).collect()
}
