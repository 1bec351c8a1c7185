//! What must not change a single bit: cache size, reader, policy, threads, SIMD level, chunking, neighbours, resuming.

use flashmill_kernels::{KvKind, Level};
use flashmill_model::{Model, ModelOptions, Prefetch, Sequence, State, Wanted};
use flashmill_store::{ReaderKind, StoreOptions};

use crate::fixture::{self, ALL, Golden, options};

/// Each family and each sort of encoding.
const FAMILIES: [&str; 7] = [
    "qwen3_5_moe",
    "qwen3_5_moe_mlx4",
    "qwen3_5_moe_mlx2",
    "qwen3_5_moe_fp8",
    "qwen3_5_moe_gguf",
    "qwen3_next",
    "qwen3_moe",
];

/// Logits of the prompt and of 8 greedy tokens, as bits.
fn run(model: &mut Model, prompt: &[u32]) -> Vec<u32> {
    let mut state = model.new_state().unwrap();
    let logits = fixture::read_all(model, &mut state, prompt, None);
    let last = logits[logits.len() - model.spec().vocab_size..].to_vec();
    let (rows, _) = fixture::greedy(model, &mut state, last, 8);
    bits(logits.into_iter().chain(rows))
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

fn with_store(store: StoreOptions) -> ModelOptions {
    ModelOptions { store, ..options() }
}

fn equal(what: &str, a: &[u32], b: &[u32]) {
    assert_eq!(a.len(), b.len(), "{what}: as many values");
    let n = a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert_eq!(n, 0, "{what}: {n} of {} logits differ", a.len());
}

#[test]
fn streamed_is_resident() {
    for name in FAMILIES {
        let prompt = Golden::open(name).ids("prompt_ids");
        let resident = run(&mut fixture::load(name, fixture::cpu(2, None), options()), &prompt);
        for slot_bytes in [0, 150 << 10, 400 << 10, 1 << 20, ALL] {
            let checkpoint = flashmill_checkpoint::Checkpoint::open(&fixture::path(name)).unwrap();
            let footprint =
                flashmill_model::Footprint::of(&checkpoint, fixture::cpu(1, None), &options()).unwrap();
            let slot_bytes = slot_bytes.max(footprint.slot_floor_bytes);
            for reader in [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache] {
                let store = StoreOptions { reader, slot_bytes, ..StoreOptions::default() };
                let mut model = fixture::load(name, fixture::cpu(2, None), with_store(store));
                let n_slots = model.store().n_slots();
                let what = format!("{name} with {n_slots} slots, {reader}");
                equal(&what, &run(&mut model, &prompt), &resident);
            }
        }
    }
}

#[test]
fn prefetch_changes_nothing() {
    for name in ["qwen3_5_moe_mlx4", "qwen3_next", "qwen3_moe"] {
        let prompt = Golden::open(name).ids("prompt_ids");
        let resident = run(&mut fixture::load(name, fixture::cpu(2, None), options()), &prompt);
        let mut n_ahead = 0;
        for slot_bytes in [150 << 10, 400 << 10, 1 << 20] {
            for prefetch in Prefetch::ALL {
                let store = StoreOptions { slot_bytes, ..StoreOptions::default() };
                let options = ModelOptions { prefetch, ..with_store(store) };
                let mut model = fixture::load(name, fixture::cpu(2, None), options);
                equal(
                    &format!("{name}, {slot_bytes} bytes, {prefetch}"),
                    &run(&mut model, &prompt),
                    &resident,
                );
                n_ahead += model.store_stats().ahead;
                assert!(model.store_stats().ahead_used <= model.store_stats().ahead);
            }
        }
        assert!(n_ahead > 0, "{name}: nothing was read ahead");
    }
}

#[test]
fn threads_and_levels() {
    for name in FAMILIES {
        let prompt = Golden::open(name).ids("prompt_ids");
        let scalar = run(&mut fixture::load(name, fixture::cpu(1, Some(Level::SCALAR)), options()), &prompt);
        for level in Level::available() {
            for threads in [1, 2, 3, 7] {
                let mut model = fixture::load(name, fixture::cpu(threads, Some(level)), options());
                equal(&format!("{name}, {level} on {threads} threads"), &run(&mut model, &prompt), &scalar);
            }
        }
    }
}

#[test]
fn kv_kinds_do_not_depend_on_threads_or_level() {
    let prompt = Golden::open("qwen3_5_moe").ids("long_prompt_ids");
    for kv in [KvKind::F32, KvKind::F16, KvKind::Q8] {
        let options = || ModelOptions { kv, ..options() };
        let backend = || fixture::cpu(1, Some(Level::SCALAR));
        let scalar = run(&mut fixture::load("qwen3_5_moe", backend(), options()), &prompt);
        for level in Level::available() {
            let mut model = fixture::load("qwen3_5_moe", fixture::cpu(3, Some(level)), options());
            equal(&format!("{kv:?}, {level}"), &run(&mut model, &prompt), &scalar);
        }
    }
}

/// Reads `tokens` in pieces of the given lengths (the last one repeats) and returns the bits of all logits.
fn read_in(model: &mut Model, state: &mut State, tokens: &[u32], lengths: &[usize]) -> Vec<u32> {
    let (mut out, mut at, mut piece) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        let n = lengths[piece.min(lengths.len() - 1)].min(tokens.len() - at);
        out.extend(bits(fixture::read_all(model, state, &tokens[at..at + n], None)));
        at += n;
        piece += 1;
    }
    out
}

