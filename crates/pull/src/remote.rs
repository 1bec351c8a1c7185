//! A model whose large files are fetched one by one and may go again before the next comes, for those who want no copy of all.
//!
//! ```text
//! DIR/
//!   COMMIT/               the small files, and of each large one its header in a file that is as long as all of it (but takes
//!                         no room: the rest is a hole)
//!   COMMIT.files/         the large files that are here, whole and checked; and those on their way, with their journals
//!   .flashmill-pull.lock  held while one works here
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::cache::allocated_bytes;
use crate::download::{self, Job};
use crate::http::{Client, Failure};
use crate::hub::{self, RemoteFile};
use crate::part::{self, io_error};
use crate::select::{is_weights, select};
use crate::{Progress, PullError, PullOptions, Repo};

const LOCK: &str = ".flashmill-pull.lock";

/// Bytes of a file that are asked for first: most headers are shorter.
const FIRST_BYTES: u64 = 256 << 10;

/// A revision of a repository, and the directory where its files come and go.
pub struct Remote {
    client: Client,
    options: PullOptions,
    commit: String,
    files: Vec<RemoteFile>,
    dir: PathBuf,
    /// Held as long as it is open.
    _lock: File,
}

impl Remote {
    /// Asks the hub for the list of files and makes `dir`, or takes up what an earlier one left there.
    ///
    /// # Errors
    /// When the hub refuses, or the directory is in use or not one of ours.
    pub fn open(repo: &Repo, options: &PullOptions, dir: &Path) -> Result<Remote, PullError> {
        let client = Client::new(repo, options);
        let listing = hub::list(&client, repo, &options.revision)?;
        let files = select(repo, listing.files)?;
        let lock = lock(dir)?;
        let remote = Remote {
            client,
            options: options.clone(),
            commit: listing.commit,
            files,
            dir: dir.to_owned(),
            _lock: lock,
        };
        for path in [remote.source(), remote.arrivals()] {
            fs::create_dir_all(&path).map_err(|source| io_error(&path, "make", source))?;
        }
        Ok(remote)
    }

    /// The directory that looks like the model, named by its commit; large files hold their headers.
    pub fn source(&self) -> PathBuf {
        self.dir.join(&self.commit)
    }

