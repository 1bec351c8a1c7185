//! `flashmill inspect` and `flashmill plan`.

use std::fs;

use serde_json::Value;

use crate::support::{Ran, demo_files, fixture, flashmill, run, text};

#[test]
fn inspect_names_what_is_stored_and_what_is_ignored() {
    let model = fixture("qwen3_5_moe");
    let ran = run(["inspect", text(&model)]);
    for word in [
        "qwen3_5_moe",
        "10 a layer of 128 units, 3 per token, a shared one of 192",
        "BF16",
        "vision",
        "mtp_num_hidden_layers",
    ] {
        assert!(ran.success().contains(word), "{word}: {}", ran.stdout);
    }
    let json = run(["inspect", text(&model), "--json"]).json();
    assert_eq!((&json["n_experts"], &json["experts_per_token"]), (&10.into(), &3.into()));
    assert_eq!(json["files"].as_array().map(Vec::len), Some(3));
    let expert = 3 * 64 * 128 * 2;
    assert_eq!(json["expert_bytes"]["least"], expert);
    assert_eq!(json["expert_bytes_per_token"], 4 * 3 * expert);
}

#[test]
fn inspect_shows_mixed_encodings() {
    let model = fixture("qwen3_5_moe_mlx2");
    let ran = run(["inspect", text(&model)]);
    for word in ["affine 2-bit, group 64", "affine 4-bit, group 64", "affine 8-bit, group 64"] {
        assert!(ran.success().contains(word), "{word}: {}", ran.stdout);
    }
}

#[test]
fn inspect_shows_what_must_be_packed_first() {
    let model = fixture("qwen3_5_moe_gptq4");
    let ran = run(["inspect", text(&model)]);
    assert!(ran.success().contains("affine 4-bit, group 32, F16 scales"), "{}", ran.stdout);
    assert!(ran.stderr.contains("GPTQ") && ran.stderr.contains("flashmill pack"), "{}", ran.stderr);
}

#[test]
fn plan_counts_every_byte_of_the_budget() {
    let model = fixture("qwen3_5_moe");
    let json = run(["plan", text(&model), "--ram", "1G", "--json"]).json();
    let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{name}: {json}"));
    assert_eq!(number("ram_bytes"), 1 << 30);
    let parts = ["process_bytes", "trunk_bytes", "kv_bytes", "state_bytes", "work_bytes", "slot_bytes"];
    let used: u64 = parts.iter().map(|name| number(name)).sum();
    assert!(used <= 1 << 30, "{json}");
    assert_eq!(number("bundle_bytes"), 4 * 10 * 3 * 64 * 128 * 2);
    assert!(number("floor_bytes") < used);
    assert!(json["machine"]["available_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{json}");
    let table = run(["plan", text(&model)]);
    for word in
        ["budget", "floor", "expert slots", "read per token", "80 % of the", "machine", " may be used ("]
    {
        assert!(table.success().contains(word), "{word}: {}", table.stdout);
    }
}

#[test]
fn plan_needs_no_tokenizer() {
    run(["plan", text(&fixture("qwen3_5_moe_mlx4"))]).success();
}

#[test]
fn plan_predicts_speeds_from_a_machine_that_it_measures_once() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let model = demo_files();
    let plan = |more: &[&str]| {
        let mut command = flashmill();
        command.env("XDG_CACHE_HOME", home.path()).args(["plan", text(&model), "--ram", "60M"]);
        Ran::from(command.args(more).output().expect("the program starts"))
    };
    let first = plan(&["--json"]).json();
    let kept = || {
        let mut files = fs::read_dir(home.path().join("flashmill")).expect("a directory");
        let file = files.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.extension().is_some()));
        fs::read(file.expect("a kept profile")).expect("it is readable")
    };
    let profile = kept();
    let choices = first["choices"].as_array().expect("choices").clone();
    let names: Vec<_> = choices.iter().map(|choice| choice["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["floor", "budget", "ceiling"]);
    let ram = |choice: &Value| choice["plan"]["ram_bytes"].as_u64().expect("a number");
    assert!(ram(&choices[0]) < ram(&choices[1]) && ram(&choices[1]) < ram(&choices[2]), "{first:#}");
    // The demo's files are too small for measuring a disk, so that only what is resident has a speed.
    assert_eq!(choices[0]["plan"]["predicted"], Value::Null);
    for field in ["decode_tok_per_s", "prefill_tok_per_s", "hit_rate"] {
        let value = choices[2]["plan"]["predicted"][field].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{field}: {first:#}");
    }
    let second = plan(&["--json"]);
    assert_eq!(second.json()["profile"]["backend"], first["profile"]["backend"]);
    assert!(kept() == profile, "what is known is not measured again: {second:?}");
    let ran = plan(&[]);
    let table = ran.success();
    assert!(table.contains("answer tok/s") && table.contains("ceiling"), "{table}");
    // A file that is not a profile is measured anew.
    for entry in fs::read_dir(home.path().join("flashmill")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some() {
            fs::write(path, "{").expect("it is writable");
        }
    }
    let third = plan(&["--json"]).json();
    assert_eq!(third["profile"]["backend"], first["profile"]["backend"]);
    assert_ne!(third["profile"], first["profile"], "no two measurements are the same");
}
