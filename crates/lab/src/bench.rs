//! The speed of a model on this machine, beside what the machine gives.
//!
//! Tokens are random, since no text is needed to measure, and each number is taken warm: after a prompt and a few tokens on the same
//! state. Time is bounded: a phase that has run long enough ends early, and its rate is that of what it did.

mod foretell;
mod report;

use std::path::Path;
use std::time::{Duration, Instant};

use flashmill_engine::{
    Checkpoint, Engine, EngineError, EngineOptions, Model, ModelError, Part, Plan, Sequence, State, Wanted,
    machine,
};

pub use report::{BenchReport, PartTime, Peaks, Row};

use crate::profile::ProfileError;
use crate::random::SplitMix64;
use crate::routing::{Drawn, DrawnRoute};

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// How the model is opened.
    pub engine: EngineOptions,
    /// Tokens that a sequence already has when it is measured.
    pub contexts: Vec<usize>,
    /// Tokens of the prompt that is read then.
    pub prompt_tokens: usize,
    /// Tokens that are decoded after it.
    pub decode_tokens: usize,
    /// Also once with an empty cache of experts and none of the files' pages cached.
    pub cold: bool,
    /// Also measure what the machine gives, and what the plan's formula says of it.
    pub peaks: bool,
    /// Picks that are drawn instead of the routers' own.
    pub routing: Option<Drawn>,
    /// The most time of each phase: filling the context, reading the prompt, decoding.
    pub patience: Duration,
}

impl Default for BenchOptions {
    fn default() -> Self {
        BenchOptions {
            engine: EngineOptions::default(),
            contexts: vec![0, 4096],
            prompt_tokens: 512,
            decode_tokens: 64,
            cold: false,
            peaks: true,
            routing: None,
            patience: Duration::from_secs(30),
        }
    }
}

/// Why a model could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The model cannot be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A pass failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The machine cannot be measured.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Nothing to measure.
    #[error("a bench needs at least one context and one token of prompt and answer")]
    Nothing,
}

/// Tokens decoded before decoding is measured: the cache fills, the threads wake.
const WARM_TOKENS: usize = 8;

/// Tokens whose picks are nearly all experts of a layer: of 256, one in 3,000 is not picked with 8 a token.
const FILLING_TOKENS: usize = 256;

/// Measures the model at `path`. `progress` is told what is being done, and how many of how many steps are done.
pub fn bench(
    path: &Path,
    options: &BenchOptions,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<BenchReport, BenchError> {
    if options.contexts.is_empty() || options.prompt_tokens == 0 || options.decode_tokens == 0 {
        return Err(BenchError::Nothing);
    }
    let n_steps = 3 + options.contexts.len() + usize::from(options.cold);
    let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
    progress("loading", 0, n_steps);
    let mut engine = options.engine.clone();
    let longest = options.contexts.iter().max().copied().unwrap_or(0);
    // One token more than is decoded, for the one that is sampled last.
    let needed = longest + options.prompt_tokens + WARM_TOKENS + options.decode_tokens + 1;
    // A longer one takes its memory, as it would in use.
    engine.context = Some(engine.context.unwrap_or(0).max(needed));
    let begun = Instant::now();
    let (plan, mut model) = Engine::open_model(path, &engine, &mut |_, _| ())?;
    let load_seconds = begun.elapsed().as_secs_f64();
    if let (Some(drawn), Some(moe)) = (options.routing, model.spec().moe) {
        let route = DrawnRoute::new(drawn, model.spec().layers.len(), moe.n_experts);
        model.set_route(Box::new(route));
    }
    let active = active_bytes(&checkpoint, &plan);
    let mut runner = Runner { model, plan, options, random: SplitMix64(1), active };
    let mut rows = Vec::new();
    if options.cold {
        progress("cold", 1, n_steps);
        runner.model.store().forget_cached();
        rows.push(runner.row(options.contexts[0], true)?);
    }
    progress("warming up", n_steps - options.contexts.len() - 2, n_steps);
    runner.warm_up()?;
    for (at, &context) in options.contexts.iter().enumerate() {
        progress(&format!("context {context}"), n_steps - options.contexts.len() - 1 + at, n_steps);
        runner.model.store().forget_cached();
        rows.push(runner.row(context, false)?);
    }
    let peak_rss_bytes = machine::peak_rss_bytes();
    let Runner { model, plan, .. } = runner;
    let reader = model.store().reader_name().to_owned();
    // The machine is measured when the model has given its memory back: both together would pass the budget.
    drop(model);
    progress("measuring the machine", n_steps - 1, n_steps);
    let foretell = || foretell::foretell(&checkpoint, &plan, options, &mut rows);
    let peaks = options.peaks.then(foretell).transpose()?;
    progress("done", n_steps, n_steps);
    Ok(BenchReport::new(path, options, reader, &plan, peaks, load_seconds, rows, peak_rss_bytes))
}

/// Bytes of the trunk that each decoded token reads: of a table that is not also the head, one row.
fn active_bytes(checkpoint: &Checkpoint, plan: &Plan) -> u64 {
    let embed = checkpoint.trunk().embed.shape.bytes() as u64;
    if checkpoint.trunk().head.is_some() { plan.trunk_bytes - embed } else { plan.trunk_bytes }
}

struct Runner<'a> {
    model: Model,
    plan: Plan,
    options: &'a BenchOptions,
    random: SplitMix64,
    /// Bytes of the trunk that a token reads.
    active: u64,
}

