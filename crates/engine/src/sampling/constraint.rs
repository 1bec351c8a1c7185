//! The form that an answer must have, as the sampler sees it: which tokens may come next.

/// Follows an answer token by token and says which tokens keep it in a form: JSON of a schema, a regular expression, a tool
/// call. What the form is and how it is followed, the engine does not know.
///
/// For each token of an answer, [`allowed`](Constraint::allowed) is asked once and [`accept`](Constraint::accept) is told what was
/// chosen.
pub trait Constraint: Send {
    /// Which tokens may come next: token `id` is bit `id % 32` of word `id / 32`, ids beyond the last word may not. `None`: any.
    ///
    /// End tokens are among them where the answer may end, and only there.
    fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError>;

    /// Notes the token that was chosen; end tokens too.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// An independent copy at the same place.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// Why a form cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConstraintError {
    /// A token that the form does not allow where the answer stands.
    #[error("token {token} does not fit the form that was asked for; take only tokens that are allowed")]
    NotAllowed {
        /// Its id.
        token: u32,
    },
    /// Following the form takes more work than it may.
    #[error("the form that was asked for is too complex to follow: {reason}; simplify it")]
    TooComplex {
        /// Which limit was met.
        reason: String,
    },
}

/// Gathers the logits of tokens that may be chosen. Its buffers are used again for each token.
#[derive(Clone, Debug, Default)]
pub(super) struct Among {
    /// The tokens that may be chosen, ascending.
    pub(super) ids: Vec<u32>,
    /// Their logits.
    pub(super) logits: Vec<f32>,
}

impl Among {
    /// Takes the tokens of `allowed`, a mask as [`Constraint::allowed`] gives it.
    pub(super) fn gather(&mut self, logits: &[f32], allowed: &[u32]) {
        self.ids.clear();
        self.logits.clear();
        self.ids.reserve_exact(logits.len());
        self.logits.reserve_exact(logits.len());
        for (index, (&word, row)) in allowed.iter().zip(logits.chunks(32)).enumerate() {
            let first = 32 * index as u32;
            if word == u32::MAX {
                self.ids.extend(first..first + row.len() as u32);
                self.logits.extend_from_slice(row);
                continue;
            }
            let mut bits = word;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                if let Some(&logit) = row.get(bit as usize) {
                    self.ids.push(first + bit);
                    self.logits.push(logit);
                }
            }
        }
    }
}