#[test]
fn chunks_do_not_matter() {
    for name in FAMILIES {
        let prompt = Golden::open(name).ids("long_prompt_ids");
        let mut model = fixture::load(name, fixture::cpu(2, None), options());
        let mut state = model.new_state().unwrap();
        let whole = read_in(&mut model, &mut state, &prompt, &[prompt.len()]);
        for lengths in [&[1][..], &[64], &[63], &[17, 1, 100, 3], &[128, 5]] {
            let mut state = model.new_state().unwrap();
            equal(
                &format!("{name} in {lengths:?}"),
                &read_in(&mut model, &mut state, &prompt, lengths),
                &whole,
            );
        }
    }
}

/// A state that goes through bytes into another model.
fn transplanted(from: &mut Model, state: &State, to: &mut Model) -> State {
    let mut restoring = to.restore(state.n_tokens()).unwrap();
    let mut page = vec![0; from.page_bytes()];
    for index in 0..from.n_pages(state.n_tokens()) {
        from.read_page(state, index, &mut page);
        to.write_page(&mut restoring, index, &page);
    }
    // In two parts, as one who has little memory would.
    let mut delta = vec![0.0; from.delta_len()];
    let (head, tail) = delta.split_at_mut(from.delta_len() / 3);
    from.read_delta(state, 0, head);
    from.read_delta(state, head.len(), tail);
    to.write_delta(&mut restoring, head.len(), tail);
    to.write_delta(&mut restoring, 0, head);
    restoring.finish()
}

#[test]
fn restored_in_another_model_is_fresh() {
    for (name, kv) in [
        ("qwen3_5_moe_mlx4", KvKind::F16),
        ("qwen3_5_moe", KvKind::F32),
        ("qwen3_next", KvKind::Q8),
        ("qwen3_moe", KvKind::Q8),
    ] {
        let options = ModelOptions { kv, ..options() };
        let prompt = Golden::open(name).ids("long_prompt_ids");
        let mut model = fixture::load(name, fixture::cpu(2, None), options.clone());
        let mut state = model.new_state().unwrap();
        let fresh = read_in(&mut model, &mut state, &prompt, &[50]);
        drop(state);
        let mut other = fixture::load(name, fixture::cpu(1, Some(Level::SCALAR)), options);
        for at in [1, 64, 130] {
            let mut state = model.new_state().unwrap();
            read_in(&mut model, &mut state, &prompt[..at], &[at]);
            let free = other.free();
            let mut restored = transplanted(&mut model, &state, &mut other);
            let rest = read_in(&mut other, &mut restored, &prompt[at..], &[33]);
            equal(&format!("{name} restored at {at}"), &rest, &fresh[at * 512..]);
            drop(restored);
            assert_eq!(other.free(), free, "everything is given back");
        }
    }
}

#[test]
fn resumed_is_fresh() {
    for name in FAMILIES {
        let prompt = Golden::open(name).ids("long_prompt_ids");
        let mut model = fixture::load(name, fixture::cpu(2, None), options());
        let mut state = model.new_state().unwrap();
        let fresh = read_in(&mut model, &mut state, &prompt, &[50]);
        drop(state);
        for at in [1, 50, 64, 130] {
            let mut first = model.new_state().unwrap();
            read_in(&mut model, &mut first, &prompt[..at], &[at]);
            let mut fork = model.fork(&first).unwrap();
            // The original goes another way; the fork must not notice.
            let other: Vec<u32> = prompt.iter().rev().copied().collect();
            read_in(&mut model, &mut first, &other, &[40]);
            let rest = read_in(&mut model, &mut fork, &prompt[at..], &[33]);
            equal(&format!("{name} resumed at {at}"), &rest, &fresh[at * 512..]);
        }
    }
}

