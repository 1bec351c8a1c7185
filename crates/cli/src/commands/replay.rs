//! `flashmill replay TRACE`: a cache on recorded routing, without the model.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use flashmill_lab::replay::{Eviction, Predictor, foresee, replay as replay_trace};
use flashmill_lab::trace::Trace;
use serde_json::json;

use crate::flags::{ReplayOptions, Slots};

/// Prints hit rates for each size and policy, then what predictors of the next picks would bring.
pub(crate) fn replay(options: ReplayOptions) -> Result<ExitCode> {
    let trace = read(&options)?;
    let n_records = trace.n_records();
    let sizes: Vec<usize> = options
        .slots
        .iter()
        .map(|slots| match *slots {
            Slots::Number(n) => n,
            Slots::Share(share) => (share * n_records as f64).round() as usize,
        })
        .collect();
    let text =
        if options.json { json_of(&options, &trace, &sizes) } else { table_of(&options, &trace, &sizes) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// All traces, one after the other.
fn read(options: &ReplayOptions) -> Result<Trace> {
    let mut all: Option<Trace> = None;
    for path in &options.traces {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let trace =
            Trace::read(BufReader::new(file)).with_context(|| format!("cannot read {}", path.display()))?;
        match &mut all {
            None => all = Some(trace),
            Some(all) if all.header.n_experts == trace.header.n_experts => all.tokens.extend(trace.tokens),
            Some(_) => bail!(
                "{} is of a model with other layers or experts than the trace before it",
                path.display()
            ),
        }
    }
    all.context("no trace was named")
}

/// The policy whose cache the predictors are tried beside: the one the store has by default.
const BESIDE: Eviction = Eviction::Policy(flashmill_lab::replay::DEFAULT_POLICY);

/// Guesses for each layer, as multiples of a token's experts.
const GUESSES: [usize; 2] = [1, 2];

fn table_of(options: &ReplayOptions, trace: &Trace, sizes: &[usize]) -> String {
    let n_tokens = trace.tokens.len();
    let n_prompt = trace.tokens.iter().filter(|token| token.prompt).count();
    let header = &trace.header;
    let n_records = trace.n_records();
    let mut text = format!(
        "{}: {} tokens, {n_prompt} of them of prompts; {} layers, {n_records} experts, {} a token and layer\n\nhit rate, %\n{:>14}",
        header.model,
        n_tokens,
        header.n_experts.len(),
        header.top_k,
        "slots"
    );
    options.evictions.iter().for_each(|eviction| text += &format!("{eviction:>8}"));
    text += "\n";
    for &n_slots in sizes {
        text += &format!("{n_slots:>7} {:>5.1}%", 100.0 * n_slots as f64 / n_records as f64);
        for &eviction in &options.evictions {
            let hits = replay_trace(trace, options.tokens, eviction, n_slots);
            text += &format!("{:>8.1}", 100.0 * hits.rate());
        }
        text += "\n";
    }
    text += &format!("\nguesses of the next picks, beside a cache under {BESIDE}; reads in % of the picks\n");
    text += &format!(
        "{:>14} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "slots", "predictor", "guesses", "recall", "saved", "wasted", "left"
    );
    for &n_slots in sizes {
        for predictor in Predictor::ALL {
            for factor in GUESSES {
                let found = foresee(trace, options.tokens, BESIDE, n_slots, predictor, factor * header.top_k);
                if found.picks == 0 {
                    continue;
                }
                let percent = |n: u64| 100.0 * n as f64 / found.picks as f64;
                text += &format!(
                    "{n_slots:>7} {:>5.1}% {predictor:>12} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1}\n",
                    100.0 * n_slots as f64 / n_records as f64,
                    factor * header.top_k,
                    100.0 * found.recall(),
                    percent(found.saved),
                    percent(found.wasted),
                    percent(found.left)
                );
            }
        }
    }
    text
}

fn json_of(options: &ReplayOptions, trace: &Trace, sizes: &[usize]) -> String {
    let mut hits = Vec::new();
    let mut guesses = Vec::new();
    for &n_slots in sizes {
        for &eviction in &options.evictions {
            let found = replay_trace(trace, options.tokens, eviction, n_slots);
            hits.push(json!({"slots": n_slots, "policy": eviction.to_string(), "picks": found.picks, "hits": found.hits,
                "hit_rate": found.rate()}));
        }
        for predictor in Predictor::ALL {
            for factor in GUESSES {
                let n_guesses = factor * trace.header.top_k;
                let found = foresee(trace, options.tokens, BESIDE, n_slots, predictor, n_guesses);
                guesses.push(json!({"slots": n_slots, "policy": BESIDE.to_string(), "predictor": predictor.to_string(),
                    "guesses": n_guesses, "picks": found.picks, "recall": found.recall(), "reads_saved": found.saved,
                    "reads_wasted": found.wasted, "reads_left": found.left}));
            }
        }
    }
    let object = json!({"model": trace.header.model, "tokens": trace.tokens.len(), "experts": trace.n_records(),
        "hit_rates": hits, "predictors": guesses});
    format!("{object:#}\n")
}
