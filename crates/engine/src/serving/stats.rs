//! What the scheduler tells about itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use flashmill_checkpoint::FfnKind;
use flashmill_model::Model;
use flashmill_store::Stats as StoreStats;

use super::sequence::Client;

/// The map of experts is drawn at most this often.
const MAP_EVERY: Duration = Duration::from_millis(400);

/// Counters since the start, and what goes on now.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServingStats {
    /// Time since the start.
    pub uptime: Duration,
    /// Requests that were finished.
    pub finished: u64,
    /// Requests whose clients went away.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Answers that gave their memory to others and had to be read again.
    pub preempted: u64,
    /// Answers and prompts in work.
    pub running: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Prompt tokens that the model read.
    pub prompt_tokens: u64,
    /// Prompt tokens that were in snapshots.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// Forward passes.
    pub passes: u64,
    /// Rows of forward passes: prompt tokens, and tokens of answers.
    pub rows: u64,
    /// Time of passes with prompt tokens in them.
    pub prompt_time: Duration,
    /// Time of passes for answers alone.
    pub decode_time: Duration,
    /// Snapshots of prompts.
    pub prefixes: PrefixStats,
    /// Reads, hits and waits of experts.
    pub store: StoreStats,
}

impl ServingStats {
    /// Counts a request whose client went away or was told of a failure, once.
    pub(crate) fn count_gone(&mut self, client: &mut Client) {
        if client.n_open == 0 || client.is_counted {
            return;
        }
        client.is_counted = true;
        match client.has_failed {
            true => self.failed += 1,
            false => self.cancelled += 1,
        }
    }
}

/// Counters of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// In memory now.
    pub in_ram: usize,
    /// On disk now, of this model.
    pub on_disk: usize,
    /// Bytes on disk now, of all models.
    pub disk_bytes: u64,
    /// Prompts that began with one in memory.
    pub ram_hits: u64,
    /// Prompts that began with one on disk.
    pub disk_hits: u64,
    /// Prompts that began with none.
    pub misses: u64,
    /// Written to disk.
    pub written: u64,
    /// Files that were damaged, or could not be read or written.
    pub errors: u64,
}

/// Experts by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpertMap {
    /// Layers with experts.
    pub n_layers: usize,
    /// Experts of each.
    pub n_experts: usize,
    /// `[n_layers][n_experts]`: bit 7 is set for a resident expert; the rest is how lately it was picked for an answer: 127 for the
    /// last token, one less for each token since, 0 for longer ago or never.
    pub cells: Vec<u8>,
}

impl ExpertMap {
    pub(crate) fn draw(&mut self, model: &Model) {
        let spec = model.spec();
        let n_experts = spec.moe.map_or(0, |moe| moe.n_experts);
        let layers: Vec<usize> =
            (0..spec.layers.len()).filter(|&layer| spec.layers[layer].ffn == FfnKind::Moe).collect();
        (self.n_layers, self.n_experts) = (layers.len(), n_experts);
        self.cells.clear();
        for &layer in &layers {
            for expert in 0..n_experts as u32 {
                let resident = u8::from(model.store().resident(layer, expert)) << 7;
                // A fetch a layer is a token.
                let age = model.store().age(layer, expert).map(|fetches| fetches / layers.len() as u64);
                let recency = age.map_or(0, |tokens| 127u64.saturating_sub(tokens)) as u8;
                self.cells.push(resident | recency);
            }
        }
    }
}

/// Where the worker writes and callers read.
pub(crate) struct Board {
    start: Instant,
    stats: Mutex<ServingStats>,
    map: Mutex<(Option<Instant>, ExpertMap)>,
    map_wanted: AtomicBool,
    /// Seconds of a request from its arrival to its end, decaying mean.
    seconds: Mutex<f64>,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            start: Instant::now(),
            stats: Mutex::default(),
            map: Mutex::default(),
            // The first picture shows what is there at the start.
            map_wanted: AtomicBool::new(true),
            seconds: Mutex::new(1.0),
        }
    }
}

impl Board {
    pub(crate) fn stats(&self) -> ServingStats {
        ServingStats { uptime: self.start.elapsed(), ..*lock(&self.stats) }
    }

    pub(crate) fn publish(&self, stats: &ServingStats) {
        *lock(&self.stats) = *stats;
    }

    pub(crate) fn experts(&self) -> ExpertMap {
        self.map_wanted.store(true, Ordering::Relaxed);
        lock(&self.map).1.clone()
    }

    /// Draws the map anew if somebody looks at it and it is old.
    pub(crate) fn draw(&self, model: &Model) {
        if !self.map_wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut map = lock(&self.map);
        if map.0.is_none_or(|drawn| drawn.elapsed() >= MAP_EVERY) {
            map.1.draw(model);
            map.0 = Some(Instant::now());
            self.map_wanted.store(false, Ordering::Relaxed);
        }
    }

    /// Counts a request whose last answer is finished.
    pub(crate) fn finish(&self, client: &mut Client, stats: &mut ServingStats) {
        if client.n_open == 0 && !client.has_failed && !client.is_counted {
            client.is_counted = true;
            stats.finished += 1;
            let mut seconds = lock(&self.seconds);
            *seconds = 0.8 * *seconds + 0.2 * client.arrived.elapsed().as_secs_f64();
        }
    }

    pub(crate) fn seconds_per_request(&self) -> f64 {
        *lock(&self.seconds)
    }
}

/// What is behind these locks is whole at every moment, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
