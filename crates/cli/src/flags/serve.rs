//! The flags of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use flashmill_engine::EngineOptions;

use super::engine::{engine_options, tuned_use};
use super::low::{LowEngine, LowModel, at_least_one};
use super::size::parse_size;
use crate::tuned::TunedUse;

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowServe {
    #[command(flatten)]
    model: LowModel,
    /// The name or address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value = "8080")]
    port: u16,
    /// The model's name in answers; that of its directory or file if not given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What clients must send as `Authorization: Bearer KEY` or `x-api-key: KEY`; the variable FLASHMILL_API_KEY if not given
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Let anyone who reaches the address ask
    #[arg(long, conflicts_with = "api_key")]
    no_api_key: bool,
    /// Web pages of this origin may ask, such as `https://example.org`; may be given more than once; * is all of them
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Hold every tool call to its schema, not only those that a request asks for with `tool_choice`
    #[arg(long)]
    tool_grammar: bool,
    /// Most answers that are written at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    sessions: usize,
    /// Most requests that wait; more are answered with status 429
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    queue: usize,
    /// Where prompts that were read are kept for the next start; the user's cache directory if not given
    #[arg(long, value_name = "DIR", conflicts_with = "no_prompt_cache")]
    prompt_cache: Option<PathBuf>,
    /// Most disk space for them, for example 8G
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = parse_size)]
    prompt_cache_size: u64,
    /// Keep prompts in memory only
    #[arg(long)]
    no_prompt_cache: bool,
    /// Most bytes of one request
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_size)]
    max_body: u64,
    /// Most connections at the same time
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one)]
    max_connections: usize,
    /// Most seconds of one answer
    #[arg(long, value_name = "S", default_value = "3600", value_parser = at_least_one)]
    timeout: usize,
    /// Seconds that running answers may go on after Ctrl-C
    #[arg(long, value_name = "S", default_value = "30")]
    grace: u32,
    #[command(flatten)]
    engine: LowEngine,
}

/// Answer over HTTP.
pub(crate) struct ServeOptions {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) tuned: TunedUse,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: Option<String>,
    pub(crate) api_key: Option<String>,
    pub(crate) no_api_key: bool,
    pub(crate) cors: Vec<String>,
    pub(crate) tool_grammar: bool,
    pub(crate) queue: usize,
    pub(crate) prompt_cache: PromptCache,
    pub(crate) prompt_cache_bytes: u64,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_connections: usize,
    pub(crate) answer_time: Duration,
    pub(crate) grace: Duration,
}

/// Where prompts are kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromptCache {
    /// Below the user's cache directory, if there is one.
    Usual,
    Dir(PathBuf),
    Nowhere,
}

impl ServeOptions {
    pub(super) fn new(low: LowServe) -> Result<ServeOptions> {
        let prompt_cache = match low.prompt_cache {
            _ if low.no_prompt_cache => PromptCache::Nowhere,
            Some(dir) => PromptCache::Dir(dir),
            None => PromptCache::Usual,
        };
        Ok(ServeOptions {
            model: low.model.model,
            tuned: tuned_use(&low.engine),
            engine: EngineOptions { sessions: Some(low.sessions), ..engine_options(low.engine)? },
            host: low.host,
            port: low.port,
            name: low.name,
            api_key: low.api_key,
            no_api_key: low.no_api_key,
            cors: low.cors,
            tool_grammar: low.tool_grammar,
            queue: low.queue,
            prompt_cache,
            prompt_cache_bytes: low.prompt_cache_size,
            max_body_bytes: low.max_body,
            max_connections: low.max_connections,
            // Tokio's clocks end somewhere beyond a century.
            answer_time: Duration::from_secs((low.timeout as u64).min(u32::MAX.into())),
            grace: Duration::from_secs(low.grace.into()),
        })
    }
}
