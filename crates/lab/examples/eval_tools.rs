//! The suite `tools` on a model, with and without the grammar of its tools:
//! `cargo run --release -p flashmill-lab --example eval_tools -- MODEL CASES.jsonl [MAX_TOKENS]`.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::PathBuf;

use flashmill_engine::{Engine, EngineOptions};
use flashmill_lab::eval::tools::{self, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().ok_or("which model?")?);
    let cases = PathBuf::from(args.next().ok_or("which cases?")?);
    let max_tokens = args.next().map_or(Ok(400), |text| text.parse())?;
    let cases = tools::read(&cases)?;
    let mut engine = Engine::open(&model, &EngineOptions::default(), &mut |_, _| ())?;
    let mut reports = Vec::new();
    for grammar in [false, true] {
        reports.push(tools::run(&mut engine, &cases, Options { grammar, max_tokens }, &mut |_| ())?);
    }
    let [free, held] = &reports[..] else { return Err("two runs".into()) };
    println!("| {} cases | free | with the grammar |", cases.len());
    println!("|---|---|---|");
    println!("| valid calls | {} | {} |", free.valid(), held.valid());
    for (free, held) in free.right().iter().zip(held.right()) {
        println!("| right: {} | {free} | {held} |", free.name);
    }
    println!("| cut off at {max_tokens} tokens | {} | {} |", free.n_cut(), held.n_cut());
    Ok(())
}
