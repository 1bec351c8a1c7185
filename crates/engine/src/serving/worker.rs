//! The thread that owns the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashmill_kernels::PAGE_TOKENS;
use flashmill_model::{MAX_SEQUENCES, ModelError, Sequence as Rows, State, Wanted};

use super::disk::Disk;
use super::pace::Pace;
use super::prefixes::Prefixes;
use super::sequence::{Next, Sequence};
use super::stats::ServingStats;
use super::{Event, Shared};
use crate::{Engine, EngineError};

/// An idle worker looks for itself this often.
const IDLE: Duration = Duration::from_millis(500);

pub(super) struct Worker {
    engine: Engine,
    shared: Arc<Shared>,
    /// In the order of their arrival.
    running: Vec<Sequence>,
    /// Siblings that wait for a place, and answers that gave their memory to others: before everyone in the queue.
    waiting: VecDeque<Sequence>,
    prefixes: Prefixes,
    pace: Pace,
    stats: ServingStats,
    /// Whose turn it is to read a prompt: counts passes with prompts.
    turn: usize,
}

/// A sequence's part of a pass.
struct Share {
    /// In `running`.
    at: usize,
    part: Part,
    state: State,
}

#[derive(Clone, Copy)]
struct Part {
    n_tokens: usize,
    /// The next token of an answer, not a piece of a prompt.
    is_answer: bool,
    /// Nothing is left to read: the next token can be sampled.
    is_last: bool,
}

impl Worker {
    pub(super) fn new(engine: Engine, shared: Arc<Shared>, disk: Option<Disk>) -> Worker {
        Worker {
            engine,
            shared,
            running: Vec::new(),
            waiting: VecDeque::new(),
            prefixes: Prefixes::new(disk),
            pace: Pace::default(),
            stats: ServingStats::default(),
            turn: 0,
        }
    }

    /// Works until the end is announced and everything is done.
    pub(super) fn run(mut self) {
        self.publish();
        loop {
            if let Some(deadline) = self.shared.queue.deadline() {
                self.fail_waiting();
                if Instant::now() >= deadline {
                    self.fail_running();
                }
                if self.running.is_empty() && self.waiting.is_empty() {
                    break;
                }
            }
            self.drop_gone();
            self.admit();
            // Those who wait for a place have one as soon as nobody runs.
            let is_idle = self.running.is_empty() && self.waiting.is_empty();
            if !self.running.is_empty() {
                self.pass();
            }
            let is_writing = self.prefixes.write_slice(self.engine.model_mut());
            self.publish();
            if is_idle && !is_writing {
                self.shared.queue.wait(IDLE);
            }
        }
        // What is not on the disk yet gets there, so that the next start finds it.
        while self.prefixes.write_slice(self.engine.model_mut()) {}
        self.publish();
    }

    /// Lets those in that have a place: first those who had one before.
    fn admit(&mut self) {
        let sessions = self.shared.plan.sessions.min(MAX_SEQUENCES);
        loop {
            // Answers to a prompt that is being read have their places already.
            let n_promised: usize = self.running.iter().map(Sequence::n_siblings).sum();
            let n_places = sessions.saturating_sub(self.running.len() + n_promised);
            let is_alone = self.running.is_empty();
            let sequence = match self.waiting.pop_front() {
                Some(sequence) if self.running.len() < sessions => sequence,
                Some(sequence) => {
                    self.waiting.push_front(sequence);
                    return;
                }
                None => {
                    let Some(job) = self.shared.queue.pop_if(|job| job.request.n <= n_places) else { return };
                    match Sequence::new(job, &self.shared.text, self.shared.n_vocab) {
                        Ok(sequence) => sequence,
                        // Its settings were checked when it came; the client hears that its channel is closed.
                        Err(_) => continue,
                    }
                }
            };
            if !self.enter(sequence, is_alone) {
                return;
            }
        }
    }

    /// Gives a sequence a state, if there is room for all its tokens; otherwise it waits. One that is alone gets what there is.
    fn enter(&mut self, mut sequence: Sequence, is_alone: bool) -> bool {
        // Full pages of a known beginning are shared.
        let n_shared = self.prefixes.known(&sequence.tokens) / PAGE_TOKENS;
        let model = self.engine.model();
        let n_pages = model.n_pages(sequence.tokens.len()) - n_shared + 1;
        let in_use = model.pages_of(self.running.iter().filter_map(|sequence| sequence.state.as_ref()));
        if n_pages > model.n_all_pages() - in_use && !is_alone {
            // Giving up saved states would not be enough.
            self.waiting.push_front(sequence);
            return false;
        }
        while self.engine.model().free().pages < n_pages && self.prefixes.give_up_one() {}
        match self.prefixes.begin(self.engine.model_mut(), &sequence.tokens) {
            Ok(state) => {
                self.stats.cached_tokens += sequence.begin(state) as u64;
                self.running.push(sequence);
                true
            }
            Err(EngineError::Model(ModelError::NoFreeState { .. })) if !is_alone => {
                self.waiting.push_front(sequence);
                false
            }
            Err(error) => {
                self.fail(&sequence, Arc::new(error));
                true
            }
        }
    }

