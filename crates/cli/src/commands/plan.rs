//! `flashmill plan MODEL`: what is resident, cached and read.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::Engine;

use crate::flags::PlanOptions;
use crate::load;
use crate::model_path::ModelPath;

/// Prints the plan; nothing is loaded.
pub(crate) fn plan(options: PlanOptions) -> Result<ExitCode> {
    let model = ModelPath::find(&options.model)?;
    let plan = Engine::plan_for(model.path(), &options.engine)?;
    load::warn(&plan);
    let text = if options.json { serde_json::to_string_pretty(&plan)? } else { plan.to_string() };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
