//! Many requests on one model: a scheduler on a thread of its own decodes all running answers in one batch, so that they share the
//! experts that are read, and reads prompts in chunks between and beside them.
//!
//! A request's answer does not depend on what runs beside it, to the bit: rows of a forward pass are independent, and every random
//! draw is the request's own.

mod disk;
mod pace;
mod prefixes;
mod queue;
mod sequence;
mod stats;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sampling::{Constraint, Sampler, SamplingOptions, TokenLogprob};
use crate::stream::Piece;
use crate::{Engine, EngineError, Plan, Prompt, TextSide};

use self::disk::Disk;
pub use self::stats::{ExpertMap, PrefixStats, ServingStats};
use self::worker::Worker;

/// What a request asks of the model.
pub struct Request {
    /// What the model reads.
    pub prompt: Prompt,
    /// Answers to the one prompt, at least 1. The i-th is drawn with the seed + i.
    pub n: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The form that each answer must have.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Most tokens of an answer, at least 1; as many as the context holds if not given.
    pub max_tokens: Option<usize>,
    /// Log-probabilities of each token, and of so many of the likeliest.
    pub logprobs: Option<usize>,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// A part of the prompt is read.
    Reading {
        /// Tokens that the state holds.
        read: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The prompt is read.
    Started {
        /// Its tokens.
        prompt_tokens: usize,
        /// Those that were in a snapshot and had not to be read.
        cached_tokens: usize,
    },
    /// A token of an answer.
    Token {
        /// Which answer.
        index: usize,
        /// The token.
        token: u32,
        /// What it made certain; often one piece or none.
        pieces: Vec<Piece>,
        /// It belongs to a thought.
        is_thought: bool,
        /// What was asked for.
        logprobs: Option<Logprobs>,
    },
    /// An answer is over.
    Finished {
        /// Which answer.
        index: usize,
        /// What had been held back.
        pieces: Vec<Piece>,
        /// Why.
        end: End,
        /// Its tokens, an end token included.
        n_tokens: usize,
        /// Those that belong to thoughts.
        n_thought_tokens: usize,
    },
    /// The request failed; nothing more will come.
    Failed(Arc<EngineError>),
}

/// How sure the model was.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: TokenLogprob,
    /// Of the likeliest ones, likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Turn,
    /// This one of the request's texts came up.
    Stop(usize),
    /// All tokens that were asked for are there.
    MaxTokens,
    /// No position of the context is left.
    ContextFull,
}

/// Gets the events of a request, on the scheduler's thread: it must not block. `false` says that nobody listens any more; the work
/// for the request ends at once.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// How requests are served.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Requests that may wait; more are refused.
    pub max_queue: usize,
    /// Where snapshots of prompts are kept beyond the process's life; nowhere if not given.
    pub snapshot_dir: Option<PathBuf>,
    /// Most bytes of snapshots there, those of other models included.
    pub snapshot_bytes: u64,
}

impl Default for SchedulerOptions {
    fn default() -> SchedulerOptions {
        SchedulerOptions { max_queue: 64, snapshot_dir: None, snapshot_bytes: 8 << 30 }
    }
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait already.
    #[error("{n_waiting} requests wait already; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// How many.
        n_waiting: usize,
        /// When a place may be free: an estimate from the last answers.
        retry_after: Duration,
    },
    /// The program is about to end.
    #[error("the server is shutting down; try again when it is back")]
    ShuttingDown,
    /// The request makes no sense.
    #[error(transparent)]
    Refused(#[from] EngineError),
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Ticket {
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Ends the work for the request, in the middle of a forward pass if that is for it alone. Nothing more will be heard of it.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// A request on its way to the worker.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) sink: Sink,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) arrived: Instant,
}

/// Many requests on one model. Clones share it.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

/// What the callers' threads and the worker both see.
pub(crate) struct Shared {
    pub(crate) text: Arc<TextSide>,
    pub(crate) plan: Plan,
    pub(crate) queue: queue::Queue,
    pub(crate) board: stats::Board,
    /// Ids that the tokenizer knows and the model has a row for.
    pub(crate) n_vocab: usize,
    /// The grace of the end has passed: passes stop where they are.
    pub(crate) is_over: AtomicBool,
    /// The worker has panicked.
    has_failed: AtomicBool,
    worker: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Refuses what comes after the worker, and drops what waits: also where the worker has panicked, nobody waits for an answer in vain.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.has_failed.store(std::thread::panicking(), Ordering::Relaxed);
        self.0.queue.end(Instant::now());
        self.0.queue.drain();
    }
}

