//! From the scheduler's thread to a connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use flashmill_engine::{EngineError, Piece, TextSide};
use tokio::sync::mpsc;

use crate::answer::{AnswerEvent, Call, Ending, Part, TokenLogprob, TokenLogprobs};
use crate::error::{ApiError, ErrorKind};
use flashmill_engine::serving::{End, Event, Logprobs, Sink, Ticket};

/// Events that wait for a connection: so many tokens a client may be behind before it is given up.
const MAX_BEHIND: usize = 4096;

/// What happens to the requests of one job. When it is dropped, their work ends.
pub(crate) struct Feed {
    text: Arc<TextSide>,
    options: FeedOptions,
    sender: Option<mpsc::Sender<(usize, Event)>>,
    receiver: mpsc::Receiver<(usize, Event)>,
    tickets: Vec<Ticket>,
    answers: Vec<Progress>,
    /// Was waited for, and comes before everything else.
    first: Option<AnswerEvent>,
    /// Comes next, before anything that is received.
    next: Option<AnswerEvent>,
    has_failed: bool,
}

/// How events are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeedOptions {
    /// Answers of all requests.
    pub(crate) n_answers: usize,
    pub(crate) stops: Vec<String>,
    /// An answer ends after its first call otherwise.
    pub(crate) parallel_calls: bool,
    /// Where no tools were offered, what looks like a call is text.
    pub(crate) reads_calls: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    n_tokens: usize,
    n_thought_tokens: usize,
    is_over: bool,
}

impl Feed {
    pub(crate) fn new(text: Arc<TextSide>, options: FeedOptions) -> Feed {
        let (sender, receiver) = mpsc::channel(MAX_BEHIND);
        let answers = vec![Progress::default(); options.n_answers];
        Feed {
            text,
            options,
            sender: Some(sender),
            receiver,
            tickets: Vec::new(),
            answers,
            first: None,
            next: None,
            has_failed: false,
        }
    }

    /// Where a request whose first answer is answer `first` of the job sends its events.
    pub(crate) fn sink(&self, first: usize) -> Sink {
        let sender = self.sender.clone();
        Box::new(move |event| match (&sender, event) {
            (Some(sender), Event::Reading { .. }) => !sender.is_closed(),
            (Some(sender), event) => sender.try_send((first, event)).is_ok(),
            (None, _) => false,
        })
    }

    /// Answers of all requests.
    pub(crate) fn n_answers(&self) -> usize {
        self.options.n_answers
    }

    /// A request was taken.
    pub(crate) fn add(&mut self, ticket: Ticket) {
        self.tickets.push(ticket);
    }

    /// All requests were taken: once their sinks are gone, nothing more can come.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// Waits for the first event, which stays the next one; gives it away only if it is a failure.
    pub(crate) async fn begin(&mut self) -> Result<(), ApiError> {
        match self.next().await {
            Some(AnswerEvent::Failed(error)) => Err(error),
            event => {
                self.first = event;
                Ok(())
            }
        }
    }

    /// The next event; `None` after the last answer, or after a failure.
    pub(crate) async fn next(&mut self) -> Option<AnswerEvent> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<AnswerEvent>> {
        loop {
            if let Some(event) = self.first.take().or_else(|| self.next.take()) {
                return Poll::Ready(Some(event));
            }
            if self.has_failed || self.answers.iter().all(|answer| answer.is_over) {
                return Poll::Ready(None);
            }
            let event = match ready!(self.receiver.poll_recv(cx)) {
                Some((first, event)) => self.tell(first, event),
                None => Some(self.fail(ApiError::new(
                    ErrorKind::Unavailable,
                    "the answer was given up: it was read too slowly, or the server is shutting down",
                ))),
            };
            if event.is_some() {
                return Poll::Ready(event);
            }
        }
    }

    fn fail(&mut self, error: ApiError) -> AnswerEvent {
        self.has_failed = true;
        AnswerEvent::Failed(error)
    }

