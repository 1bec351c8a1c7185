//! Writes a synthetic model: `synthesize DIR TOKENIZER_DIR 35b|122b|397b [LAYERS] [BITS]`, or with a FILE.gguf in the place of DIR that
//! file, in Q4_K and with a tokenizer of its own.
//!
//! The tokenizer files are taken from another model's directory; ids beyond its vocabulary are never text, which a test of speed and
//! memory does not mind.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use flashmill_lab::{Shape, SyntheticOptions, write_synthetic, write_synthetic_gguf};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, tokenizer, shape, rest @ ..] = args.as_slice() else {
        return Err("usage: synthesize DIR TOKENIZER_DIR 35b|122b|397b [LAYERS] [BITS]".into());
    };
    let mut shape = Shape::named(shape).ok_or_else(|| format!("no shape is called {shape}"))?;
    if let Some(n_layers) = rest.first() {
        shape.n_layers = n_layers.parse()?;
    }
    let bits = rest.get(1).map_or(Ok(4), |bits| bits.parse())?;
    let dir = Path::new(dir);
    let options = SyntheticOptions { shape, bits, group: 64, seed: 1 };
    let mut progress = |n_bytes| println!("{:.1} GB", n_bytes as f64 / 1e9);
    if dir.extension().is_some_and(|extension| extension == "gguf") {
        return Ok(write_synthetic_gguf(dir, &options, &mut progress)?);
    }
    write_synthetic(dir, &options, &mut progress)?;
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        std::fs::copy(Path::new(tokenizer).join(file), dir.join(file))?;
    }
    Ok(())
}
