//! The flags of the engine, which most commands have.

use anyhow::{Context as _, Result, bail};
use flashmill_engine::{BackendKind, EngineOptions, KvKind};

use super::low::{LowBackend, LowEngine, LowKv};
use crate::tuned::TunedUse;

/// What the flags say of settings that `tune` found: those that they give stay.
pub(super) fn tuned_use(low: &LowEngine) -> TunedUse {
    let given = [
        ("reader", low.reader.is_some()),
        ("depth", low.depth.is_some()),
        ("io-threads", low.io_threads.is_some()),
        ("cache-policy", low.cache_policy.is_some()),
        ("prefetch", low.prefetch.is_some()),
        ("threads", low.threads.is_some()),
        ("prompt-chunk", low.prompt_chunk.is_some()),
        ("cache", low.cache.is_some()),
        ("experts", !low.experts.is_empty()),
        ("cache-aware", low.cache_aware.is_some()),
    ];
    let given = given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect();
    TunedUse { off: low.no_tuned || low.backend == LowBackend::Reference, given }
}

pub(super) fn engine_options(low: LowEngine) -> Result<EngineOptions> {
    Ok(EngineOptions {
        ram_bytes: low.ram,
        threads: low.threads,
        backend: match low.backend {
            LowBackend::Cpu => BackendKind::Cpu,
            LowBackend::Reference => BackendKind::Reference,
        },
        level: low.level.map(|level| level.parse()).transpose().context("--level")?,
        kv: match low.kv {
            LowKv::F32 => KvKind::F32,
            LowKv::F16 => KvKind::F16,
            LowKv::Q8 => KvKind::Q8,
        },
        context: low.context,
        experts_per_token: match low.experts[..] {
            [] => None,
            [experts] => Some(experts),
            _ => bail!("--experts: one number, several are for `flashmill eval`"),
        },
        reader: parsed(low.reader.as_deref()).context("--reader")?,
        depth: low.depth,
        io_threads: low.io_threads,
        policy: parsed(low.cache_policy.as_deref()).context("--cache-policy")?,
        cache_bytes: low.cache,
        max_chunk: low.prompt_chunk,
        cache_aware: low.cache_aware.unwrap_or(0.0),
        prefetch: parsed(low.prefetch.as_deref()).context("--prefetch")?,
        ..EngineOptions::default()
    })
}

/// What was typed, or the default.
fn parsed<T: std::str::FromStr + Default>(text: Option<&str>) -> Result<T, T::Err> {
    text.map_or_else(|| Ok(T::default()), str::parse)
}
