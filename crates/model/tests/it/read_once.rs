//! A chunk of a prompt reads each expert once, read-ahead across layers included.

use std::collections::BTreeSet;

use flashmill_checkpoint::Checkpoint;
use flashmill_kernels::Picks;
use flashmill_model::{Footprint, ModelOptions, Observer, Sequence, State, Wanted};
use flashmill_store::StoreOptions;

use crate::fixture::{self, ALL, Golden, options};

/// The experts that each layer picked.
#[derive(Default)]
struct Picked(Vec<BTreeSet<u32>>);

impl Observer for Picked {
    fn tensor(&mut self, _layer: Option<usize>, _name: &'static str, _n_rows: usize, _values: &[f32]) {}

    fn picks(&mut self, layer: usize, picks: &Picks) {
        self.0.resize(self.0.len().max(layer + 1), BTreeSet::new());
        self.0[layer].extend(&picks.experts);
    }
}

#[test]
fn a_chunk_reads_each_expert_once() {
    let mut n_ahead = 0;
    for name in ["qwen3_5_moe_mlx4", "qwen3_next", "qwen3_moe"] {
        let checkpoint = Checkpoint::open(&fixture::path(name)).unwrap();
        let floor = Footprint::of(&checkpoint, fixture::cpu(1, None), &options()).unwrap().slot_floor_bytes;
        let record_bytes = |layer| -> u64 {
            let shapes = checkpoint.bundle_shapes(layer);
            shapes.map_or(0, |shapes| shapes.iter().map(|shape| shape.bytes() as u64).sum())
        };
        for slot_bytes in [floor, 3 * floor, 8 * floor, ALL] {
            let store = StoreOptions { slot_bytes, ..StoreOptions::default() };
            let options = ModelOptions { store, ..options() };
            let mut model = fixture::load(name, fixture::cpu(2, None), options);
            let mut state = model.new_state().unwrap();
            let mut picked = Picked::default();
            let prompt = Golden::open(name).ids("long_prompt_ids");
            fixture::read_all(&mut model, &mut state, &prompt, Some(&mut picked));

            let stats = model.store_stats();
            let n_picked: u64 = picked.0.iter().map(|experts| experts.len() as u64).sum();
            let bytes: u64 =
                picked.0.iter().enumerate().map(|(at, set)| set.len() as u64 * record_bytes(at)).sum();
            let in_vain = stats.ahead - stats.ahead_used;
            let what = format!("{name}, {slot_bytes} bytes of slots, {stats:?}");
            assert_eq!(stats.misses + stats.ahead_used, n_picked, "{what}");
            assert!(stats.bytes_read >= bytes, "{what}: {bytes} bytes of experts were picked");
            let most = (0..picked.0.len()).map(record_bytes).max().unwrap_or(0);
            assert!(
                stats.bytes_read <= bytes + in_vain * most,
                "{what}: {bytes} bytes of experts were picked"
            );
            n_ahead += stats.ahead_used;
        }
    }
    assert!(n_ahead > 0, "nothing was read ahead");
}

/// One step of several sequences asks for each expert that any of them picked once, however few slots there are.
#[test]
fn a_batch_asks_for_each_expert_once() {
    for name in ["qwen3_5_moe_mlx4", "qwen3_next", "qwen3_moe"] {
        let golden = Golden::open(name);
        let (prompt, tokens) = (golden.ids("long_prompt_ids"), golden.ids("prompt_ids"));
        let mut model = fixture::load(name, fixture::cpu(2, None), ModelOptions { n_states: 5, ..options() });
        let mut states: Vec<State> = (0..5).map(|_| model.new_state().unwrap()).collect();
        for (at, state) in states.iter_mut().enumerate() {
            fixture::read_all(&mut model, state, &prompt[at..at + 7], None);
        }
        let (mut n_distinct, mut n_rows) = (0, 0);
        for step in 0..4 {
            let before = model.store_stats();
            let mut picked = Picked::default();
            let mut batch: Vec<Sequence<'_>> = states
                .iter_mut()
                .enumerate()
                .map(|(at, state)| Sequence {
                    state,
                    tokens: &tokens[step + at..][..1],
                    wanted: Wanted::None,
                })
                .collect();
            model.forward(&mut batch, None, Some(&mut picked)).unwrap();
            let stats = model.store_stats().since(&before);
            let distinct: u64 = picked.0.iter().map(|experts| experts.len() as u64).sum();
            assert_eq!(stats.hits + stats.misses, distinct, "{name}, step {step}");
            n_distinct += distinct;
            n_rows += (picked.0.iter().filter(|experts| !experts.is_empty()).count()
                * 5
                * model.experts_per_token()) as u64;
        }
        assert!(n_distinct < n_rows, "{name}: some experts were picked by several");
    }
}
