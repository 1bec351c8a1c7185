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
    dir: PathBuf,
    identity: u128,
    limit: u64,
    entries: Vec<Entry>,
}

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
    parent_tokens: usize,
}

impl Disk {
    /// Finds the snapshots in `dir`, which is made if it does not exist.
    pub(crate) fn open(dir: &Path, identity: u128, limit: u64) -> io::Result<Disk> {
        let own_dir = dir.join(format!("{identity:032x}"));
        fs::create_dir_all(&own_dir)?;
        let mut disk = Disk { dir: own_dir, identity, limit, entries: Vec::new() };
        for model in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
            for file in fs::read_dir(model.path())?.flatten() {
                disk.find(file.path());
            }
        }
        disk.shrink(0);
        Ok(disk)
    }

    /// Snapshots of this model.
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.own.is_some()).count()
    }

    /// Bytes of all snapshots.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
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
        self.find_own(tokens).is_some()
    }

    /// The state after `tokens`, for which there is a snapshot. One that turns out damaged is removed.
    pub(crate) fn load(&mut self, tokens: &[u32], model: &mut Model) -> Result<State, SnapshotError> {
        let loaded = self.try_load(tokens, model);
        match &loaded {
            Err(error) if !error.is_no_room() => self.remove(key(tokens)),
            _ => {}
        }
        loaded
    }

    fn try_load(&mut self, tokens: &[u32], model: &mut Model) -> Result<State, SnapshotError> {
        let mut restoring = model.restore(tokens.len())?;
        let mut end = tokens.len();
        let mut pages_left = end.div_ceil(PAGE_TOKENS);
        let now = SystemTime::now();
        // From the snapshot itself to the one at the bottom: each gives the pages that its successor does not have.
        loop {
            let at = self.find_own(&tokens[..end]).ok_or(SnapshotError::Damaged)?;
            let mut opened = Opened::open(&self.entries[at].path, self.identity)?;
            if opened.tokens != tokens[..end] {
                return Err(SnapshotError::Damaged);
            }
            let first = opened.shape.pages().start;
            opened.pages(first..pages_left, model, &mut restoring)?;
            if end == tokens.len() {
                opened.delta(model, &mut restoring)?;
            }
            self.touch(at, now);
            (end, pages_left) = (opened.shape.parent_tokens, first);
            if pages_left == 0 {
                return Ok(restoring.finish());
            }
        }
    }

    /// Starts to write a snapshot. `None` if it is larger than the limit.
    pub(crate) fn begin(&mut self, saved: Rc<Saved>, model: &Model) -> io::Result<Option<Writing>> {
        // An extension that shares no page is none.
        let parent_tokens = self.longest(&saved.tokens).filter(|&n| n >= PAGE_TOKENS).unwrap_or(0);
        let shape = Shape::of(model, &saved, parent_tokens);
        if parent_tokens > 0
            && let Some(at) = self.find_own(&saved.tokens[..parent_tokens])
        {
            self.touch(at, SystemTime::now());
        }
        if shape.file_bytes() > self.limit || !self.shrink(shape.file_bytes()) {
            return Ok(None);
        }
        // Making room may have taken the snapshot that was to be extended.
        if parent_tokens > 0 && !self.knows(&saved.tokens[..parent_tokens]) {
            return Ok(None);
        }
        let path = self.path_of(key(&saved.tokens));
        Writing::begin(&path, self.identity, saved, shape).map(Some)
    }

    /// Gives a written snapshot its name.
    pub(crate) fn end(&mut self, writing: Writing) -> io::Result<()> {
        let (key, shape) = (key(writing.tokens()), writing.shape());
        let path = self.path_of(key);
        writing.end(&path)?;
        self.entries.retain(|entry| entry.path != path);
        let own = Own { key, n_tokens: shape.n_tokens, parent_tokens: shape.parent_tokens };
        self.entries.push(Entry { path, bytes: shape.file_bytes(), used: SystemTime::now(), own: Some(own) });
        Ok(())
    }

    /// Takes note of a file, or removes it if it is of no use.
    fn find(&mut self, path: PathBuf) {
        let Ok(meta) = fs::metadata(&path) else { return };
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if path.extension().is_none_or(|extension| extension != "state") {
            let is_part = path.extension().is_some_and(|e| e.to_string_lossy().starts_with("part-"));
            if is_part && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            }
            return;
        }
        let own = if path.parent() == Some(&self.dir) {
            let Ok(opened) = Opened::open(&path, self.identity) else {
                let _ = fs::remove_file(&path);
                return;
            };
            let key = key(&opened.tokens);
            if path != self.path_of(key) {
                return;
            }
            let Shape { n_tokens, parent_tokens, .. } = opened.shape;
            Some(Own { key, n_tokens, parent_tokens })
        } else {
            None
        };
        self.entries.push(Entry { path, bytes: meta.len(), used, own });
    }

    /// Removes what was not used for longest until `more` bytes fit. A snapshot is never used later than those that it extends, and
    /// is longer, so it goes before them.
    fn shrink(&mut self, more: u64) -> bool {
        let length = |entry: &Entry| Reverse(entry.own.map_or(0, |own| own.n_tokens));
        self.entries.sort_by_key(|entry| (entry.used, length(entry)));
        while self.bytes() + more > self.limit {
            if self.entries.is_empty() {
                return more <= self.limit;
            }
            let _ = fs::remove_file(&self.entries[0].path);
            self.entries.remove(0);
        }
        true
    }

    fn remove(&mut self, key: u128) {
        self.entries.retain(|entry| {
            let is_it = entry.own.is_some_and(|own| own.key == key);
            if is_it {
                let _ = fs::remove_file(&entry.path);
            }
            !is_it
        });
    }

    /// Notes a use, in the file's time too, so that the next process knows of it.
    fn touch(&mut self, at: usize, now: SystemTime) {
        self.entries[at].used = now;
        if let Ok(file) = File::options().append(true).open(&self.entries[at].path) {
            let _ = file.set_modified(now);
        }
    }

    fn find_own(&self, tokens: &[u32]) -> Option<usize> {
        let key = key(tokens);
        self.entries.iter().position(|entry| entry.own.is_some_and(|own| own.key == key))
    }

    fn path_of(&self, key: u128) -> PathBuf {
        self.dir.join(format!("{key:032x}.state"))
    }
}

fn key(tokens: &[u32]) -> u128 {
    let mut hash = Xxh3Default::new();
    update(&mut hash, tokens);
    hash.digest128()
}

fn update(hash: &mut Xxh3Default, tokens: &[u32]) {
    tokens.iter().for_each(|id| hash.update(&id.to_le_bytes()));
}
