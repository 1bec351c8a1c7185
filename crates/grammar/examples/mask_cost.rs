//! What forms cost in the vocabulary of a model: time to compile, time of each mask along an answer, memory.
//!
//! `cargo run --release -p flashmill-grammar --example mask_cost -- MODEL [N]`: a directory with tokenizer.json, or a GGUF file (its
//! vocabulary alone will do). With N, made-up words are added to a tokenizer.json until there are N tokens.
#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flashmill_checkpoint::gguf::read_metadata;
use flashmill_engine::machine::rss_bytes;
use flashmill_engine::sampling::Rng;
use flashmill_engine::{Constraint, TextPart, Tokenizer};
use flashmill_grammar::{Form, GrammarError, Grammars, ToolChoice};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("which model?")?);
    let n_tokens = args.next().map(|n| n.parse()).transpose()?;
    let tokenizer = match path.is_dir() {
        true => match n_tokens {
            Some(n) => enlarged(&path, n)?,
            None => Tokenizer::open(&path)?,
        },
        false => Tokenizer::from_gguf(&path, read_metadata(&path)?)?,
    };
    let eos = tokenizer.eos_id().or_else(|| tokenizer.token_to_id("<|im_end|>"));
    let eos = eos.ok_or("the model names no end token")?;
    let (begun, before) = (Instant::now(), rss_bytes().unwrap_or(0));
    let grammars = Grammars::new(&tokenizer, &[eos], None)?;
    let mib = rss_bytes().unwrap_or(0).saturating_sub(before) >> 20;
    println!(
        "{}: {} tokens, ready in {:.0} ms, {mib} MiB",
        name(&path),
        tokenizer.n_vocab(),
        milliseconds(begun.elapsed())
    );
    println!("| form | compile, ms | tokens | mask mean, us | p99 | max | mean of the second answer |");
    println!("|---|---|---|---|---|---|---|");
    for (name, compile, text) in forms() {
        let mut compile_ms = Vec::new();
        let mut form = None;
        for _ in 0..5 {
            let begun = Instant::now();
            form = Some(compile(&grammars)?);
            compile_ms.push(milliseconds(begun.elapsed()));
        }
        compile_ms.sort_by(f64::total_cmp);
        let form = form.ok_or("it was compiled")?;
        let tokens = tokenizer.encode_parts(&[TextPart::Template(text)])?;
        let mut first = masks(&mut *form.start(false), &tokens)?;
        let mut second = masks(&mut *form.start(false), &tokens)?;
        let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
        let (mean_first, mean_second) = (mean(&first), mean(&second));
        first.sort_by(f64::total_cmp);
        second.sort_by(f64::total_cmp);
        let p99 = first[(first.len() - 1) * 99 / 100];
        let max = first[first.len() - 1];
        println!(
            "| {name} | {:.1} | {} | {mean_first:.0} | {p99:.0} | {max:.0} | {mean_second:.0} |",
            compile_ms[2],
            tokens.len()
        );
    }
    Ok(())
}

/// The tokenizer of a directory with words until it has `n_tokens`: half begin with a space, a fifth are of letters beyond ASCII.
fn enlarged(dir: &Path, n_tokens: usize) -> Result<Tokenizer, Box<dyn Error>> {
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("tokenizer.json"))?)?;
    let vocab = json["model"]["vocab"].as_object_mut().ok_or("the tokenizer has no vocabulary")?;
    let mut rng = Rng::new(1);
    let mut pick = move |n: usize| (rng.next_f64() * n as f64) as usize;
    let mut id = vocab.values().filter_map(Value::as_u64).max().map_or(0, |id| id + 1);
    while (id as usize) < n_tokens {
        let mut word = String::from(if pick(2) == 0 { " " } else { "" });
        let is_ascii = pick(5) > 0;
        for _ in 0..2 + pick(4) {
            match is_ascii {
                // Consonant and vowel, the common ones more often.
                true => word.extend(
                    [b"tnsrhldcmfpgwybvkxjqz"[pick(21).min(pick(21))], b"eaoiu"[pick(5).min(pick(5))]]
                        .map(char::from),
                ),
                false => word.extend(char::from_u32(0x4e00 + pick(3000) as u32)),
            }
        }
        let word: String = word.bytes().map(written).collect();
        if !vocab.contains_key(&word) {
            vocab.insert(word, id.into());
            id += 1;
        }
    }
    Ok(Tokenizer::from_json(&json.to_string())?)
}

