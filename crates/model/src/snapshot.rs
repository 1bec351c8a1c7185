//! States as bytes: out of the model, and back into it.

use flashmill_kernels::PAGE_TOKENS;

use crate::load::delta_state_len;
use crate::{Model, ModelError, State};

/// A state that is being filled from bytes. It becomes a [`State`] when the caller vouches for all of them.
#[derive(Debug)]
pub struct Restoring {
    state: State,
}

impl Restoring {
    /// The state, every page and the recurrent part of which have been written.
    pub fn finish(mut self) -> State {
        self.state.broken = false;
        self.state
    }
}

impl Model {
    /// Bytes of a KV page: keys and values of [`PAGE_TOKENS`] positions of all attention layers, in an order that is the backend's own. 0
    /// for a model without attention.
    pub fn page_bytes(&self) -> usize {
        self.options.kv_shape(&self.spec).page_bytes()
    }

    /// Pages of a state after `n_tokens` tokens; the last may be partly filled.
    pub fn n_pages(&self, n_tokens: usize) -> usize {
        n_tokens.div_ceil(PAGE_TOKENS)
    }

    /// Values of a state's recurrent part: what [`Model::delta_state`] gives.
    pub fn delta_len(&self) -> usize {
        delta_state_len(&self.spec)
    }

    /// Copies the bytes of page `index` of a state; `out` has [`Model::page_bytes`].
    ///
    /// # Panics
    /// If there is no such page.
    pub fn read_page(&mut self, state: &State, index: usize, out: &mut [u8]) {
        self.backend.kv_read(state.pages[index], out);
    }

    /// Copies values of a state's recurrent part from `at` on.
    pub fn read_delta(&mut self, state: &State, at: usize, out: &mut [f32]) {
        self.backend.read(state.delta, at, out);
    }

    /// Room for a state after `n_tokens` tokens, whose bytes the caller has: those of another model with the same weights, options and
    /// backend.
    pub fn restore(&mut self, n_tokens: usize) -> Result<Restoring, ModelError> {
        if n_tokens > self.options.context {
            return Err(ModelError::ContextFull { context: self.options.context });
        }
        let mut state = self.pool.take()?;
        state.broken = true;
        state.grow(n_tokens)?;
        state.n_tokens = n_tokens;
        Ok(Restoring { state })
    }

    /// Writes page `index`: the bytes that [`Model::read_page`] gave.
    ///
    /// # Panics
    /// If there is no such page, or `bytes` has not [`Model::page_bytes`].
    pub fn write_page(&mut self, restoring: &mut Restoring, index: usize, bytes: &[u8]) {
        self.backend.kv_write(restoring.state.pages[index], bytes);
    }

    /// Writes values of the recurrent part from `at` on.
    pub fn write_delta(&mut self, restoring: &mut Restoring, at: usize, values: &[f32]) {
        self.backend.write(restoring.state.delta, at, values);
    }
}
