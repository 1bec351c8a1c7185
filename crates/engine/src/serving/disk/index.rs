//! Which snapshots there are, and which of them have to go.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use flashmill_kernels::PAGE_TOKENS;
use flashmill_model::{Model, State};
use xxhash_rust::xxh3::Xxh3Default;

use super::file::Opened;
use super::{Saved, Shape, SnapshotError, Writing};

/// Parts of files that nobody has written on for so long are what a killed process has left.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The snapshots of a directory under a limit of bytes, the longest unused first to go.
pub(crate) struct Disk {
    /// Of all models.
    root: PathBuf,
    /// Of this model.
    dir: PathBuf,
    identity: u128,
    limit: u64,
    entries: Vec<Entry>,
    /// Of files that are being written, by other processes too.
    part_bytes: u64,
}

#[derive(Clone)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    /// `None` for those of other models.
    own: Option<Own>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Own {
    key: u128,
    n_tokens: usize,
    /// Of the snapshot that it extends.
    parent: Option<u128>,
}

impl Disk {
    /// Finds the snapshots in `root`, which is made if it does not exist. Other files there are left alone.
    pub(crate) fn open(root: &Path, identity: u128, limit: u64) -> io::Result<Disk> {
        let dir = root.join(hex(identity));
        fs::create_dir_all(&dir)?;
        let root = root.to_owned();
        let mut disk = Disk { root, dir, identity, limit, entries: Vec::new(), part_bytes: 0 };
        disk.scan();
        disk.shrink(0);
        Ok(disk)
    }

