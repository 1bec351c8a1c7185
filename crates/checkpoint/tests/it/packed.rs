//! The packed form as docs/FORMAT.md draws it, written by hand: one layer of `qwen3_moe`, two experts, three encodings.

use flashmill_checkpoint::packed::{Manifest, TrunkItem, trunk_items};
use flashmill_checkpoint::{Checkpoint, Convention, fuzzing};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::mutations::{any_value, apply, damage};
use crate::support::says;

/// Gate and up: 64 rows of 32 values as Q8_0. Down: 32 rows of 64 values in BF16.
const GATE: u64 = 64 * 34;
const DOWN: u64 = 32 * 64 * 2;
const STRIDE: u64 = 12288;

struct Draft {
    manifest: Value,
    trunk: Map<String, Value>,
    experts: Map<String, Value>,
}

impl Draft {
    fn new() -> Draft {
        let matrix =
            |name: &str, encoding: &'static str, rows, cols| (name.to_owned(), Some(encoding), rows, cols);
        let vector = |name: &str, len| (name.to_owned(), None, len, 1);
        let mut items = vec![matrix("embed", "ggml:Q8_0", 50, 32), vector("layers.0.input_norm", 32)];
        for name in ["q", "k", "v", "o"] {
            items.push(matrix(&format!("layers.0.attention.{name}"), "affine:4:32:F16", 32, 32));
        }
        items.extend([vector("layers.0.attention.q_norm", 16), vector("layers.0.attention.k_norm", 16)]);
        items.extend([vector("layers.0.post_norm", 32), matrix("layers.0.router", "BF16", 2, 32)]);
        items.extend([vector("final_norm", 32), matrix("head", "BF16", 50, 32)]);

        let (mut trunk, mut entries, mut at) = (Map::new(), Vec::new(), 0);
        for (name, encoding, rows, cols) in items {
            let tensors = match encoding {
                None => vec![(name.clone(), "F32", json!([rows]), rows * 4)],
                Some("BF16") => {
                    vec![(format!("{name}.weight"), "BF16", json!([rows, cols]), rows * cols * 2)]
                }
                Some("ggml:Q8_0") => {
                    vec![(
                        format!("{name}.weight"),
                        "U8",
                        json!([rows, cols / 32 * 34]),
                        rows * cols / 32 * 34,
                    )]
                }
                Some(_) => vec![
                    (format!("{name}.weight"), "U32", json!([rows, cols / 8]), rows * cols / 2),
                    (format!("{name}.scales"), "F16", json!([rows, cols / 32]), rows * cols / 16),
                    (format!("{name}.biases"), "F16", json!([rows, cols / 32]), rows * cols / 16),
                ],
            };
            let checksums = vec!["0123456789abcdef"; tensors.len()];
            entries
                .push(json!({"name": name, "encoding": encoding.unwrap_or("F32"), "checksums": checksums}));
            for (name, dtype, shape, bytes) in tensors {
                trunk.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]}));
                at += bytes;
            }
        }
        let experts = json!({"dtype": "U8", "shape": [2, STRIDE], "data_offsets": [0, 2 * STRIDE]});
        let model = json!({
            "model_type": "qwen3_moe", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 50,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": false,
            "eos_token_id": [3], "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "mlp_only_layers": [],
            "decoder_sparse_step": 1, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 0, "norm_topk_prob": true,
        });
        let recipe =
            json!({"written_by": "hand", "source": "", "source_convention": "", "experts": "", "trunk": ""});
        let experts_entry = json!({
            "layer": 0, "encodings": ["ggml:Q8_0", "ggml:Q8_0", "BF16"], "checksums": ["00000000000000ff", "0000000000000000"],
        });
        let manifest = json!({
            "format": "flashmill", "version": 1, "recipe": recipe, "model": model, "value_heads": "grouped",
            "trunk": entries, "experts": [experts_entry],
        });
        Draft { manifest, trunk, experts: Map::from_iter([("layers.0.experts".to_owned(), experts)]) }
    }

    /// The texts: manifest, trunk's header, experts' header padded to a page.
    fn texts(&self) -> [Vec<u8>; 3] {
        let mut experts = Value::Object(self.experts.clone()).to_string().into_bytes();
        experts.resize((8 + experts.len()).next_multiple_of(4096) - 8, b' ');
        [
            self.manifest.to_string().into_bytes(),
            Value::Object(self.trunk.clone()).to_string().into_bytes(),
            experts,
        ]
    }

    fn open(&self) -> Result<Checkpoint, String> {
        let [manifest, trunk, experts] = self.texts();
        open(&manifest, &trunk, &experts)
    }

    fn refused(&self, words: &[&str]) {
        says(&self.open().expect_err("refused"), words);
    }
}

fn open(manifest: &[u8], trunk: &[u8], experts: &[u8]) -> Result<Checkpoint, String> {
    let opened = fuzzing::packed(manifest, &[trunk, experts]).map_err(|error| error.to_string());
    match &opened {
        Ok(checkpoint) => {
            for extent in checkpoint.bundle_extents(0) {
                assert!(extent.end() <= checkpoint.files()[extent.file.0 as usize].len, "{extent:?}");
            }
            checkpoint.inspect();
        }
        Err(message) => {
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(
                ["flashmill.json", ".safetensors"].iter().any(|file| message.contains(file)),
                "{message}"
            );
        }
    }
    opened
}

