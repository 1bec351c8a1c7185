use std::sync::Arc;

use flashmill_kernels::{Backend, Cpu, CpuOptions, KvKind, Level, Reference};
use flashmill_model::Prefetch;
use flashmill_store::{PolicyKind, ReaderKind, StoreOptions};

use crate::cost::MachineProfile;
use crate::{EngineError, machine};

/// How a model is opened. Built by the program, passed down whole; `None` means that the plan decides.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The ceiling of memory in bytes; 80 % of what this machine and its control groups allow if not given.
    pub ram_bytes: Option<u64>,
    /// Threads that compute; the processors that may be used if not given.
    pub threads: Option<usize>,
    /// What computes.
    pub backend: BackendKind,
    /// SIMD level of the CPU; the best if not given.
    pub level: Option<Level>,
    /// How keys and values are stored.
    pub kv: KvKind,
    /// Positions of a sequence.
    pub context: Option<usize>,
    /// Experts per token; the model's own if not given.
    pub experts_per_token: Option<usize>,
    /// How bundles are read.
    pub reader: ReaderKind,
    /// Reads in flight at most; the store's own number if not given.
    pub depth: Option<usize>,
    /// Threads of the readers that use threads; the store's own number if not given.
    pub io_threads: Option<usize>,
    /// Who leaves when a slot is needed.
    pub policy: PolicyKind,
    /// What is read ahead of the routers in decode.
    pub prefetch: Prefetch,
    /// The share of the router's probability that a layer of a token that is read alone, as decoded ones are, may give up for
    /// experts that are in the cache, from 0 (off) to below 1. Above 0 answers depend on what the cache holds.
    pub cache_aware: f64,
    /// Answers that run at once, where there is room for so many; one if not given.
    pub sessions: Option<usize>,
    /// Most prompt tokens of one forward pass.
    pub max_chunk: Option<usize>,
    /// Most rows of one pass whose logits are wanted; more than one only for whole-prompt logits.
    pub max_logit_rows: Option<usize>,
    /// A ceiling of memory for bundles, within the budget; as much as is left if not given.
    pub cache_bytes: Option<u64>,
    /// What this machine gives, where it was measured: the plan then predicts speeds, and takes the reader that is the fastest.
    pub profile: Option<Arc<MachineProfile>>,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// The CPU at its best SIMD level, weights and 16-bit activations in integers.
    #[default]
    Cpu,
    /// Plain scalar f32: slow, the definition of right.
    Reference,
}

impl EngineOptions {
    /// Threads that compute.
    pub fn n_threads(&self) -> usize {
        self.threads.unwrap_or_else(machine::allowed_cores).max(1)
    }

    /// How the store is opened, but for its memory.
    pub(crate) fn store(&self) -> StoreOptions {
        let usual = StoreOptions::default();
        StoreOptions {
            reader: self.reader,
            depth: self.depth.unwrap_or(usual.depth),
            io_threads: self.io_threads.unwrap_or(usual.io_threads),
            policy: self.policy,
            ..usual
        }
    }

    /// A fresh device of the kind that was asked for.
    pub(crate) fn make_backend(&self) -> Result<Box<dyn Backend>, EngineError> {
        Ok(match self.backend {
            BackendKind::Cpu => {
                Box::new(Cpu::new(CpuOptions { threads: self.n_threads(), level: self.level })?)
            }
            BackendKind::Reference => Box::new(Reference::new()),
        })
    }
}
