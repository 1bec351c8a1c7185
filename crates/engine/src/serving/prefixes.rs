//! States after the beginnings of prompts: in memory, and behind that on disk.

use std::cell::Cell;
use std::rc::Rc;

use flashmill_model::{Model, ModelError, State};

use super::disk::{Disk, Writing};
use super::stats::PrefixStats;
use crate::EngineError;

/// A state on disk is worth its read if it saves at least so many tokens more than one in memory, and its place if it saves so many
/// more than another one on disk.
const WORTH_DISK: usize = 128;

/// Bytes of a snapshot that are written between two passes.
const WRITE_SLICE: usize = 8 << 20;

/// Snapshots that wait to be written hold memory; more are not written.
const MAX_PENDING: usize = 4;

/// A state that later prompts may begin with.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) tokens: Vec<u32>,
    pub(crate) state: State,
    /// It shall get to the disk; not there yet, as far as is known.
    to_disk: Cell<bool>,
}

/// Saved states, the longest unused first to go.
pub(crate) struct Prefixes {
    /// Oldest use first.
    saved: Vec<Rc<Saved>>,
    disk: Option<Disk>,
    writing: Option<Writing>,
    pending: Vec<Rc<Saved>>,
    pub(crate) stats: PrefixStats,
}

impl Prefixes {
    pub(crate) fn new(disk: Option<Disk>) -> Prefixes {
        Prefixes {
            saved: Vec::new(),
            disk,
            writing: None,
            pending: Vec::new(),
            stats: PrefixStats::default(),
        }
    }

    /// A state of its own after the longest known beginning of `tokens` that leaves at least one to read; a fresh one if there is none.
    /// Saved states make room where they must.
    pub(crate) fn begin(&mut self, model: &mut Model, tokens: &[u32]) -> Result<State, EngineError> {
        let in_ram = self.longest(tokens);
        let n_ram = in_ram.as_ref().map_or(0, |saved| saved.tokens.len());
        if let Some(state) = self.load(model, tokens, n_ram)? {
            return Ok(state);
        }
        match in_ram {
            Some(saved) => {
                self.stats.ram_hits += 1;
                self.touch(&saved);
                self.write_later(&saved);
                if let Some(disk) = &mut self.disk {
                    disk.note_use(&saved.tokens);
                }
                match self.make_room(model, |model| model.fork(&saved.state)) {
                    Err(EngineError::Model(ModelError::NoFreeState { .. })) => self.take(saved, model),
                    made => made,
                }
            }
            None => {
                self.stats.misses += 1;
                self.make_room(model, Model::new_state)
            }
        }
    }

    /// The length of the beginning that a state in memory holds; it will not be given up before others.
    pub(crate) fn known(&mut self, tokens: &[u32]) -> usize {
        let longest = self.longest(tokens);
        longest.map_or(0, |saved| {
            self.touch(&saved);
            saved.tokens.len()
        })
    }

    /// Saves a copy of a state that goes on, if there is room beside the running ones;
    /// `to_disk`: for later processes too.
    pub(crate) fn save_copy(&mut self, model: &mut Model, tokens: &[u32], state: &State, to_disk: bool) {
        if let Some(saved) = self.find(tokens) {
            saved.to_disk.set(saved.to_disk.get() || to_disk);
            self.write_later(&saved);
            return;
        }
        // What is on its way to the disk is not given up for a copy.
        loop {
            match model.fork(state) {
                Ok(copy) => return self.save(tokens, copy, to_disk),
                Err(_) if self.give_up_unwritten() => {}
                Err(_) => return,
            }
        }
    }

    /// Saves a state that nobody needs any more.
    pub(crate) fn save_last(&mut self, tokens: &[u32], state: State) {
        if !tokens.is_empty() && self.find(tokens).is_none() {
            self.save(tokens, state, false);
        }
    }

    /// Gives up the saved state that has not been used for longest. `false` if there is none whose memory comes free.
    pub(crate) fn give_up_one(&mut self) -> bool {
        if self.give_up_unwritten() {
            return true;
        }
        // All that are left are on their way to the disk.
        if self.pending.pop().is_some() || self.writing.take().is_some() {
            return self.give_up_one();
        }
        false
    }

    /// The same, of those that are not on their way to the disk.
    fn give_up_unwritten(&mut self) -> bool {
        let free = self.saved.iter().position(|saved| Rc::strong_count(saved) == 1);
        free.map(|at| self.saved.remove(at)).is_some()
    }

