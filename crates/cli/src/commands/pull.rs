//! `flashmill pull REPO`: fetches a model from a hub into the cache that other tools share.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use flashmill_pull::{PullOptions, pull as fetch};

use super::pull_packed::pull_packed;
use crate::flags::PullFlags;
use crate::progress::Progress;
use crate::terminal::note;

/// Fetches what is missing and prints the path that `run` takes.
pub(crate) fn pull(flags: PullFlags) -> Result<ExitCode> {
    let options = options(&flags)?;
    if let Some(pack) = flags.pack {
        return pull_packed(&flags.repo, &options, pack);
    }
    let bar = Mutex::new(Progress::of_bytes("fetching"));
    let pulled = fetch(&flags.repo, &options, &|progress| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set(progress.done_bytes, progress.total_bytes);
    });
    drop(bar);
    let pulled = pulled?;
    note!("{} is here; run it with: flashmill run {} -p TEXT", flags.repo, pulled.model.display());
    writeln!(io::stdout(), "{}", pulled.model.display()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// The environment as `huggingface_hub` reads it.
fn options(flags: &PullFlags) -> Result<PullOptions> {
    let home = home().map(|home| home.join(".cache/huggingface"));
    let home = directory("HF_HOME")
        .or_else(|| directory("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
        .or(home);
    let cache = directory("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));
    let cache = cache.context("no place for the cache is known; set HF_HOME to a directory")?;
    let mut options = PullOptions::new(&cache);
    options.token = token(home.as_deref());
    if let Some(endpoint) = text("HF_ENDPOINT") {
        options.endpoint = endpoint;
    }
    options.revision.clone_from(&flags.revision);
    options.connections = flags.connections;
    Ok(options)
}

/// The token of the environment, or the one that `hf auth login` stored.
fn token(home: Option<&Path>) -> Option<String> {
    let stored = || std::fs::read_to_string(home?.join("token")).ok();
    let token = text("HF_TOKEN").or_else(stored)?.trim().to_owned();
    // Anything else is no token, and no header either.
    Some(token).filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn directory(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home() -> Option<PathBuf> {
    directory(if cfg!(windows) { "USERPROFILE" } else { "HOME" })
}
