//! Snapshots of states in files.
//!
//! `DIR/IDENTITY/KEY.state`: the identity is that of the model with all settings that change a state's bits, the key a hash of the
//! tokens. A snapshot that extends another holds only the KV pages that the other does not have. All numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 16 | identity |
//! | 4 x 8 | tokens n, tokens p of the snapshot that is extended (0 for none), bytes of a page, values of the recurrent part |
//! | 4 n | all tokens |
//! | 8 | XXH3-64 of everything before |
//! | each page from p / 64 on | the page, then its XXH3-64 with the page's index as seed |
//! | each block of 2^18 values | f32 of the recurrent part, then XXH3-64 with the block's index as seed |
//!
//! A file gets its name when it is whole. What is torn, foreign or damaged is not used: every part is checked before the state is.

mod file;
mod index;

use std::rc::Rc;

use flashmill_model::{Model, ModelError};

use super::prefixes::Saved;

pub(crate) use self::file::Writing;
pub(crate) use self::index::Disk;

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("damaged, or of another model")]
    Damaged,
}

impl SnapshotError {
    /// The model has no room for another state.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, SnapshotError::Model(ModelError::NoFreeState { .. }))
    }
}

/// What a snapshot's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    n_tokens: usize,
    parent_tokens: usize,
    page_bytes: usize,
    delta_len: usize,
}

impl Shape {
    fn of(model: &Model, saved: &Rc<Saved>, parent_tokens: usize) -> Shape {
        Shape {
            n_tokens: saved.tokens.len(),
            parent_tokens,
            page_bytes: model.page_bytes(),
            delta_len: model.delta_len(),
        }
    }
}
