//! What will be resident, cached and read, decided before a weight is loaded.

use flashmill_checkpoint::Checkpoint;
use flashmill_model::{Footprint, MAX_SEQUENCES, ModelOptions};
use flashmill_store::{ReaderKind, StoreOptions};
use serde::Serialize;

use crate::cost::{self, Prediction, Workload};
use crate::machine;
use crate::{EngineError, EngineOptions};

/// Share of the memory that may be used which is taken if the user names no number.
const DEFAULT_RAM_SHARE: f64 = 0.8;

/// What the ledger cannot count and has not happened yet: thread stacks, the tokenizer's cache, lists of the session.
const MARGIN_BYTES: u64 = 12 << 20;

/// Positions of the KV cache if the user names no number and there is room.
const DEFAULT_CONTEXT: usize = 16384;

/// Prompt tokens of one forward pass, from the best down. A pass uses each expert once for all its tokens, so a longer one reads and
/// unpacks less for each; beyond the first there is little left to gain.
const CHUNKS: [usize; 3] = [2048, 1024, 512];

/// The activations of a longer chunk than the shortest take at most this part of what slots, KV cache and activations share.
const ACTIVATION_PART: u64 = 8;

/// States of sequences, the running one included: the others are saved prefixes.
const DEFAULT_STATES: usize = 4;

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
    /// What computes.
    pub backend: String,
    /// How fast it will be, if the machine was measured: a prompt of [`cost::PROMPT`] tokens, then decoding.
    pub predicted: Option<Prediction>,
    /// What the model is loaded with.
    #[serde(skip)]
    pub(crate) model: ModelOptions,
}

impl Plan {
    /// The same plan with the predictions of a profile that was measured since, in a process that measuring may have made larger.
    pub(crate) fn again(
        &self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
    ) -> Result<Plan, EngineError> {
        Plan::make(checkpoint, options, self.process_bytes)
    }

    /// The plans at the floor, within the budget, and with every expert resident, with each reader that was measured: what a user can
    /// choose between.
    pub(crate) fn choices(
        &self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
    ) -> Result<Vec<Choice>, EngineError> {
        let with = |ram_bytes: u64, reader: ReaderKind| {
            let options = EngineOptions { ram_bytes: Some(ram_bytes), reader, ..options.clone() };
            Plan::make(checkpoint, &options, self.process_bytes)
        };
        // More than any machine has, less than any sum of sizes overflows with.
        let ceiling = with(1 << 56, options.reader)?.used_bytes();
        let measured = |reader: &ReaderKind| {
            options.profile.as_ref().is_some_and(|profile| profile.disk.contains_key(&reader.to_string()))
        };
        let mut readers: Vec<ReaderKind> = ReaderKind::ALL.into_iter().filter(measured).collect();
        if readers.is_empty() {
            readers.push(options.reader);
        }
        let mut choices = Vec::new();
        for (name, ram_bytes) in [("floor", self.floor_bytes), ("budget", self.ram_bytes)] {
            for &reader in &readers {
                choices.push(Choice { name, reader, plan: with(ram_bytes, reader)? });
            }
        }
        choices.push(Choice {
            name: "ceiling",
            reader: options.reader,
            plan: with(ceiling, options.reader)?,
        });
        Ok(choices)
    }

    /// Fits the model beside `process_bytes` into the budget: first the floor, then a comfortable context, chunk and saved prefixes, then slots.
    pub(crate) fn make(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        process_bytes: u64,
    ) -> Result<Plan, EngineError> {
        let (ram_bytes, ram_source) = ram(options);
        let spec = checkpoint.spec();
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
                    store: StoreOptions { reader: options.reader, ..StoreOptions::default() },
                };
                let footprint = Footprint::of(checkpoint, options.make_backend()?, &model)?;
                let floor = process_bytes + footprint.floor_bytes();
                least_floor = least_floor.min(floor);
                let room = ram_bytes.saturating_sub(process_bytes + footprint.trunk_bytes);
                if floor > ram_bytes
                    || !comfort.is_affordable(&footprint, room, fixed || chunk == CHUNKS[CHUNKS.len() - 1])
                {
                    continue;
                }
                let slots = ram_bytes - process_bytes - footprint.resident_bytes();
                let slots = slots.min(footprint.slot_ceiling_bytes.max(footprint.slot_floor_bytes));
                let slots =
                    slots.min(options.cache_bytes.unwrap_or(u64::MAX)).max(footprint.slot_floor_bytes);
                let plan = Plan::new(checkpoint, options, model, footprint, slots, sessions)?;
                return Ok(plan
                    .under(ram_bytes, ram_source, process_bytes, floor)
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
            backend: options.make_backend()?.name(),
            predicted: None,
            model,
        })
    }

    fn under(self, ram_bytes: u64, ram_source: String, process_bytes: u64, floor_bytes: u64) -> Plan {
        Plan { ram_bytes, ram_source, process_bytes, floor_bytes, ..self }
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

    /// Bytes in use when everything that was planned is touched.
    pub fn used_bytes(&self) -> u64 {
        self.process_bytes
            + self.trunk_bytes
            + self.kv_bytes
            + self.state_bytes
            + self.work_bytes
            + self.slot_bytes
    }
}