    /// Snapshots of this model.
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.own.is_some()).count()
    }

    /// Bytes of all snapshots.
    pub(crate) fn bytes(&self) -> u64 {
        self.part_bytes + self.entries.iter().map(|entry| entry.bytes).sum::<u64>()
    }

    /// The length of the longest snapshot that is a beginning of `tokens` and leaves at least one of them.
    pub(crate) fn longest(&self, tokens: &[u32]) -> Option<usize> {
        let mut own: Vec<Own> = self.entries.iter().filter_map(|entry| entry.own).collect();
        own.retain(|own| own.n_tokens < tokens.len());
        own.sort_unstable_by_key(|own| own.n_tokens);
        let (mut hash, mut at) = (Xxh3Default::new(), 0);
        let mut longest = None;
        for own in own {
            update(&mut hash, &tokens[at..own.n_tokens]);
            at = own.n_tokens;
            if hash.digest128() == own.key {
                longest = Some(own.n_tokens);
            }
        }
        longest
    }

    /// There is a snapshot of exactly these tokens.
    pub(crate) fn knows(&self, tokens: &[u32]) -> bool {
        self.position(key(tokens)).is_some()
    }

    /// The state of a snapshot was used, from memory: the snapshot is as young as that.
    pub(crate) fn note_use(&mut self, tokens: &[u32]) {
        self.touch(key(tokens));
    }

    /// The state after `tokens`, for which there is a snapshot. One that cannot be read is forgotten, a damaged one is removed.
    pub(crate) fn load(&mut self, tokens: &[u32], model: &mut Model) -> Result<State, SnapshotError> {
        let key = key(tokens);
        match self.try_load(tokens, model) {
            Ok(state) => {
                self.touch(key);
                Ok(state)
            }
            Err((_, error)) if error.is_no_room() => Err(error),
            Err((at, error)) => {
                self.forget(at, matches!(error, SnapshotError::Damaged));
                self.forget(key, false);
                Err(error)
            }
        }
    }

    /// An error comes with the snapshot that is at fault.
    fn try_load(&self, tokens: &[u32], model: &mut Model) -> Result<State, (u128, SnapshotError)> {
        let at_fault = |key: u128| move |error: SnapshotError| (key, error);
        let mut restoring = model.restore(tokens.len()).map_err(|error| (key(tokens), error.into()))?;
        let mut end = tokens.len();
        let mut pages_left = end.div_ceil(PAGE_TOKENS);
        // From the snapshot itself to the one at the bottom: each gives the pages that its successor does not have.
        loop {
            let key = key(&tokens[..end]);
            let path = self.path_of(key);
            let mut opened = Opened::open(&path, self.identity).map_err(at_fault(key))?;
            if opened.tokens != tokens[..end] {
                return Err((key, SnapshotError::Damaged));
            }
            let first = opened.shape.pages().start;
            opened.pages(first..pages_left, model, &mut restoring).map_err(at_fault(key))?;
            if end == tokens.len() {
                opened.delta(model, &mut restoring).map_err(at_fault(key))?;
            }
            (end, pages_left) = (opened.shape.parent_tokens, first);
            if pages_left == 0 {
                return Ok(restoring.finish());
            }
        }
    }

    /// Starts to write a snapshot. `None` if there is no place for it.
    pub(crate) fn begin(&mut self, saved: Rc<Saved>, model: &Model) -> io::Result<Option<Writing>> {
        // Other processes may have written and removed some.
        self.scan();
        // An extension that shares no page is none.
        let parent_tokens = self.longest(&saved.tokens).filter(|&n| n >= PAGE_TOKENS).unwrap_or(0);
        let parent = &saved.tokens[..parent_tokens];
        let shape = Shape::of(model, &saved, parent_tokens);
        self.touch(key(parent));
        if shape.file_bytes() > self.limit || !self.shrink(shape.file_bytes()) {
            return Ok(None);
        }
        // Making room may have taken the snapshot that was to be extended.
        if parent_tokens > 0 && !self.knows(parent) {
            return Ok(None);
        }
        let path = self.path_of(key(&saved.tokens));
        Writing::begin(&path, self.identity, saved, shape).map(Some)
    }

    /// Gives a written snapshot its name.
    pub(crate) fn end(&mut self, writing: Writing) -> io::Result<()> {
        let (own, bytes) = (own(writing.tokens(), writing.shape()), writing.shape().file_bytes());
        let path = self.path_of(own.key);
        writing.end(&path)?;
        self.entries.retain(|entry| entry.path != path);
        self.entries.push(Entry { path, bytes, used: SystemTime::now(), own: Some(own) });
        Ok(())
    }

    /// Takes note of what is there. Directories and files whose names are not those of snapshots are not touched.
    fn scan(&mut self) {
        let known = std::mem::take(&mut self.entries);
        self.part_bytes = 0;
        for model in
            list(&self.root).filter(|path| is_hex(&path.file_name().unwrap_or_default().to_string_lossy()))
        {
            for path in list(&model) {
                match known.iter().find(|entry| entry.path == path && path.exists()) {
                    Some(entry) => self.entries.push(entry.clone()),
                    None => self.find(path),
                }
            }
        }
    }

    /// Takes note of a file; removes it if it is a snapshot that cannot be whole.
    fn find(&mut self, path: PathBuf) {
        let Ok(meta) = fs::metadata(&path) else { return };
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((key, extension)) = name.split_once('.').filter(|(key, _)| is_hex(key)) else { return };
        if extension.starts_with("part-") {
            if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            } else {
                self.part_bytes += meta.len();
            }
            return;
        }
        if extension != "state" {
            return;
        }
        let mut entry = Entry { bytes: meta.len(), used, own: None, path };
        if entry.path.parent() == Some(&self.dir) {
            match Opened::open(&entry.path, self.identity) {
                Ok(opened) if hex(self::key(&opened.tokens)) == key => {
                    entry.own = Some(own(&opened.tokens, opened.shape));
                }
                Ok(_) | Err(SnapshotError::Damaged) => {
                    let _ = fs::remove_file(&entry.path);
                    return;
                }
                // Not now; it may be whole.
                Err(_) => return,
            }
        }
        self.entries.push(entry);
    }

    /// Removes what was not used for longest until `more` bytes fit. What is used counts as used together with all that it extends, so
    /// that a snapshot goes before those.
    fn shrink(&mut self, more: u64) -> bool {
        let length = |entry: &Entry| Reverse(entry.own.map_or(0, |own| own.n_tokens));
        self.entries.sort_by_key(|entry| (entry.used, length(entry)));
        while self.bytes() + more > self.limit {
            let Some(first) = self.entries.first() else { return false };
            match first.own {
                Some(own) => self.forget(own.key, true),
                None => {
                    let _ = fs::remove_file(&self.entries.remove(0).path);
                }
            }
        }
        true
    }

    /// Drops a snapshot and those that extend it, which are of no use without it; `remove`: from the disk too.
    fn forget(&mut self, key: u128, remove: bool) {
        let Some(at) = self.position(key) else { return };
        let entry = self.entries.remove(at);
        if remove {
            let _ = fs::remove_file(&entry.path);
        }
        let extends = |entry: &Entry| entry.own.filter(|own| own.parent == Some(key)).map(|own| own.key);
        while let Some(extension) = self.entries.iter().find_map(extends) {
            self.forget(extension, remove);
        }
    }

    /// Notes a use of a snapshot and of all that it extends, in the files' times too, so that the next process knows of it.
    fn touch(&mut self, key: u128) {
        let now = SystemTime::now();
        let mut next = Some(key);
        while let Some(at) = next.and_then(|key| self.position(key)) {
            let entry = &mut self.entries[at];
            entry.used = now;
            if let Ok(file) = File::options().append(true).open(&entry.path) {
                let _ = file.set_modified(now);
            }
            next = entry.own.and_then(|own| own.parent);
        }
    }

    fn position(&self, key: u128) -> Option<usize> {
        self.entries.iter().position(|entry| entry.own.is_some_and(|own| own.key == key))
    }

    fn path_of(&self, key: u128) -> PathBuf {
        self.dir.join(format!("{}.state", hex(key)))
    }
}

fn own(tokens: &[u32], shape: Shape) -> Own {
    let parent = (shape.parent_tokens > 0).then(|| key(&tokens[..shape.parent_tokens]));
    Own { key: key(tokens), n_tokens: shape.n_tokens, parent }
}

fn key(tokens: &[u32]) -> u128 {
    let mut hash = Xxh3Default::new();
    update(&mut hash, tokens);
    hash.digest128()
}

fn update(hash: &mut Xxh3Default, tokens: &[u32]) {
    tokens.iter().for_each(|id| hash.update(&id.to_le_bytes()));
}

fn hex(number: u128) -> String {
    format!("{number:032x}")
}

fn is_hex(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What is in a directory; nothing if it cannot be read.
fn list(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
