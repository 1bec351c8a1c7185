//! One model in several forms gives one text.

use flashmill_checkpoint::{Checkpoint, Convention};
use flashmill_kernels::Backend;
use flashmill_model::Model;

use crate::fixture::{self, Golden, options};
use crate::gguf_support::convert;
use crate::support::{Draft, to_mlx};

/// The logits of the prompt, as bits, and the greedy tokens behind it.
fn run(checkpoint: &Checkpoint, backend: Box<dyn Backend>, golden: &Golden) -> (Vec<u32>, Vec<u32>) {
    let mut model = Model::load(checkpoint, backend, options(), &mut |_, _| ()).unwrap();
    let mut state = model.new_state().unwrap();
    let logits = fixture::read_all(&mut model, &mut state, &golden.ids("prompt_ids"), None);
    let last = logits[logits.len() - model.spec().vocab_size..].to_vec();
    let n = golden.ids("greedy_ids").len();
    let (_, tokens) = fixture::greedy(&mut model, &mut state, last, n);
    (logits.into_iter().map(f32::to_bits).collect(), tokens)
}

/// BF16 safetensors against the same weights as a GGUF file in F32: the very same bits where both hold their heads in the same
/// order, the same text everywhere.
#[test]
fn safetensors_and_gguf() {
    for (name, is_tiled) in [("qwen3_5_moe", true), ("qwen3_next", false), ("qwen3_moe", false)] {
        let golden = Golden::open(name);
        let original = Checkpoint::open(&fixture::path(name)).unwrap();
        let (_dir, path) = convert(&original).write();
        let gguf = Checkpoint::open(&path).unwrap();
        for backend in [fixture::reference, || fixture::cpu(2, None)] {
            let (expected, expected_tokens) = run(&original, backend(), &golden);
            let (found, tokens) = run(&gguf, backend(), &golden);
            assert_eq!(expected_tokens, golden.ids("greedy_ids"), "{name}");
            assert_eq!(tokens, expected_tokens, "{name} as GGUF");
            assert!(is_tiled || found == expected, "{name}: other bits as GGUF");
        }
    }
}

/// BF16 safetensors as transformers and as mlx-lm lays them out, unquantised: the very same bits.
#[test]
fn transformers_and_mlx() {
    let golden = Golden::open("qwen3_5_moe");
    let original = Checkpoint::open(&fixture::path("qwen3_5_moe")).unwrap();
    let mut draft = Draft::of("qwen3_5_moe");
    to_mlx(&mut draft);
    let dir = draft.write();
    let mlx = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(mlx.convention(), Convention::Mlx);
    for backend in [fixture::reference, || fixture::cpu(2, None)] {
        let (expected, expected_tokens) = run(&original, backend(), &golden);
        let (found, tokens) = run(&mlx, backend(), &golden);
        assert_eq!(expected_tokens, golden.ids("greedy_ids"));
        assert_eq!(tokens, expected_tokens);
        assert_eq!(found, expected, "other bits as MLX");
    }
}
