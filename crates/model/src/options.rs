use std::fmt;
use std::str::FromStr;

use flashmill_checkpoint::ModelSpec;
use flashmill_kernels::{KvKind, KvShape, PAGE_TOKENS};
use flashmill_store::{StoreOptions, UnknownName};

use crate::ModelError;

/// What a model is loaded with. Everything that takes memory is fixed here, so that the plan can count it.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Most rows of one forward pass: the length of a prompt's chunk.
    pub max_rows: usize,
    /// Most rows of one forward pass whose logits are wanted.
    pub max_logit_rows: usize,
    /// How keys and values are stored.
    pub kv: KvKind,
    /// Positions of each sequence.
    pub context: usize,
    /// Sequences with a full context of their own.
    pub n_sequences: usize,
    /// States in all: those of the sequences and saved ones, which share pages with them.
    pub n_states: usize,
    /// Experts per token; the model's own number if not given.
    pub experts_per_token: Option<usize>,
    /// What is read ahead of the routers in decode.
    pub prefetch: Prefetch,
    /// The share of the router's probability that a layer of a decoded token may give up for experts that are in a slot, from 0 (off, and the
    /// same bits whatever the cache holds) to below 1.
    pub cache_aware: f64,
    /// Reader, slots and policy.
    pub store: StoreOptions,
}

/// What is read ahead of the routers in decode. It changes no bit of any result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// Nothing: each layer's experts are read when its router has picked them.
    #[default]
    Off,
    /// For the next layer, what its router says of this layer's hidden state: as many experts as a token uses.
    Router,
    /// The same, twice as many.
    Router2,
}

impl Prefetch {
    /// Every kind.
    pub const ALL: [Prefetch; 3] = [Prefetch::Off, Prefetch::Router, Prefetch::Router2];

    fn name(self) -> &'static str {
        match self {
            Prefetch::Off => "off",
            Prefetch::Router => "router",
            Prefetch::Router2 => "router-2x",
        }
    }

    /// Experts guessed for a token that uses `top_k` of `n_experts`.
    pub(crate) fn n_guesses(self, top_k: usize, n_experts: usize) -> usize {
        match self {
            Prefetch::Off => 0,
            Prefetch::Router => top_k,
            Prefetch::Router2 => (2 * top_k).min(n_experts),
        }
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Prefetch {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Prefetch, UnknownName> {
        Prefetch::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownName {
            what: "prefetch",
            text: text.to_owned(),
            known: "off, router, router-2x",
        })
    }
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            max_rows: 512,
            max_logit_rows: 1,
            kv: KvKind::F16,
            context: 4096,
            n_sequences: 1,
            n_states: 3,
            experts_per_token: None,
            prefetch: Prefetch::Off,
            cache_aware: 0.0,
            store: StoreOptions::default(),
        }
    }
}

impl ModelOptions {
    /// Experts of a token, the model's own unless the user asked otherwise; 0 for a model without experts.
    pub fn top_k(&self, spec: &ModelSpec) -> Result<usize, ModelError> {
        let Some(moe) = spec.moe else { return Ok(0) };
        let wanted = self.experts_per_token.unwrap_or(moe.top_k);
        if wanted == 0 || wanted > moe.n_experts {
            return Err(ModelError::ExpertsPerToken { wanted, n_experts: moe.n_experts });
        }
        Ok(wanted)
    }

    /// Whether what may be given up makes sense.
    pub(crate) fn check_cache_aware(&self) -> Result<(), ModelError> {
        match self.cache_aware {
            share if (0.0..1.0).contains(&share) => Ok(()),
            share => Err(ModelError::CacheAware { share }),
        }
    }

    /// Pages of the KV cache: a full context for each sequence, and for each state the one partly filled page it cannot share.
    pub(crate) fn n_pages(&self) -> usize {
        self.n_sequences * self.context.div_ceil(PAGE_TOKENS) + self.n_states
    }

    pub(crate) fn kv_shape(&self, spec: &ModelSpec) -> KvShape {
        KvShape {
            n_layers: crate::weights::n_attention_layers(spec),
            n_kv_heads: spec.attention.n_kv_heads,
            head_dim: spec.attention.head_dim,
            kind: self.kv,
        }
    }
}
