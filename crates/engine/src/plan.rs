//! What will be resident, cached and read, decided before a weight is loaded.

mod choices;
mod comfort;
mod display;

use flashmill_checkpoint::Checkpoint;
use flashmill_model::{Footprint, ModelOptions};
use flashmill_store::ReaderKind;
use serde::Serialize;

use crate::cost::{self, Prediction, Workload};
use crate::machine;
use crate::{EngineError, EngineOptions};

pub use choices::Choice;
use comfort::COMFORTS;
pub use display::human_bytes;

/// Share of the memory that may be used which is taken if the user names no number.
const DEFAULT_RAM_SHARE: f64 = 0.8;

/// What the ledger cannot count and has not happened yet: thread stacks, the tokenizer's cache, lists of the session.
const MARGIN_BYTES: u64 = 12 << 20;

/// Positions of the KV cache if the user names no number and there is room.
const DEFAULT_CONTEXT: usize = 16384;

/// Prompt tokens of one forward pass, from the best down. A pass uses each expert once for all its tokens, so a longer one reads and
/// unpacks less for each; beyond the first there is little left to gain.
const CHUNKS: [usize; 3] = [2048, 1024, 512];

/// Answers that share the KV pages of a full context, from the second one on.
const SESSIONS_PER_CONTEXT: usize = 4;

/// What an opened model will take and do. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The ceiling.
    pub ram_bytes: u64,
    /// Who set it.
    pub ram_source: String,
    /// The process before the model: code, tokenizer, stacks, and a margin.
    pub process_bytes: u64,
    /// What answers to requests need beside the model: samplers, and the vocabulary as grammars see it; 0 where no requests are served.
    pub serving_bytes: u64,
    /// Weights that every token uses.
    pub trunk_bytes: u64,
    /// KV pages.
    pub kv_bytes: u64,
    /// DeltaNet states, saved prefixes included.
    pub state_bytes: u64,
    /// Activations, logits, scratch, index.
    pub work_bytes: u64,
    /// Slots for bundles.
    pub slot_bytes: u64,
    /// All bundles of the model.
    pub bundle_bytes: u64,
    /// The least that this model runs in.
    pub floor_bytes: u64,
    /// Share of the bundles that the slots hold, 0 to 1.
    pub resident_share: f64,
    /// Bytes of routed experts that one token uses.
    pub expert_bytes_per_token: u64,
    /// Positions of a sequence.
    pub context: usize,
    /// Prompt tokens of one forward pass.
    pub chunk: usize,
    /// Answers that can run at once.
    pub sessions: usize,
    /// States, saved prefixes included.
    pub n_states: usize,
    /// Experts that each token uses.
    pub experts_per_token: usize,
    /// Experts that the model itself would use.
    pub model_experts_per_token: usize,
    /// The share of the router's probability that may be given up for experts in the cache; 0 if answers do not depend on the cache.
    pub cache_aware: f64,
    /// What computes.
    pub backend: String,
    /// How fast it will be, if the machine was measured: a prompt of [`cost::PROMPT`] tokens, then decoding.
    pub predicted: Option<Prediction>,
    /// What the model is loaded with.
    #[serde(skip)]
    pub(crate) model: ModelOptions,
}

