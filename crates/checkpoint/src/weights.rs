//! Where the weights lie: extents and encodings by role.

use flashmill_layout::{Extent, Float, MatrixShape};

use crate::transposed::Transposed;

/// A matrix in the files. `parts[i]` are the runs of bytes that, one after the other, give all rows of part `i`.
///
/// Most matrices have one run a part; the projections of `qwen3_next` that interleave their heads have several, so that a
/// reader puts the rows in the one order that the engine knows.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixRef {
    /// The tensor's name in the file, for messages.
    pub name: String,
    /// Shape and encoding.
    pub shape: MatrixShape,
    /// Runs of bytes of each part, in row order.
    pub parts: Vec<Vec<Extent>>,
    /// Words of GPTQ or AWQ, which `shape.encoding` holds once they are rearranged; `parts` are then these words' tensors. Never in a
    /// checkpoint that was opened to be used in place.
    pub transposed: Option<Transposed>,
}

/// A small tensor that is read as f32 whatever its type: norms, convolution taps, decay, bias.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorRef {
    /// The tensor's name in the file, for messages.
    pub name: String,
    /// Its type in the file.
    pub float: Float,
    /// Number of values.
    pub len: usize,
    /// Its bytes.
    pub extent: Extent,
    /// What to do to each value as it is read.
    pub map: VectorMap,
}

/// How the stored value becomes the one the formulas use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorMap {
    /// As it is.
    Identity,
    /// `1 + w`: RMS norms of Hugging Face checkpoints of `qwen3_5_moe` and `qwen3_next`.
    OnePlus,
    /// `-exp(w)`: `A_log`.
    NegExp,
}

/// The weights that every token uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Trunk {
    /// `[vocab_size, hidden_size]`.
    pub embed: MatrixRef,
    /// One entry a layer.
    pub layers: Vec<LayerRef>,
    /// `[hidden_size]`.
    pub final_norm: VectorRef,
    /// `[vocab_size, hidden_size]`; absent where the head is the embedding table.
    pub head: Option<MatrixRef>,
}

/// The trunk's part of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRef {
    /// Before the mixer, `[hidden_size]`.
    pub input_norm: VectorRef,
    /// How the layer mixes tokens.
    pub mixer: MixerRef,
    /// Before the feed-forward network, `[hidden_size]`.
    pub post_norm: VectorRef,
    /// The feed-forward network.
    pub ffn: FfnRef,
}

/// Weights of a mixer.
// There is one a layer: the space that a DeltaNet layer wastes is nothing beside its weights.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum MixerRef {
    /// Full attention.
    Attention(AttentionRef),
    /// Gated DeltaNet.
    DeltaNet(Box<DeltaNetRef>),
}

/// Weights of full attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionRef {
    /// `[n_heads * head_dim, hidden]`, or `[n_heads * 2 * head_dim, hidden]` if gated: query then gate within each head.
    pub q: MatrixRef,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub k: MatrixRef,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub v: MatrixRef,
    /// `[hidden, n_heads * head_dim]`.
    pub o: MatrixRef,
    /// `[head_dim]`.
    pub q_norm: VectorRef,
    /// `[head_dim]`.
    pub k_norm: VectorRef,
}

/// Weights of Gated DeltaNet.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNetRef {
    /// `[conv_channels, hidden]`: query heads, key heads, value heads.
    pub qkv: MatrixRef,
    /// `[values, hidden]`: the gate of the output norm.
    pub z: MatrixRef,
    /// `[n_value_heads, hidden]`: before the sigmoid that gives beta.
    pub b: MatrixRef,
    /// `[n_value_heads, hidden]`: the input of the decay.
    pub a: MatrixRef,
    /// `[conv_channels * conv_kernel]`, the last tap meets the current token.
    pub conv: VectorRef,
    /// `[n_value_heads]`: the factor `-exp(A_log)` of the decay.
    pub decay: VectorRef,
    /// `[n_value_heads]`.
    pub dt_bias: VectorRef,
    /// `[value_dim]`.
    pub norm: VectorRef,
    /// `[hidden, values]`.
    pub out: MatrixRef,
}

/// Weights of a feed-forward network that stay in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnRef {
    /// Router and shared expert; the routed experts are bundles.
    Moe {
        /// `[n_experts, hidden]`.
        router: MatrixRef,
        /// The shared expert, where there is one.
        shared: Option<SharedExpertRef>,
    },
    /// A network for every token.
    Dense(GluRef),
}

/// The shared expert.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedExpertRef {
    /// Its network.
    pub glu: GluRef,
    /// `[1, hidden]`: the logit whose sigmoid scales its output.
    pub gate_logit: MatrixRef,
}

/// A gated feed-forward network: `down(silu(gate x) * up x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct GluRef {
    /// `[intermediate, hidden]`.
    pub gate: MatrixRef,
    /// `[intermediate, hidden]`.
    pub up: MatrixRef,
    /// `[hidden, intermediate]`.
    pub down: MatrixRef,
}

/// A routed expert: the bundle that is stored, read and cached as one.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleRef {
    /// Its three matrices. All experts of a layer have the same shapes and encodings, and one run a part.
    pub glu: GluRef,
}

impl BundleRef {
    /// The record's extents in the order of the slot: gate's parts, up's parts, down's parts.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        [&self.glu.gate, &self.glu.up, &self.glu.down]
            .into_iter()
            .flat_map(|matrix| matrix.parts.iter().flatten().copied())
    }

    /// Shapes of gate, up and down.
    pub fn shapes(&self) -> [MatrixShape; 3] {
        [self.glu.gate.shape, self.glu.up.shape, self.glu.down.shape]
    }
}
