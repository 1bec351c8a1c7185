//! A packed model computes what its source computes, to the bit.

use flashmill_checkpoint::Checkpoint;
use flashmill_kernels::{Backend, Cpu, CpuOptions, KvKind, Reference};
use flashmill_model::{Model, ModelOptions, Sequence, Wanted};
use flashmill_pack::RecipeOptions;
use flashmill_store::StoreOptions;

use crate::support::{SAFETENSORS, bits, fixture, open, packed};

const TOKENS: [u32; 24] =
    [7, 301, 44, 2, 91, 500, 13, 13, 260, 8, 77, 5, 411, 19, 3, 128, 222, 64, 9, 310, 1, 45, 390, 12];

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads: 1, level: None }).unwrap())
}

fn reference() -> Box<dyn Backend> {
    Box::new(Reference::new())
}

/// The bits of all logits of a prompt.
fn logits(checkpoint: &Checkpoint, backend: Box<dyn Backend>) -> Vec<u32> {
    logits_of(checkpoint, backend, &TOKENS)
}

fn logits_of(checkpoint: &Checkpoint, backend: Box<dyn Backend>, tokens: &[u32]) -> Vec<u32> {
    let options = ModelOptions {
        max_rows: tokens.len(),
        max_logit_rows: tokens.len(),
        kv: KvKind::F32,
        context: 64,
        store: StoreOptions { slot_bytes: 8 << 20, ..StoreOptions::default() },
        ..ModelOptions::default()
    };
    let mut model = Model::load(checkpoint, backend, options, &mut |_, _| ()).unwrap();
    let mut state = model.new_state().unwrap();
    let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::All }];
    model.forward(&mut batch, None, None).unwrap();
    (0..tokens.len()).flat_map(|row| model.logits(row).to_vec()).map(f32::to_bits).collect()
}

/// Against transformers on the values that the words of GPTQ and AWQ stand for.
#[test]
fn gptq_and_awq_agree_with_the_golden_logits() {
    for name in ["qwen3_5_moe_gptq4", "qwen3_5_moe_awq4"] {
        let out = packed(name, RecipeOptions::default());
        let golden = std::fs::read(fixture(name).join("golden.safetensors")).unwrap();
        let ids: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture(name).join("golden.json")).unwrap()).unwrap();
        let ids = ids["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let tokens: Vec<u32> = ids.collect();
        let tensors = safetensors::SafeTensors::deserialize(&golden).unwrap();
        let expected = tensors.tensor("logits").unwrap();
        let expected =
            expected.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let found = logits_of(&open(&out.path().join("out")), reference(), &tokens);
        assert_eq!(expected.len(), found.len());
        let off = expected.zip(found).map(|(a, b)| (a - f32::from_bits(b)).abs()).fold(0.0, f32::max);
        assert!(off < 2e-4, "{name} is off by {off}");
    }
}

fn check(name: &str, recipe: RecipeOptions, backend: fn() -> Box<dyn Backend>) {
    let source = open(&fixture(name));
    let out = packed(name, recipe);
    let copy = open(&out.path().join("out"));
    assert_eq!(source.spec(), copy.spec(), "{name}");
    let (expected, found) = (logits(&source, backend()), logits(&copy, backend()));
    assert!(
        expected.iter().any(|&bits| f32::from_bits(bits).abs() > 0.1),
        "{name}: the logits say something"
    );
    assert_eq!(expected, found, "{name}");
}

#[test]
fn a_repack_of_safetensors() {
    for name in SAFETENSORS {
        check(name, RecipeOptions::default(), cpu);
    }
}

#[test]
fn a_repack_of_gguf() {
    for name in ["qwen3_5_moe_gguf", "qwen3_5_moe_kquant"] {
        check(name, RecipeOptions::default(), reference);
    }
}

#[test]
fn a_repack_of_fp8() {
    check("qwen3_5_moe_fp8", RecipeOptions::default(), reference);
}

#[test]
fn sixteen_bits_of_floats() {
    for name in ["qwen3_5_moe", "qwen3_next", "qwen3_moe"] {
        check(name, bits(16), cpu);
    }
}

#[test]
fn a_packed_model_packs_again() {
    let first = packed("qwen3_5_moe", bits(3));
    let dir = tempfile::tempdir().unwrap();
    crate::support::pack(&first.path().join("out"), &dir.path().join("out"), RecipeOptions::default())
        .unwrap();
    let (first, second) = (open(&first.path().join("out")), open(&dir.path().join("out")));
    assert_eq!(logits(&first, cpu()), logits(&second, cpu()));
    assert_eq!(crate::support::matrices(&first), crate::support::matrices(&second));
}

/// Fewer bits are farther away; eight are close.
#[test]
fn more_bits_are_closer() {
    let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect::<Vec<f32>>();
    let exact = floats(logits(&open(&fixture("qwen3_5_moe")), reference()));
    let mut last = f32::INFINITY;
    for n in [2, 4, 8] {
        let out = packed("qwen3_5_moe", bits(n));
        let found = floats(logits(&open(&out.path().join("out")), reference()));
        let off: f32 = exact.iter().zip(&found).map(|(a, b)| (a - b).abs()).sum::<f32>() / exact.len() as f32;
        // The fit of 2 bits leaves less to gain than their range does.
        assert!(off < last / 1.5, "{n} bits are off by {off}, fewer bits by {last}");
        last = off;
    }
}
