//! From metadata to [`ModelSpec`]: the keys below the architecture's name, read as llama.cpp reads them
//! (`src/models/{qwen35moe,qwen3next,qwen3moe}.cpp`).

use std::collections::BTreeSet;

use super::error::Problem;
use super::value::{Array, Metadata, Value};
use crate::note::Note;
use crate::spec::{
    AttentionSpec, DeltaNetSpec, Family, FfnKind, HeadOrder, LayerKind, MixerKind, ModelSpec, MoeSpec,
};

/// Bounds of the sizes, as for configs: far above any model, and low enough that no product of three of them leaves 64 bits.
const LAYERS: (u64, u64) = (1, 4096);
const WIDTH: (u64, u64) = (1, 1 << 20);
const POSITIONS: (u64, u64) = (1, 1 << 31);
const HEADS: (u64, u64) = (1, 1 << 14);
const HEAD_DIM: (u64, u64) = (1, 1 << 14);
const EXPERTS: (u64, u64) = (1, 1 << 16);
const TAPS: (u64, u64) = (1, 64);
const VOCABULARY: (u64, u64) = (1, 1 << 24);

/// Keys whose values ask for a computation that is not implemented, unless they are one of the neutral ones.
const NEUTRAL: [(&str, &[f64], &str); 12] = [
    ("rope.scaling.factor", &[0.0, 1.0], "1"),
    ("rope.scale_linear", &[0.0, 1.0], "1"),
    ("rope.scaling.attn_factor", &[0.0, 1.0], "1"),
    ("expert_weights_scale", &[0.0, 1.0], "1"),
    ("expert_gating_func", &[0.0, 1.0], "1 (softmax)"),
    ("expert_group_count", &[0.0, 1.0], "1"),
    ("attention.scale", &[0.0], "0 (one over the root of the head's size)"),
    ("attention.clamp_kqv", &[0.0], "0"),
    ("attention.max_alibi_bias", &[0.0], "0"),
    ("logit_scale", &[0.0, 1.0], "1"),
    ("final_logit_softcapping", &[0.0], "0"),
    ("leading_dense_block_count", &[0.0], "0"),
];

/// Keys that say nothing that is not known otherwise.
const BOOKKEEPING: [&str; 4] =
    ["vocab_size", "rope.dimension_sections", "feed_forward_length", "expert_group_used_count"];

/// What the metadata says of the model.
pub(super) struct Params {
    /// `vocab_size` and `tied_embeddings` are not in the metadata: they are 0 and false until the tensors have been seen.
    pub(super) spec: ModelSpec,
    /// Blocks behind the model's own that predict further tokens.
    pub(super) n_extra_blocks: usize,
    pub(super) notes: Vec<Note>,
}

/// Reads the metadata of a model.
pub(super) fn parse(metadata: &Metadata) -> Result<Params, Problem> {
    const ARCHITECTURE: &str = "general.architecture";
    let value = metadata.get(ARCHITECTURE).ok_or(Problem::MissingKey { key: ARCHITECTURE.to_owned() })?;
    let (family, prefix) = match value.as_str() {
        Some("qwen35moe") => (Family::Qwen35Moe, "qwen35moe"),
        Some("qwen3next") => (Family::Qwen3Next, "qwen3next"),
        Some("qwen3moe") => (Family::Qwen3Moe, "qwen3moe"),
        Some(other) => return Err(Problem::UnknownArchitecture { architecture: other.to_owned() }),
        None => {
            let (key, expected) = (ARCHITECTURE.to_owned(), "a string");
            return Err(Problem::KeyType { key, found: value.kind(), expected });
        }
    };
    let mut keys = Keys { metadata, prefix, read: BTreeSet::new() };
    keys.refuse_other_computations()?;
    let (layers, n_extra_blocks) = keys.layers(family)?;
    let attention = keys.attention(family, &layers)?;
    let delta_net = match family {
        Family::Qwen35Moe | Family::Qwen3Next => Some(keys.delta_net(family)?),
        Family::Qwen3Moe => None,
    };
    let spec = ModelSpec {
        family,
        hidden_size: keys.size("embedding_length", WIDTH)?,
        vocab_size: 0,
        max_positions: keys.size("context_length", POSITIONS)?,
        rms_norm_eps: keys.rms_norm_eps()?,
        moe: Some(keys.moe(family)?),
        layers,
        attention,
        delta_net,
        dense_intermediate_size: None,
        tied_embeddings: false,
        eos_token_ids: eos_token_ids(metadata)?,
    };
    Ok(Params { spec, n_extra_blocks, notes: keys.into_notes() })
}