impl Plan {
    /// Fits the model beside `process_bytes` into the budget: first the floor, then a comfortable context, chunk and saved prefixes, then slots.
    pub(crate) fn make(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        process_bytes: u64,
    ) -> Result<Plan, EngineError> {
        let (ram_bytes, ram_source) = ram(options);
        let spec = checkpoint.spec();
        let serving_bytes = serving_bytes(options, spec.vocab_size);
        let beside = process_bytes + serving_bytes;
        let mut least_floor = u64::MAX;
        let fixed = options.max_chunk.is_some();
        for comfort in COMFORTS {
            let context = options.context.unwrap_or_else(|| {
                spec.max_positions.min(DEFAULT_CONTEXT / comfort.divisor).max(256.min(spec.max_positions))
            });
            for chunk in CHUNKS {
                let sessions = comfort.sessions(options);
                let model = ModelOptions {
                    max_rows: options.max_chunk.unwrap_or(chunk).min(context).div_ceil(comfort.divisor)
                        + (sessions - 1),
                    max_logit_rows: options.max_logit_rows.unwrap_or(1).max(sessions),
                    kv: options.kv,
                    context,
                    // Few answers fill their context; those that find no page wait for one.
                    n_sequences: 1 + (sessions - 1).div_ceil(SESSIONS_PER_CONTEXT),
                    n_states: comfort.n_states + 2 * (sessions - 1),
                    experts_per_token: options.experts_per_token,
                    prefetch: options.prefetch,
                    cache_aware: options.cache_aware,
                    store: options.store(),
                };
                let footprint = Footprint::of(checkpoint, options.make_backend()?, &model)?;
                let floor = beside + footprint.floor_bytes();
                least_floor = least_floor.min(floor);
                let room = ram_bytes.saturating_sub(beside + footprint.trunk_bytes);
                if floor > ram_bytes
                    || !comfort.is_affordable(&footprint, room, fixed || chunk == CHUNKS[CHUNKS.len() - 1])
                {
                    continue;
                }
                let slots = ram_bytes - beside - footprint.resident_bytes();
                let slots = slots.min(footprint.slot_ceiling_bytes.max(footprint.slot_floor_bytes));
                let slots =
                    slots.min(options.cache_bytes.unwrap_or(u64::MAX)).max(footprint.slot_floor_bytes);
                let plan = Plan::new(checkpoint, options, model, footprint, slots, sessions)?;
                return Ok(plan
                    .under(ram_bytes, ram_source, [process_bytes, serving_bytes], floor)
                    .predict(checkpoint, options));
            }
        }
        Err(EngineError::BudgetBelowFloor {
            budget: ram_bytes,
            source_of_budget: ram_source,
            floor: least_floor,
        })
    }

    fn new(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        mut model: ModelOptions,
        footprint: Footprint,
        slot_bytes: u64,
        sessions: usize,
    ) -> Result<Plan, EngineError> {
        model.store.slot_bytes = slot_bytes;
        let spec = checkpoint.spec();
        let experts_per_token = model.top_k(spec)?;
        let n_experts = spec.moe.map_or(0, |moe| moe.n_experts) as u64;
        let bundle_of_layer = |layer| {
            checkpoint.bundle_shapes(layer).map_or(0, |shapes| shapes.iter().map(|s| s.bytes() as u64).sum())
        };
        let one_each: u64 = (0..spec.layers.len()).map(bundle_of_layer).sum();
        let bundle_bytes = one_each * n_experts;
        let resident_share = match bundle_bytes {
            0 => 1.0,
            all => (slot_bytes as f64 / all as f64).min(1.0),
        };
        Ok(Plan {
            ram_bytes: 0,
            ram_source: String::new(),
            process_bytes: 0,
            serving_bytes: 0,
            trunk_bytes: footprint.trunk_bytes,
            kv_bytes: footprint.kv_bytes,
            state_bytes: footprint.state_bytes,
            work_bytes: footprint.work_bytes + footprint.index_bytes,
            slot_bytes,
            bundle_bytes,
            floor_bytes: 0,
            resident_share,
            expert_bytes_per_token: one_each * experts_per_token as u64,
            context: model.context,
            chunk: model.max_rows - (sessions - 1),
            sessions,
            n_states: model.n_states,
            experts_per_token,
            model_experts_per_token: spec.moe.map_or(0, |moe| moe.top_k),
            cache_aware: options.cache_aware,
            backend: options.make_backend()?.name(),
            predicted: None,
            model,
        })
    }