impl Runner<'_> {
    /// Reads a short prompt and decodes a little, so that everything was used once: where all experts stay, also they.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        let mut state = self.model.new_state()?;
        let most = if self.plan.resident_share < 1.0 { 64 } else { FILLING_TOKENS };
        self.read(&mut state, self.options.prompt_tokens.min(most))?;
        self.decode(&mut state, WARM_TOKENS)?;
        Ok(())
    }

    fn row(&mut self, context: usize, cold: bool) -> Result<Row, BenchError> {
        let mut state = self.model.new_state()?;
        let filled = if context > 0 { self.read(&mut state, context)?.0 } else { 0 };
        let times = self.times();
        let (n_prompt, prompt) = self.read(&mut state, self.options.prompt_tokens)?;
        let prompt_parts = self.parts_since(&times, n_prompt);
        if !cold {
            self.decode(&mut state, WARM_TOKENS)?;
        }
        let before = self.model.store_stats();
        let swaps = self.model.swaps();
        let times = self.times();
        let (n_decoded, decode) = self.decode(&mut state, self.options.decode_tokens)?;
        let parts = self.parts_since(&times, n_decoded);
        let stats = self.model.store_stats().since(&before);
        let swaps = self.model.swaps().since(&swaps);
        let per_token = |n: u64| n as f64 / n_decoded as f64;
        let picks = stats.hits + stats.misses;
        let at = filled + n_prompt + n_decoded / 2;
        let busy_ns = stats.busy_ns.max(1) as f64;
        Ok(Row {
            context: filled,
            cold,
            prompt_tokens: n_prompt,
            prefill_tok_per_s: n_prompt as f64 / prompt.as_secs_f64(),
            decode_tokens: n_decoded,
            decode_tok_per_s: n_decoded as f64 / decode.as_secs_f64(),
            bytes_per_token: per_token(stats.bytes_from_device),
            hit_rate: if picks == 0 { 1.0 } else { stats.hits as f64 / picks as f64 },
            read_us_p50: stats.latency.percentile_us(500),
            read_us_p99: stats.latency.percentile_us(990),
            wait_ms_per_token: per_token(stats.wait_ns) / 1e6,
            disk_gb_per_s: stats.bytes_from_device as f64 / busy_ns,
            disk_idle_share: (1.0 - busy_ns / decode.as_nanos() as f64).clamp(0.0, 1.0),
            active_bytes_per_token: self.active + self.plan.expert_bytes_per_token + self.state_bytes(at),
            picks_replaced_share: swaps.swapped_share(),
            router_share_given_up: swaps.mean_given_up(),
            parts,
            prompt_parts,
            predicted: None,
        })
    }

    /// Time that each part has taken since the model was loaded.
    fn times(&self) -> [Duration; Part::ALL.len()] {
        Part::ALL.map(|part| self.model.timing().total(part))
    }

    /// Time that each part has taken since `before`, for each of `n` tokens.
    fn parts_since(&self, before: &[Duration], n: usize) -> Vec<PartTime> {
        let since = |(&part, &before): (&Part, &Duration)| PartTime {
            part: part.name().to_owned(),
            ms_per_token: (self.model.timing().total(part) - before).as_secs_f64() * 1e3 / n as f64,
        };
        Part::ALL.iter().zip(before).map(since).collect()
    }

    /// Bytes of DeltaNet state, read and written, and of keys and values that a token at position `at` touches.
    fn state_bytes(&self, at: usize) -> u64 {
        let delta = 2 * self.plan.state_bytes / self.plan.n_states.max(1) as u64;
        delta + self.plan.kv_bytes / self.plan.context.max(1) as u64 * at as u64
    }

    /// Reads `n` random tokens, fewer if patience ends; how many, and in what time.
    fn read(&mut self, state: &mut State, n: usize) -> Result<(usize, Duration), BenchError> {
        let begun = Instant::now();
        let mut done = 0;
        while done < n && (done == 0 || begun.elapsed() < self.options.patience) {
            let tokens = self.tokens((n - done).min(self.plan.chunk));
            let mut batch = [Sequence { state, tokens: &tokens, wanted: Wanted::Last }];
            self.model.forward(&mut batch, None, None)?;
            done += tokens.len();
        }
        Ok((done, begun.elapsed()))
    }

    /// Decodes `n` tokens, one a pass.
    fn decode(&mut self, state: &mut State, n: usize) -> Result<(usize, Duration), BenchError> {
        let begun = Instant::now();
        let mut done = 0;
        while done < n && (done == 0 || begun.elapsed() < self.options.patience) {
            let tokens = self.tokens(1);
            let mut batch = [Sequence { state, tokens: &tokens, wanted: Wanted::Last }];
            self.model.forward(&mut batch, None, None)?;
            done += 1;
        }
        Ok((done, begun.elapsed()))
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        let vocab = self.model.spec().vocab_size as u64;
        (0..n).map(|_| self.random.below(vocab) as u32).collect()
    }
}
