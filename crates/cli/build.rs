//! Lists the files of the demo model with their hashes, for `src/demo.rs` to carry.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

const FILES: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let directory = Path::new(&root).join("../../models/demo");
    let mut list = format!("const DEMO_FILES: [CarriedFile; {}] = [\n", FILES.len());
    for name in FILES {
        let path = directory.join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        writeln!(
            list,
            "    CarriedFile {{ name: {name:?}, bytes: include_bytes!({:?}), sha256: {hash:?} }},",
            path.display().to_string()
        )
        .expect("writing to a string");
        println!("cargo::rerun-if-changed={}", path.display());
    }
    list.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("demo_files.rs");
    fs::write(&out, list).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}
