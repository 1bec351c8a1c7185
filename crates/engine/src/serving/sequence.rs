//! One answer in work: its tokens so far, the state that has read some of them, and what turns the next ones into pieces.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flashmill_model::State;

use super::{End, Event, Job, Logprobs, Sink};
use crate::sampling::{Constraint, Sampler, TokenLogprob, logprobs};
use crate::stream::{EndReason, OutputOptions, OutputStream, Piece};
use crate::{EngineError, SamplingOptions, TextSide};

/// Who asked.
pub(crate) struct Client {
    sink: Sink,
    cancelled: Arc<AtomicBool>,
    pub(crate) arrived: Instant,
    /// Answers that are not finished.
    pub(crate) n_open: usize,
    /// Nobody listens any more, or all was said.
    pub(crate) is_gone: bool,
    /// The request failed.
    pub(crate) has_failed: bool,
    /// The end of the request is in the statistics.
    pub(crate) is_counted: bool,
}

impl Client {
    /// Tells the client, unless it has gone.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.is_gone() {
            return;
        }
        (self.has_failed, self.is_gone) = match event {
            Event::Failed(_) => {
                (self.sink)(event);
                (true, true)
            }
            event => (false, !(self.sink)(event)),
        };
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone || self.cancelled.load(Ordering::Relaxed)
    }

    /// The flag that ends the work.
    pub(crate) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }
}

/// The answers that share a prompt with the first one, until it is read.
struct Siblings {
    n: usize,
    sampling: SamplingOptions,
}

/// An answer in work.
pub(crate) struct Sequence {
    pub(crate) client: Rc<RefCell<Client>>,
    index: usize,
    /// The prompt and the answer so far.
    pub(crate) tokens: Vec<u32>,
    n_prompt: usize,
    /// Lengths of the prompt at which the state is saved, ascending.
    keep: Vec<usize>,
    /// After the first tokens; none before the first pass, and after the memory was given to others.
    pub(crate) state: Option<State>,
    /// Prompt tokens that were in a snapshot when the work began.
    n_cached: Option<usize>,
    has_started: bool,
    siblings: Option<Siblings>,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    stream: OutputStream,
    max_tokens: usize,
    logprobs: Option<usize>,
    n_thought_tokens: usize,
    is_done: bool,
}

/// What became of an answer after a token.
pub(crate) enum Next {
    /// It goes on.
    More,
    /// It is finished.
    Done,
}

impl Sequence {
    /// The first answer to a request; its siblings come out of it once the prompt is read.
    ///
    /// # Errors
    /// If the sampling settings are none: they were checked when the request came.
    pub(crate) fn new(job: Job, text: &TextSide, n_vocab: usize) -> Result<Sequence, EngineError> {
        let Job { request, sink, cancelled, arrived } = job;
        let tokens = request.prompt.tokens;
        let mut sampler = Sampler::new(request.sampling.clone(), n_vocab)?;
        sampler.start(&tokens);
        let client = Client {
            sink,
            cancelled,
            arrived,
            n_open: request.n,
            is_gone: false,
            has_failed: false,
            is_counted: false,
        };
        Ok(Sequence {
            client: Rc::new(RefCell::new(client)),
            index: 0,
            n_prompt: tokens.len(),
            keep: request.prompt.keep,
            state: None,
            n_cached: None,
            has_started: false,
            siblings: (request.n > 1).then_some(Siblings { n: request.n - 1, sampling: request.sampling }),
            sampler,
            constraint: request.constraint,
            stream: OutputStream::new(OutputOptions {
                eos_ids: text.defaults().eos_ids.clone(),
                stops: request.stops,
                in_thought: request.prompt.in_thought,
                schemas: request.prompt.schemas,
            }),
            max_tokens: request.max_tokens.unwrap_or(usize::MAX),
            logprobs: request.logprobs,
            n_thought_tokens: 0,
            is_done: false,
            tokens,
        })
    }

    /// Tokens that the state has read.
    pub(crate) fn n_read(&self) -> usize {
        self.state.as_ref().map_or(0, State::n_tokens)
    }

    /// Tokens that must be read before the next one can be sampled.
    pub(crate) fn n_unread(&self) -> usize {
        self.tokens.len() - self.n_read()
    }

    /// It waits for its next token, not for its prompt.
    pub(crate) fn is_answering(&self) -> bool {
        self.has_started && self.n_unread() == 1
    }

