//! Writes a synthetic model: `synthesize DIR TOKENIZER_DIR 35b|122b|397b [LAYERS] [BITS]`.
//!
//! The tokenizer files are taken from another model's directory; ids beyond its vocabulary are never text, which a test of speed and
//! memory does not mind.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use flashmill_lab::{Shape, SyntheticOptions, write_synthetic};

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
    write_synthetic(dir, &options, &mut |n_bytes| println!("{:.1} GB", n_bytes as f64 / 1e9))?;
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        std::fs::copy(Path::new(tokenizer).join(file), dir.join(file))?;
    }
    Ok(())
}
