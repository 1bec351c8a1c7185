use flashmill_store::StoreError;

/// Why a model could not be loaded or a forward pass not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A weight could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What cache-aware routing may give up is no share.
    #[error(
        "cache-aware routing may give up {share} of the router's probability; must be at least 0 and below 1"
    )]
    CacheAware {
        /// Asked for.
        share: f64,
    },
    /// More experts per token than there are.
    #[error(
        "{wanted} experts per token were asked for, the model has {n_experts} a layer; ask for 1 to {n_experts}"
    )]
    ExpertsPerToken {
        /// Asked for.
        wanted: usize,
        /// Routed experts of a layer.
        n_experts: usize,
    },
    /// A token that the embedding table has no row for.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Rows of the table.
        vocab_size: usize,
    },
    /// The KV cache has no room for another token of the sequence.
    #[error("the context of {context} tokens is full; raise --context or start again")]
    ContextFull {
        /// Positions that fit.
        context: usize,
    },
    /// All states or pages that were planned for are in use.
    #[error("all {n_states} planned sequence states, or all KV pages, are in use")]
    NoFreeState {
        /// States of the plan.
        n_states: usize,
    },
    /// An earlier forward pass with this state failed half-way.
    #[error("the state was left half-way by an earlier failure; start from a fresh or saved state")]
    BrokenState,
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The weights, or the arithmetic, gave something that is no number.
    #[error("the logits at position {position} hold NaN or infinity; the weights may be damaged")]
    NotFinite {
        /// Absolute position of the token.
        position: usize,
    },
}
