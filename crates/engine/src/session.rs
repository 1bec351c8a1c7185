//! One timeline of tokens on an opened model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flashmill_model::{ModelError, Observer, Sequence, State, Wanted};

use crate::sampling::{Constraint, Sampler};
use crate::{Engine, EngineError};

/// A sequence of tokens and the model's state after them.
///
/// DeltaNet state cannot be cut back, so the session saves states at the boundaries that the caller names and returns to the longest
/// one that a new prompt starts with.
pub struct Session<'a> {
    engine: &'a mut Engine,
    /// The state after `tokens`; none after a failure.
    state: Option<State>,
    tokens: Vec<u32>,
    /// Sampled, not yet read by the model: the last token of an answer never needs to be.
    pending: Option<u32>,
    /// The model's logits are those after `tokens`.
    has_logits: bool,
    /// Oldest use first.
    saved: Vec<Saved>,
    stop: Option<Arc<AtomicBool>>,
    observer: Option<Box<dyn Observer>>,
    stats: SessionStats,
}

struct Saved {
    tokens: Vec<u32>,
    state: State,
}

/// What a session has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionStats {
    /// Prompt tokens that the model read.
    pub prompt_tokens: u64,
    /// Prompt tokens that were already in the state.
    pub reused_tokens: u64,
    /// Time for reading prompts.
    pub prompt_time: Duration,
    /// Tokens that were sampled.
    pub decode_tokens: u64,
    /// Time for sampling them and for reading them back.
    pub decode_time: Duration,
}

impl<'a> Session<'a> {
    pub(crate) fn new(engine: &'a mut Engine) -> Result<Session<'a>, EngineError> {
        let mut session = Session {
            engine,
            state: None,
            tokens: Vec::new(),
            pending: None,
            has_logits: false,
            saved: Vec::new(),
            stop: None,
            observer: None,
            stats: SessionStats::default(),
        };
        session.reset()?;
        Ok(session)
    }

    /// The engine: tokenizer, template, plan, statistics.
    pub fn engine(&self) -> &Engine {
        self.engine
    }

    /// All tokens so far, the last sampled one included.
    pub fn tokens(&self) -> Vec<u32> {
        self.tokens.iter().copied().chain(self.pending).collect()
    }

    /// What the session has done.
    pub fn stats(&self) -> SessionStats {
        self.stats
    }

    /// A flag that another thread may set to interrupt a running pass; the session can be used again after it is cleared.
    pub fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.stop = Some(stop);
    }