/// The keys below the architecture's name, with a memory of what was read.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
    read: BTreeSet<String>,
}

impl<'a> Keys<'a> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn value(&mut self, key: &str) -> Option<&'a Value> {
        let full = self.full(key);
        let value = self.metadata.get(&full);
        self.read.insert(full);
        value
    }

    fn need(&mut self, key: &str) -> Result<&'a Value, Problem> {
        self.value(key).ok_or_else(|| Problem::MissingKey { key: self.full(key) })
    }

    fn size(&mut self, key: &str, bounds: (u64, u64)) -> Result<usize, Problem> {
        let value = self.need(key)?;
        bounded(&self.full(key), value, bounds)
    }

    fn optional_size(&mut self, key: &str, bounds: (u64, u64)) -> Result<Option<usize>, Problem> {
        self.value(key).map(|value| bounded(&self.full(key), value, bounds)).transpose()
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || Problem::KeyType { key: self.full(key), found: value.kind(), expected: "a number" };
        value.as_f64().map(Some).ok_or_else(wrong)
    }

    fn unsupported(&self, key: &str, value: impl ToString, supported: &'static str) -> Problem {
        Problem::KeyUnsupported { key: self.full(key), value: value.to_string(), supported }
    }

    fn disagree(
        &self,
        (key, value): (&str, usize),
        (other, other_value): (&str, usize),
        rule: &'static str,
    ) -> Problem {
        Problem::KeysDisagree {
            key: self.full(key),
            value: value as u64,
            other: self.full(other),
            other_value: other_value as u64,
            rule,
        }
    }

    fn refuse_other_computations(&mut self) -> Result<(), Problem> {
        for (key, neutral, supported) in NEUTRAL {
            if let Some(number) = self.number(key)?
                && !neutral.contains(&number)
            {
                return Err(self.unsupported(key, number, supported));
            }
        }
        const SCALING: &str = "rope.scaling.type";
        match self.value(SCALING) {
            Some(value) if value.as_str() != Some("none") => Err(self.unsupported(SCALING, value, "none")),
            _ => Ok(()),
        }
    }

    /// The layers, and the number of blocks behind them. `block_count` counts both.
    fn layers(&mut self, family: Family) -> Result<(Vec<LayerKind>, usize), Problem> {
        let n_blocks = self.size("block_count", LAYERS)?;
        let n_extra = self.optional_size("nextn_predict_layers", (0, LAYERS.1))?.unwrap_or(0);
        if n_extra >= n_blocks {
            return Err(self.disagree(
                ("nextn_predict_layers", n_extra),
                ("block_count", n_blocks),
                "block_count includes them and at least one more",
            ));
        }
        let mixers = self.mixers(family, n_blocks)?;
        let layers = mixers.into_iter().take(n_blocks - n_extra);
        Ok((layers.map(|mixer| LayerKind { mixer, ffn: FfnKind::Moe }).collect(), n_extra))
    }

    /// `attention.recurrent_layers` if it is there; files converted by ollama have no kv heads in recurrent layers; otherwise
    /// `full_attention_interval`, 4 if absent.
    fn mixers(&mut self, family: Family, n_blocks: usize) -> Result<Vec<MixerKind>, Problem> {
        const RECURRENT: &str = "attention.recurrent_layers";
        const KV_HEADS: &str = "attention.head_count_kv";
        if family == Family::Qwen3Moe {
            return Ok(vec![MixerKind::Attention; n_blocks]);
        }
        let mixer = |recurrent| if recurrent { MixerKind::DeltaNet } else { MixerKind::Attention };
        if let Some(value) = self.value(RECURRENT) {
            let flags: Option<Vec<bool>> =
                value.as_array().map(|array| array.numbers().map_while(|flag| flag.as_bool()).collect());
            let Some(flags) = flags else {
                let (key, expected) = (self.full(RECURRENT), "an array of bools");
                return Err(Problem::KeyType { key, found: value.kind(), expected });
            };
            if flags.len() != n_blocks {
                return Err(self.disagree(
                    (RECURRENT, flags.len()),
                    ("block_count", n_blocks),
                    "there must be one bool a block",
                ));
            }
            return Ok(flags.into_iter().map(mixer).collect());
        }
        if let Some(array) = self.value(KV_HEADS).and_then(Value::as_array) {
            let heads = self.per_block(KV_HEADS, array, n_blocks)?;
            if heads.contains(&0) {
                return Ok(heads.into_iter().map(|n| mixer(n == 0)).collect());
            }
        }
        let interval = self.optional_size("full_attention_interval", LAYERS)?.unwrap_or(4);
        Ok((1..=n_blocks).map(|nth| mixer(nth % interval != 0)).collect())
    }

    /// One whole number a block.
    fn per_block(&self, key: &str, array: &Array, n_blocks: usize) -> Result<Vec<usize>, Problem> {
        if array.len() != n_blocks as u64 {
            return Err(self.disagree(
                (key, usize::try_from(array.len()).unwrap_or(usize::MAX)),
                ("block_count", n_blocks),
                "there must be one number a block",
            ));
        }
        let full = self.full(key);
        let numbers: Vec<usize> =
            array.numbers().map(|value| bounded(&full, &value, (0, HEADS.1))).collect::<Result<_, _>>()?;
        match numbers.len() == n_blocks {
            true => Ok(numbers),
            false => {
                Err(Problem::KeyType { key: full, found: array.kind(), expected: "an array of numbers" })
            }
        }
    }

    /// A number of heads: one for all layers, or one a block, of which those with attention must be equal.
    fn heads(&mut self, key: &str, layers: &[LayerKind], n_blocks: usize) -> Result<usize, Problem> {
        let value = self.need(key)?;
        let Some(array) = value.as_array() else { return bounded(&self.full(key), value, HEADS) };
        let numbers = self.per_block(key, array, n_blocks)?;
        let mut used = layers
            .iter()
            .zip(numbers)
            .filter(|(layer, _)| layer.mixer == MixerKind::Attention)
            .map(|(_, number)| number);
        let first = used.next().unwrap_or(1);
        match first > 0 && used.all(|number| number == first) {
            true => Ok(first),
            false => {
                Err(self.unsupported(key, value, "the same number, above 0, in every layer with attention"))
            }
        }
    }

    fn attention(&mut self, family: Family, layers: &[LayerKind]) -> Result<AttentionSpec, Problem> {
        let n_blocks = self.size("block_count", LAYERS)?;
        let n_heads = self.heads("attention.head_count", layers, n_blocks)?;
        let n_kv_heads = self.heads("attention.head_count_kv", layers, n_blocks)?;
        if n_heads % n_kv_heads != 0 {
            return Err(self.disagree(
                ("attention.head_count", n_heads),
                ("attention.head_count_kv", n_kv_heads),
                "it must be a multiple",
            ));
        }
        let head_dim = self.size("attention.key_length", HEAD_DIM)?;
        let value_dim = self.optional_size("attention.value_length", HEAD_DIM)?.unwrap_or(head_dim);
        if value_dim != head_dim {
            return Err(self.disagree(
                ("attention.value_length", value_dim),
                ("attention.key_length", head_dim),
                "they must be equal",
            ));
        }
        let rotary_dim = self.optional_size("rope.dimension_count", HEAD_DIM)?.unwrap_or(head_dim);
        if rotary_dim > head_dim || rotary_dim % 2 != 0 {
            return Err(self.disagree(
                ("rope.dimension_count", rotary_dim),
                ("attention.key_length", head_dim),
                "it must be even and no more than a head",
            ));
        }
        let rope_theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        if !(rope_theta.is_finite() && rope_theta > 0.0) {
            return Err(self.unsupported("rope.freq_base", rope_theta, "a positive number"));
        }
        let gated = family != Family::Qwen3Moe;
        Ok(AttentionSpec { n_heads, n_kv_heads, head_dim, rotary_dim, rope_theta, gated })
    }

    fn delta_net(&mut self, family: Family) -> Result<DeltaNetSpec, Problem> {
        let n_key_heads = self.size("ssm.group_count", HEADS)?;
        let n_value_heads = self.size("ssm.time_step_rank", HEADS)?;
        if n_value_heads % n_key_heads != 0 {
            return Err(self.disagree(
                ("ssm.time_step_rank", n_value_heads),
                ("ssm.group_count", n_key_heads),
                "it must be a multiple",
            ));
        }
        let inner_size = self.size("ssm.inner_size", (1, HEADS.1 * HEAD_DIM.1))?;
        if inner_size % n_value_heads != 0 {
            return Err(self.disagree(
                ("ssm.inner_size", inner_size),
                ("ssm.time_step_rank", n_value_heads),
                "it must be a multiple",
            ));
        }
        Ok(DeltaNetSpec {
            n_key_heads,
            n_value_heads,
            key_dim: self.size("ssm.state_size", HEAD_DIM)?,
            value_dim: inner_size / n_value_heads,
            conv_kernel: self.size("ssm.conv_kernel", TAPS)?,
            // llama.cpp's converter reorders the value heads of qwen35moe only; with one value head a key head both are one.
            head_order: match family {
                Family::Qwen35Moe if n_value_heads != n_key_heads => HeadOrder::Tiled,
                _ => HeadOrder::Grouped,
            },
        })
    }

    fn moe(&mut self, family: Family) -> Result<MoeSpec, Problem> {
        let n_experts = self.size("expert_count", EXPERTS)?;
        let top_k = self.size("expert_used_count", EXPERTS)?;
        if top_k > n_experts {
            return Err(self.disagree(
                ("expert_used_count", top_k),
                ("expert_count", n_experts),
                "a token cannot use more experts than there are",
            ));
        }
        // llama.cpp falls back to the dense width where these are missing.
        let dense = self.optional_size("feed_forward_length", (0, WIDTH.1))?.filter(|&size| size > 0);
        let shared = self.optional_size("expert_shared_feed_forward_length", (0, WIDTH.1))?;
        let shared = shared.filter(|&size| size > 0).or(dense);
        const SIZE: &str = "expert_feed_forward_length";
        let own =
            self.optional_size(SIZE, WIDTH)?.or(dense.map(|size| size / top_k).filter(|&size| size > 0));
        let missing = |keys: &Self, key| Problem::MissingKey { key: keys.full(key) };
        let normalize = match self.value("expert_weights_norm") {
            Some(value) => value.as_bool().ok_or_else(|| Problem::KeyType {
                key: self.full("expert_weights_norm"),
                found: value.kind(),
                expected: "a bool",
            })?,
            None => true,
        };
        Ok(MoeSpec {
            n_experts,
            top_k,
            intermediate_size: own.ok_or_else(|| missing(self, SIZE))?,
            shared_intermediate_size: match family {
                Family::Qwen3Moe => None,
                Family::Qwen35Moe | Family::Qwen3Next => {
                    Some(shared.ok_or_else(|| missing(self, "expert_shared_feed_forward_length"))?)
                }
            },
            normalize_top_k: normalize,
        })
    }

    fn rms_norm_eps(&mut self) -> Result<f32, Problem> {
        const KEY: &str = "attention.layer_norm_rms_epsilon";
        let eps = self.number(KEY)?.ok_or_else(|| Problem::MissingKey { key: self.full(KEY) })?;
        match (0.0..1.0).contains(&eps) {
            true => Ok(eps as f32),
            false => Err(self.unsupported(KEY, eps, "a number in 0..1")),
        }
    }

    /// Notes on the architecture's keys that nothing read.
    fn into_notes(self) -> Vec<Note> {
        let start = format!("{}.", self.prefix);
        let unread = |key: &str| {
            key.strip_prefix(&start)
                .is_some_and(|rest| !self.read.contains(key) && !BOOKKEEPING.contains(&rest))
        };
        self.metadata
            .iter()
            .filter(|(key, _)| unread(key))
            .map(|(key, value)| Note::IgnoredField { field: key.to_owned(), value: value.to_string() })
            .collect()
    }
}

/// A whole number within `min..=max`.
fn bounded(key: &str, value: &Value, (min, max): (u64, u64)) -> Result<usize, Problem> {
    match value {
        Value::Unsigned(number) if (min..=max).contains(number) => Ok(*number as usize),
        Value::Unsigned(_) | Value::Negative(_) => {
            Err(Problem::KeyRange { key: key.to_owned(), value: value.to_string(), min, max })
        }
        _ => Err(Problem::KeyType { key: key.to_owned(), found: value.kind(), expected: "a whole number" }),
    }
}

/// The tokens that end a text or a turn.
fn eos_token_ids(metadata: &Metadata) -> Result<Vec<u32>, Problem> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        let Some(value) = metadata.get(key) else { continue };
        let id = bounded(key, value, (0, VOCABULARY.1))? as u32;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}
