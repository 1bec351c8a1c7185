//! `flashmill plan MODEL`: what is resident, cached and read.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::{Engine, human_bytes, machine};
use serde_json::json;

use crate::flags::PlanOptions;
use crate::load;
use crate::model_path::ModelPath;

/// Prints the machine and the plan; nothing is loaded.
pub(crate) fn plan(options: PlanOptions) -> Result<ExitCode> {
    let model = ModelPath::find(&options.model)?;
    let plan = Engine::plan_for(model.path(), &options.engine)?;
    load::warn(&plan);
    let text = if options.json {
        let mut object = serde_json::to_value(&plan)?;
        let limit = machine::available_ram();
        object["machine"] = json!({
            "ram_bytes": machine::total_ram_bytes(),
            "available_bytes": limit.bytes,
            "available_source": limit.source.to_string(),
            "cores": machine::allowed_cores(),
        });
        serde_json::to_string_pretty(&object)?
    } else {
        format!("{}\n{plan}", machine_line())
    };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// `machine  23.5 GiB  22.9 GiB may be used (available memory), 2 cores`, in the columns of the plan.
fn machine_line() -> String {
    let limit = machine::available_ram();
    let total = machine::total_ram_bytes().map_or_else(|| "?".to_owned(), human_bytes);
    let cores = machine::allowed_cores();
    format!(
        "{:<22}{total:>11}  {} may be used ({}), {cores} cores",
        "machine",
        human_bytes(limit.bytes),
        limit.source
    )
}