    /// Who looks on at every pass from now on.
    pub fn set_observer(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Forgets the sequence, not the saved states.
    pub fn reset(&mut self) -> Result<(), EngineError> {
        self.state = None;
        self.tokens.clear();
        self.pending = None;
        self.has_logits = false;
        Ok(())
    }

    /// Makes the model's state equal to `tokens`, reading only what neither the state nor a saved one has.
    ///
    /// A state is saved at each length in `keep` (ascending, at most `tokens.len()`) that is passed. `progress` is told
    /// the tokens done, and in all.
    pub fn sync(
        &mut self,
        tokens: &[u32],
        keep: &[usize],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let context = self.engine.plan().context;
        if tokens.len() > context {
            return Err(EngineError::PromptTooLong { n_tokens: tokens.len(), context });
        }
        let start = Instant::now();
        if self.tokens == tokens && self.pending.is_none() && self.has_logits {
            self.stats.reused_tokens += tokens.len() as u64;
            return Ok(());
        }
        self.rewind(tokens)?;
        let reused = self.tokens.len();
        self.stats.reused_tokens += reused as u64;
        while self.tokens.len() < tokens.len() {
            let at = self.tokens.len();
            progress(at, tokens.len());
            let boundary =
                keep.iter().copied().find(|&end| end > at).unwrap_or(tokens.len()).min(tokens.len());
            let end = boundary.min(at + self.engine.plan().chunk);
            let wanted = if end == tokens.len() { Wanted::Last } else { Wanted::None };
            self.read(&tokens[at..end], wanted)?;
            if keep.contains(&end) {
                self.save()?;
            }
        }
        progress(tokens.len(), tokens.len());
        self.stats.prompt_tokens += (tokens.len() - reused) as u64;
        self.stats.prompt_time += start.elapsed();
        Ok(())
    }

    /// Samples the next token. The token before it is read by the model first, so a last token costs nothing.
    pub fn next(&mut self, sampler: &mut Sampler) -> Result<u32, EngineError> {
        self.next_within(sampler, None)
    }

    /// The same within the form that `constraint` holds the answer to, if one is given.
    pub fn next_within(
        &mut self,
        sampler: &mut Sampler,
        mut constraint: Option<&mut (dyn Constraint + 'static)>,
    ) -> Result<u32, EngineError> {
        let start = Instant::now();
        if let Some(token) = self.pending.take() {
            self.read(&[token], Wanted::Last)?;
        }
        if !self.has_logits {
            return Err(EngineError::EmptyPrompt);
        }
        let allowed = match &mut constraint {
            Some(constraint) => constraint.allowed()?,
            None => None,
        };
        let token = sampler.sample_among(self.engine.model().logits(0), allowed)?;
        if let Some(constraint) = constraint {
            constraint.accept(token)?;
        }
        self.pending = Some(token);
        self.stats.decode_tokens += 1;
        self.stats.decode_time += start.elapsed();
        Ok(token)
    }

    /// The logits after the last token that the model has read.
    pub fn logits(&self) -> Option<&[f32]> {
        self.has_logits.then(|| self.engine.model().logits(0))
    }

    /// Goes to the longest prefix of `tokens` for which there is a state and after which at least one token is left to read.
    fn rewind(&mut self, tokens: &[u32]) -> Result<(), EngineError> {
        self.pending = None;
        self.has_logits = false;
        let is_prefix = |prefix: &[u32]| prefix.len() < tokens.len() && tokens.starts_with(prefix);
        let current = if self.state.is_some() && is_prefix(&self.tokens) { self.tokens.len() } else { 0 };
        let best = (0..self.saved.len())
            .filter(|&i| is_prefix(&self.saved[i].tokens))
            .max_by_key(|&i| self.saved[i].tokens.len());
        match best {
            Some(i) if self.saved[i].tokens.len() > current => {
                self.state = None;
                let saved = self.saved.remove(i);
                self.state = Some(self.engine.model_mut().fork(&saved.state)?);
                self.tokens.clone_from(&saved.tokens);
                self.saved.push(saved);
            }
            _ if current > 0 => {}
            _ => {
                self.state = None;
                self.tokens.clear();
                self.state = Some(self.make_room(|engine| engine.model_mut().new_state())?);
            }
        }
        Ok(())
    }

    fn read(&mut self, tokens: &[u32], wanted: Wanted) -> Result<(), EngineError> {
        self.has_logits = false;
        loop {
            let Some(state) = &mut self.state else { return Err(EngineError::EmptyPrompt) };
            let mut batch = [Sequence { state, tokens, wanted }];
            let observer = self.observer.as_mut().map(|observer| &mut **observer as &mut dyn Observer);
            match self.engine.model_mut().forward(&mut batch, self.stop.as_deref(), observer) {
                Ok(()) => break,
                // Saved states hold pages of their own; the oldest gives them up.
                Err(ModelError::NoFreeState { .. }) if !self.saved.is_empty() => {
                    self.saved.remove(0);
                }
                Err(error) => {
                    if state.is_broken() {
                        self.state = None;
                        self.tokens.clear();
                    }
                    return Err(error.into());
                }
            }
        }
        self.tokens.extend_from_slice(tokens);
        self.has_logits = wanted == Wanted::Last;
        Ok(())
    }

    /// Saves the present state, at the price of the saved one that has not been used for longest.
    fn save(&mut self) -> Result<(), EngineError> {
        if self.saved.iter().any(|saved| saved.tokens == self.tokens) || self.engine.plan().n_states < 2 {
            return Ok(());
        }
        let Some(state) = self.state.take() else { return Ok(()) };
        let fork = self.make_room(|engine| engine.model_mut().fork(&state));
        self.state = Some(state);
        self.saved.push(Saved { tokens: self.tokens.clone(), state: fork? });
        Ok(())
    }

    /// Makes a state, giving up saved ones until there is room.
    fn make_room(
        &mut self,
        mut make: impl FnMut(&mut Engine) -> Result<State, ModelError>,
    ) -> Result<State, EngineError> {
        loop {
            match make(self.engine) {
                Err(ModelError::NoFreeState { .. }) if !self.saved.is_empty() => {
                    self.saved.remove(0);
                }
                other => return Ok(other?),
            }
        }
    }
}
