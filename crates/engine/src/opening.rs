//! Opening a model in steps whose time is kept.

use std::thread;
use std::time::{Duration, Instant};

use flashmill_checkpoint::Checkpoint;
use flashmill_model::{Model, ResidentTrunk};

use crate::plan::{self, Plan};
use crate::text_side::TextSide;
use crate::{EngineError, EngineOptions};

/// How long the steps of opening a model took. Text and trunk are read side by side where the budget has room, so that the steps may
/// be more than the whole.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    begun: Instant,
    /// Headers of the weights' files.
    pub headers: Duration,
    /// Tokenizer, chat template, sampling settings.
    pub text: Duration,
    /// Weights that every token uses, from the disk.
    pub trunk: Duration,
    /// Their bytes.
    pub trunk_bytes: u64,
    /// The plan.
    pub plan: Duration,
    /// Buffers, caches, and the store with its slots.
    pub buffers: Duration,
    /// All of it.
    pub whole: Duration,
}

impl Opening {
    pub(crate) fn begin() -> Opening {
        Opening {
            begun: Instant::now(),
            headers: Duration::ZERO,
            text: Duration::ZERO,
            trunk: Duration::ZERO,
            trunk_bytes: 0,
            plan: Duration::ZERO,
            buffers: Duration::ZERO,
            whole: Duration::ZERO,
        }
    }

    pub(crate) fn end(&mut self) {
        self.whole = self.begun.elapsed();
    }

    /// Does a step and keeps its time.
    pub(crate) fn time<T>(
        &mut self,
        step: impl FnOnce(&mut Opening) -> &mut Duration,
        work: impl FnOnce() -> T,
    ) -> T {
        let begun = Instant::now();
        let done = work();
        *step(self) = begun.elapsed();
        done
    }

    /// The text side on a thread of its own, the trunk meanwhile on this one.
    pub(crate) fn text_and_trunk(
        &mut self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(TextSide, ResidentTrunk), EngineError> {
        let backend = options.make_backend()?;
        thread::scope(|scope| {
            let text = scope.spawn(|| {
                let begun = Instant::now();
                (TextSide::open(checkpoint), begun.elapsed())
            });
            let trunk = ResidentTrunk::read(checkpoint, backend, options.reader, progress);
            let (opened, time) = text.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.text = time;
            let trunk = trunk?;
            self.note(&trunk);
            Ok((opened?, trunk))
        })
    }

    /// Plan, trunk and the rest of the model, one after the other.
    pub(crate) fn weights(
        &mut self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Plan, Model), EngineError> {
        let plan =
            self.time(|times| &mut times.plan, || Plan::make(checkpoint, options, plan::process_bytes()))?;
        let trunk = ResidentTrunk::read(checkpoint, options.make_backend()?, options.reader, progress)?;
        self.note(&trunk);
        let make = || Model::new(checkpoint, trunk, plan.model.clone());
        let model = self.time(|times| &mut times.buffers, make)?;
        Ok((plan, model))
    }

    fn note(&mut self, trunk: &ResidentTrunk) {
        self.trunk = trunk.read_time();
        self.trunk_bytes = trunk.n_bytes();
    }
}
