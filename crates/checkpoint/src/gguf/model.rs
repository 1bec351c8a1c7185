//! From a GGUF file to a model: which tensor is which weight.

use super::error::{GgufError, Problem};
use super::files::Gguf;
use super::params::{self, Params};
use super::tensors::Tensors;
use crate::bundles::LayerBundles;
use crate::modules::Stored;
use crate::note::{Note, SkippedGroup};
use crate::spec::{AttentionSpec, DeltaNetSpec, Family, MixerKind, ModelSpec, MoeSpec};
use crate::weights::{
    AttentionRef, DeltaNetRef, FfnRef, GluRef, LayerRef, MatrixRef, MixerRef, SharedExpertRef, Trunk,
};

/// A model and where its weights lie.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GgufModel {
    pub(crate) spec: ModelSpec,
    pub(crate) trunk: Trunk,
    /// The routed experts of each layer.
    pub(crate) bundles: Vec<LayerBundles>,
    /// Keys and tensors that nothing uses.
    pub(crate) notes: Vec<Note>,
}

/// Reads the metadata and finds every weight.
pub(crate) fn describe(gguf: &Gguf) -> Result<GgufModel, GgufError> {
    find(gguf).map_err(|problem| GgufError::new(&gguf.files()[0].path, problem))
}

fn find(gguf: &Gguf) -> Result<GgufModel, Problem> {
    let Params { mut spec, n_extra_blocks, mut notes } = params::parse(gguf.metadata())?;
    let mut tensors = Tensors::of(gguf);
    // The vocabulary's size is the table's; a `vocab_size` in the metadata would only repeat it.
    const EMBED: &str = "token_embd.weight";
    let rows = tensors.dims(EMBED).and_then(|dims| dims.get(1)).copied();
    spec.vocab_size = rows.unwrap_or(0) as usize;
    let (vocab, hidden) = (spec.vocab_size, spec.hidden_size);
    let embed = tensors.matrix(EMBED, (vocab, hidden), "the embedding")?;
    let mut layers = Vec::new();
    let mut bundles = Vec::new();
    for i in 0..spec.layers.len() {
        let (layer, experts) = layer(&mut tensors, &spec, i)?;
        layers.push(layer);
        bundles.push(experts);
    }
    let final_norm = tensors.vector("output_norm.weight", &[hidden], "the last norm")?;
    const HEAD: &str = "output.weight";
    spec.tied_embeddings = !tensors.contains(HEAD);
    let head = match spec.tied_embeddings {
        true => None,
        false => Some(tensors.matrix(HEAD, (vocab, hidden), "the head")?),
    };
    notes.extend(leftovers(&tensors, spec.layers.len(), n_extra_blocks)?);
    Ok(GgufModel { spec, trunk: Trunk { embed, layers, final_norm, head }, bundles, notes })
}

/// Layer `i`, and its routed experts.
fn layer(tensors: &mut Tensors<'_>, spec: &ModelSpec, i: usize) -> Result<(LayerRef, LayerBundles), Problem> {
    const NORM: &str = "a norm";
    let (at, hidden) = (format!("blk.{i}"), spec.hidden_size);
    let input_norm = tensors.vector(&format!("{at}.attn_norm.weight"), &[hidden], NORM)?;
    let mixer = match spec.layers[i].mixer {
        MixerKind::Attention => MixerRef::Attention(attention(tensors, &at, hidden, &spec.attention)?),
        MixerKind::DeltaNet => {
            let sizes = spec.delta_net.as_ref().expect("a family with DeltaNet layers has their sizes");
            MixerRef::DeltaNet(Box::new(delta_net(tensors, &at, spec.family, hidden, sizes)?))
        }
    };
    let post_norm = match spec.family {
        Family::Qwen35Moe | Family::Qwen3Next => "post_attention_norm",
        Family::Qwen3Moe => "ffn_norm",
    };
    let post_norm = tensors.vector(&format!("{at}.{post_norm}.weight"), &[hidden], NORM)?;
    let sizes = spec.moe.as_ref().expect("these families have experts");
    let (ffn, bundles) = moe(tensors, &at, hidden, sizes)?;
    Ok((LayerRef { input_norm, mixer, post_norm, ffn }, bundles))
}