    /// Writes a slice of what is on its way to the disk. `false` if there is nothing.
    pub(crate) fn write_slice(&mut self, model: &mut Model) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        if self.writing.is_none() {
            let Some(saved) = (!self.pending.is_empty()).then(|| self.pending.remove(0)) else {
                return false;
            };
            self.writing = match disk.begin(saved, model) {
                Ok(writing) => writing,
                Err(_) => {
                    self.stats.errors += 1;
                    None
                }
            };
        }
        let Some(writing) = &mut self.writing else { return !self.pending.is_empty() };
        match writing.advance(model, WRITE_SLICE) {
            Ok(false) => {}
            Ok(true) => {
                if let Some(writing) = self.writing.take() {
                    match disk.end(writing) {
                        Ok(()) => self.stats.written += 1,
                        Err(_) => self.stats.errors += 1,
                    }
                }
            }
            // A full disk, say: the snapshot is not there, everything else goes on.
            Err(_) => {
                self.writing = None;
                self.stats.errors += 1;
            }
        }
        true
    }

    /// The counters, with what is held at present.
    pub(crate) fn stats(&self) -> PrefixStats {
        let (on_disk, disk_bytes) = self.disk.as_ref().map_or((0, 0), |disk| (disk.len(), disk.bytes()));
        PrefixStats { in_ram: self.saved.len(), on_disk, disk_bytes, ..self.stats }
    }

    /// Makes a state, giving up saved ones until there is room.
    fn make_room(
        &mut self,
        model: &mut Model,
        mut make: impl FnMut(&mut Model) -> Result<State, ModelError>,
    ) -> Result<State, EngineError> {
        loop {
            match make(model) {
                Err(ModelError::NoFreeState { .. }) if self.give_up_one() => {}
                made => return Ok(made?),
            }
        }
    }

    /// A saved state itself, where there is no room for a copy beside it.
    fn take(&mut self, saved: Rc<Saved>, model: &mut Model) -> Result<State, EngineError> {
        self.saved.retain(|other| !Rc::ptr_eq(other, &saved));
        self.pending.retain(|other| !Rc::ptr_eq(other, &saved));
        if self.writing.as_ref().is_some_and(|writing| writing.is_of(&saved)) {
            self.writing = None;
        }
        match Rc::try_unwrap(saved) {
            Ok(saved) => Ok(saved.state),
            Err(saved) => Ok(model.fork(&saved.state)?),
        }
    }

    fn load(
        &mut self,
        model: &mut Model,
        tokens: &[u32],
        n_ram: usize,
    ) -> Result<Option<State>, EngineError> {
        loop {
            let Some(disk) = &mut self.disk else { return Ok(None) };
            let Some(found) = disk.longest(tokens).filter(|&n| n >= n_ram + WORTH_DISK) else {
                return Ok(None);
            };
            match disk.load(&tokens[..found], model) {
                Ok(state) => {
                    self.stats.disk_hits += 1;
                    self.save_copy(model, &tokens[..found], &state, false);
                    return Ok(Some(state));
                }
                Err(error) if error.is_no_room() => {
                    if !self.give_up_one() {
                        return Ok(None);
                    }
                }
                // The next best one may be whole; this one is not asked again.
                Err(_) => self.stats.errors += 1,
            }
        }
    }

    fn longest(&self, tokens: &[u32]) -> Option<Rc<Saved>> {
        let fits =
            |saved: &&Rc<Saved>| saved.tokens.len() < tokens.len() && tokens.starts_with(&saved.tokens);
        self.saved.iter().filter(fits).max_by_key(|saved| saved.tokens.len()).map(Rc::clone)
    }

    /// The saved state after exactly these tokens; it counts as used.
    fn find(&mut self, tokens: &[u32]) -> Option<Rc<Saved>> {
        let found = self.saved.iter().find(|saved| saved.tokens == tokens).map(Rc::clone)?;
        self.touch(&found);
        Some(found)
    }

    fn touch(&mut self, saved: &Rc<Saved>) {
        self.saved.retain(|other| !Rc::ptr_eq(other, saved));
        self.saved.push(Rc::clone(saved));
    }

    fn save(&mut self, tokens: &[u32], state: State, to_disk: bool) {
        let saved = Rc::new(Saved { tokens: tokens.to_vec(), state, to_disk: Cell::new(to_disk) });
        self.write_later(&saved);
        self.saved.push(saved);
    }

    /// Puts a state that shall get to the disk in the line, if it is worth it and there is a place.
    fn write_later(&mut self, saved: &Rc<Saved>) {
        let Some(disk) = self.disk.as_ref().filter(|_| saved.to_disk.get()) else { return };
        let n_known = disk.longest(&saved.tokens).unwrap_or(0);
        if disk.knows(&saved.tokens) || saved.tokens.len() < n_known + WORTH_DISK {
            saved.to_disk.set(false);
            return;
        }
        let is_on_its_way = self.pending.iter().any(|other| Rc::ptr_eq(other, saved))
            || self.writing.as_ref().is_some_and(|writing| writing.is_of(saved));
        if !is_on_its_way && self.pending.len() < MAX_PENDING {
            self.pending.push(Rc::clone(saved));
        }
    }
}
