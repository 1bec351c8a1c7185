//! What reading ahead of the routers brings, on a model with real routing and a disk that is slowed down:
//! `prefetch DIR CASES.json [SLOT_PERCENT [MB_PER_S...]]`, with the demo model and its cases.
//!
//! Each speed of the disk is tried with every kind of prefetch, in turns, and the median time of a decoded token is printed.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use flashmill_checkpoint::Checkpoint;
use flashmill_kernels::{Cpu, CpuOptions};
use flashmill_model::{Footprint, Model, ModelOptions, Prefetch, ResidentTrunk, Sequence, Wanted};
use flashmill_store::{Faults, StoreOptions};

const ROUNDS: usize = 5;
const TOKENS: usize = 40;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, cases, rest @ ..] = args.as_slice() else {
        return Err("usage: prefetch DIR CASES.json [SLOT_PERCENT [MB_PER_S...]]".into());
    };
    let checkpoint = Checkpoint::open(Path::new(dir))?;
    let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(cases)?)?;
    let ids = cases["cases"][0]["prompt_ids"].as_array().ok_or("no prompt_ids")?;
    let prompt: Vec<u32> = ids.iter().filter_map(|id| Some(id.as_u64()? as u32)).collect();
    let percent = rest.first().map_or(Ok(25), |text| text.parse::<u64>())?;
    let speeds: Result<Vec<u64>, _> = rest.iter().skip(1).map(|text| text.parse()).collect();
    let speeds = Some(speeds?).filter(|speeds| !speeds.is_empty()).unwrap_or_else(|| vec![250, 1000, 4000]);

    println!("MB/s  prefetch   ms a token  read MB  ahead  in vain");
    for mb_per_s in speeds {
        let mut times = [const { Vec::new() }; Prefetch::ALL.len()];
        let mut notes = [(); Prefetch::ALL.len()].map(|()| String::new());
        for _ in 0..ROUNDS {
            for (at, prefetch) in Prefetch::ALL.into_iter().enumerate() {
                let (time, note) = decode(&checkpoint, &prompt, percent, mb_per_s, prefetch)?;
                times[at].push(time);
                notes[at] = note;
            }
        }
        for (at, prefetch) in Prefetch::ALL.into_iter().enumerate() {
            times[at].sort();
            let ms = 1e3 * times[at][ROUNDS / 2].as_secs_f64();
            println!("{mb_per_s:>4}  {prefetch:<9}  {ms:>10.2}  {}", notes[at]);
        }
    }
    Ok(())
}

/// Reads the prompt and decodes greedily: the time of a token, and what was read for all of them.
fn decode(
    checkpoint: &Checkpoint,
    prompt: &[u32],
    percent: u64,
    mb_per_s: u64,
    prefetch: Prefetch,
) -> Result<(Duration, String), Box<dyn Error>> {
    let cpu = || Cpu::new(CpuOptions { threads: 2, level: None });
    let mut options = ModelOptions { prefetch, context: 1024, ..ModelOptions::default() };
    let footprint = Footprint::of(checkpoint, Box::new(cpu()?), &options)?;
    let slot_bytes = (footprint.slot_ceiling_bytes * percent / 100).max(footprint.slot_floor_bytes);
    options.store = StoreOptions { slot_bytes, ..StoreOptions::default() };
    let trunk = ResidentTrunk::read(checkpoint, Box::new(cpu()?), options.store.reader, &mut |_, _| ())?;
    let faults = Faults { bytes_per_s: mb_per_s * 1_000_000, ..Faults::default() };
    let mut model = Model::new_faulty(checkpoint, trunk, options, Some(faults))?;
    let mut state = model.new_state()?;
    let mut step = |model: &mut Model, tokens: &[u32]| -> Result<u32, Box<dyn Error>> {
        let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
        model.forward(&mut batch, None, None)?;
        let logits = model.logits(0).iter().enumerate();
        Ok(logits.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id as u32))
    };
    let mut token = step(&mut model, prompt)?;
    let before = model.store_stats();
    let begun = Instant::now();
    for _ in 0..TOKENS {
        token = step(&mut model, &[token])?;
    }
    let time = begun.elapsed() / TOKENS as u32;
    let stats = model.store_stats().since(&before);
    let mb = stats.bytes_read as f64 / 1e6;
    Ok((time, format!("{mb:>7.1}  {:>5}  {:>7}", stats.ahead, stats.ahead - stats.ahead_used)))
}
