//! How much several answers at once give: `sessions MODEL RAM_GB SKEW:REUSE N [N ..]`.
//!
//! For each N, answers of 64 tokens to random prompts, N at once, through the scheduler that serves requests: tokens a second of all
//! together, and bytes of experts read a token. Every N has the same answers, as many as the largest one, in rounds. Picks are drawn
//! (Zipf exponent and share taken over from the token before), each sequence's from its own; `-` leaves them to the routers.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use flashmill_engine::serving::{Event, Request, ServingStats};
use flashmill_engine::{Engine, EngineOptions, Prompt, SamplingOptions, Scheduler, SchedulerOptions};
use flashmill_lab::routing::{Drawn, DrawnRoute};

const PROMPT_TOKENS: usize = 32;
/// The first prompts are this long, so that every expert that fits is in memory when it is measured.
const WARM_PROMPT_TOKENS: usize = 400;
const WARM_TOKENS: usize = 24;
const TOKENS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, ram, routing, counts @ ..] = &args[..] else {
        return Err("usage: sessions MODEL RAM_GB SKEW:REUSE|- N [N ..]".into());
    };
    let counts: Vec<usize> = counts.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let most = counts.iter().copied().max().ok_or("give at least one number of sessions")?;
    let ram_bytes = (ram.parse::<f64>()? * 1e9) as u64;
    // The same plan for each count, so that all have the same slots.
    let options = EngineOptions {
        ram_bytes: Some(ram_bytes),
        context: Some(512),
        sessions: Some(most),
        ..EngineOptions::default()
    };
    println!("{:>9}{:>10}{:>12}{:>10}{:>10}", "sessions", "tok/s", "MB a token", "hits", "passes");
    for n in counts {
        let mut engine = Engine::open(Path::new(path), &options, &mut |_, _| ())?;
        if let Some((skew, reuse)) = routing.split_once(':') {
            let drawn = Drawn { skew: skew.parse()?, reuse: reuse.parse()?, seed: 1 };
            let spec = engine.model().spec();
            let n_experts = spec.moe.ok_or("the model has no experts")?.n_experts;
            let route = DrawnRoute::new(drawn, spec.layers.len(), n_experts);
            engine.model_mut().set_route(Box::new(route));
        }
        let sessions = engine.plan().sessions;
        if sessions < most {
            return Err(format!("the budget has room for {sessions} sessions").into());
        }
        let scheduler = Scheduler::start(engine, SchedulerOptions::default())?;
        // The cache fills; what is measured comes after.
        decode(&scheduler, 0..n, WARM_PROMPT_TOKENS, WARM_TOKENS)?;
        let mut sum = Measured::default();
        for round in 0..most.div_ceil(n) {
            let before = decode(&scheduler, round * n..(round + 1) * n, PROMPT_TOKENS, TOKENS)?;
            sum.add(&before, &scheduler.stats());
        }
        sum.report(n);
        scheduler.shutdown(Duration::ZERO);
    }
    Ok(())
}

/// An answer for each seed, all at once. Gives how things stood when all prompts were read.
fn decode(
    scheduler: &Scheduler,
    seeds: Range<usize>,
    n_prompt: usize,
    n_tokens: usize,
) -> Result<ServingStats, Box<dyn Error>> {
    let n_vocab = scheduler.text().tokenizer().n_vocab();
    let (sender, events) = channel();
    let n = seeds.len();
    for seed in seeds {
        let tokens =
            (0..n_prompt).map(|i| ((7919 * (i + 1) * (seed + 3) + n_tokens) % n_vocab) as u32).collect();
        let eos = scheduler.text().defaults().eos_ids.iter().map(|&id| (id, -1e6)).collect();
        let request = Request {
            prompt: Prompt::of_tokens(tokens),
            n: 1,
            sampling: SamplingOptions { logit_bias: eos, ..SamplingOptions::greedy() },
            constraint: None,
            stops: Vec::new(),
            max_tokens: Some(n_tokens),
            logprobs: None,
        };
        let sender = sender.clone();
        scheduler.submit(request, Box::new(move |event| sender.send(event).is_ok()))?;
    }
    drop(sender);
    let (mut n_started, mut stats) = (0, scheduler.stats());
    for event in events {
        match event {
            Event::Started { .. } => n_started += 1,
            // The pass after the last prompt is counted by now.
            Event::Token { .. } if n_started == n => {
                n_started += 1;
                stats = scheduler.stats();
            }
            Event::Failed(error) => return Err(error.to_string().into()),
            _ => {}
        }
    }
    Ok(stats)
}

/// What rounds of answers took.
#[derive(Default)]
struct Measured {
    seconds: f64,
    tokens: u64,
    bytes: u64,
    hits: u64,
    misses: u64,
    passes: u64,
}

impl Measured {
    fn add(&mut self, before: &ServingStats, after: &ServingStats) {
        let store = after.store.since(&before.store);
        self.seconds += (after.decode_time - before.decode_time).as_secs_f64();
        self.tokens += after.generated_tokens - before.generated_tokens;
        self.bytes += store.bytes_read;
        self.hits += store.hits;
        self.misses += store.misses;
        self.passes += after.passes - before.passes;
    }

    fn report(&self, n: usize) {
        let tokens = self.tokens as f64;
        println!(
            "{n:>9}{:>10.2}{:>12.2}{:>9.1}%{:>10}",
            tokens / self.seconds,
            self.bytes as f64 / tokens / 1e6,
            100.0 * self.hits as f64 / (self.hits + self.misses).max(1) as f64,
            self.passes
        );
    }
}