#[test]
fn a_hand_written_model_is_read() {
    let checkpoint = Draft::new().open().unwrap();
    assert_eq!(checkpoint.convention(), Convention::Packed);
    assert_eq!(checkpoint.recipe().unwrap().written_by, "hand");
    let spec = checkpoint.spec();
    assert_eq!(
        (spec.layers.len(), spec.eos_token_ids.as_slice(), spec.attention.head_dim),
        (1, &[3][..], 16)
    );
    let places: Vec<(u64, u64)> =
        checkpoint.bundle_extents(0).iter().map(|run| (run.offset, run.len)).collect();
    let record = |at| [(at, GATE), (at + GATE, GATE), (at + 2 * GATE, DOWN)];
    assert_eq!(places, [record(4096), record(4096 + STRIDE)].concat());
    let names: Vec<String> = trunk_items(checkpoint.trunk()).into_iter().map(|(name, _)| name).collect();
    assert_eq!((names[0].as_str(), names.len()), ("embed", 12));
    let (_, TrunkItem::Matrix(q)) = trunk_items(checkpoint.trunk())[2] else { panic!("q is a matrix") };
    assert_eq!(q.shape.encoding.to_string(), "affine 4-bit, group 32, F16 scales");
    assert_eq!(q.parts.iter().map(|runs| runs[0].len).collect::<Vec<_>>(), [512, 64, 64]);
}

#[test]
fn what_contradicts_is_named() {
    let mut draft = Draft::new();
    draft.manifest["version"] = json!(2);
    draft.refused(&["flashmill.json", "version 2"]);
    draft = Draft::new();
    draft.manifest["format"] = json!("other");
    draft.refused(&["format is \"other\""]);
    draft = Draft::new();
    draft.manifest["trunk"][0]["encoding"] = json!("ggml:Q9_K");
    draft.refused(&["ggml:Q9_K", "embed"]);
    draft = Draft::new();
    draft.manifest["experts"][0]["encodings"][2] = json!("affine:4:128:BF16");
    draft.refused(&["rows of 64 values", "affine:4:128:BF16"]);
    draft = Draft::new();
    draft.manifest["trunk"][2]["checksums"] = json!(["0123456789abcdef"]);
    draft.refused(&["layers.0.attention.q has 1 checksums, but should have 3"]);
    draft = Draft::new();
    draft.manifest["experts"][0]["checksums"][1] = json!("xyz");
    draft.refused(&["16 lower-case hexadecimal digits"]);
    draft = Draft::new();
    draft.manifest["trunk"].as_array_mut().unwrap().remove(3);
    draft.refused(&["layers.0.attention.v", "needs layers.0.attention.k"]);
    draft = Draft::new();
    draft.manifest["experts"] = json!([]);
    draft.refused(&["layer 0"]);
    draft = Draft::new();
    draft.manifest["model"]["num_experts"] = json!(3);
    draft.refused(&["layers.0.router"]);
    draft = Draft::new();
    draft.manifest["model"]["surprise"] = json!(3);
    draft.refused(&["surprise"]);
    draft = Draft::new();
    draft.experts["layers.0.experts"]["shape"] = json!([1, 2 * STRIDE]);
    draft.refused(&["experts-00000.safetensors", "layers.0.experts"]);
    draft = Draft::new();
    draft.trunk["head.weight"]["dtype"] = json!("F16");
    draft.refused(&["trunk.safetensors", "head.weight", "F16", "BF16"]);
    let [manifest, trunk, experts] = Draft::new().texts();
    says(&open(&manifest, &trunk, &experts[..experts.len() - 1]).unwrap_err(), &["no multiple of 4096"]);
}

#[test]
fn numbers_near_the_end_of_64_bits_and_text_that_is_none() {
    for number in [0, 1 << 20, 1 << 31, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, u64::MAX] {
        for field in [
            "hidden_size",
            "num_hidden_layers",
            "vocab_size",
            "num_experts",
            "moe_intermediate_size",
            "head_dim",
        ] {
            let mut draft = Draft::new();
            draft.manifest["model"][field] = json!(number);
            assert!(draft.open().is_err(), "{field} = {number}");
        }
        for at in [0, 1] {
            let mut draft = Draft::new();
            draft.experts["layers.0.experts"]["shape"][at] = json!(number);
            assert!(draft.open().is_err(), "shape[{at}] = {number}");
            let mut draft = Draft::new();
            draft.experts["layers.0.experts"]["data_offsets"][at] = json!(number);
            assert!(draft.open().is_err() || (at, number) == (0, 0), "offset {at} = {number}");
        }
    }
    let [manifest, trunk, experts] = Draft::new().texts();
    let at = manifest.windows(5).position(|bytes| bytes == b"embed").unwrap();
    let mut damaged = manifest.clone();
    damaged[at] = 0xff;
    says(&open(&damaged, &trunk, &experts).unwrap_err(), &["flashmill.json"]);
    // Two tensors over the same bytes, and one that starts before the other ends.
    for offsets in [[0, 1700], [1000, 2700]] {
        let mut draft = Draft::new();
        draft.trunk["head.weight"]["data_offsets"] = json!(offsets);
        draft.refused(&["trunk.safetensors"]);
    }
}

#[test]
fn a_manifest_comes_back() {
    let [manifest, ..] = Draft::new().texts();
    let read = Manifest::parse("flashmill.json".as_ref(), &manifest).unwrap();
    assert_eq!(Manifest::parse("flashmill.json".as_ref(), &read.to_json()).unwrap(), read);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn damaged_texts(which in 0..3usize, damage in prop::collection::vec(damage(), 1..4)) {
        let mut texts = Draft::new().texts();
        damage.iter().for_each(|damage| apply(&mut texts[which], damage));
        let _ = open(&texts[0], &texts[1], &texts[2]);
    }

    #[test]
    fn other_values(changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4)) {
        let mut draft = Draft::new();
        for (at, value) in changes {
            let model = draft.manifest["model"].as_object_mut().unwrap();
            let names: Vec<String> = model.keys().cloned().collect();
            model.insert(at.get(&names).clone(), value);
        }
        let _ = draft.open();
    }
}
