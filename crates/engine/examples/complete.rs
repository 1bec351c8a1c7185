//! A conversation of one turn: `cargo run --release -p flashmill-engine --example complete -- MODEL_DIR "TEXT"`.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::PathBuf;

use flashmill_engine::{Engine, EngineOptions, Message, Sampler, TemplateOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("which model directory?")?);
    let text = args.next().ok_or("what shall the model be asked?")?;

    let mut engine = Engine::open(&dir, &EngineOptions::default(), &mut |_, _| ())?;
    let template = engine.template().ok_or("the model has no chat template")?;
    let prompt =
        template.render(engine.tokenizer(), &[Message::user(text)], None, &TemplateOptions::default())?;
    let tokens = engine.tokenizer().encode_parts(&prompt.parts)?;
    let mut sampler = Sampler::new(engine.defaults().sampling.clone(), engine.tokenizer().n_vocab())?;

    let mut session = engine.session()?;
    session.sync(&tokens, &[], &mut |_, _| ())?;
    let mut answer = Vec::new();
    while answer.len() < 200 {
        let token = session.next(&mut sampler)?;
        if session.engine().defaults().eos_ids.contains(&token) {
            break;
        }
        answer.push(token);
    }
    println!("{}", session.engine().tokenizer().decode(&answer));
    Ok(())
}
