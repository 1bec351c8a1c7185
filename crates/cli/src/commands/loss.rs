//! `flashmill loss MODEL`, which `tune` starts too: what settings that change answers lose against the model as it is, and save.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::EngineOptions;
use flashmill_lab::eval::{TextOptions, read_text};
use serde_json::json;

use crate::flags::LossFlags;
use crate::interrupt::Interrupt;
use crate::model_path::ModelPath;

/// Measures, and prints JSON.
pub(crate) fn loss(flags: &LossFlags) -> Result<ExitCode> {
    let _interrupt = Interrupt::install()?;
    let model = ModelPath::find(&flags.model)?;
    let options = TextOptions { special_tokens: flags.special_tokens, limit: Some(flags.n_tokens) };
    let tokens = read_text(model.path(), &flags.text, options)?;
    let reference = EngineOptions { experts_per_token: None, cache_aware: 0.0, ..flags.engine.clone() };
    let waiting = tempfile::tempfile().context("cannot make a temporary file for the reference's logits")?;
    let loss = flashmill_lab::tune::loss(model.path(), &reference, &flags.engine, &tokens, waiting)?;
    let bound = |bound: f64| bound.is_finite().then_some(bound);
    let result = json!({
        "mean": loss.divergence.estimate,
        "low": bound(loss.divergence.low),
        "high": bound(loss.divergence.high),
        "hit_rate": loss.hit_rate,
        "reference_hit_rate": loss.reference_hit_rate,
        "picks_replaced_share": loss.swaps.swapped_share(),
        "router_share_given_up": loss.swaps.mean_given_up(),
        "router_share_given_up_most": loss.swaps.most,
    });
    writeln!(io::stdout(), "{result}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
