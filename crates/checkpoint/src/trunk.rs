//! From names to roles: finds the weights of each layer, whatever convention the files follow.

use crate::bundles::LayerBundles;
use crate::error::CheckpointError;
use crate::modules::Modules;
use crate::names;
use crate::note::Note;
use crate::spec::{AttentionSpec, DeltaNetSpec, Family, FfnKind, MixerKind, ModelSpec};
use crate::weights::{
    AttentionRef, DeltaNetRef, FfnRef, GluRef, LayerRef, MatrixRef, MixerRef, SharedExpertRef, Trunk,
    VectorMap, VectorRef,
};

/// The weights of a model.
pub(crate) struct Weights {
    pub(crate) trunk: Trunk,
    /// One entry a layer; `None` where it is dense.
    pub(crate) bundles: Vec<Option<LayerBundles>>,
    pub(crate) convention: Convention,
}

/// How the files hold what the two worlds store differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// As transformers: norms hold `w` of `1 + w` in the families that add the 1, the convolution is `[C, 1, K]`.
    HuggingFace,
    /// As mlx-lm: norms hold what is multiplied, the convolution is `[C, K, 1]`.
    Mlx,
    /// As llama.cpp's converter: norms hold what is multiplied, the decay is ready for use, value heads may be tiled.
    LlamaCpp,
    /// As the packed form: every vector holds what the formulas use.
    Packed,
}

/// Takes the weights of `spec` out of the table. `spec.tied_embeddings` comes in as the config's claim and goes out as what
/// the files hold.
pub(crate) fn find(
    modules: &mut Modules<'_>,
    spec: &mut ModelSpec,
    notes: &mut Vec<Note>,
) -> Result<Weights, CheckpointError> {
    let (hidden, vocab) = (spec.hidden_size, spec.vocab_size);
    let prefix = prefix(modules)?;
    let convention = convention(modules, prefix, spec);
    let names = Names { prefix, spec, convention };
    let embed = modules.matrix(&format!("{prefix}embed_tokens"), (vocab, hidden), "the embedding")?;
    let mut layers = Vec::new();
    let mut bundles = Vec::new();
    for i in 0..spec.layers.len() {
        let (layer, experts) = names.layer(modules, i)?;
        layers.push(layer);
        bundles.push(experts);
    }
    let final_norm = names.norm(modules, &format!("{prefix}norm"), hidden)?;
    let head = head(modules, spec)?;
    if let Some(head) = head.as_ref().filter(|_| spec.tied_embeddings) {
        notes.push(Note::StoredHead { tensor: head.name.clone() });
    }
    spec.tied_embeddings = head.is_none();
    Ok(Weights { trunk: Trunk { embed, layers, final_norm, head }, bundles, convention })
}

fn prefix(modules: &Modules<'_>) -> Result<&'static str, CheckpointError> {
    let found =
        names::PREFIXES.into_iter().find(|prefix| modules.contains(&format!("{prefix}embed_tokens.weight")));
    found.ok_or_else(|| CheckpointError::MissingTensor {
        dir: modules.dir.to_owned(),
        tensor: format!("{}embed_tokens.weight", names::PREFIXES[2]),
        needed_by: "the embedding (also looked for below model.language_model. and language_model.model.)",
    })
}

/// Tells mlx-lm's files from transformers'.
///
/// The shape of the convolution is the sign, as mlx-lm itself uses it to know whether a file is still to be converted: it
/// moves the taps to the middle dimension and adds 1 to the norms in one step, quantised or not. Where it says nothing (no
/// DeltaNet layer, or a single tap) the other habits of mlx-lm decide: a `quantization` setting, the prefix
/// `language_model.model.`, stacked `switch_mlp` experts, `format: mlx` in the metadata.
fn convention(modules: &Modules<'_>, prefix: &str, spec: &ModelSpec) -> Convention {
    let first = spec.layers.iter().position(|layer| layer.mixer == MixerKind::DeltaNet);
    let conv = first
        .and_then(|i| modules.table.tensors.get(&format!("{prefix}layers.{i}.linear_attn.conv1d.weight")));
    let mlx = match conv.map(|tensor| tensor.shape.as_slice()) {
        Some([_, taps, 1]) if *taps != 1 => true,
        Some([_, 1, taps]) if *taps != 1 => false,
        _ => {
            modules.quantization.is_some_and(|quantization| quantization.mlx().is_some())
                || modules.table.says_mlx
                || prefix == "language_model.model."
                || modules.table.tensors.keys().any(|name| name.contains(".mlp.switch_mlp."))
        }
    };
    if mlx { Convention::Mlx } else { Convention::HuggingFace }
}

/// The head of its own, `None` where the embedding table serves. A stored head is used even where the config ties it: then the
/// two are equal, or transformers would not tie them either.
fn head(modules: &mut Modules<'_>, spec: &ModelSpec) -> Result<Option<MatrixRef>, CheckpointError> {
    const NEEDED_BY: &str = "the head (the config does not tie it to the embedding)";
    let found = names::HEADS.into_iter().find(|name| modules.contains(&format!("{name}.weight")));
    match found {
        None if spec.tied_embeddings => Ok(None),
        found => {
            let name = found.unwrap_or(names::HEADS[0]);
            modules.matrix(name, (spec.vocab_size, spec.hidden_size), NEEDED_BY).map(Some)
        }
    }
}

/// What is needed to know the name and shape of each weight.
struct Names<'a> {
    prefix: &'a str,
    spec: &'a ModelSpec,
    convention: Convention,
}

