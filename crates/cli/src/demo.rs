//! The demo model that the program carries: its files, and the place they are extracted to.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::interrupt;

include!(concat!(env!("OUT_DIR"), "/demo_files.rs"));

/// Extracted directories that lost a race are tried again this many times.
const ATTEMPTS: usize = 4;

/// A file that the program carries.
#[derive(Clone, Copy)]
pub(crate) struct CarriedFile {
    name: &'static str,
    bytes: &'static [u8],
    /// Known when the program is built, so that checking an extracted file does not touch the carried one.
    sha256: [u8; 32],
}

/// The directory of the extracted model; a temporary one is removed when this is dropped.
pub(crate) struct Extracted {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Extracted {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory will be removed.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// The demo model's directory below `cache`, extracted and checked; a temporary one if there is no cache or it cannot be written.
pub(crate) fn extract_demo(cache: Option<&Path>) -> Result<Extracted> {
    extract(&DEMO_FILES, cache)
}

/// The user's directory for things that can be made again, below which this program has its own.
pub(crate) fn user_cache() -> Option<PathBuf> {
    // A relative path is invalid by the XDG specification, and of no use anywhere.
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("flashmill"))
}

fn extract(files: &[CarriedFile], cache: Option<&Path>) -> Result<Extracted> {
    let in_cache = cache.and_then(|cache| extract_below(files, cache).ok());
    if let Some(path) = in_cache {
        return Ok(Extracted { path, temporary: None });
    }
    let directory = tempfile::Builder::new().prefix("flashmill-demo-").tempdir().context(
        "the demo model cannot be extracted: neither the cache nor a temporary directory can be written",
    )?;
    write_all(files, directory.path())
        .with_context(|| format!("the demo model cannot be extracted to {}", directory.path().display()))?;
    Ok(Extracted { path: directory.path().to_owned(), temporary: Some(directory) })
}

/// The checked directory in the cache. Whoever sees it sees it whole: it is written under another name and renamed, and of
/// two processes that do so at once, one finds the other's.
fn extract_below(files: &[CarriedFile], cache: &Path) -> io::Result<PathBuf> {
    let target = cache.join(format!("demo-{}", digest(files)));
    if is_whole(files, &target) {
        return Ok(target);
    }
    fs::create_dir_all(cache)?;
    let fresh = tempfile::Builder::new().prefix(".extracting-").tempdir_in(cache)?;
    interrupt::remove_on_interrupt(fresh.path());
    let inner = fresh.path().join("demo");
    fs::create_dir(&inner)?;
    write_all(files, &inner)?;
    for attempt in 0..ATTEMPTS {
        match fs::rename(&inner, &target) {
            Ok(()) => return Ok(target),
            Err(_) if is_whole(files, &target) => return Ok(target),
            Err(error) if attempt + 1 == ATTEMPTS => return Err(error),
            // Damaged: moved aside in one step, so that a process which has it open keeps its files.
            Err(_) => match fs::rename(&target, fresh.path().join(format!("damaged-{attempt}"))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
    }
    unreachable!("the last attempt returns")
}

fn write_all(files: &[CarriedFile], directory: &Path) -> io::Result<()> {
    for file in files {
        let mut out = File::create_new(directory.join(file.name))?;
        out.write_all(file.bytes)?;
        // The name of the directory promises whole files, also after a loss of power.
        out.sync_all()?;
    }
    Ok(())
}

/// Every file is there with the right bytes. Reads them all: 24 MB take some 20 ms.
fn is_whole(files: &[CarriedFile], directory: &Path) -> bool {
    files.iter().all(|file| {
        sha256_of(&directory.join(file.name), file.bytes.len() as u64).is_ok_and(|hash| hash == file.sha256)
    })
}

/// The hash of a regular file of `len` bytes.
fn sha256_of(path: &Path, len: u64) -> io::Result<[u8; 32]> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() != len {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 64 << 10];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&block[..n]),
        }
    }
}

/// Names the content: sixteen hexadecimal digits of a hash over all names and hashes.
fn digest(files: &[CarriedFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.name);
        hash.update([0]);
        hash.update(file.sha256);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(name: &'static str, bytes: &'static [u8]) -> CarriedFile {
        CarriedFile { name, bytes, sha256: Sha256::digest(bytes).into() }
    }

    fn two_files() -> Vec<CarriedFile> {
        vec![carried("a.json", b"{}"), carried("b.bin", b"weights")]
    }

    fn entries(directory: &Path) -> Vec<String> {
        let list = fs::read_dir(directory).expect("a directory");
        list.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_hashes_made_at_build_time_are_those_of_the_files() {
        for file in DEMO_FILES {
            assert_eq!(<[u8; 32]>::from(Sha256::digest(file.bytes)), file.sha256, "{}", file.name);
        }
        assert!(DEMO_FILES.iter().any(|file| file.name == "config.json"));
    }

    #[test]
    fn extracted_once() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let cache = cache.path().join("made/on/the/way");
        let first = extract(&two_files(), Some(&cache)).expect("extracted");
        assert!(!first.is_temporary() && first.path().starts_with(&cache));
        assert_eq!(fs::read(first.path().join("b.bin")).expect("a file"), b"weights");
        let written = fs::metadata(first.path().join("b.bin")).expect("a file").modified().expect("a time");
        let second = extract(&two_files(), Some(&cache)).expect("extracted");
        assert_eq!(first.path(), second.path());
        let still = fs::metadata(first.path().join("b.bin")).expect("a file").modified().expect("a time");
        assert_eq!(written, still, "the second time nothing is written");
        assert_eq!(entries(&cache).len(), 1, "nothing is left over: {:?}", entries(&cache));
    }

    #[test]
    fn damage_is_repaired() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let path = extract(&two_files(), Some(cache.path())).expect("extracted").path().to_owned();
        let damages: [fn(&Path) -> io::Result<()>; 4] = [
            |path| fs::write(path.join("b.bin"), "weighty"),
            |path| fs::write(path.join("b.bin"), "short"),
            |path| fs::remove_file(path.join("a.json")),
            |path| fs::remove_dir_all(path).and_then(|()| fs::write(path, "a file in the way")),
        ];
        for damage in damages {
            damage(&path).expect("damaged");
            assert!(!is_whole(&two_files(), &path));
            let again = extract(&two_files(), Some(cache.path())).expect("extracted");
            assert_eq!(again.path(), path);
            assert!(is_whole(&two_files(), &path));
            assert_eq!(entries(cache.path()).len(), 1, "{:?}", entries(cache.path()));
        }
    }

    #[test]
    fn processes_may_race() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let extracted = extract(&two_files(), Some(cache.path())).expect("extracted");
                    assert!(!extracted.is_temporary());
                    assert!(is_whole(&two_files(), extracted.path()));
                });
            }
        });
        assert_eq!(entries(cache.path()).len(), 1, "{:?}", entries(cache.path()));
    }

    #[test]
    fn without_a_cache_it_is_temporary() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let blocked = home.path().join("file");
        fs::write(&blocked, "no directory can be made below a file").expect("a file");
        for cache in [None, Some(blocked.join("flashmill"))] {
            let extracted = extract(&two_files(), cache.as_deref()).expect("extracted");
            let path = extracted.path().to_owned();
            assert!(extracted.is_temporary() && is_whole(&two_files(), &path));
            drop(extracted);
            assert!(!path.exists(), "removed at the end");
        }
    }
}
