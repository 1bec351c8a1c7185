//! Broken, incomplete and foreign directories: each is an error of one line that names the file and what is wrong in it.

use std::fs;
use std::path::Path;

use flashmill_checkpoint::{Checkpoint, fuzzing};
use serde_json::json;

use crate::support::{Draft, Tensor, copy, file_of, fixture, refused, safetensors, says};

const SHARD: &str = "model-00002-of-00003.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[test]
fn truncated_shards() {
    let whole = fs::read(fixture("qwen3_5_moe").join(SHARD)).unwrap();
    let full = whole.len().to_string();
    for (len, words) in [
        (whole.len() - 1, vec!["truncated", &*full]),
        (whole.len() / 2, vec!["truncated", &*full]),
        (8 + 4072, vec!["truncated", &*full]),
        (4000, vec!["header of 4072 bytes", "truncated"]),
        (8, vec!["header of 4072 bytes", "file of 8 bytes"]),
        (7, vec!["7 bytes", "too few"]),
        (0, vec!["0 bytes", "too few"]),
    ] {
        let dir = copy("qwen3_5_moe");
        fs::write(dir.path().join(SHARD), &whole[..len]).unwrap();
        let message = refused(dir.path());
        says(&message, &[SHARD]);
        says(&message, &words);
        if len > 4080 {
            says(&message, &[&len.to_string()]);
        }
    }
}

#[test]
fn a_shard_with_bytes_behind_its_end() {
    let dir = copy("qwen3_5_moe");
    let mut bytes = fs::read(dir.path().join(SHARD)).unwrap();
    bytes.push(0);
    fs::write(dir.path().join(SHARD), &bytes).unwrap();
    says(&refused(dir.path()), &[SHARD, &bytes.len().to_string(), &(bytes.len() - 1).to_string()]);
}

#[test]
fn missing_files() {
    let dir = copy("qwen3_5_moe");
    fs::remove_file(dir.path().join(SHARD)).unwrap();
    says(&refused(dir.path()), &[SHARD, "missing", INDEX]);
    // Without the index the other shards' names count them.
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    says(&refused(dir.path()), &[SHARD, "missing", "model-00001-of-00003.safetensors"]);

    let dir = copy("qwen3_moe");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    says(&refused(dir.path()), &["neither model.safetensors"]);
    fs::write(dir.path().join("model.gguf"), "GGUF").unwrap();
    says(&refused(dir.path()), &["model.gguf: the start of the header", "truncated"]);
    says(&refused(&dir.path().join("model.gguf")), &["model.gguf: the start of the header", "truncated"]);
    fs::remove_file(dir.path().join("model.gguf")).unwrap();
    fs::remove_file(dir.path().join("config.json")).unwrap();
    says(&refused(dir.path()), &["no config.json and no GGUF file"]);
    fs::write(dir.path().join("notes.txt"), "GGU").unwrap();
    says(&refused(&dir.path().join("notes.txt")), &["notes.txt is no part of a model"]);
    says(&refused(&dir.path().join("nowhere")), &["nowhere", "cannot open"]);
}

#[test]
fn shards_without_an_index() {
    let dir = copy("qwen3_5_moe");
    let with_index = Checkpoint::open(dir.path()).unwrap();
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap(), with_index);
}

#[test]
fn indexes() {
    let write = |index: serde_json::Value| {
        let dir = copy("qwen3_5_moe");
        fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
        refused(dir.path())
    };
    let original: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture("qwen3_5_moe").join(INDEX)).unwrap()).unwrap();
    for place in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "c:\\x.safetensors",
        "..",
        "",
        ".safetensors",
    ] {
        let mut index = original.clone();
        index["weight_map"]["lm_head.weight"] = json!(place);
        says(&write(index), &[INDEX, "lm_head.weight", "plain name", &json!(place).to_string()]);
    }
    let mut index = original.clone();
    index["weight_map"]["lm_head.weight"] = json!(SHARD);
    says(&write(index), &[SHARD, "does not hold", "lm_head.weight", INDEX]);
    let mut index = original.clone();
    index["weight_map"]["model.language_model.extra"] = json!(SHARD);
    says(&write(index), &[SHARD, "does not hold", "model.language_model.extra"]);
    let mut index = original;
    index["weight_map"]["lm_head.weight"] = json!("model-00004-of-00003.safetensors");
    says(&write(index), &["model-00004-of-00003.safetensors", "missing", INDEX]);
    says(&write(json!({"weight_map": []})), &[INDEX, "weight_map"]);
    says(&write(json!({"weight_map": {}})), &[INDEX, "weight_map"]);
    says(&write(json!({"weight_map": {"a": 3}})), &[INDEX, "weight_map", "file name"]);
    says(&write(json!({})), &[INDEX, "weight_map is missing"]);
    says(&write(json!("x")), &[INDEX, "JSON"]);
}