    /// One forward pass: the next token of every answer, and as much of the prompts as fits.
    fn pass(&mut self) {
        let answering = self.running.iter().any(Sequence::is_answering);
        let mut shares = self.shares(answering);
        let begun = Instant::now();
        let result = self.forward(&mut shares);
        let time = begun.elapsed();
        let mut parts = Vec::with_capacity(shares.len());
        for Share { at, part, state } in shares {
            // A state that was left half-way is of no use to anyone.
            self.running[at].state = (!state.is_broken()).then_some(state);
            parts.push((at, part));
        }
        match result {
            Ok(()) => {
                self.account(&parts, answering, time);
                self.take_up(&parts);
            }
            Err(error @ ModelError::NotFinite { .. }) => {
                let error = Arc::new(EngineError::from(error));
                for &(at, _) in &parts {
                    if self.running[at].state.is_none() {
                        self.fail(&self.running[at], Arc::clone(&error));
                    }
                }
                self.account(&parts, answering, time);
                self.take_up(&parts);
            }
            // Nothing was begun: somebody has to make room.
            Err(ModelError::NoFreeState { .. }) => self.make_room(),
            // The one whom the pass was for has gone, or all have to go.
            Err(ModelError::Interrupted) => {}
            Err(error) => {
                let error = Arc::new(EngineError::from(error));
                for (at, _) in parts {
                    self.fail(&self.running[at], Arc::clone(&error));
                }
            }
        }
    }

    /// Who takes part in the next pass, with which tokens.
    fn shares(&mut self, answering: bool) -> Vec<Share> {
        let mut room = self.pace.chunk(answering, self.shared.plan.chunk);
        let (answers, mut prompts): (Vec<usize>, Vec<usize>) =
            (0..self.running.len()).partition(|&at| self.running[at].is_answering());
        // Prompts take turns in being first.
        if room > 0 && !prompts.is_empty() {
            let first = self.turn % prompts.len();
            prompts.rotate_left(first);
            self.turn += 1;
        }
        let mut shares = Vec::with_capacity(self.running.len());
        let answers = answers.into_iter().map(|at| (at, true));
        for (at, is_answer) in answers.chain(prompts.into_iter().map(|at| (at, false))) {
            let sequence = &mut self.running[at];
            let n_tokens = if is_answer { 1 } else { sequence.chunk(room) };
            if n_tokens == 0 {
                continue;
            }
            if !is_answer {
                room -= n_tokens;
            }
            let is_last = n_tokens == sequence.n_unread();
            if let Some(state) = sequence.state.take() {
                shares.push(Share { at, part: Part { n_tokens, is_answer, is_last }, state });
            }
        }
        shares
    }

    fn forward(&mut self, shares: &mut [Share]) -> Result<(), ModelError> {
        // A pass for one alone can be ended in the middle; the others when everything ends.
        let alone = match shares {
            [share] if self.shared.queue.deadline().is_none() => {
                Some(self.running[share.at].client.borrow().cancelled())
            }
            _ => None,
        };
        let stop = alone.as_deref().unwrap_or(&self.shared.is_over);
        let running = &self.running;
        let mut batch: Vec<Rows<'_>> = shares
            .iter_mut()
            .map(|share| {
                let start = share.state.n_tokens();
                let tokens = &running[share.at].tokens[start..start + share.part.n_tokens];
                let wanted = if share.part.is_last { Wanted::Last } else { Wanted::None };
                Rows { state: &mut share.state, tokens, wanted }
            })
            .collect();
        self.engine.model_mut().forward(&mut batch, Some(stop), None)
    }

    fn account(&mut self, parts: &[(usize, Part)], answering: bool, time: Duration) {
        let count = |is_answer| -> usize {
            let parts = parts.iter().filter(|(_, part)| part.is_answer == is_answer);
            parts.map(|(_, part)| part.n_tokens).sum()
        };
        let (n_prompt, n_answers) = (count(false), count(true));
        self.stats.passes += 1;
        self.stats.rows += (n_prompt + n_answers) as u64;
        self.stats.prompt_tokens += n_prompt as u64;
        if n_prompt > 0 {
            self.stats.prompt_time += time;
            self.pace.read(n_prompt, time, answering);
        } else {
            self.stats.decode_time += time;
            self.pace.decoded(time);
        }
    }

