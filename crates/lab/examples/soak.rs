//! Decodes for long in little memory: `soak MODEL [TOKENS]`, with a budget a tenth above the model's floor.
//!
//! Prints speed, resident memory and hit rate of each tenth of the run. Fails if memory grows after the first tenth by more than the
//! pages of the KV cache that the tokens fill, or passes the budget.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use flashmill_engine::{Engine, EngineOptions, Sequence, Wanted, machine};

/// What may come and go without being a leak: pages of the program that are touched for the first time.
const SLACK: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(path) = args.first().map(Path::new) else {
        return Err("usage: soak MODEL [TOKENS]".into());
    };
    let n_tokens: usize = args.get(1).map_or(Ok(2000), |n| n.parse())?;
    let mut options = EngineOptions { context: Some(n_tokens + 1), ..EngineOptions::default() };
    let floor = Engine::plan_for(path, &options)?.floor_bytes;
    options.ram_bytes = Some(floor + floor / 10);
    let (plan, mut model) = Engine::open_model(path, &options, &mut |_, _| ())?;
    println!(
        "floor {:.1} MB, budget {:.1} MB, {:.2} % of the experts",
        floor as f64 / 1e6,
        plan.ram_bytes as f64 / 1e6,
        100.0 * plan.resident_share
    );
    let rss = || machine::rss_bytes().ok_or("this system does not say how much memory a process has");
    let mut state = model.new_state()?;
    let (mut token, mut first) = (0, None);
    println!("{:>8}{:>10}{:>10}{:>8}", "tokens", "tok/s", "RSS MB", "hits");
    for tenth in 1..=10 {
        let (begun, before) = (Instant::now(), model.store_stats());
        let n = n_tokens * tenth / 10 - n_tokens * (tenth - 1) / 10;
        for _ in 0..n {
            let mut batch = [Sequence { state: &mut state, tokens: &[token], wanted: Wanted::Last }];
            model.forward(&mut batch, None, None)?;
            let logits = model.logits(0);
            // The most likely token, in turn with others: a loop would soon need the same few experts.
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
            token = ((best + 7919 * tenth) % logits.len()) as u32;
        }
        let (stats, rss) = (model.store_stats().since(&before), rss()?);
        println!(
            "{:>8}{:>10.2}{:>10.1}{:>7.1}%",
            n_tokens * tenth / 10,
            n as f64 / begun.elapsed().as_secs_f64(),
            rss as f64 / 1e6,
            100.0 * stats.hits as f64 / (stats.hits + stats.misses).max(1) as f64
        );
        let first = *first.get_or_insert(rss);
        let filled = plan.kv_bytes * (tenth as u64 - 1) / 10;
        if rss > first + filled + SLACK || rss > plan.ram_bytes {
            return Err(
                format!("resident memory is {rss} after {first}, of a budget of {}", plan.ram_bytes).into()
            );
        }
    }
    Ok(())
}