impl Scheduler {
    /// Starts the thread that owns the model. As many answers run at once as the engine was planned for ([`Plan::sessions`]).
    ///
    /// # Errors
    /// If the directory of snapshots cannot be made or read.
    pub fn start(engine: Engine, options: SchedulerOptions) -> Result<Scheduler, EngineError> {
        let shared = Arc::new(Shared {
            text: Arc::clone(engine.text()),
            plan: engine.plan().clone(),
            queue: queue::Queue::new(options.max_queue),
            board: stats::Board::default(),
            n_vocab: engine.tokenizer().n_vocab().min(engine.model().spec().vocab_size),
            is_over: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            worker: std::sync::Mutex::new(None),
        });
        let disk = match options.snapshot_dir {
            Some(dir) if options.snapshot_bytes > 0 => {
                let disk =
                    engine.identity().and_then(|identity| Disk::open(&dir, identity, options.snapshot_bytes));
                Some(disk.map_err(|source| EngineError::Snapshots { dir, source })?)
            }
            _ => None,
        };
        let mine = Arc::clone(&shared);
        let work = move || {
            let _gone = Gone(Arc::clone(&mine));
            Worker::new(engine, mine, disk).run();
        };
        let thread = std::thread::Builder::new().name("scheduler".into()).spawn(work);
        let thread = thread.map_err(|source| EngineError::Thread { source })?;
        *shared.worker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(thread);
        Ok(Scheduler { shared })
    }

    /// Tokenizer, chat template and sampling settings.
    pub fn text(&self) -> &Arc<TextSide> {
        &self.shared.text
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Takes a request; `sink` hears of it until it is finished or has failed.
    ///
    /// # Errors
    /// At once, if the request makes no sense (an empty or too long prompt, settings without meaning), or there is no place for it.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, SubmitError> {
        let n_tokens = request.prompt.tokens.len();
        let context = self.plan().context;
        if n_tokens == 0 {
            return Err(EngineError::EmptyPrompt.into());
        }
        // At least one token of an answer must have a place.
        if n_tokens > context {
            return Err(EngineError::PromptTooLong { n_tokens, context }.into());
        }
        let n_vocab = self.shared.n_vocab;
        if let Some(&token) = request.prompt.tokens.iter().find(|&&token| token as usize >= n_vocab) {
            return Err(EngineError::UnknownToken { token, n_vocab }.into());
        }
        let sessions = self.plan().sessions;
        if request.n == 0 || request.n > sessions {
            return Err(EngineError::TooManyAnswers { n: request.n, sessions }.into());
        }
        Sampler::check(&request.sampling, n_vocab)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let ticket = Ticket { cancelled: Arc::clone(&cancelled) };
        let job = Job { request, sink, cancelled, arrived: Instant::now() };
        let pace = self.shared.board.seconds_per_request() / sessions as f64;
        self.shared.queue.push(job, pace)?;
        Ok(ticket)
    }

    /// Counters since the start, and what goes on now.
    pub fn stats(&self) -> ServingStats {
        let mut stats = self.shared.board.stats();
        stats.queued = self.shared.queue.len();
        stats
    }

    /// Which experts are resident and which were picked last; a picture at most half a second old while the model works.
    pub fn experts(&self) -> ExpertMap {
        self.shared.board.experts()
    }

    /// The thread that owns the model runs: requests can be answered.
    pub fn is_working(&self) -> bool {
        self.shared.queue.deadline().is_none()
    }

    /// The thread that owns the model has panicked: nothing will be answered any more.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Relaxed)
    }

    /// No new requests from now on; those that wait fail, those that run go on until they are done or `grace` has passed. Returns when
    /// the thread has ended.
    pub fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.shared.queue.end(deadline);
        let thread = self.shared.worker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    self.shared.is_over.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            // A worker that panicked has nothing left to wait for; its panic was printed by the thread itself.
            let _ = thread.join();
        }
    }
}
