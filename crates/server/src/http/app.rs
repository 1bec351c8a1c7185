//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::http::HeaderValue;
use tokio::sync::Semaphore;

use crate::forms::Forms;
use crate::ids::{Heads, now};
use crate::metrics::HttpStats;
use crate::options::ServerOptions;
use flashmill_engine::serving::Scheduler;

/// The model, the settings, and counters.
pub(super) struct App {
    pub(super) scheduler: Scheduler,
    pub(super) forms: Forms,
    pub(super) options: ServerOptions,
    /// Only this machine can reach the address.
    pub(super) is_loopback: bool,
    pub(super) heads: Heads,
    /// Seconds since 1970 when the server began.
    pub(super) created: u64,
    /// KiB that bodies may still take.
    pub(super) body_kib: Arc<Semaphore>,
    pub(super) is_ending: AtomicBool,
    /// The share that cache-aware routing may give up, where it is on.
    pub(super) cache_aware: Option<HeaderValue>,
    pub(super) counters: Counters,
}

/// What the server counts itself; the rest is the scheduler's.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections that are open.
    pub(super) connections: AtomicU64,
    /// Connections that found no place.
    pub(super) refused_connections: AtomicU64,
    /// Responses with a status of 2xx, 4xx and 5xx.
    pub(super) responses: [AtomicU64; 3],
}

impl App {
    pub(super) fn new(scheduler: Scheduler, options: ServerOptions, is_loopback: bool) -> App {
        let body_kib = options.limits.all_bodies_bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS);
        let share = scheduler.plan().cache_aware;
        let cache_aware = (share > 0.0).then(|| HeaderValue::from_str(&share.to_string()).ok()).flatten();
        App {
            cache_aware,
            scheduler,
            forms: Forms::new(options.tool_grammar),
            is_loopback,
            heads: Heads::default(),
            created: now(),
            body_kib: Arc::new(Semaphore::new(body_kib)),
            is_ending: AtomicBool::new(false),
            counters: Counters::default(),
            options,
        }
    }
}

impl Counters {
    /// The counts now.
    pub(super) fn snapshot(&self) -> HttpStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HttpStats {
            connections: get(&self.connections),
            refused_connections: get(&self.refused_connections),
            responses: [0, 1, 2].map(|class| get(&self.responses[class])),
        }
    }
}
