//! Fetches a model from a hub (huggingface.co, or a mirror of it) into the standard cache, so that other tools find it too.
//!
//! ```text
//! Repo ──hub: commit, file list──▶ select ──▶ download: ranges, in parallel ──part──▶ blobs/, snapshots/, refs/
//! ```
//!
//! A file is fetched in pieces over several connections into one part file; a journal beside it lists the finished pieces, so
//! that a pull that was killed at any moment goes on where it was. A file joins the cache only after its size and, where the
//! hub gives it, its SHA-256 were checked. Beside the fetching nothing is decided here: the endpoint, the token and the
//! cache's place come from the caller. [`Remote`] fetches the files of a model one by one, for a caller who lets each go again.

mod cache;
mod download;
mod error;
mod http;
mod hub;
mod part;
mod remote;
mod repo;
mod select;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use error::PullError;
pub use remote::Remote;
pub use repo::Repo;

use cache::Cache;
use http::Client;

/// Where from, where to, and how patiently.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The hub, as `https://huggingface.co`.
    pub endpoint: String,
    /// Sent to the hub only, never to where it redirects.
    pub token: Option<String>,
    /// The cache's directory, which holds `models--org--name`.
    pub cache: PathBuf,
    /// A branch, tag or commit.
    pub revision: String,
    /// Connections that fetch at the same time.
    pub connections: usize,
    /// A connection that gives no byte for this long is dropped.
    pub timeout: Duration,
    /// Attempts without any progress before giving up.
    pub attempts: u32,
    /// The wait after the first failed attempt; it doubles with each further one, up to half a minute.
    pub backoff: Duration,
    /// Bytes of a piece, what a killed pull fetches again at most on each connection.
    pub piece_bytes: u64,
}

impl PullOptions {
    /// The usual settings for this cache.
    pub fn new(cache: &Path) -> PullOptions {
        PullOptions {
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            cache: cache.to_owned(),
            revision: "main".to_owned(),
            connections: 8,
            timeout: Duration::from_secs(30),
            attempts: 8,
            backoff: Duration::from_millis(500),
            piece_bytes: 32 << 20,
        }
    }
}

/// A model that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The directory of its files.
    pub dir: PathBuf,
    /// What to run: the directory, or the GGUF file, of a split one the first part.
    pub model: PathBuf,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes that are here, those of earlier pulls included.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// The file that the last bytes belong to.
    pub file: &'a str,
    /// What happens to it.
    pub step: Step,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its bytes arrive.
    Fetching,
    /// All are here and are checked.
    Checking,
    /// An attempt failed and is repeated.
    Retrying,
}

/// Fetches the files of `repo` that a model needs. `progress` is called from several threads.
///
/// # Errors
/// When the hub refuses, a file cannot be fetched or is not what the hub promised, or the disk is too small. What was
/// fetched stays, and the next pull goes on from there.
pub fn pull(
    repo: &Repo,
    options: &PullOptions,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Pulled, PullError> {
    let client = Client::new(repo, options);
    let listing = hub::list(&client, repo, &options.revision)?;
    let files = select::select(repo, listing.files)?;
    let cache = Cache::open(options, repo)?;
    let missing: Vec<_> = files.iter().filter(|file| !cache.has(file)).collect();
    cache.check_space(&missing)?;
    let total_bytes = files.iter().map(|file| file.size).sum::<u64>();
    let here_bytes = total_bytes - missing.iter().map(|file| file.size).sum::<u64>();
    download::download(&download::Job {
        client: &client,
        place: &|file| cache.blob(file),
        options,
        commit: &listing.commit,
        files: &missing,
        here_bytes,
        total_bytes,
        progress,
        stop: &AtomicBool::new(false),
    })?;
    let dir = cache.finish(&options.revision, &listing.commit, &files)?;
    let gguf = files.iter().map(|file| &file.path).filter(|_| repo.quant().is_some()).min();
    let model = gguf.map_or_else(|| dir.clone(), |path| dir.join(path));
    Ok(Pulled { dir, model })
}