impl Names<'_> {
    fn layer(
        &self,
        modules: &mut Modules<'_>,
        i: usize,
    ) -> Result<(LayerRef, Option<LayerBundles>), CheckpointError> {
        let (hidden, kind) = (self.spec.hidden_size, self.spec.layers[i]);
        let at = format!("{}layers.{i}", self.prefix);
        let input_norm = self.norm(modules, &format!("{at}.input_layernorm"), hidden)?;
        let mixer = match kind.mixer {
            MixerKind::Attention => MixerRef::Attention(self.attention(
                modules,
                &format!("{at}.self_attn"),
                &self.spec.attention,
            )?),
            MixerKind::DeltaNet => {
                let sizes =
                    self.spec.delta_net.as_ref().expect("a family with DeltaNet layers has their sizes");
                MixerRef::DeltaNet(Box::new(self.delta_net(modules, &format!("{at}.linear_attn"), sizes)?))
            }
        };
        let post_norm = self.norm(modules, &format!("{at}.post_attention_layernorm"), hidden)?;
        let mlp = format!("{at}.mlp");
        let (ffn, bundles) = match kind.ffn {
            FfnKind::Moe => {
                let (ffn, bundles) = self.moe(modules, &mlp)?;
                (ffn, Some(bundles))
            }
            FfnKind::Dense => {
                let size =
                    self.spec.dense_intermediate_size.expect("a model with dense layers has their size");
                (FfnRef::Dense(glu(modules, &mlp, (hidden, size), "a dense layer")?), None)
            }
        };
        Ok((LayerRef { input_norm, mixer, post_norm, ffn }, bundles))
    }

    fn attention(
        &self,
        modules: &mut Modules<'_>,
        at: &str,
        sizes: &AttentionSpec,
    ) -> Result<AttentionRef, CheckpointError> {
        const NEEDED_BY: &str = "attention";
        let hidden = self.spec.hidden_size;
        let (heads, kv) = (sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim);
        let queries = if sizes.gated { 2 * heads } else { heads };
        Ok(AttentionRef {
            q: modules.matrix(&format!("{at}.q_proj"), (queries, hidden), NEEDED_BY)?,
            k: modules.matrix(&format!("{at}.k_proj"), (kv, hidden), NEEDED_BY)?,
            v: modules.matrix(&format!("{at}.v_proj"), (kv, hidden), NEEDED_BY)?,
            o: modules.matrix(&format!("{at}.o_proj"), (hidden, heads), NEEDED_BY)?,
            q_norm: self.norm(modules, &format!("{at}.q_norm"), sizes.head_dim)?,
            k_norm: self.norm(modules, &format!("{at}.k_norm"), sizes.head_dim)?,
        })
    }

    fn delta_net(
        &self,
        modules: &mut Modules<'_>,
        at: &str,
        sizes: &DeltaNetSpec,
    ) -> Result<DeltaNetRef, CheckpointError> {
        const NEEDED_BY: &str = "Gated DeltaNet";
        let (hidden, n_heads) = (self.spec.hidden_size, sizes.n_value_heads);
        let [qkv, z, b, a] = match self.spec.family {
            Family::Qwen3Next => interleaved_projections(modules, at, hidden, sizes)?,
            Family::Qwen35Moe | Family::Qwen3Moe => [
                modules.matrix(&format!("{at}.in_proj_qkv"), (sizes.conv_channels(), hidden), NEEDED_BY)?,
                modules.matrix(&format!("{at}.in_proj_z"), (sizes.values(), hidden), NEEDED_BY)?,
                modules.matrix(&format!("{at}.in_proj_b"), (n_heads, hidden), NEEDED_BY)?,
                modules.matrix(&format!("{at}.in_proj_a"), (n_heads, hidden), NEEDED_BY)?,
            ],
        };
        // The one between is 1 wide, so the bytes are the same: channel by channel, tap by tap.
        let conv_shape = match self.convention {
            Convention::HuggingFace | Convention::LlamaCpp | Convention::Packed => {
                [sizes.conv_channels(), 1, sizes.conv_kernel]
            }
            Convention::Mlx => [sizes.conv_channels(), sizes.conv_kernel, 1],
        };
        let mut vector =
            |name: &str, shape: &[usize], map| modules.vector(&format!("{at}.{name}"), shape, map, NEEDED_BY);
        Ok(DeltaNetRef {
            qkv,
            z,
            b,
            a,
            conv: vector("conv1d.weight", &conv_shape, VectorMap::Identity)?,
            decay: vector("A_log", &[n_heads], VectorMap::NegExp)?,
            dt_bias: vector("dt_bias", &[n_heads], VectorMap::Identity)?,
            // The one norm of these families that has no 1 added.
            norm: vector("norm.weight", &[sizes.value_dim], VectorMap::Identity)?,
            out: modules.matrix(&format!("{at}.out_proj"), (hidden, sizes.values()), NEEDED_BY)?,
        })
    }

    fn moe(&self, modules: &mut Modules<'_>, mlp: &str) -> Result<(FfnRef, LayerBundles), CheckpointError> {
        const SHARED: &str = "the shared expert";
        let hidden = self.spec.hidden_size;
        let sizes = self.spec.moe.as_ref().expect("a model with experts has their sizes");
        let router = modules.matrix(&format!("{mlp}.gate"), (sizes.n_experts, hidden), "the router")?;
        let shared = match sizes.shared_intermediate_size {
            Some(size) => Some(SharedExpertRef {
                glu: glu(modules, &format!("{mlp}.shared_expert"), (hidden, size), SHARED)?,
                gate_logit: modules.matrix(&format!("{mlp}.shared_expert_gate"), (1, hidden), SHARED)?,
            }),
            None => None,
        };
        let bundles = LayerBundles::find(modules, mlp, hidden, sizes)?;
        Ok((FfnRef::Moe { router, shared }, bundles))
    }

    /// A norm of the residual stream or of a head's queries and keys.
    fn norm(&self, modules: &mut Modules<'_>, at: &str, len: usize) -> Result<VectorRef, CheckpointError> {
        let map = match (self.spec.family, self.convention) {
            (Family::Qwen35Moe | Family::Qwen3Next, Convention::HuggingFace) => VectorMap::OnePlus,
            (Family::Qwen3Moe, _) | (_, Convention::Mlx | Convention::LlamaCpp | Convention::Packed) => {
                VectorMap::Identity
            }
        };
        modules.vector(&format!("{at}.weight"), &[len], map, "a norm")
    }
}