fn attention(
    tensors: &mut Tensors<'_>,
    at: &str,
    hidden: usize,
    sizes: &AttentionSpec,
) -> Result<AttentionRef, Problem> {
    const NEEDED_BY: &str = "attention";
    let (heads, kv) = (sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim);
    let queries = if sizes.gated { 2 * heads } else { heads };
    let fused = format!("{at}.attn_qkv.weight");
    // A converter may have joined the three: all q, all k, all v.
    let [q, k, v] = if tensors.contains(&fused) {
        let all = tensors.stored(&fused, None, (queries + 2 * kv, hidden), NEEDED_BY)?;
        [(0, queries), (queries, kv), (queries + kv, kv)].map(|run| gather(&all, [run].into_iter()))
    } else {
        let mut find = |name, rows| tensors.matrix(&format!("{at}.{name}.weight"), (rows, hidden), NEEDED_BY);
        [find("attn_q", queries)?, find("attn_k", kv)?, find("attn_v", kv)?]
    };
    let mut norm = |name| tensors.vector(&format!("{at}.{name}.weight"), &[sizes.head_dim], NEEDED_BY);
    let (q_norm, k_norm) = (norm("attn_q_norm")?, norm("attn_k_norm")?);
    let o = tensors.matrix(&format!("{at}.attn_output.weight"), (hidden, heads), NEEDED_BY)?;
    Ok(AttentionRef { q, k, v, o, q_norm, k_norm })
}

fn delta_net(
    tensors: &mut Tensors<'_>,
    at: &str,
    family: Family,
    hidden: usize,
    sizes: &DeltaNetSpec,
) -> Result<DeltaNetRef, Problem> {
    const NEEDED_BY: &str = "Gated DeltaNet";
    let n_heads = sizes.n_value_heads;
    let [qkv, z] = qkv_and_z(tensors, at, family, hidden, sizes)?;
    let [b, a] = match family {
        Family::Qwen3Next => {
            let rows = (2 * n_heads, hidden);
            let ba = tensors.stored(&format!("{at}.ssm_ba.weight"), None, rows, NEEDED_BY)?;
            [0, 1].map(|first| gather_ba(&ba, first, sizes))
        }
        Family::Qwen35Moe | Family::Qwen3Moe => [
            tensors.matrix(&format!("{at}.ssm_beta.weight"), (n_heads, hidden), NEEDED_BY)?,
            tensors.matrix(&format!("{at}.ssm_alpha.weight"), (n_heads, hidden), NEEDED_BY)?,
        ],
    };
    let mut vector = |name: &str, dims: &[usize]| tensors.vector(&format!("{at}.{name}"), dims, NEEDED_BY);
    Ok(DeltaNetRef {
        qkv,
        z,
        b,
        a,
        conv: vector("ssm_conv1d.weight", &[sizes.conv_kernel, sizes.conv_channels()])?,
        decay: vector("ssm_a", &[n_heads])?,
        dt_bias: vector("ssm_dt.bias", &[n_heads])?,
        norm: vector("ssm_norm.weight", &[sizes.value_dim])?,
        // Its columns are in the order of the value heads, tiled or not, as everything else is.
        out: tensors.matrix(&format!("{at}.ssm_out.weight"), (hidden, sizes.values()), NEEDED_BY)?,
    })
}

/// `attn_qkv` and `attn_gate`; older files of `qwen3next` have `ssm_in`, which interleaves both by key head.
fn qkv_and_z(
    tensors: &mut Tensors<'_>,
    at: &str,
    family: Family,
    hidden: usize,
    sizes: &DeltaNetSpec,
) -> Result<[MatrixRef; 2], Problem> {
    const NEEDED_BY: &str = "Gated DeltaNet";
    let both = format!("{at}.ssm_in.weight");
    if family != Family::Qwen3Next || !tensors.contains(&both) {
        let mut find = |name, rows| tensors.matrix(&format!("{at}.{name}.weight"), (rows, hidden), NEEDED_BY);
        return Ok([find("attn_qkv", sizes.conv_channels())?, find("attn_gate", sizes.values())?]);
    }
    // For each key head: its q, its k, its value heads, the z of its value heads.
    let (n, key_dim) = (sizes.n_key_heads, sizes.key_dim);
    let values = sizes.values() / n;
    let stride = 2 * key_dim + 2 * values;
    let both = tensors.stored(&both, None, (n * stride, hidden), NEEDED_BY)?;
    let runs = |first: usize, len: usize| (0..n).map(move |head| (head * stride + first, len));
    let qkv = runs(0, key_dim).chain(runs(key_dim, key_dim)).chain(runs(2 * key_dim, values));
    Ok([gather(&both, qkv), gather(&both, runs(2 * key_dim + values, values))])
}

