//! An answer that has a form from its first character to its last.

use std::sync::Arc;

use flashmill_engine::{Constraint, ConstraintError};
use llguidance::Matcher;

use super::{matcher_accept, matcher_mask};
use crate::vocabulary::{Vocabulary, allow};

/// Follows an answer that as a whole is of one form; thoughts before it are free.
pub(crate) struct Whole {
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    phase: Phase,
    mask: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Nothing has come yet: the model may open a thought.
    Start,
    /// In a thought, at whose end stand so many bytes of `</think>`.
    Thought { n_matched: usize },
    /// After a thought and so many line ends, which belong to neither thought nor answer.
    AfterThought { n_line_ends: usize },
    /// In the form.
    Form,
}

/// Models write an empty line between thought and answer.
const MAX_LINE_ENDS: usize = 2;

impl Whole {
    /// At the start of an answer; `in_thought`: the prompt has opened a thought.
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, matcher: Matcher, in_thought: bool) -> Whole {
        let phase = if in_thought { Phase::Thought { n_matched: 0 } } else { Phase::Start };
        Whole { vocabulary, matcher, phase, mask: Vec::new() }
    }
}

impl Constraint for Whole {
    fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError> {
        let vocabulary = &*self.vocabulary;
        match self.phase {
            Phase::Thought { n_matched } => {
                vocabulary.all_but(&mut self.mask, &vocabulary.eos_ids);
                vocabulary.exclude(&mut self.mask, vocabulary.end_think.overshoot(n_matched));
            }
            Phase::Start => {
                matcher_mask(&mut self.matcher, &mut self.mask)?;
                vocabulary.think.token.iter().for_each(|&id| allow(&mut self.mask, id));
            }
            Phase::AfterThought { n_line_ends } => {
                matcher_mask(&mut self.matcher, &mut self.mask)?;
                let left = MAX_LINE_ENDS - n_line_ends;
                let line_ends = vocabulary.line_ends.iter().filter(|&&(_, n)| n <= left);
                line_ends.for_each(|&(id, _)| allow(&mut self.mask, id));
            }
            Phase::Form => matcher_mask(&mut self.matcher, &mut self.mask)?,
        }
        Ok(Some(&self.mask))
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let vocabulary = &*self.vocabulary;
        match self.phase {
            Phase::Start if vocabulary.think.token == Some(token) => {
                self.phase = Phase::Thought { n_matched: 0 };
            }
            Phase::Thought { mut n_matched } => {
                let bytes = vocabulary.text(token);
                self.phase = match vocabulary.end_think.find_end(&mut n_matched, bytes) {
                    None => Phase::Thought { n_matched },
                    Some(end) if end == bytes.len() => Phase::AfterThought { n_line_ends: 0 },
                    Some(_) => return Err(ConstraintError::NotAllowed { token }),
                };
            }
            Phase::AfterThought { n_line_ends } => {
                let line_ends = vocabulary.line_ends.iter().find(|&&(id, _)| id == token);
                match line_ends.map(|&(_, n)| n_line_ends + n) {
                    Some(n_line_ends) if n_line_ends <= MAX_LINE_ENDS => {
                        self.phase = Phase::AfterThought { n_line_ends };
                    }
                    _ => {
                        matcher_accept(vocabulary, &mut self.matcher, token)?;
                        self.phase = Phase::Form;
                    }
                }
            }
            Phase::Start | Phase::Form => {
                matcher_accept(vocabulary, &mut self.matcher, token)?;
                self.phase = Phase::Form;
            }
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Whole {
            vocabulary: self.vocabulary.clone(),
            matcher: self.matcher.deep_clone(),
            phase: self.phase,
            mask: Vec::new(),
        })
    }
}
