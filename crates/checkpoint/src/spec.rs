//! What a model is: its sizes and the choices its family makes, free of names and files.

/// Everything the forward pass must know besides the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The architecture.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// The epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// One entry a layer, first layer first.
    pub layers: Vec<LayerKind>,
    /// Full attention.
    pub attention: AttentionSpec,
    /// Gated DeltaNet, where the family has it.
    pub delta_net: Option<DeltaNetSpec>,
    /// Mixture of experts, where a layer has it.
    pub moe: Option<MoeSpec>,
    /// Width of the feed-forward network of dense layers, where there are any.
    pub dense_intermediate_size: Option<usize>,
    /// The head is the embedding table.
    pub tied_embeddings: bool,
    /// The config's own end tokens (a chat turn may end with another: see the generation config).
    pub eos_token_ids: Vec<u32>,
}

/// The architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `qwen3_5_moe`, `qwen3_5_moe_text`.
    Qwen35Moe,
    /// `qwen3_next`.
    Qwen3Next,
    /// `qwen3_moe`.
    Qwen3Moe,
}

/// What one layer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// How it mixes tokens.
    pub mixer: MixerKind,
    /// Its feed-forward network.
    pub ffn: FfnKind,
}

/// How a layer mixes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixerKind {
    /// Softmax attention over all earlier tokens.
    Attention,
    /// Gated DeltaNet, a linear recurrence.
    DeltaNet,
}

/// The feed-forward network of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnKind {
    /// Routed experts, with or without a shared one.
    Moe,
    /// One network for every token.
    Dense,
}

/// Sizes of full attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head h reads kv head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// The first values of a head that are rotated; even.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// `q_proj` gives, for each head, a query and then a gate whose sigmoid scales the head's output.
    pub gated: bool,
}

/// Sizes of Gated DeltaNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaNetSpec {
    /// Query and key heads.
    pub n_key_heads: usize,
    /// Value heads, a multiple of the key heads.
    pub n_value_heads: usize,
    /// Values of a query or key head.
    pub key_dim: usize,
    /// Values of a value head.
    pub value_dim: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
    /// Which key head serves a value head.
    pub head_order: HeadOrder,
}

impl DeltaNetSpec {
    /// Channels of the convolution: queries, keys, values.
    pub fn conv_channels(&self) -> usize {
        2 * self.n_key_heads * self.key_dim + self.values()
    }

    /// Values of all value heads of one token.
    pub fn values(&self) -> usize {
        self.n_value_heads * self.value_dim
    }
}

/// Which key head serves value head h, with r value heads a key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// `h / r`: Hugging Face, MLX.
    Grouped,
    /// `h mod n_key_heads`: GGUF files of `qwen35moe`.
    Tiled,
}

/// Sizes of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeSpec {
    /// Routed experts of a layer.
    pub n_experts: usize,
    /// Experts that the model uses for each token.
    pub top_k: usize,
    /// Hidden units of a routed expert.
    pub intermediate_size: usize,
    /// Hidden units of the shared expert, where there is one.
    pub shared_intermediate_size: Option<usize>,
    /// The chosen probabilities are divided by their sum.
    pub normalize_top_k: bool,
}
