//! Many connections fetch the pieces of all missing files, in order.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::http::{Answer, Client, Failure, escaped};
use crate::hub::RemoteFile;
use crate::part::Part;
use crate::{Progress, PullError, PullOptions, Step};

/// Bytes taken from a connection at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What to fetch.
pub(crate) struct Job<'a> {
    pub(crate) client: &'a Client,
    /// Where each file's bytes lie when they are whole.
    pub(crate) place: &'a (dyn Fn(&RemoteFile) -> PathBuf + Sync),
    pub(crate) options: &'a PullOptions,
    pub(crate) commit: &'a str,
    /// The missing files.
    pub(crate) files: &'a [&'a RemoteFile],
    /// Bytes of the others.
    pub(crate) here_bytes: u64,
    /// Bytes of all.
    pub(crate) total_bytes: u64,
    pub(crate) progress: &'a (dyn Fn(Progress<'_>) + Sync),
    /// Ends it early, with what is here kept.
    pub(crate) stop: &'a AtomicBool,
}

/// A file on its way, and where it comes from and goes to.
struct Target<'a> {
    file: &'a RemoteFile,
    url: String,
    blob: PathBuf,
    part: Part,
    /// Held by the connection that fetches the whole file from a server that knows no ranges.
    whole: Mutex<()>,
}

/// The job, and what all threads share.
struct Pull<'a> {
    job: &'a Job<'a>,
    done_bytes: AtomicU64,
    stop: AtomicBool,
}