    /// The next tokens to read, `most` at most, up to the next place where the state is saved.
    pub(crate) fn chunk(&self, most: usize) -> usize {
        let at = self.n_read();
        let boundary = self.keep.iter().copied().find(|&end| end > at).unwrap_or(self.tokens.len());
        (boundary - at).min(most)
    }

    /// The state is one that later prompts may begin with.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.keep.contains(&self.n_read())
    }

    /// Takes a state after a beginning of the tokens. Gives the prompt's tokens that need not be read.
    pub(crate) fn begin(&mut self, state: State) -> usize {
        // One that comes back finds what it has read itself.
        let n_new = if self.n_cached.is_none() { state.n_tokens() } else { 0 };
        self.n_cached.get_or_insert(n_new);
        self.state = Some(state);
        n_new
    }

    /// Tells the client how far the prompt is read.
    pub(crate) fn tell_progress(&self) {
        if !self.has_started {
            let event = Event::Reading { read: self.n_read(), total: self.n_prompt };
            self.client.borrow_mut().tell(event);
        }
    }

    /// The prompt is read: makes the siblings, without states.
    pub(crate) fn start(&mut self) -> Result<Vec<Sequence>, EngineError> {
        if self.has_started {
            return Ok(Vec::new());
        }
        self.has_started = true;
        let event =
            Event::Started { prompt_tokens: self.n_prompt, cached_tokens: self.n_cached.unwrap_or(0) };
        self.client.borrow_mut().tell(event);
        let Some(Siblings { n, sampling }) = self.siblings.take() else { return Ok(Vec::new()) };
        let n_vocab = self.sampler.n_vocab();
        (1..=n)
            .map(|index| {
                let seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
                let mut sampler = Sampler::new(SamplingOptions { seed, ..sampling.clone() }, n_vocab)?;
                sampler.start(&self.tokens);
                Ok(Sequence {
                    client: Rc::clone(&self.client),
                    index,
                    tokens: self.tokens.clone(),
                    keep: Vec::new(),
                    state: None,
                    siblings: None,
                    sampler,
                    constraint: self.constraint.as_ref().map(|constraint| constraint.fork()),
                    stream: self.stream.clone(),
                    ..*self
                })
            })
            .collect()
    }

    /// Samples the next token from the logits after the last one, and tells the client.
    pub(crate) fn next(
        &mut self,
        logits: &[f32],
        text: &TextSide,
        context: usize,
    ) -> Result<Next, EngineError> {
        let token = match &mut self.constraint {
            None => self.sampler.sample(logits)?,
            Some(constraint) => {
                let token = self.sampler.sample_among(logits, constraint.allowed()?)?;
                constraint.accept(token)?;
                token
            }
        };
        let is_thought = self.stream.is_thinking();
        self.n_thought_tokens += usize::from(is_thought);
        self.tokens.push(token);
        let mut pieces = Vec::new();
        let end = self.stream.push(text.tokenizer(), token, &mut pieces);
        let logprobs = self.logprobs.map(|n| logprobs_of(logits, self.sampler.n_vocab(), token, n));
        let index = self.index;
        self.client.borrow_mut().tell(Event::Token { index, token, pieces, is_thought, logprobs });
        let end = match end {
            Some(EndReason::EndToken(_)) => End::Turn,
            Some(EndReason::StopString(which)) => End::Stop(which),
            None if self.n_answer() >= self.max_tokens => End::MaxTokens,
            // The token just sampled has to be read before the next one.
            None if self.tokens.len() > context => End::ContextFull,
            None => return Ok(Next::More),
        };
        self.finish(end);
        Ok(Next::Done)
    }

    /// Places that the answers to the same prompt will need once it is read.
    pub(crate) fn n_siblings(&self) -> usize {
        self.siblings.as_ref().map_or(0, |siblings| siblings.n)
    }

    /// The answer is finished.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    fn n_answer(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    fn finish(&mut self, end: End) {
        let mut pieces: Vec<Piece> = Vec::new();
        self.stream.finish(&mut pieces);
        let mut client = self.client.borrow_mut();
        client.tell(Event::Finished {
            index: self.index,
            pieces,
            end,
            n_tokens: self.n_answer(),
            n_thought_tokens: self.n_thought_tokens,
        });
        client.n_open -= 1;
        drop(client);
        self.is_done = true;
    }
}

fn logprobs_of(logits: &[f32], n_vocab: usize, token: u32, n: usize) -> Logprobs {
    let mut top: Vec<TokenLogprob> = Vec::new();
    let chosen = logprobs(&logits[..n_vocab.min(logits.len())], token, n, &mut top);
    Logprobs { chosen, top }
}