    fn under(self, ram_bytes: u64, ram_source: String, beside: [u64; 2], floor_bytes: u64) -> Plan {
        let [process_bytes, serving_bytes] = beside;
        Plan { ram_bytes, ram_source, process_bytes, serving_bytes, floor_bytes, ..self }
    }

    /// Takes the fastest reader, if the machine was measured with this backend and none was asked for.
    fn predict(mut self, checkpoint: &Checkpoint, options: &EngineOptions) -> Plan {
        let Some(profile) = options.profile.as_ref().filter(|profile| profile.backend == self.backend) else {
            return self;
        };
        let workload = Workload::of(checkpoint, self.experts_per_token);
        if let Some((reader, prediction)) = cost::best_reader(&workload, profile, &self, options.reader) {
            // What was measured to work may be refused here: io_uring is left to the reader that falls back.
            if reader != ReaderKind::Uring {
                self.model.store.reader = reader;
            }
            self.predicted = Some(prediction);
        }
        self
    }

    /// How experts are read: what was asked for, or the fastest reader if the machine was measured.
    pub fn reader(&self) -> ReaderKind {
        self.model.store.reader
    }

    /// Bytes in use when everything that was planned is touched.
    pub fn used_bytes(&self) -> u64 {
        self.process_bytes
            + self.serving_bytes
            + self.trunk_bytes
            + self.kv_bytes
            + self.state_bytes
            + self.work_bytes
            + self.slot_bytes
    }
}

/// Bytes of a token of the vocabulary in the trie that grammars are followed in: 52 MiB for 248,320 tokens.
const TRIE_BYTES: u64 = 220;

/// Bytes of a token of the vocabulary in each answer's sampler: a copy of the logits, candidates, counts, bins.
const SAMPLER_BYTES: u64 = 24;

/// What requests need beside the model, where they are served.
fn serving_bytes(options: &EngineOptions, vocab_size: usize) -> u64 {
    let bytes = |sessions: usize| vocab_size as u64 * (TRIE_BYTES + SAMPLER_BYTES * sessions as u64);
    options.sessions.map_or(0, bytes)
}

/// The process as it is now, and a margin for what has not happened yet.
pub(crate) fn process_bytes() -> u64 {
    machine::rss_bytes().unwrap_or(32 << 20) + MARGIN_BYTES
}

/// The ceiling of memory that `options` mean on this machine now, in bytes.
pub fn budget_bytes(options: &EngineOptions) -> u64 {
    ram(options).0
}

/// The ceiling of memory, and a word on where it comes from.
fn ram(options: &EngineOptions) -> (u64, String) {
    match options.ram_bytes {
        Some(bytes) => (bytes, "--ram".to_owned()),
        None => {
            let limit = machine::available_ram();
            ((limit.bytes as f64 * DEFAULT_RAM_SHARE) as u64, format!("80 % of the {}", limit.source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_is_as_long_as_the_budget_allows() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
        let checkpoint = Checkpoint::open(std::path::Path::new(demo)).unwrap();
        let plan = |ram_bytes| {
            let options = EngineOptions {
                ram_bytes: Some(ram_bytes),
                context: Some(4096),
                threads: Some(1),
                ..EngineOptions::default()
            };
            Plan::make(&checkpoint, &options, 32 << 20).unwrap()
        };
        let wide = plan(2 << 30);
        assert_eq!(wide.chunk, CHUNKS[0], "everything fits");
        let fitting = plan(wide.used_bytes());
        assert_eq!((fitting.chunk, fitting.slot_bytes), (wide.chunk, wide.slot_bytes), "just so");
        let mut longest = wide.chunk;
        for part in 1..8 {
            let narrow = plan(wide.used_bytes() - part * (wide.used_bytes() - wide.floor_bytes) / 8);
            assert!(narrow.chunk <= longest, "{narrow}");
            assert!(narrow.used_bytes() <= narrow.ram_bytes, "the budget is a ceiling: {narrow}");
            longest = narrow.chunk;
        }
        assert!(longest < wide.chunk, "a small budget gets short chunks");
    }
}