    fn tell(&mut self, first: usize, event: Event) -> Option<AnswerEvent> {
        match event {
            Event::Reading { .. } => None,
            Event::Started { prompt_tokens, cached_tokens } => {
                Some(AnswerEvent::Started { prompt_tokens, cached_tokens })
            }
            Event::Token { index, token, pieces, is_thought, logprobs } => {
                let index = first + index;
                let progress = self.answers.get_mut(index).filter(|progress| !progress.is_over)?;
                progress.n_tokens += 1;
                progress.n_thought_tokens += usize::from(is_thought);
                let is_text = !is_thought && !self.text.defaults().eos_ids.contains(&token);
                let logprobs = logprobs.filter(|_| is_text).map(|logprobs| self.logprobs(logprobs));
                let parts = self.parts(pieces);
                let has_call = parts.iter().any(|part| matches!(part, Part::Call(_)));
                if has_call && !self.options.parallel_calls {
                    self.end_after_call(index);
                }
                Some(AnswerEvent::Token { index, parts, logprobs })
            }
            Event::Finished { index, pieces, end, n_tokens, n_thought_tokens } => {
                let index = first + index;
                let progress = self.answers.get_mut(index).filter(|progress| !progress.is_over)?;
                progress.is_over = true;
                let parts = self.parts(pieces);
                let ending = match end {
                    End::Turn => Ending::Turn,
                    End::Stop(n) => Ending::Stop(self.options.stops.get(n).cloned().unwrap_or_default()),
                    End::MaxTokens => Ending::Length,
                    End::ContextFull => Ending::ContextFull,
                };
                Some(AnswerEvent::Finished { index, parts, ending, n_tokens, n_thought_tokens })
            }
            Event::Failed(error) => {
                let kind = match &*error {
                    EngineError::ShuttingDown => ErrorKind::Unavailable,
                    // The form came with the request.
                    EngineError::Constraint(_) | EngineError::NothingAllowed => ErrorKind::Invalid,
                    _ => ErrorKind::Internal,
                };
                Some(self.fail(ApiError::new(kind, error.to_string())))
            }
        }
    }

    /// One call was all that was wanted.
    fn end_after_call(&mut self, index: usize) {
        let Progress { n_tokens, n_thought_tokens, .. } = self.answers[index];
        self.answers[index].is_over = true;
        let (parts, ending) = (Vec::new(), Ending::Turn);
        self.next = Some(AnswerEvent::Finished { index, parts, ending, n_tokens, n_thought_tokens });
        if self.answers.iter().all(|answer| answer.is_over) {
            self.cancel();
        }
    }

    fn cancel(&self) {
        self.tickets.iter().for_each(Ticket::cancel);
    }

    /// The pieces up to the first call where one is all that is wanted.
    fn parts(&self, pieces: Vec<Piece>) -> Vec<Part> {
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Thought(text) => parts.push(Part::Thought(text)),
                Piece::Answer(text) => parts.push(Part::Text(text)),
                Piece::ToolCall(parsed) => match parsed.call {
                    Ok(call) if self.options.reads_calls => {
                        parts.push(Part::Call(Call { arguments: call.arguments_json(), name: call.name }));
                        if !self.options.parallel_calls {
                            break;
                        }
                    }
                    // What is no call is for people to read.
                    _ => parts.push(Part::Text(parsed.raw)),
                },
            }
        }
        parts
    }

    fn logprobs(&self, logprobs: Logprobs) -> TokenLogprobs {
        let token = |token: &flashmill_engine::sampling::TokenLogprob| TokenLogprob {
            bytes: self.text.tokenizer().token_bytes(token.id).unwrap_or_default().to_vec(),
            logprob: token.logprob,
        };
        TokenLogprobs { chosen: token(&logprobs.chosen), top: logprobs.top.iter().map(token).collect() }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.cancel();
    }
}