/// Fetches, checks and installs all files.
pub(crate) fn download(job: &Job<'_>) -> Result<(), PullError> {
    let mut targets: Vec<Target<'_>> = Vec::new();
    for file in job.files {
        // Equal files are one blob.
        if !targets.iter().any(|target| target.file.blob == file.blob) {
            targets.push(target(job, file)?);
        }
    }
    let resumed: u64 = targets.iter().map(|target| target.part.done_bytes()).sum();
    let pull =
        Pull { job, done_bytes: AtomicU64::new(job.here_bytes + resumed), stop: AtomicBool::new(false) };
    for target in targets.iter().filter(|target| target.part.is_whole()) {
        pull.complete(target)?;
    }
    let tasks: Vec<(&Target<'_>, usize)> = targets
        .iter()
        .flat_map(|target| (0..target.part.n_pieces()).map(move |piece| (target, piece)))
        .filter(|(target, piece)| !target.part.is_done(*piece))
        .collect();
    let (next, first_error) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..job.options.connections.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some(&(target, piece)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if pull.stopped() {
                        return;
                    }
                    if let Err(error) = pull.piece_of(target, piece) {
                        pull.stop.store(true, Ordering::Relaxed);
                        first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Where a file's bytes are.
pub(crate) fn url(client: &Client, commit: &str, file: &RemoteFile) -> String {
    format!("{}/{}/resolve/{commit}/{}", client.endpoint, client.repo(), escaped(&file.path))
}

fn target<'a>(job: &Job<'a>, file: &'a RemoteFile) -> Result<Target<'a>, PullError> {
    let url = url(job.client, job.commit, file);
    let blob = (job.place)(file);
    // Without a hash there is no telling whether what an earlier pull left is whole.
    let part = Part::open(&blob, file.size, job.options.piece_bytes, file.sha256.is_some())?;
    Ok(Target { file, url, blob, part, whole: Mutex::new(()) })
}

impl Pull<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.job.stop.load(Ordering::Relaxed)
    }

    /// Fetches a piece, and completes the file if it was the last one.
    fn piece_of(&self, target: &Target<'_>, piece: usize) -> Result<(), PullError> {
        match self.fetch(target, piece)? {
            true => self.complete(target),
            false => Ok(()),
        }
    }

    /// Fetches a piece; whether the file is now whole.
    fn fetch(&self, target: &Target<'_>, piece: usize) -> Result<bool, PullError> {
        let (first, end) = target.part.range(piece);
        let mut at = first;
        let mut patience = self.job.client.patience(&target.url);
        loop {
            if self.stopped() || target.part.is_done(piece) {
                return Ok(false);
            }
            let before = at;
            match self.attempt(target, &mut at, end) {
                Ok(Fetched::Piece) => return target.part.finish(piece),
                Ok(Fetched::NoRanges) => return self.fetch_whole(target),
                Err(failure) => {
                    self.report(target, Step::Retrying);
                    patience.after(failure, at > before)?;
                }
            }
        }
    }

    /// One request for the bytes from `at` to `end`; `at` moves with what arrives.
    fn attempt(&self, target: &Target<'_>, at: &mut u64, end: u64) -> Result<Fetched, Failure> {
        let all = *at == 0 && end == target.file.size;
        let mut answer = self.job.client.get(&target.url, (!all).then_some((*at, end)))?;
        if all || answer.status() == 206 {
            check_range(&answer, target.file.size, (*at, end), all)?;
            self.take(target, &mut answer, at, end)?;
            return Ok(Fetched::Piece);
        }
        Ok(Fetched::NoRanges)
    }

    /// The whole file at once, by one connection while the others wait; whether it is now whole by this call.
    fn fetch_whole(&self, target: &Target<'_>) -> Result<bool, PullError> {
        let _alone = target.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let mut patience = self.job.client.patience(&target.url);
        let mut furthest = 0;
        while !target.part.is_whole() && !self.stopped() {
            let mut at = 0;
            let attempt = self.job.client.get(&target.url, None).and_then(|mut answer| {
                check_range(&answer, target.file.size, (0, target.file.size), true)?;
                self.take(target, &mut answer, &mut at, target.file.size)
            });
            match attempt {
                Ok(()) => {
                    let mut last = false;
                    for piece in 0..target.part.n_pieces() {
                        last |= target.part.finish(piece)?;
                    }
                    return Ok(last);
                }
                Err(failure) => {
                    self.report(target, Step::Retrying);
                    patience.after(failure, at > furthest)?;
                    // They come again.
                    self.done_bytes.fetch_sub(at, Ordering::Relaxed);
                    furthest = furthest.max(at);
                }
            }
        }
        Ok(false)
    }

    /// Writes the answer's bytes from `at` to `end`.
    fn take(&self, target: &Target<'_>, answer: &mut Answer, at: &mut u64, end: u64) -> Result<(), Failure> {
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        while *at < end {
            if self.stopped() {
                return Err(Failure::Again("another file failed".to_owned(), None));
            }
            let room = buffer.len().min((end - *at) as usize);
            let n =
                body.read(&mut buffer[..room]).map_err(|error| Failure::Again(error.to_string(), None))?;
            if n == 0 {
                let reason = format!("the connection ended {} bytes too early", end - *at);
                return Err(Failure::Again(reason, None));
            }
            target.part.write(*at, &buffer[..n]).map_err(Failure::Final)?;
            *at += n as u64;
            self.done_bytes.fetch_add(n as u64, Ordering::Relaxed);
            self.report(target, Step::Fetching);
        }
        Ok(())
    }

    /// Checks the hash and installs the file. What was resumed may have been damaged by a power cut, so a wrong hash is a reason to
    /// fetch the file once more, from nothing.
    fn complete(&self, target: &Target<'_>) -> Result<(), PullError> {
        let Some(expected) = &target.file.sha256 else { return target.part.install(&target.blob) };
        for again in [true, false] {
            self.report(target, Step::Checking);
            let found = target.part.sha256()?;
            if found == *expected {
                return target.part.install(&target.blob);
            }
            target.part.restart()?;
            if !again {
                let (file, expected) = (target.file.path.clone(), expected.clone());
                return Err(PullError::Hash { file, found, expected });
            }
            self.done_bytes.fetch_sub(target.file.size, Ordering::Relaxed);
            for piece in 0..target.part.n_pieces() {
                self.fetch(target, piece)?;
            }
            if !target.part.is_whole() {
                // Another file failed, and its error is the one to tell.
                return Ok(());
            }
        }
        Ok(())
    }

    fn report(&self, target: &Target<'_>, step: Step) {
        let total_bytes = self.job.total_bytes;
        // Bytes that arrive twice, from servers without ranges, may count twice for a while.
        let done_bytes = self.done_bytes.load(Ordering::Relaxed).min(total_bytes);
        (self.job.progress)(Progress { done_bytes, total_bytes, file: &target.file.path, step });
    }
}

/// What came of a request.
enum Fetched {
    /// The piece.
    Piece,
    /// The server sends whole files only.
    NoRanges,
}

/// The answer holds the bytes that were asked for, of a file of the right size.
pub(crate) fn check_range(
    answer: &Answer,
    size: u64,
    (first, end): (u64, u64),
    whole: bool,
) -> Result<(), Failure> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let (name, found, expected) = if whole {
        // Chunked answers have no length; the end of the body tells.
        let size = size.to_string();
        ("content-length", header("content-length").unwrap_or(&size).to_owned(), size.clone())
    } else {
        let found = header("content-range").unwrap_or("missing").to_owned();
        ("content-range", found, format!("bytes {first}-{}/{size}", end - 1))
    };
    match found == expected {
        true => Ok(()),
        false => Err(Failure::Again(format!("its {name} is {found} instead of {expected}"), None)),
    }
}
