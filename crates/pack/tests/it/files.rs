//! The files are what docs/FORMAT.md says, seen by another reader of safetensors.

use std::fs;
use std::path::Path;

use flashmill_checkpoint::Checkpoint;
use flashmill_checkpoint::gguf::{Gguf, read_header};
use flashmill_pack::RecipeOptions;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{bits, fixture, open, pack, packed};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn records_and_trunk_lie_as_drawn() {
    let dir = packed("qwen3_5_moe", bits(3));
    let out = dir.path().join("out");
    let expected = [
        "chat_template.jinja",
        "config.json",
        "experts-00000.safetensors",
        "experts-00001.safetensors",
        "experts-00002.safetensors",
        "experts-00003.safetensors",
        "flashmill.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trunk.safetensors",
    ];
    assert_eq!(names(&out), expected);
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("flashmill.json")).unwrap()).unwrap();

    // Gate and up: 128 rows of 64 values at 3 bits with a scale and a bias; down: 64 rows of 128 at 4 bits with two of each.
    let record = 2 * 128 * (24 + 4) + 64 * (64 + 8);
    let file = fs::read(out.join("experts-00002.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let view = tensors.tensor("layers.2.experts").unwrap();
    assert_eq!(view.dtype(), Dtype::U8);
    assert_eq!(view.shape(), [10, 12288]);
    assert_eq!((file.len() - view.data().len()) % 4096, 0, "records start on a page");
    let checksums = manifest["experts"][2]["checksums"].as_array().unwrap();
    assert_eq!(checksums.len(), 10);
    for (record_and_zeros, checksum) in view.data().chunks(12288).zip(checksums) {
        let (record, zeros) = record_and_zeros.split_at(record);
        assert_eq!(format!("{:016x}", xxh3_64(record)), checksum.as_str().unwrap());
        assert!(zeros.iter().all(|&byte| byte == 0));
    }
    assert_eq!(manifest["experts"][2]["encodings"][0], "affine:3:64:BF16");
    assert_eq!(manifest["experts"][2]["encodings"][2], "affine:4:64:BF16");

    let file = fs::read(out.join("trunk.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let dtype = |name: &str| tensors.tensor(name).unwrap().dtype();
    assert_eq!(dtype("embed.weight"), Dtype::U32);
    assert_eq!(dtype("embed.scales"), Dtype::BF16);
    assert_eq!(dtype("layers.0.router.weight"), Dtype::BF16);
    assert_eq!(dtype("layers.3.attention.q_norm"), Dtype::F32);
    let entry = manifest["trunk"].as_array().unwrap().iter().find(|entry| entry["name"] == "embed").unwrap();
    for (part, name) in ["weight", "scales", "biases"].into_iter().enumerate() {
        let data = tensors.tensor(&format!("embed.{name}")).unwrap();
        assert_eq!(format!("{:016x}", xxh3_64(data.data())), entry["checksums"][part].as_str().unwrap());
    }
    // The 1 of `1 + w` is in the file.
    let norm = tensors.tensor("final_norm").unwrap();
    let first = f32::from_le_bytes(norm.data()[..4].try_into().unwrap());
    let source = open(&fixture("qwen3_5_moe"));
    let stored = crate::support::bytes(&source, source.trunk().final_norm.extent);
    assert_eq!(first, 1.0 + f32::from_bits(u32::from(u16::from_le_bytes([stored[0], stored[1]])) << 16));
}

#[test]
fn the_metadata_of_a_gguf_file_comes_along() {
    let dir = packed("qwen3_5_moe_gguf", RecipeOptions::default());
    let path = dir.path().join("out/metadata.gguf");
    let copy = Gguf::open(&path).unwrap();
    let source = Gguf::open(&fixture("qwen3_5_moe_gguf")).unwrap();
    assert_eq!(copy.metadata(), source.metadata());
    assert_eq!(copy.tensors().count(), 0);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(
        read_header(&path, &bytes[..], bytes.len() as u64).unwrap().pairs.last().unwrap().end,
        bytes.len() as u64
    );
}

#[test]
fn a_directory_that_is_not_finished_is_refused() {
    let dir = packed("qwen3_moe", RecipeOptions::default());
    let out = dir.path().join("out");
    fs::remove_file(out.join("flashmill.json")).unwrap();
    fs::write(out.join("flashmill.journal"), "").unwrap();
    let error = Checkpoint::open(&out).unwrap_err().to_string();
    assert!(error.contains("not finished") && error.contains("flashmill pack"), "{error}");
}

#[test]
fn the_same_run_again_has_nothing_to_do_and_another_is_refused() {
    let dir = packed("qwen3_moe", bits(4));
    let out = dir.path().join("out");
    let before = fs::metadata(out.join("flashmill.json")).unwrap().modified().unwrap();
    let report = pack(&fixture("qwen3_moe"), &out, bits(4)).unwrap();
    assert_eq!((report.n_written, report.resumed_bytes), (0, report.bytes));
    assert_eq!(fs::metadata(out.join("flashmill.json")).unwrap().modified().unwrap(), before);
    let error = pack(&fixture("qwen3_moe"), &out, bits(5)).unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
}
