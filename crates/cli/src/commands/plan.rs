//! `flashmill plan MODEL`: what is resident, cached and read.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use flashmill_engine::{Choice, Engine, EngineOptions, human_bytes, machine};
use serde_json::json;

use crate::flags::PlanOptions;
use crate::model_path::ModelPath;
use crate::{load, profile, tuned};

/// Prints the machine, the plan, and what other budgets and readers would give; nothing is loaded. The machine is measured once.
pub(crate) fn plan(options: PlanOptions) -> Result<ExitCode> {
    let model = ModelPath::find(&options.model)?;
    let mut options = options;
    let tuned = tuned::use_kept(model.path(), &mut options.engine, &options.tuned);
    // The plan first: it counts the process, which measuring makes larger.
    let plan = Engine::plan_for(model.path(), &options.engine)?;
    let profile = Arc::new(profile::measured(model.path(), &options.engine, options.measure)?);
    let engine = EngineOptions { profile: Some(profile.clone()), ..options.engine };
    let (plan, choices) = Engine::choices_for(model.path(), &engine, &plan)?;
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
        object["profile"] = serde_json::to_value(&*profile)?;
        object["tuned"] = serde_json::to_value(&tuned)?;
        object["choices"] = serde_json::to_value(&choices)?;
        serde_json::to_string_pretty(&object)?
    } else {
        let tuned = tuned.map_or_else(String::new, |tuned| format!("\n{:<22}{}", "tuned", tuned.line()));
        format!("{}\n{plan}{tuned}\n\n{}", machine_line(), table(&choices))
    };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each choice, with what it would give.
fn table(choices: &[Choice]) -> String {
    let mut table = format!(
        "{:<9}{:<12}{:>10}{:>14}{:>8}{:>13}{:>15}{:>15}",
        "choice", "reader", "--ram", "experts held", "hits", "read/token", "answer tok/s", "prompt tok/s"
    );
    for Choice { name, reader, plan } in choices {
        let _ = write!(
            table,
            "\n{name:<9}{reader:<12}{:>10}{:>13.1}%",
            human_bytes(plan.used_bytes().min(plan.ram_bytes)),
            100.0 * plan.resident_share
        );
        if let Some(predicted) = &plan.predicted {
            let _ = write!(
                table,
                "{:>7.0}%{:>13}{:>15.1}{:>15.1}",
                100.0 * predicted.hit_rate,
                human_bytes(predicted.bytes_per_token as u64),
                predicted.decode_tok_per_s,
                predicted.prefill_tok_per_s
            );
        }
    }
    table
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