/// A plan that a user can choose.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// `floor`, `budget` or `ceiling`.
    pub name: &'static str,
    /// How experts are read.
    #[serde(serialize_with = "as_text")]
    pub reader: ReaderKind,
    /// What it takes and does.
    pub plan: Plan,
}

fn as_text<S: serde::Serializer>(reader: &ReaderKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reader)
}

/// The process as it is now, and a margin for what has not happened yet.
pub(crate) fn process_bytes() -> u64 {
    machine::rss_bytes().unwrap_or(32 << 20) + MARGIN_BYTES
}

/// How generous context, chunk and saved prefixes are; tried from the best down.
struct Comfort {
    divisor: usize,
    n_states: usize,
}

const COMFORTS: [Comfort; 6] = [
    Comfort { divisor: 1, n_states: DEFAULT_STATES },
    Comfort { divisor: 2, n_states: DEFAULT_STATES },
    Comfort { divisor: 4, n_states: 3 },
    Comfort { divisor: 8, n_states: 2 },
    Comfort { divisor: 16, n_states: 1 },
    Comfort { divisor: 64, n_states: 1 },
];

impl Comfort {
    fn is_least(&self) -> bool {
        self.divisor == COMFORTS[COMFORTS.len() - 1].divisor
    }

    /// Answers at once: fewer where memory is scarce.
    fn sessions(&self, options: &EngineOptions) -> usize {
        (options.sessions.unwrap_or(1) / self.divisor).clamp(1, MAX_SEQUENCES)
    }

    /// Whether enough of `room`, which is the budget without process and trunk, is left to slots: unless all bundles fit anyway, comfort
    /// may take a quarter, and the activations of a chunk that could be shorter a part of it.
    fn is_affordable(&self, footprint: &Footprint, room: u64, shortest_chunk: bool) -> bool {
        let extra = footprint.resident_bytes() - footprint.trunk_bytes;
        let chunk = shortest_chunk || footprint.work_bytes <= room / ACTIVATION_PART;
        fits_whole(footprint, room) || chunk && (self.is_least() || extra <= room / 4)
    }
}

fn fits_whole(footprint: &Footprint, room: u64) -> bool {
    footprint.resident_bytes() - footprint.trunk_bytes + footprint.slot_ceiling_bytes <= room
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

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut row = |what: &str, bytes: u64, note: &str| {
            let line = format!("{what:<22}{:>11}  {note}", human_bytes(bytes));
            writeln!(f, "{}", line.trim_end())
        };
        row("budget", self.ram_bytes, &self.ram_source)?;
        row("  process", self.process_bytes, "code, tokenizer, stacks")?;
        row("  trunk", self.trunk_bytes, "resident: weights that every token uses")?;
        row("  KV cache", self.kv_bytes, &format!("{} positions", self.context))?;
        row(
            "  states",
            self.state_bytes,
            &format!("{} sequences, saved prefixes included; {} run at once", self.n_states, self.sessions),
        )?;
        row("  activations", self.work_bytes, &format!("prompt chunks of {} tokens", self.chunk))?;
        let share = format!("cache: holds {:.1} % of the experts", 100.0 * self.resident_share);
        row("  expert slots", self.slot_bytes, &share)?;
        row("  unused", self.ram_bytes.saturating_sub(self.used_bytes()), "")?;
        row("floor", self.floor_bytes, "the least --ram with this context")?;
        row("experts on disk", self.bundle_bytes, "read when the router picks them")?;
        let read = (self.expert_bytes_per_token as f64 * (1.0 - self.resident_share)) as u64;
        row("read per token", read, "if picks were uniform; repeats make it less")?;
        row(
            "used per token",
            self.expert_bytes_per_token,
            &format!("{} experts a layer", self.experts_per_token),
        )?;
        write!(f, "backend               {}", self.backend)?;
        let Some(predicted) = &self.predicted else { return Ok(()) };
        write!(
            f,
            "\npredicted             {:>7.1} tok/s  answer, if {:.0} % of the picks hit: {} read for a token",
            predicted.decode_tok_per_s,
            100.0 * predicted.hit_rate,
            human_bytes(predicted.bytes_per_token as u64)
        )?;
        write!(
            f,
            "\n                      {:>7.1} tok/s  prompt of {} tokens",
            predicted.prefill_tok_per_s,
            cost::PROMPT
        )
    }
}

/// A size for people: `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
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

    #[test]
    fn sizes_for_people() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(217 << 30), "217.0 GiB");
    }
}
