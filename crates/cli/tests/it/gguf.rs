//! GGUF files through the program: every command, split models, damaged files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ran, fixture, run, run_with_input, text};

fn model() -> PathBuf {
    fixture("qwen3_5_moe_gguf").join("model.gguf")
}

fn ask(model: &Path) -> Ran {
    run(["run", text(model), "-p", "The river", "--greedy", "--max-tokens", "12"])
}

/// A file taken apart where a test wants to change it.
struct Pieces {
    /// The pairs of metadata as they are.
    n_pairs: u64,
    pairs: Vec<u8>,
    /// Name, dimensions and type of each tensor as they are, without the offset, and its bytes.
    tensors: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pieces {
    fn of(path: &Path) -> Pieces {
        let bytes = fs::read(path).expect("a file");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (n_tensors, n_pairs) = (number(8), number(16));
        let mut at = 24;
        for _ in 0..n_pairs {
            at += 8 + number(at) as usize;
            at = value_end(&bytes, at + 4, bytes[at]);
        }
        let pairs = bytes[24..at].to_vec();
        let mut found = Vec::new();
        for _ in 0..n_tensors {
            let start = at;
            at += 8 + number(at) as usize;
            at += 4 + 8 * usize::from(bytes[at]) + 4;
            found.push((bytes[start..at].to_vec(), number(at) as usize));
            at += 8;
        }
        let data = &bytes[at.next_multiple_of(32)..];
        let ends = found.iter().skip(1).map(|&(_, offset)| offset).chain([data.len()]);
        let tensors =
            found.iter().zip(ends).map(|((info, start), end)| (info.clone(), data[*start..end].to_vec()));
        Pieces { n_pairs, pairs, tensors: tensors.collect() }
    }

    /// Part `no`, from 0, of `n`: the metadata in the first, tensors dealt out in turn.
    fn part(&self, no: u16, n: u16) -> Vec<u8> {
        let mine: Vec<_> =
            self.tensors.iter().enumerate().filter(|(i, _)| *i % usize::from(n) == usize::from(no)).collect();
        let n_pairs = 3 + if no == 0 { self.n_pairs } else { 0 };
        let mut bytes =
            [&b"GGUF\x03\0\0\0"[..], &(mine.len() as u64).to_le_bytes(), &n_pairs.to_le_bytes()].concat();
        for (key, kind, value) in [
            ("split.no", 2u32, no.into()),
            ("split.count", 2, n.into()),
            ("split.tensors.count", 5, self.tensors.len() as u32),
        ] {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(&value.to_le_bytes()[..if kind == 2 { 2 } else { 4 }]);
        }
        if no == 0 {
            bytes.extend(&self.pairs);
        }
        let mut offset = 0;
        for (_, (info, data)) in &mine {
            bytes.extend(info);
            bytes.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(32);
        }
        for (_, (_, data)) in &mine {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(data);
        }
        bytes
    }
}

/// Where a value of type `kind` ends that starts at byte `at`.
fn value_end(bytes: &[u8], at: usize, kind: u8) -> usize {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    match kind {
        0 | 1 | 7 => at + 1,
        2 | 3 => at + 2,
        4..=6 => at + 4,
        8 => at + 8 + number(at),
        9 => (0..number(at + 4)).fold(at + 12, |end, _| value_end(bytes, end, bytes[at])),
        _ => at + 8,
    }
}

#[test]
fn a_file_its_directory_and_its_parts_give_one_answer() {
    let whole = ask(&model());
    assert!(whole.success().len() > 1, "{whole:#?}");
    assert_eq!(ask(&fixture("qwen3_5_moe_gguf")).success(), whole.stdout);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pieces = Pieces::of(&model());
    let name = |no: u16| directory.path().join(format!("tiny-{no:05}-of-00003.gguf"));
    for no in 0..3 {
        fs::write(name(no + 1), pieces.part(no, 3)).expect("written");
    }
    fs::write(directory.path().join("mmproj-F16.gguf"), "GGUF").expect("written");
    for path in [&name(1), &name(3), directory.path()] {
        assert_eq!(ask(path).success(), whole.stdout);
    }
    let json = run(["inspect", text(&name(2)), "--json"]).json();
    assert_eq!(json["files"].as_array().map(Vec::len), Some(3));
    fs::remove_file(name(2)).expect("removed");
    for path in [&name(1), directory.path()] {
        ask(path).fails_with(&["part 2 of 3", "tiny-00002-of-00003.gguf", "missing"]);
    }
    fs::copy(model(), directory.path().join("other.gguf")).expect("copied");
    ask(directory.path()).fails_with(&[
        "several GGUF models",
        "other.gguf, tiny-00001-of-00003.gguf",
        "name the file",
    ]);
}

#[test]
fn a_conversation() {
    let args = ["chat", text(&model()), "--greedy", "--no-tools", "--max-tokens", "12"].map(str::to_owned);
    let ran = run_with_input(&args, "Hello\nThe river\n");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stdout.len() > 2 && ran.stderr.contains(" kept)"), "{ran:#?}");
}

#[test]
fn inspect_and_plan() {
    let ran = run(["inspect", text(&model())]);
    for word in [
        "qwen3_5_moe",
        "10 a layer of 128 units, 3 per token, a shared one of 192",
        "4: 3 with Gated DeltaNet, 1 with attention",
        "multi-token prediction",
        "Q8_0",
        "Q4_0",
        "bits per weight",
    ] {
        assert!(ran.success().contains(word), "{word}: {}", ran.stdout);
    }
    let json = run(["inspect", text(&fixture("qwen3_5_moe_kquant")), "--json"]).json();
    let roles = json["roles"].to_string();
    for word in ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"] {
        assert!(roles.contains(word), "{word}: {roles}");
    }
    assert_eq!(json["family"], "qwen3_5_moe");
    let plan = run(["plan", text(&model()), "--ram", "1G", "--json"]).json();
    let inspected = run(["inspect", text(&model()), "--json"]).json();
    assert_eq!(plan["expert_bytes_per_token"], inspected["expert_bytes_per_token"]);
}

#[test]
fn damaged_files() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let damaged = directory.path().join("damaged.gguf");
    let whole = fs::read(model()).expect("a file");
    let try_with = |change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&damaged, bytes).expect("written");
        let ran = ask(&damaged);
        ran.fails_with(words);
        ran.fails_with(&["damaged.gguf: "]);
    };
    let at =
        |text: &str| whole.windows(text.len()).position(|window| window == text.as_bytes()).expect("there");
    for len in [whole.len() - 64, whole.len() / 2, 1000, 5] {
        try_with(&|bytes| bytes.truncate(len), &["truncated"]);
    }
    try_with(&|bytes| bytes[0] = b'X', &["not a GGUF file"]);
    try_with(&|bytes| bytes[4] = 9, &["version 9"]);
    let architecture = at("qwen35moe");
    try_with(&|bytes| bytes[architecture + 5] = b'6', &["\"qwen36moe\"", "supported are qwen35moe"]);
    let pre = at("tokenizer.ggml.pre") + "tokenizer.ggml.pre".len() + 12;
    try_with(&|bytes| bytes[pre + 5] = b'9', &["\"qwen39\"", "supported are qwen2 and qwen35"]);
    // Behind the name: the number of dimensions, two of them, the type.
    let embed = at("token_embd.weight") + "token_embd.weight".len() + 20;
    try_with(&|bytes| bytes[embed] = 77, &["\"token_embd.weight\"", "unknown type 77"]);
}