#[test]
fn wrong_dtypes() {
    for (name, dtype) in [
        ("model.norm.weight", "I16"),
        ("model.layers.0.self_attn.q_proj.weight", "U16"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "I16"),
    ] {
        let mut draft = Draft::of("qwen3_moe");
        draft.tensor_mut(name).dtype = dtype.to_owned();
        says(&refused(draft.write().path()), &["model.safetensors", name, dtype, "F32, F16 or BF16"]);
    }
    let mut draft = Draft::of("qwen3_moe");
    draft.tensor_mut("model.norm.weight").dtype = "B16".to_owned();
    says(&refused(draft.write().path()), &["model.safetensors", "model.norm.weight", "unknown dtype", "B16"]);
    // The expert of another type than its layer's first.
    let mut draft = Draft::of("qwen3_moe");
    draft.tensor_mut("model.layers.3.mlp.experts.7.up_proj.weight").dtype = "F16".to_owned();
    says(&refused(draft.write().path()), &["layers.3.mlp.experts.7.up_proj", "F16", "BF16", "alike"]);
}

#[test]
fn wrong_shapes_and_missing_tensors() {
    let mut draft = Draft::of("qwen3_moe");
    draft.tensor_mut("model.layers.1.self_attn.o_proj.weight").shape = vec![128, 64];
    says(&refused(draft.write().path()), &["layers.1.self_attn.o_proj.weight", "[128, 64]", "[64, 128]"]);
    for name in Draft::of("qwen3_5_moe").tensors.iter().map(|tensor| tensor.name.clone()) {
        if name.starts_with("mtp.") || name.starts_with("model.visual.") {
            continue;
        }
        let mut draft = Draft::of("qwen3_5_moe");
        draft.remove(&name);
        // Without the fused tensor, single experts are looked for.
        let needed = name.replace(".experts.gate_up_proj", ".experts.0.gate_proj.weight");
        says(&refused(draft.write().path()), &[needed.rsplit("language_model.").next().unwrap(), "needs"]);
    }
}

#[test]
fn tensors_that_nothing_uses() {
    let extra = |name: &str| Tensor {
        name: name.to_owned(),
        dtype: "BF16".to_owned(),
        shape: vec![2],
        data: vec![0; 4],
    };
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.4.input_layernorm.weight",
        "model.layers.0.mlp.experts.8.up_proj.weight",
        "model.layers.0.mlp.shared_expert.up_proj.weight",
    ] {
        let mut draft = Draft::of("qwen3_moe");
        draft.tensors.push(extra(name));
        says(&refused(draft.write().path()), &["model.safetensors", name, "nothing uses it"]);
    }
    let mut draft = Draft::of("qwen3_moe");
    draft.tensors.push(extra("model.layers.0.self_attn.rotary_emb.inv_freq"));
    draft.tensors.push(extra("score.weight"));
    let dir = draft.write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let said: Vec<String> = checkpoint.notes().iter().map(ToString::to_string).collect();
    says(&said.join("\n"), &["2 tensors of other parts", "8 bytes"]);
}