    /// Samples what the pass has given logits for, and saves states at their boundaries.
    fn take_up(&mut self, parts: &[(usize, Part)]) {
        let mut done = Vec::new();
        let mut row = 0;
        for &(at, part) in parts {
            if !part.is_last {
                self.running[at].tell_progress();
                self.save_at_boundary(at);
                continue;
            }
            // One that has failed has no state, but a row.
            if self.running[at].state.is_some() {
                match self.sample(at, row) {
                    Ok(Next::More) => {}
                    Ok(Next::Done) => done.push(at),
                    Err(error) => self.fail(&self.running[at], Arc::new(error)),
                }
            }
            row += 1;
        }
        done.sort_unstable();
        for at in done.into_iter().rev() {
            let sequence = self.running.remove(at);
            self.retire(sequence);
        }
    }

    /// The next token of a sequence, and of those that share its prompt if that was just read.
    fn sample(&mut self, at: usize, row: usize) -> Result<Next, EngineError> {
        let context = self.shared.plan.context;
        let logits = self.engine.model().logits(row);
        let sequence = &mut self.running[at];
        let mut siblings = sequence.start()?;
        let next = sequence.next(logits, &self.shared.text, context)?;
        self.stats.generated_tokens += 1;
        for sibling in &mut siblings {
            self.stats.generated_tokens += 1;
            if let Next::Done = sibling.next(logits, &self.shared.text, context)? {
                self.shared.board.finish(&mut sibling.client.borrow_mut(), &mut self.stats);
            }
        }
        if !siblings.is_empty() {
            // They begin with the prompt's state, from memory.
            let sequence = &self.running[at];
            if let Some(state) = &sequence.state {
                let prompt = &sequence.tokens[..state.n_tokens()];
                self.prefixes.save_copy(self.engine.model_mut(), prompt, state, false);
            }
            self.waiting.extend(siblings.into_iter().filter(|sibling| !sibling.is_done()));
        }
        Ok(next)
    }

    fn save_at_boundary(&mut self, at: usize) {
        let sequence = &self.running[at];
        if let Some(state) = sequence.state.as_ref().filter(|_| sequence.is_at_boundary()) {
            let tokens = &sequence.tokens[..state.n_tokens()];
            self.prefixes.save_copy(self.engine.model_mut(), tokens, state, true);
        }
    }

    /// The end of a sequence. What it has read may serve others.
    fn retire(&mut self, mut sequence: Sequence) {
        self.shared.board.finish(&mut sequence.client.borrow_mut(), &mut self.stats);
        if let Some(state) = sequence.state.take() {
            self.prefixes.save_last(&sequence.tokens[..state.n_tokens()], state);
        }
    }

    /// Takes out those whose clients have gone.
    fn drop_gone(&mut self) {
        let is_gone = |sequence: &Sequence| sequence.client.borrow().is_gone();
        let mut gone: Vec<Sequence> = self.running.extract_if(.., |sequence| is_gone(sequence)).collect();
        let (left, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(is_gone);
        gone.extend(left);
        self.waiting.extend(waiting);
        for mut sequence in gone {
            self.stats.count_gone(&mut sequence.client.borrow_mut());
            if let Some(state) = sequence.state.take() {
                self.prefixes.save_last(&sequence.tokens[..state.n_tokens()], state);
            }
        }
    }

    /// Frees memory for those who run: of saved states first, then of the one who came last.
    fn make_room(&mut self) {
        if self.prefixes.give_up_one() {
            return;
        }
        let Some(mut last) = self.running.pop() else { return };
        if self.running.is_empty() {
            // Alone, and still too large: the plan has room for one context, so this does not happen.
            let n_states = self.shared.plan.n_states;
            self.fail(&last, Arc::new(ModelError::NoFreeState { n_states }.into()));
            self.stats.count_gone(&mut last.client.borrow_mut());
            return;
        }
        last.state = None;
        self.stats.preempted += 1;
        self.waiting.push_front(last);
    }

    /// Tells the client; the sequence and its siblings leave before the next pass.
    fn fail(&self, sequence: &Sequence, error: Arc<EngineError>) {
        sequence.client.borrow_mut().tell(Event::Failed(error));
    }

    fn fail_waiting(&mut self) {
        for mut job in self.shared.queue.drain() {
            (job.sink)(Event::Failed(Arc::new(EngineError::ShuttingDown)));
            self.stats.failed += 1;
        }
    }

    fn fail_running(&mut self) {
        for sequence in self.running.iter().chain(&self.waiting) {
            self.fail(sequence, Arc::new(EngineError::ShuttingDown));
        }
        self.drop_gone();
    }

    fn publish(&mut self) {
        self.stats.running = self.running.len() + self.waiting.len();
        self.stats.prefixes = self.prefixes.stats();
        self.stats.store = self.engine.model().store_stats();
        self.shared.board.publish(&self.stats);
        self.shared.board.draw(self.engine.model());
    }
}
