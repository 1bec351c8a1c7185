//! The standard cache: `models--org--name/{blobs,refs,snapshots}`, as `huggingface_hub` documents it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::hub::RemoteFile;
use crate::part::{self, io_error};
use crate::{PullError, PullOptions, Repo};

/// A model's directory in the cache, locked against other pulls of it.
pub(crate) struct Cache {
    root: PathBuf,
    /// Held as long as it is open.
    _lock: File,
}

impl Cache {
    pub(crate) fn open(options: &PullOptions, repo: &Repo) -> Result<Cache, PullError> {
        let root = options.cache.join(repo.directory());
        for name in ["blobs", "refs", "snapshots"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(|source| io_error(&path, "make", source))?;
        }
        let path = root.join(".flashmill-pull.lock");
        let lock = File::create(&path).map_err(|source| io_error(&path, "write", source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Cache { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(PullError::Busy { path }),
            Err(TryLockError::Error(source)) => Err(io_error(&path, "lock", source)),
        }
    }

    /// Where a file's bytes lie when they are whole.
    pub(crate) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.root.join("blobs").join(&file.blob)
    }

    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(file)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
    }

    /// The disk can hold what is missing.
    pub(crate) fn check_space(&self, missing: &[&RemoteFile]) -> Result<(), PullError> {
        let taken = |file: &RemoteFile| allocated_bytes(&part::part_path(&self.blob(file))).min(file.size);
        let needed_bytes = missing.iter().map(|file| file.size - taken(file)).sum();
        let free_bytes = fs4::available_space(&self.root)
            .map_err(|source| io_error(&self.root, "ask for the free space", source))?;
        if free_bytes < needed_bytes {
            return Err(PullError::Space { path: self.root.clone(), needed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Names the blobs by the files' paths, and the commit by the revision; gives the directory of the files.
    pub(crate) fn finish(
        &self,
        revision: &str,
        commit: &str,
        files: &[RemoteFile],
    ) -> Result<PathBuf, PullError> {
        let snapshot = self.root.join("snapshots").join(commit);
        for file in files {
            let path = snapshot.join(&file.path);
            let parent = path.parent().unwrap_or(&snapshot);
            fs::create_dir_all(parent).map_err(|source| io_error(parent, "make", source))?;
            // From the file's directory up to the model's: `snapshots`, the commit, and the directories of its path.
            let up = "../".repeat(2 + file.path.matches('/').count());
            let target = format!("{up}blobs/{}", file.blob);
            if fs::read_link(&path).is_ok_and(|link| link == Path::new(&target)) {
                continue;
            }
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&path, "replace", source));
                }
                _ => {}
            }
            link(&target, &self.blob(file), &path).map_err(|source| io_error(&path, "link", source))?;
        }
        if revision != commit {
            let path = self.root.join("refs").join(revision);
            let parent = path.parent().unwrap_or(&path);
            let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, commit));
            written.map_err(|source| io_error(&path, "write", source))?;
        }
        Ok(snapshot)
    }
}

/// A symbolic link, as other tools expect it.
#[cfg(unix)]
fn link(target: &str, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Symbolic links need a privilege on Windows; a second name of the same bytes does not.
#[cfg(not(unix))]
fn link(_target: &str, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

/// Bytes of the disk that a file has, holes left out.
#[cfg(unix)]
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| 512 * std::os::unix::fs::MetadataExt::blocks(&metadata))
}

#[cfg(not(unix))]
pub(crate) fn allocated_bytes(_path: &Path) -> u64 {
    0
}