/// How byte-level tokenizers write a byte: what prints as itself, the rest in order from U+0100 on.
fn written(byte: u8) -> char {
    let is_printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match is_printed(byte) {
        true => char::from(byte),
        false => {
            let n = (0..byte).filter(|&byte| !is_printed(byte)).count();
            char::from_u32(0x100 + n as u32).unwrap_or('?')
        }
    }
}

/// Microseconds of each mask along `tokens`; an error if the form does not allow them.
fn masks(constraint: &mut dyn Constraint, tokens: &[u32]) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut times = Vec::new();
    for &token in tokens {
        let begun = Instant::now();
        let mask = constraint.allowed()?;
        times.push(1e3 * milliseconds(begun.elapsed()));
        let is_allowed = mask.is_none_or(|mask| mask[(token / 32) as usize] >> (token % 32) & 1 == 1);
        if !is_allowed {
            return Err(format!("token {token} of the answer is not allowed").into());
        }
        constraint.accept(token)?;
    }
    Ok(times)
}

type Compile = Box<dyn Fn(&Grammars) -> Result<Form, GrammarError>>;

/// Forms as clients ask for them, each with an answer that has it.
fn forms() -> Vec<(&'static str, Compile, String)> {
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "pattern": "^[^@ ]+@[^@ ]+$"},
        "role": {"enum": ["reader", "author", "editor"]},
        "addresses": {"type": "array", "items": {"$ref": "#/$defs/address"}}},
        "required": ["name", "age", "email", "role", "addresses"], "additionalProperties": false,
        "$defs": {"address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}, "post_code": {"type": ["string", "null"]}},
            "required": ["street", "city", "post_code"], "additionalProperties": false}}});
    let answer = json!({"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "role": "author", "addresses": [
        {"street": "12 St James's Square", "city": "London", "post_code": "SW1Y 4JH"}, {"street": "Ockham Park", "city": "Surrey", "post_code": null}]});
    let text = "{\"title\": \"On streaming experts\", \"body\": \"".to_owned()
        + &"A token uses a few of a layer's experts, and those are read from the disk when the router picks them. ".repeat(12)
        + "\", \"tags\": [\"moe\", \"ssd\"], \"year\": 2026}";
    let call = |name: &str, arguments: Value| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let code = "fn main() {\n    let sum: u64 = (1..=100).filter(|n| n % 3 == 0).sum();\n    println!(\"{sum}\");\n}\n".repeat(8);
    vec![
        ("JSON schema, nested", Box::new(move |grammars| grammars.json_schema(&person)), answer.to_string()),
        ("JSON object, long text", Box::new(|grammars| grammars.json_object()), text),
        (
            "regular expression",
            Box::new(|grammars| grammars.regex(r"\d{4}-\d{2}-\d{2}( \w+){3,9}")),
            "2026-11-21 five words of plain text".into(),
        ),
        (
            "call of one of 5 tools",
            Box::new(|grammars| grammars.tool_calls(&tools(5), &ToolChoice::Required, true)),
            call("tool_3", json!({"path": "src/main.rs", "content": "short"})),
        ),
        (
            "call of one of 40 tools, with code",
            Box::new(|grammars| grammars.tool_calls(&tools(40), &ToolChoice::Required, true)),
            call("tool_31", json!({"path": "src/main.rs", "content": code})),
        ),
    ]
}

/// Tools as coding agents have them.
fn tools(n: usize) -> Value {
    let tool = |index: usize| {
        json!({"type": "function", "function": {"name": format!("tool_{index}"), "description": "Changes a file", "parameters": {
            "type": "object", "properties": {
                "path": {"type": "string", "description": "Where"}, "content": {"type": "string", "description": "What"},
                "mode": {"enum": ["create", "append", "replace"]}, "line": {"type": "integer", "minimum": 1},
                "edits": {"type": "array", "items": {"type": "object", "properties": {"old": {"type": "string"}, "new": {"type": "string"}, "all": {"type": "boolean"}}, "required": ["old", "new"]}}},
            "required": ["path"]}}})
    };
    (0..n).map(tool).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
