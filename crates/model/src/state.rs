//! What a model remembers of a sequence: KV pages and the state of the DeltaNet layers.

use std::sync::{Arc, Mutex};

use flashmill_kernels::{Buffer, PAGE_TOKENS, Page};

use crate::ModelError;

/// A sequence's memory: everything that its next token depends on. Its parts go back to the model when it is dropped.
///
/// Full pages are shared between a state and its forks and never written again; the last, partly filled page is a state's own.
#[derive(Debug)]
pub struct State {
    pub(crate) pages: Vec<Page>,
    pub(crate) delta: Buffer,
    pub(crate) n_tokens: usize,
    /// A forward pass failed half-way: the DeltaNet state is of no position.
    pub(crate) broken: bool,
    pool: Arc<Pool>,
}

impl State {
    /// Tokens that have been read into the state.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Whether an earlier failure left the state unusable.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the pages that `n_tokens` tokens need.
    pub(crate) fn grow(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let mut free = self.pool.lists();
        while self.pages.len() < n_tokens.div_ceil(PAGE_TOKENS) {
            let page = free.pages.pop().ok_or(ModelError::NoFreeState { n_states: self.pool.n_states })?;
            free.page_users[page.0 as usize] = 1;
            self.pages.push(page);
        }
        Ok(())
    }
}

/// What nobody uses at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// States that can be made.
    pub states: usize,
    /// KV pages, of [`PAGE_TOKENS`] positions each.
    pub pages: usize,
}

impl Drop for State {
    fn drop(&mut self) {
        let mut free = self.pool.lists();
        for &page in &self.pages {
            let users = &mut free.page_users[page.0 as usize];
            *users -= 1;
            if *users == 0 {
                free.pages.push(page);
            }
        }
        free.deltas.push(self.delta);
    }
}

/// The pages and DeltaNet states that were planned for, and who uses them.
#[derive(Debug)]
pub(crate) struct Pool {
    lists: Mutex<Lists>,
    n_states: usize,
    /// Pages of a full context, so that a state's list never grows in `forward`.
    pages_per_state: usize,
}

#[derive(Debug)]
struct Lists {
    pages: Vec<Page>,
    page_users: Vec<u32>,
    deltas: Vec<Buffer>,
}

/// What a fork has to copy.
pub(crate) struct Fork {
    pub state: State,
    /// From the original's partly filled page to the fork's own.
    pub page: Option<(Page, Page)>,
}

impl Pool {
    pub(crate) fn new(n_pages: usize, deltas: Vec<Buffer>, context: usize) -> Arc<Pool> {
        let n_states = deltas.len();
        let pages = (0..n_pages as u32).rev().map(Page).collect();
        let lists = Lists { pages, page_users: vec![0; n_pages], deltas };
        Arc::new(Pool { lists: Mutex::new(lists), n_states, pages_per_state: context.div_ceil(PAGE_TOKENS) })
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, Lists> {
        self.lists.lock().expect("no panic happens while the pool is locked")
    }

    pub(crate) fn free(&self) -> Free {
        let lists = self.lists();
        Free { states: lists.deltas.len(), pages: lists.pages.len() }
    }

    /// An empty state; the caller zeroes `delta`.
    pub(crate) fn take(self: &Arc<Pool>) -> Result<State, ModelError> {
        let delta = self.lists().deltas.pop().ok_or(ModelError::NoFreeState { n_states: self.n_states })?;
        let pages = Vec::with_capacity(self.pages_per_state);
        Ok(State { pages, delta, n_tokens: 0, broken: false, pool: Arc::clone(self) })
    }

    /// A second state like `state`; the caller copies `delta` and the page.
    pub(crate) fn fork(self: &Arc<Pool>, state: &State) -> Result<Fork, ModelError> {
        if state.broken {
            return Err(ModelError::BrokenState);
        }
        let mut fork = self.take()?;
        fork.n_tokens = state.n_tokens;
        let n_full = state.n_tokens / PAGE_TOKENS;
        {
            let mut free = self.lists();
            for &page in &state.pages[..n_full] {
                free.page_users[page.0 as usize] += 1;
                fork.pages.push(page);
            }
        }
        let page = if state.n_tokens.is_multiple_of(PAGE_TOKENS) {
            None
        } else {
            fork.grow(state.n_tokens)?;
            Some((state.pages[n_full], fork.pages[n_full]))
        };
        Ok(Fork { state: fork, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_share_full_pages_and_give_everything_back() {
        let pool = Pool::new(5, vec![Buffer(0), Buffer(1)], 200);
        let mut state = pool.take().unwrap();
        state.grow(130).unwrap();
        state.n_tokens = 130;
        let fork = pool.fork(&state).unwrap();
        assert_eq!(fork.state.pages[..2], state.pages[..2]);
        assert_ne!(fork.state.pages[2], state.pages[2]);
        assert_eq!(fork.page, Some((state.pages[2], fork.state.pages[2])));
        assert!(pool.take().is_err(), "both states are in use");
        drop(state);
        assert_eq!(pool.lists().pages.len(), 2, "the shared pages are still the fork's");
        drop(fork);
        assert_eq!(pool.lists().pages.len(), 5);
        assert_eq!(pool.lists().deltas.len(), 2);
    }

    #[test]
    fn a_fork_at_a_page_boundary_copies_nothing() {
        let pool = Pool::new(4, vec![Buffer(0), Buffer(1)], 200);
        let mut state = pool.take().unwrap();
        state.grow(128).unwrap();
        state.n_tokens = 128;
        assert_eq!(pool.fork(&state).unwrap().page, None);
    }
}
