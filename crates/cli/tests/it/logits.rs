//! `flashmill logits`: the file it writes, against the goldens.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{fixture, run, text};

/// A tensor of a safetensors file: its shape and values; whole numbers come as floats.
fn tensor(path: &Path, name: &str) -> (Vec<u64>, Vec<f32>) {
    let bytes = fs::read(path).expect("a file");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).expect("JSON");
    let entry = &header[name];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{name}: {entry}"));
    let shape: Vec<u64> = entry["shape"].as_array().expect("a shape").iter().map(number).collect();
    let data = &bytes[8 + len..];
    let data = &data[number(&entry["data_offsets"][0]) as usize..number(&entry["data_offsets"][1]) as usize];
    let value = |bytes: &[u8]| {
        let bytes: [u8; 4] = bytes.try_into().expect("4 bytes");
        if entry["dtype"] == "I32" { i32::from_le_bytes(bytes) as f32 } else { f32::from_le_bytes(bytes) }
    };
    (shape, data.chunks(4).map(value).collect())
}

fn golden_tokens(model: &Path) -> String {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(model.join("golden.json")).expect("a golden"))
            .expect("JSON");
    let ids = golden["prompt_ids"].as_array().expect("ids");
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_and_traces_are_those_of_transformers() {
    let out = tempfile::tempdir().expect("a temporary directory");
    let out = out.path().join("logits.safetensors");
    for name in ["qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_5_moe_gguf", "qwen3_next", "qwen3_moe"] {
        let model = fixture(name);
        let golden = model.join("golden.safetensors");
        let tokens = golden_tokens(&model);
        let args = [
            "logits",
            text(&model),
            "--tokens",
            &tokens,
            "--out",
            text(&out),
            "--trace",
            "--backend",
            "reference",
        ];
        let ran = run(args.iter().chain(&["--kv", "f32", "--chunk", "7"]));
        assert_eq!(ran.success(), "");
        let (shape, logits) = tensor(&out, "logits");
        let (golden_shape, golden_logits) = tensor(&golden, "logits");
        assert_eq!(shape, golden_shape);
        let difference = max_difference(&logits, &golden_logits);
        // The tolerance of the goldens: float32 in any order of summation.
        assert!(difference < 2e-4, "{name}: {difference}");
        let (_, picks) = tensor(&out, "router.0.indices");
        let (_, golden_picks) = tensor(&golden, "router.0.indices");
        let sorted = |picks: &[f32], top_k: usize| -> Vec<Vec<u32>> {
            let row = |row: &[f32]| {
                let mut row: Vec<u32> = row.iter().map(|&pick| pick as u32).collect();
                row.sort_unstable();
                row
            };
            picks.chunks(top_k).map(row).collect()
        };
        let top_k = picks.len() / shape[0] as usize;
        assert_eq!(sorted(&picks, top_k), sorted(&golden_picks, top_k), "{name}");
        let (shape, _) = tensor(&out, "hidden.layer.3.out");
        assert_eq!(shape, [golden_shape[0], 64]);
    }
}

#[test]
fn the_chunk_changes_no_bit() {
    let model = fixture("qwen3_5_moe_mlx4");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tokens = golden_tokens(&model);
    let write = |chunk: &str| {
        let out = directory.path().join(chunk);
        run(["logits", text(&model), "--tokens", &tokens, "--out", text(&out), "--trace", "--chunk", chunk])
            .success();
        fs::read(out).expect("a file")
    };
    let whole = write("48");
    assert!(write("1") == whole);
    assert!(write("5") == whole);
}

#[test]
fn wrong_tokens_and_targets() {
    let model = fixture("qwen3_5_moe_mlx4");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("out");
    run(["logits", text(&model), "--tokens", "1,512", "--out", text(&out)]).fails_with(&["token 512", "512"]);
    assert!(!out.exists());
    let nowhere = directory.path().join("no/out");
    run(["logits", text(&model), "--tokens", "1", "--out", text(&nowhere)])
        .fails_with(&["cannot write", "no/out"]);
    run(["logits", text(&model), "--tokens", "1,2", "--out", text(&out), "--context", "1"])
        .fails_with(&["context of 1"]);
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0, "nothing is left over");
}