#[test]
fn headers() {
    let one = |offsets: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#
        )
    };
    for (header, data_len, words) in [
        (one("[8,16]"), 16, vec![]),
        (one("[8,16]"), 15, vec!["truncated"]),
        (one("[8,16]"), 17, vec!["describes only"]),
        (one("[4,12]"), 12, vec!["\"b\"", "starts at byte 4", "ends at 8"]),
        (one("[12,20]"), 20, vec!["\"b\"", "starts at byte 12", "ends at 8"]),
        (one("[16,8]"), 16, vec!["\"b\"", "16..8"]),
        (one("[8,17]"), 17, vec!["\"b\"", "8..17", "F32 [2]"]),
        (one("[18446744073709551608,18446744073709551615]"), 16, vec!["\"b\""]),
        (one("[-1,8]"), 16, vec!["header is damaged"]),
        (one("[8]"), 16, vec!["header is damaged"]),
        ("{}".to_owned(), 0, vec![]),
        ("[]".to_owned(), 0, vec!["header is damaged"]),
        (String::new(), 0, vec!["header is damaged"]),
        ("{\"a\":{}}".to_owned(), 0, vec!["header is damaged", "dtype"]),
        ("{} ".to_owned(), 0, vec![]),
        ("{}x".to_owned(), 0, vec!["header is damaged"]),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#.to_owned(),
            2,
            vec!["\"a\"", "twice"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.to_owned(),
            0,
            vec!["\"a\"", "[4294967296, 4294967296]"],
        ),
        (
            r#"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#.to_owned(),
            0,
            vec!["\"a\"", "F64"],
        ),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#.to_owned(), 1, vec!["\"a\"", "F4 [3]"]),
        (r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#.to_owned(), 2, vec![]),
        (r#"{"__metadata__":{"format":"pt"}}"#.to_owned(), 0, vec![]),
        (r#"{"__metadata__":{"format":1}}"#.to_owned(), 0, vec!["header is damaged"]),
        (
            format!(r#"{{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#, "n".repeat(5000)),
            1,
            vec!["5000 bytes"],
        ),
        (
            format!(r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#, "1,".repeat(16)),
            1,
            vec!["\"a\""],
        ),
    ] {
        let file = file_of(&header, vec![0; data_len]);
        let result = fuzzing::safetensors_header(&file, file.len() as u64);
        match (words.is_empty(), result) {
            (true, result) => result.unwrap_or_else(|error| panic!("{header}: {error}")),
            (false, Ok(())) => panic!("{header} was accepted"),
            (false, Err(error)) => says(&error.to_string(), &words),
        }
    }
    for len in [u64::MAX, u64::MAX - 7, 100_000_001, 1000] {
        let file = [&len.to_le_bytes()[..], b"{}"].concat();
        let message = fuzzing::safetensors_header(&file, 10).unwrap_err().to_string();
        says(&message, &[&len.to_string(), "10 bytes"]);
    }
}

#[test]
fn foreign_files() {
    let dir = copy("qwen3_moe");
    fs::write(dir.path().join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid x\n")
        .unwrap();
    says(&refused(dir.path()), &["model.safetensors", "git lfs pull"]);
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    says(&refused(dir.path()), &["model.safetensors", "not a regular file"]);
    let dir = copy("qwen3_moe");
    for text in ["", "{", "[]", "null", "{\"model_type\":\"qwen3_moe\",}", &"[".repeat(100_000)] {
        fs::write(dir.path().join("config.json"), text).unwrap();
        says(&refused(dir.path()), &["config.json", "JSON"]);
    }
    let file = fs::File::create(dir.path().join("config.json")).unwrap();
    file.set_len(1 << 30).unwrap();
    says(&refused(dir.path()), &["config.json", "1073741824", "limit"]);
}

#[test]
fn one_tensor_in_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let draft = Draft::of("qwen3_moe");
    draft.write_config(dir.path());
    fs::write(dir.path().join("model-a.safetensors"), safetensors(&draft.tensors)).unwrap();
    let norm = draft.tensor("model.norm.weight").clone();
    fs::write(dir.path().join("model-b.safetensors"), safetensors(&[norm])).unwrap();
    says(&refused(dir.path()), &["model.norm.weight", "model-a.safetensors", "model-b.safetensors"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_pipes_are_not_opened() {
    // A download cache keeps files elsewhere and links to them.
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let target = fs::canonicalize(fixture("qwen3_moe").join(file)).unwrap();
        std::os::unix::fs::symlink(target, dir.path().join(file)).unwrap();
    }
    assert!(Checkpoint::open(dir.path()).is_ok());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("model.safetensors")).unwrap();
    says(&refused(dir.path()), &["model.safetensors", "not a regular file"]);
    assert!(Checkpoint::open(Path::new("/dev/null")).is_err());
}