/// The b's (`first` 0) or a's (1) of `ssm_ba`, which holds, for each key head, those of its value heads.
fn gather_ba(ba: &Stored, first: usize, sizes: &DeltaNetSpec) -> MatrixRef {
    let each = sizes.n_value_heads / sizes.n_key_heads;
    gather(ba, (0..sizes.n_key_heads).map(|head| ((2 * head + first) * each, each)))
}

/// Rows of a matrix as a matrix of its own; GGML's rows share nothing, so that any will do.
fn gather(stored: &Stored, runs: impl Iterator<Item = (usize, usize)>) -> MatrixRef {
    stored.gather(runs).expect("rows that share nothing")
}

/// Router, shared expert and routed experts.
fn moe(
    tensors: &mut Tensors<'_>,
    at: &str,
    hidden: usize,
    sizes: &MoeSpec,
) -> Result<(FfnRef, LayerBundles), Problem> {
    const SHARED: &str = "the shared expert";
    let router =
        tensors.matrix(&format!("{at}.ffn_gate_inp.weight"), (sizes.n_experts, hidden), "the router")?;
    let shared = match sizes.shared_intermediate_size {
        None => None,
        Some(size) => {
            let mut find = |name, shape| tensors.matrix(&format!("{at}.{name}.weight"), shape, SHARED);
            let glu = GluRef {
                gate: find("ffn_gate_shexp", (size, hidden))?,
                up: find("ffn_up_shexp", (size, hidden))?,
                down: find("ffn_down_shexp", (hidden, size))?,
            };
            Some(SharedExpertRef { glu, gate_logit: find("ffn_gate_inp_shexp", (1, hidden))? })
        }
    };
    Ok((FfnRef::Moe { router, shared }, experts(tensors, at, hidden, sizes)?))
}

/// Stacks of all experts; a converter may have joined gate and up: all gate rows of an expert, then its up rows.
fn experts(
    tensors: &mut Tensors<'_>,
    at: &str,
    hidden: usize,
    sizes: &MoeSpec,
) -> Result<LayerBundles, Problem> {
    const NEEDED_BY: &str = "the routed experts";
    let (n, size) = (sizes.n_experts, sizes.intermediate_size);
    let name = |name| format!("{at}.{name}.weight");
    let down = tensors.stored(&name("ffn_down_exps"), Some(n), (hidden, size), NEEDED_BY)?;
    let fused = name("ffn_gate_up_exps");
    if tensors.contains(&fused) {
        let both = tensors.stored(&fused, Some(n), (2 * size, hidden), NEEDED_BY)?;
        return Ok(LayerBundles::of_stacks(n, [(&both, 0, size), (&both, size, size), (&down, 0, hidden)]));
    }
    let gate = tensors.stored(&name("ffn_gate_exps"), Some(n), (size, hidden), NEEDED_BY)?;
    let up = tensors.stored(&name("ffn_up_exps"), Some(n), (size, hidden), NEEDED_BY)?;
    Ok(LayerBundles::of_stacks(n, [(&gate, 0, size), (&up, 0, size), (&down, 0, hidden)]))
}

/// A note on the blocks that predict further tokens; any other tensor that nothing uses would have changed the results.
fn leftovers(tensors: &Tensors<'_>, n_layers: usize, n_extra: usize) -> Result<Option<Note>, Problem> {
    let (mut count, mut bytes, mut first) = (0, 0, None);
    for tensor in tensors.left() {
        let block = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        if !block.is_some_and(|block: usize| (n_layers..n_layers + n_extra).contains(&block)) {
            return Err(Problem::UnusedTensor { tensor: tensor.name.clone() });
        }
        count += 1;
        bytes += tensor.len;
        first.get_or_insert(&tensor.name);
    }
    let group = SkippedGroup::MultiTokenPrediction;
    Ok(first.map(|first| Note::SkippedTensors { group, count, bytes, first: first.clone() }))
}
