//! `flashmill serve MODEL`: answers over HTTP.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::{Scheduler, SchedulerOptions};
use flashmill_server::{Limits, Server, ServerOptions};

use crate::demo;
use crate::flags::{PromptCache, ServeOptions};
use crate::interrupt::Interrupt;
use crate::load;
use crate::model_path::ModelPath;
use crate::terminal::note;

/// The variable that may hold the key.
const KEY_VARIABLE: &str = "FLASHMILL_API_KEY";

/// Opens the model and serves it until Ctrl-C or SIGTERM.
pub(crate) fn serve(options: &ServeOptions) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let model = ModelPath::find(&options.model)?;
    // An address that cannot be had is told before the model is read.
    let server = Server::bind(server_options(options, api_key(options)?))?;
    let engine = load::open_engine(model.path(), &options.engine, &options.tuned)?;
    let scheduler_options = SchedulerOptions {
        max_queue: options.queue,
        snapshot_dir: snapshot_dir(options),
        snapshot_bytes: options.prompt_cache_bytes,
    };
    let scheduler = Scheduler::start(engine, scheduler_options)?;
    let stopper = server.stopper();
    interrupt.hand_over(move || stopper.stop());
    note!("{} is served at http://{}, the APIs under /v1", name_of(options), server.address());
    server.run(scheduler)?;
    Ok(ExitCode::SUCCESS)
}

fn server_options(options: &ServeOptions, api_key: Option<String>) -> ServerOptions {
    let defaults = Limits::default();
    let body_bytes = usize::try_from(options.max_body_bytes).unwrap_or(usize::MAX);
    ServerOptions {
        host: options.host.clone(),
        port: options.port,
        model: name_of(options),
        api_key,
        allow_no_key: options.no_api_key,
        cors: options.cors.clone(),
        tool_grammar: options.tool_grammar,
        limits: Limits {
            body_bytes,
            all_bodies_bytes: defaults.all_bodies_bytes.max(body_bytes.saturating_mul(2)),
            connections: options.max_connections,
            answer_time: options.answer_time,
            grace: options.grace,
            ..defaults
        },
    }
}

/// The flag, or the variable.
fn api_key(options: &ServeOptions) -> Result<Option<String>> {
    if options.no_api_key {
        return Ok(None);
    }
    match (&options.api_key, std::env::var_os(KEY_VARIABLE)) {
        (Some(key), _) => Ok(Some(key.clone())),
        (None, Some(key)) => {
            let key = key.into_string().ok().filter(|key| !key.is_empty());
            key.with_context(|| format!("{KEY_VARIABLE} is empty or not UTF-8; set a key or unset it"))
                .map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// `--name`, or what the model's directory or file is called.
fn name_of(options: &ServeOptions) -> String {
    let of_path = |path: &Path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let is_demo = options.model == Path::new("demo");
    options.name.clone().unwrap_or_else(|| if is_demo { "demo".into() } else { of_path(&options.model) })
}

fn snapshot_dir(options: &ServeOptions) -> Option<PathBuf> {
    match &options.prompt_cache {
        PromptCache::Nowhere => None,
        PromptCache::Dir(dir) => Some(dir.clone()),
        PromptCache::Usual => demo::user_cache().map(|cache| cache.join("prompts")),
    }
}
