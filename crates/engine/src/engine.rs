//! An opened model with its text side.

use std::path::Path;
use std::sync::Arc;

use flashmill_checkpoint::Checkpoint;
use flashmill_model::Model;

use crate::identity::Identity;
use crate::opening::Opening;
use crate::plan::{self, Choice, Plan};
use crate::sampling::GenerationDefaults;
use crate::template::ChatTemplate;
use crate::text_side::TextSide;
use crate::tokenizer::Tokenizer;
use crate::{EngineError, EngineOptions, Session};

/// A loaded model: tokenizer, chat template, plan and weights.
pub struct Engine {
    text: Arc<TextSide>,
    plan: Plan,
    model: Model,
    opening: Opening,
    identity: Identity,
}

impl Engine {
    /// What opening the model at `path` would take and do; nothing is loaded.
    pub fn plan_for(path: &Path, options: &EngineOptions) -> Result<Plan, EngineError> {
        let checkpoint = Checkpoint::open(path)?;
        // The plan measures the process, and the tokenizer is a part of it, where there is one.
        let _text = TextSide::open(&checkpoint).ok();
        Plan::make(&checkpoint, options, plan::process_bytes())
    }

    /// A plan of [`Engine::plan_for`] with the predictions of `options.profile`, and beside it what the floor, other readers and a budget for
    /// everything would give.
    pub fn choices_for(
        path: &Path,
        options: &EngineOptions,
        plan: &Plan,
    ) -> Result<(Plan, Vec<Choice>), EngineError> {
        let checkpoint = Checkpoint::open(path)?;
        Ok((plan.again(&checkpoint, options)?, plan.choices(&checkpoint, options)?))
    }

    /// Opens the model at `path` within the budget. `progress` is told the bytes of the trunk read so far, and in all.
    pub fn open(
        path: &Path,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine, EngineError> {
        let mut opening = Opening::begin();
        let checkpoint = opening.time(|times| &mut times.headers, || Checkpoint::open(path))?;
        // The plan counts the process when everything but the model is there, so that the budget holds all of it. Where the budget
        // has room for the most that the tokenizer may take, nobody has to wait for that: the trunk is read beside it.
        let most = plan::process_bytes() + TextSide::most_bytes(&checkpoint);
        let (text, plan, model) = if Plan::make(&checkpoint, options, most).is_ok() {
            let (text, trunk) = opening.text_and_trunk(&checkpoint, options, progress)?;
            let process_bytes = plan::process_bytes().saturating_sub(trunk.n_bytes());
            let plan =
                opening.time(|times| &mut times.plan, || Plan::make(&checkpoint, options, process_bytes))?;
            let make = || Model::new(&checkpoint, trunk, plan.model.clone());
            let model = opening.time(|times| &mut times.buffers, make)?;
            (text, plan, model)
        } else {
            let text = opening.time(|times| &mut times.text, || TextSide::open(&checkpoint))?;
            let (plan, model) = opening.weights(&checkpoint, options, progress)?;
            (text, plan, model)
        };
        opening.end();
        let identity = Identity::new(&checkpoint, &plan, options);
        Ok(Engine { text: Arc::new(text), plan, model, opening, identity })
    }

    /// Opens the weights alone: for passes over token ids, which need neither a tokenizer nor a chat template.
    pub fn open_model(
        path: &Path,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Plan, Model), EngineError> {
        let checkpoint = Checkpoint::open(path)?;
        Opening::begin().weights(&checkpoint, options, progress)
    }

    /// The text side alone of the model at `path`: for those who make tokens and compute nothing.
    pub fn text_of(path: &Path) -> Result<TextSide, EngineError> {
        TextSide::open(&Checkpoint::open(path)?)
    }

    /// A number for the files of a model: another one when a file is written again. Fails if one cannot be read.
    pub fn fingerprint(checkpoint: &Checkpoint) -> std::io::Result<u128> {
        Identity::of_files(checkpoint).hash()
    }

    /// A new sequence. There is one at a time.
    pub fn session(&mut self) -> Result<Session<'_>, EngineError> {
        Session::new(self)
    }

    /// Tokenizer, chat template and sampling settings, for other threads too.
    pub fn text(&self) -> &Arc<TextSide> {
        &self.text
    }

    /// Where the model lies.
    pub fn dir(&self) -> &Path {
        self.text.dir()
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.text.tokenizer()
    }

    /// Messages to text, if the model has a chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.text.template()
    }

    /// The model's own sampling settings and end tokens.
    pub fn defaults(&self) -> &GenerationDefaults {
        self.text.defaults()
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long opening took, and what of it.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What a state's bits depend on besides its tokens: the model's files and the settings. Equal numbers mean that states can be
    /// exchanged. Fails if a file of the model cannot be read.
    pub(crate) fn identity(&self) -> std::io::Result<u128> {
        self.identity.hash()
    }

    /// The model, for statistics.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, for passes of one's own.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }
}
