use std::io;
use std::path::PathBuf;

/// Why a model could not be fetched. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Not the name of a repository.
    #[error(
        "{name:?} is not the name of a repository; give it as org/name, or org/name:Q4_K_M for one of its GGUF files"
    )]
    RepoName {
        /// What was given.
        name: String,
    },
    /// A revision that cannot be one.
    #[error("{revision:?} is not a revision; give a branch, a tag or a commit")]
    Revision {
        /// What was given.
        revision: String,
    },
    /// 401 or 403.
    #[error(
        "{url}: the hub answers {status}: {repo} is private or gated, or the token is wrong; accept its licence on its page and set HF_TOKEN"
    )]
    Forbidden {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The repository.
        repo: String,
    },
    /// 404.
    #[error(
        "{url}: the hub answers 404: there is no such repository, revision or file (or it is private: set HF_TOKEN)"
    )]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// Another status that will not change.
    #[error("{url}: the hub answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub failed again and again.
    #[error(
        "{url}: given up after {attempts} attempts without progress: {reason}; run the same command again to go on"
    )]
    GaveUp {
        /// What was asked for.
        url: String,
        /// Attempts.
        attempts: u32,
        /// What happened at the last.
        reason: String,
    },
    /// An answer that is not what the hub's interface promises.
    #[error("{url}: the hub's answer is not understood: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A file name that would leave the cache.
    #[error("the hub lists the file {path:?}, which is not a plain relative path; nothing of it is fetched")]
    UnsafePath {
        /// The name.
        path: String,
    },
    /// Nothing to run in the repository.
    #[error(
        "{repo} holds no safetensors weights and no GGUF file; give a repository of one of these formats"
    )]
    NoWeights {
        /// The repository.
        repo: String,
    },
    /// A repository of GGUF files needs a choice.
    #[error("{repo} holds {}; give one as {repo}:{}", .quants.join(", "), .quants[0])]
    ChooseQuant {
        /// The repository.
        repo: String,
        /// What there is, never empty.
        quants: Vec<String>,
    },
    /// The quantisation asked for is not there.
    #[error("{repo} holds no GGUF file of {quant}; it holds {}", if .quants.is_empty() { "none at all".to_owned() } else { .quants.join(", ") })]
    NoQuant {
        /// The repository.
        repo: String,
        /// What was asked for.
        quant: String,
        /// What there is.
        quants: Vec<String>,
    },
    /// The bytes are not the ones that the hub promised.
    #[error(
        "{file}: its SHA-256 is {found}, but the hub says {expected}; it was fetched twice, so the hub or the way to it is at fault"
    )]
    Hash {
        /// The file.
        file: String,
        /// Of what was fetched.
        found: String,
        /// Of the hub's list.
        expected: String,
    },
    /// The disk is too small.
    #[error(
        "{path}: {needed_bytes} bytes are needed and {free_bytes} are free; free some space or set HF_HOME to another disk"
    )]
    Space {
        /// The cache.
        path: PathBuf,
        /// Bytes still to be fetched.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// Another process fetches the same model.
    #[error("{path}: another pull of this model is running; wait for it or end it")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The files that hold headers would take the room of whole ones.
    #[error(
        "{path}: its file system cannot leave out what is not written; use another disk, or pull the model and pack it then"
    )]
    NoHoles {
        /// The file.
        path: PathBuf,
    },
    /// A directory that would be removed at the end holds something else.
    #[error("{path} is there and was not made by an earlier pull; move it away, or choose another output")]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}
