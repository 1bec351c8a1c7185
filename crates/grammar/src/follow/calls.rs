//! An answer of free text whose tool calls have a form, or that has none.

use std::sync::Arc;

use flashmill_engine::{Constraint, ConstraintError};
use llguidance::Matcher;

use super::{matcher_accept, matcher_mask};
use crate::vocabulary::Vocabulary;

/// Follows an answer of free text: from `<tool_call>` on it is a call, until `</tool_call>`.
pub(crate) struct Calls {
    vocabulary: Arc<Vocabulary>,
    /// What follows `<tool_call>`; without it no call can begin.
    call: Option<Arc<std::sync::Mutex<Matcher>>>,
    is_parallel: bool,
    phase: Phase,
    mask: Vec<u32>,
}

enum Phase {
    /// In a thought, at whose end stand so many bytes of `</think>`.
    Thought { n_matched: usize },
    /// In text, at whose end stand so many bytes of `<tool_call>`. So long as all of it is white space and a part of `<think>`, how
    /// much of that.
    Text { n_matched: usize, n_think: Option<usize> },
    /// Inside of a call.
    Call(Box<Matcher>),
    /// After the only call.
    Over,
}

impl Calls {
    /// At the start of an answer; `in_thought`: the prompt has opened a thought.
    pub(crate) fn new(
        vocabulary: Arc<Vocabulary>,
        call: Option<Arc<std::sync::Mutex<Matcher>>>,
        is_parallel: bool,
        in_thought: bool,
    ) -> Calls {
        let phase = match in_thought {
            true => Phase::Thought { n_matched: 0 },
            false => Phase::Text { n_matched: 0, n_think: Some(0) },
        };
        Calls { vocabulary, call, is_parallel, phase, mask: Vec::new() }
    }

    /// Goes through what a token adds to free text.
    fn read(&mut self, token: u32) -> Result<(), ConstraintError> {
        let vocabulary = self.vocabulary.clone();
        let bytes = vocabulary.text(token);
        for (at, &byte) in bytes.iter().enumerate() {
            match &mut self.phase {
                Phase::Thought { n_matched } => {
                    *n_matched = vocabulary.end_think.step(*n_matched, byte);
                    if vocabulary.end_think.is_complete(*n_matched) {
                        self.phase = Phase::Text { n_matched: 0, n_think: None };
                    }
                }
                Phase::Text { n_matched, n_think } => {
                    *n_matched = vocabulary.call.step(*n_matched, byte);
                    *n_think = match *n_think {
                        Some(0) if byte.is_ascii_whitespace() => Some(0),
                        Some(n) => Some(vocabulary.think.step(n, byte)).filter(|&next| next == n + 1),
                        None => None,
                    };
                    if n_think.is_some_and(|n| vocabulary.think.is_complete(n)) {
                        self.phase = Phase::Thought { n_matched: 0 };
                    } else if vocabulary.call.is_complete(*n_matched) {
                        // What comes after the marker belongs to the call, and a token cannot be cut.
                        let call = self.call.as_ref().filter(|_| at + 1 == bytes.len());
                        let call = call.ok_or(ConstraintError::NotAllowed { token })?;
                        let call = call.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).deep_clone();
                        self.phase = Phase::Call(Box::new(call));
                    }
                }
                Phase::Call(_) | Phase::Over => unreachable!("free text is read to its end only"),
            }
        }
        Ok(())
    }
}

impl Constraint for Calls {
    fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError> {
        let vocabulary = &*self.vocabulary;
        match &mut self.phase {
            Phase::Thought { .. } => return Ok(None),
            Phase::Text { n_matched, .. } => {
                let marker = &vocabulary.call;
                let excluded = match self.call {
                    Some(_) => marker.overshoot(*n_matched),
                    None => marker.completing(*n_matched),
                };
                if excluded.is_empty() {
                    return Ok(None);
                }
                vocabulary.all_but(&mut self.mask, excluded);
            }
            Phase::Call(matcher) => matcher_mask(matcher, &mut self.mask)?,
            Phase::Over => vocabulary.only_ends(&mut self.mask),
        }
        Ok(Some(&self.mask))
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        match &mut self.phase {
            Phase::Thought { .. } | Phase::Text { .. } => self.read(token)?,
            Phase::Call(matcher) => {
                matcher_accept(&self.vocabulary, matcher, token)?;
                if matcher.is_stopped() {
                    self.phase = match self.is_parallel {
                        true => Phase::Text { n_matched: 0, n_think: None },
                        false => Phase::Over,
                    };
                }
            }
            Phase::Over if self.vocabulary.eos_ids.contains(&token) => {}
            Phase::Over => return Err(ConstraintError::NotAllowed { token }),
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        let phase = match &self.phase {
            &Phase::Thought { n_matched } => Phase::Thought { n_matched },
            &Phase::Text { n_matched, n_think } => Phase::Text { n_matched, n_think },
            Phase::Call(matcher) => Phase::Call(Box::new(matcher.deep_clone())),
            Phase::Over => Phase::Over,
        };
        Box::new(Calls {
            vocabulary: self.vocabulary.clone(),
            call: self.call.clone(),
            is_parallel: self.is_parallel,
            phase,
            mask: Vec::new(),
        })
    }
}