#[test]
fn neighbours_do_not_matter() {
    for name in FAMILIES {
        let golden = Golden::open(name);
        let (long, short) = (golden.ids("long_prompt_ids"), golden.ids("prompt_ids"));
        let mut model = fixture::load(name, fixture::cpu(2, None), options());
        let mut alone = model.new_state().unwrap();
        let expected_long = read_in(&mut model, &mut alone, &long[..90], &[90]);
        drop(alone);
        let mut alone = model.new_state().unwrap();
        let expected_short = read_in(&mut model, &mut alone, &short, &[48]);
        drop(alone);

        let (mut a, mut b) = (model.new_state().unwrap(), model.new_state().unwrap());
        read_in(&mut model, &mut a, &long[..30], &[30]);
        let mut batch = [
            Sequence { state: &mut a, tokens: &long[30..90], wanted: Wanted::All },
            Sequence { state: &mut b, tokens: &short, wanted: Wanted::All },
        ];
        model.forward(&mut batch, None, None).unwrap();
        let rows: Vec<Vec<u32>> = (0..108).map(|row| bits(model.logits(row).iter().copied())).collect();
        equal(&format!("{name} beside a prompt"), &rows[..60].concat(), &expected_long[30 * 512..]);
        equal(&format!("{name} after another's rows"), &rows[60..].concat(), &expected_short);
    }
}

/// What cache-aware routing promises: off is the same bits, and so is on where everything is in a slot or nothing else is near; otherwise it
/// replaces picks of decoded tokens only, saves reads, and gives up no more than it may.
#[test]
fn cache_aware_routing_is_bounded_and_off_by_default() {
    let name = "qwen3_5_moe_mlx4";
    let prompt = Golden::open(name).ids("prompt_ids");
    let store = |slot_bytes| StoreOptions { slot_bytes, ..StoreOptions::default() };
    let load = |slot_bytes, cache_aware| {
        let options = ModelOptions { cache_aware, ..with_store(store(slot_bytes)) };
        fixture::load(name, fixture::cpu(2, None), options)
    };
    // Each token in a pass of its own.
    let decode = |model: &mut Model| {
        let mut state = model.new_state().unwrap();
        let mut logits = Vec::new();
        for token in &prompt {
            let tokens = std::slice::from_ref(token);
            let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
            model.forward(&mut batch, None, None).unwrap();
            logits.extend_from_slice(model.logits(0));
        }
        bits(logits)
    };
    let mut own = load(ALL, 0.0);
    let expected = decode(&mut own);
    assert_eq!(own.swaps(), flashmill_model::Swaps::default(), "off does nothing");
    let few = 400 << 10;
    let mut streamed = load(few, 0.0);
    equal("streamed, off", &decode(&mut streamed), &expected);
    let mut aware = load(few, 0.5);
    let found = decode(&mut aware);
    let swaps = aware.swaps();
    assert!(swaps.swapped > 0 && swaps.picks > swaps.swapped, "{swaps:?}");
    assert!(swaps.most <= 0.5 + 1e-6 && swaps.given_up > 0.0, "{swaps:?}");
    assert_ne!(found, expected, "other experts, other bits");
    let misses = |model: &Model| model.store_stats().misses;
    assert!(misses(&aware) < misses(&streamed), "{} of {}", misses(&aware), misses(&streamed));
    // A prompt in one pass is not touched.
    let mut prompted = load(few, 0.5);
    let mut state = prompted.new_state().unwrap();
    fixture::read_all(&mut prompted, &mut state, &prompt, None);
    assert_eq!(prompted.swaps().rows, 0, "prompts are the model's own");
    let refused = |cache_aware| {
        let checkpoint = flashmill_checkpoint::Checkpoint::open(&fixture::path(name)).unwrap();
        let options = ModelOptions { cache_aware, ..with_store(store(few)) };
        Model::load(&checkpoint, fixture::cpu(1, None), options, &mut |_, _| ()).err().unwrap().to_string()
    };
    for share in [-0.1, 1.0, f64::NAN] {
        assert!(refused(share).contains("at least 0 and below 1"), "{share}");
    }
}
