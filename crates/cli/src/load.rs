//! Opening a model with a progress bar and the warnings that belong to it.

use std::path::Path;

use anyhow::Result;
use flashmill_engine::{Engine, EngineOptions, Model, Plan};

use crate::profile;
use crate::progress::Progress;
use crate::terminal::note;
use crate::tuned::{self, TunedUse};

/// Opens a model with its text side.
pub(crate) fn open_engine(path: &Path, options: &EngineOptions, usage: &TunedUse) -> Result<Engine> {
    let mut options = options.clone();
    tuned::use_kept(path, &mut options, usage);
    profile::use_kept(path, &mut options);
    let mut bar = Progress::of_bytes("loading");
    let engine = Engine::open(path, &options, &mut |done, total| bar.set(done, total))?;
    drop(bar);
    warn(engine.plan());
    Ok(engine)
}

/// Opens the weights alone; a tokenizer is not needed.
pub(crate) fn open_model(path: &Path, options: &EngineOptions) -> Result<Model> {
    let mut bar = Progress::of_bytes("loading");
    let (plan, model) = Engine::open_model(path, options, &mut |done, total| bar.set(done, total))?;
    drop(bar);
    warn(&plan);
    Ok(model)
}

/// What changes the answers must be said.
pub(crate) fn warn(plan: &Plan) {
    if plan.cache_aware > 0.0 {
        note!(
            "warning: cache-aware routing gives up to {} of each choice of experts; answers depend on what is in the cache",
            plan.cache_aware
        );
    }
    let (used, own) = (plan.experts_per_token, plan.model_experts_per_token);
    if used < own {
        note!(
            "warning: {used} experts per token instead of the model's own {own}; the answers will be worse"
        );
    } else if used > own {
        note!(
            "warning: {used} experts per token instead of the model's own {own}, which it was not trained for"
        );
    }
}