/// The four projections of `qwen3_next`, whose rows lie together by key head: for each its q, its k, its v heads, its z heads
/// in `in_proj_qkvz`, its b's and its a's in `in_proj_ba`. Gives qkv (all q, all k, all v), z, b, a.
fn interleaved_projections(
    modules: &mut Modules<'_>,
    at: &str,
    hidden: usize,
    sizes: &DeltaNetSpec,
) -> Result<[MatrixRef; 4], CheckpointError> {
    const NEEDED_BY: &str = "Gated DeltaNet";
    let n = sizes.n_key_heads;
    let per_key_head = sizes.n_value_heads / n;
    let values = per_key_head * sizes.value_dim;
    let stride = 2 * sizes.key_dim + 2 * values;
    let mut find = |name: &str, rows| {
        let module = format!("{at}.{name}");
        modules.stored(&module, &format!("{module}.weight"), None, (rows, hidden), NEEDED_BY)
    };
    let qkvz = find("in_proj_qkvz", n * stride)?;
    let ba = find("in_proj_ba", 2 * sizes.n_value_heads)?;
    let runs = |first: usize, len: usize| (0..n).map(move |head| (head * stride + first, len));
    let pair = |first: usize| (0..n).map(move |head| ((2 * head + first) * per_key_head, per_key_head));
    let (q, k) = (runs(0, sizes.key_dim), runs(sizes.key_dim, sizes.key_dim));
    let (v, z) = (runs(2 * sizes.key_dim, values), runs(2 * sizes.key_dim + values, values));
    let qkv = qkvz.gather(q.chain(k).chain(v)).ok_or_else(|| modules.torn(&qkvz))?;
    let z = qkvz.gather(z).ok_or_else(|| modules.torn(&qkvz))?;
    let [b, a] = [0, 1].map(|first| ba.gather(pair(first)).ok_or_else(|| modules.torn(&ba)));
    Ok([qkv, z, b?, a?])
}

/// A gated feed-forward network of `size` hidden units.
fn glu(
    modules: &mut Modules<'_>,
    at: &str,
    (hidden, size): (usize, usize),
    needed_by: &'static str,
) -> Result<GluRef, CheckpointError> {
    Ok(GluRef {
        gate: modules.matrix(&format!("{at}.gate_proj"), (size, hidden), needed_by)?,
        up: modules.matrix(&format!("{at}.up_proj"), (size, hidden), needed_by)?,
        down: modules.matrix(&format!("{at}.down_proj"), (hidden, size), needed_by)?,
    })
}