    /// Bytes of the disk that large files have so far.
    pub fn here_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.arrivals()).into_iter().flatten().flatten();
        entries.map(|entry| allocated_bytes(&entry.path())).sum()
    }

    /// Bytes of a large file, by its name; `None` if there is no such file.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.large(name).map(|file| file.size)
    }

    /// Fetches the small files, and the headers of the large ones: as many bytes as `header_bytes` says of the first eight.
    pub fn prepare(
        &self,
        header_bytes: &(dyn Fn(&[u8; 8]) -> u64 + Sync),
        progress: &(dyn Fn(Progress<'_>) + Sync),
    ) -> Result<(), PullError> {
        let missing = |file: &&RemoteFile| {
            fs::metadata(self.source().join(&file.path)).map_or(true, |found| found.len() != file.size)
        };
        let (large, small): (Vec<&RemoteFile>, Vec<&RemoteFile>) =
            self.files.iter().filter(missing).partition(|file| is_weights(file));
        self.download(&small, &|file| self.source().join(&file.path), progress, &AtomicBool::new(false))?;
        let (next, first_error) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..self.options.connections.min(large.len()) {
                scope.spawn(|| {
                    while let Some(file) = large.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.header(file, header_bytes) {
                            next.store(large.len(), Ordering::Relaxed);
                            first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Fetches a large file whole and checks it, and gives where it is; `None` if it was told to stop.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn fetch(
        &self,
        name: &str,
        progress: &(dyn Fn(Progress<'_>) + Sync),
        stop: &AtomicBool,
    ) -> Result<Option<PathBuf>, PullError> {
        let file = self.large(name).expect("one of the files");
        let path = self.arrivals().join(name);
        let is_here = || fs::metadata(&path).is_ok_and(|found| found.len() == file.size);
        if !is_here() {
            self.download(&[file], &|_| path.clone(), progress, stop)?;
        }
        Ok(is_here().then_some(path))
    }

    /// Removes a large file that is here.
    pub fn discard(&self, name: &str) -> Result<(), PullError> {
        let path = self.arrivals().join(name);
        fs::remove_file(&path).map_err(|source| io_error(&path, "remove", source))
    }

    /// Removes large files, whole or in part, that are here and not among these.
    pub fn keep_only(&self, names: &[&str]) -> Result<(), PullError> {
        for file in self.files.iter().filter(|file| is_weights(file) && !names.contains(&file.path.as_str()))
        {
            let path = self.arrivals().join(&file.path);
            for path in [part::part_path(&path), part::journal_path(&path), path] {
                match fs::remove_file(&path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error(&path, "remove", source));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes the directory.
    pub fn remove(self) -> Result<(), PullError> {
        fs::remove_dir_all(&self.dir).map_err(|source| io_error(&self.dir, "remove", source))
    }

    fn arrivals(&self) -> PathBuf {
        self.dir.join(format!("{}.files", self.commit))
    }

    fn large(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| is_weights(file) && file.path == name)
    }

    fn download(
        &self,
        files: &[&RemoteFile],
        place: &(dyn Fn(&RemoteFile) -> PathBuf + Sync),
        progress: &(dyn Fn(Progress<'_>) + Sync),
        stop: &AtomicBool,
    ) -> Result<(), PullError> {
        download::download(&Job {
            client: &self.client,
            place,
            options: &self.options,
            commit: &self.commit,
            files,
            here_bytes: 0,
            total_bytes: files.iter().map(|file| file.size).sum(),
            progress,
            stop,
        })
    }

    /// Makes the file of a header. Its length is set last: a shorter one is made again.
    fn header(
        &self,
        file: &RemoteFile,
        header_bytes: &(dyn Fn(&[u8; 8]) -> u64 + Sync),
    ) -> Result<(), PullError> {
        let mut start = Vec::new();
        self.extend(file, &mut start, FIRST_BYTES)?;
        if let Some(first) = start.first_chunk::<8>() {
            let header = header_bytes(first);
            self.extend(file, &mut start, header)?;
            start.truncate(usize::try_from(header).unwrap_or(usize::MAX));
        }
        let path = self.source().join(&file.path);
        let write = || -> io::Result<()> {
            let mut to = File::create(&path)?;
            to.write_all(&start)?;
            to.sync_data()?;
            to.set_len(file.size)
        };
        write().map_err(|source| io_error(&path, "write", source))?;
        // Elsewhere nothing tells.
        if cfg!(not(unix)) || allocated_bytes(&path) > start.len() as u64 + (1 << 20) {
            return Err(PullError::NoHoles { path });
        }
        Ok(())
    }

    /// Makes `start` the first `wanted` bytes of a file, or all if it has fewer.
    fn extend(&self, file: &RemoteFile, start: &mut Vec<u8>, wanted: u64) -> Result<(), PullError> {
        let url = download::url(&self.client, &self.commit, file);
        let mut patience = self.client.patience(&url);
        let end = wanted.min(file.size);
        while (start.len() as u64) < end {
            let before = start.len();
            let range = (before as u64, end);
            let attempt = self.client.get(&url, Some(range)).and_then(|mut answer| {
                // Some servers send whole files only: their first bytes do, and the connection is dropped.
                let is_whole = answer.status() != 206;
                download::check_range(&answer, file.size, range, is_whole)?;
                if is_whole {
                    start.clear();
                }
                let mut body = answer.body_mut().as_reader().take(end - start.len() as u64);
                body.read_to_end(start).map_err(|error| Failure::Again(error.to_string(), None))?;
                match end - start.len() as u64 {
                    0 => Ok(()),
                    missing => {
                        Err(Failure::Again(format!("the connection ended {missing} bytes too early"), None))
                    }
                }
            });
            if let Err(failure) = attempt {
                patience.after(failure, start.len() > before)?;
            }
        }
        Ok(())
    }
}

/// Makes and locks the directory. One that is there must have our lock, since it will be removed.
fn lock(dir: &Path) -> Result<File, PullError> {
    let path = dir.join(LOCK);
    if dir.exists() && !path.exists() && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PullError::NotOurs { path: dir.to_owned() });
    }
    fs::create_dir_all(dir).map_err(|source| io_error(dir, "make", source))?;
    let lock = File::create(&path).map_err(|source| io_error(&path, "write", source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(PullError::Busy { path }),
        Err(TryLockError::Error(source)) => Err(io_error(&path, "lock", source)),
    }
}
