//! Random damage never panics: it is refused, or it was harmless and the description still lies inside the files.

use flashmill_checkpoint::{Checkpoint, FfnRef, MixerRef, fuzzing};
use flashmill_layout::Extent;
use proptest::prelude::*;
use serde_json::Value;

use crate::support::{Draft, FIXTURES, TO_PACK, safetensors};

/// Everything a description points at lies inside its file.
fn assert_inside(checkpoint: &Checkpoint) {
    let check = |extent: &Extent| {
        let file = &checkpoint.files()[extent.file.0 as usize];
        let end = extent.offset.checked_add(extent.len).expect("no overflow");
        assert!(end <= file.len, "{extent:?} in {file:?}");
    };
    for (i, layer) in checkpoint.trunk().layers.iter().enumerate() {
        for extent in checkpoint.bundle_extents(i) {
            check(&extent);
        }
        check(&layer.input_norm.extent);
        match &layer.mixer {
            MixerRef::Attention(attention) => attention.q.parts.iter().flatten().for_each(check),
            MixerRef::DeltaNet(delta) => delta.qkv.parts.iter().flatten().for_each(check),
        }
        if let FfnRef::Moe { router, .. } = &layer.ffn {
            router.parts.iter().flatten().for_each(check);
        }
    }
    checkpoint.inspect();
}

/// A fixture's config, and its tensors as one file: the header's text and the number of bytes behind it.
fn texts(name: &str) -> (String, String, u64) {
    let draft = Draft::of(name);
    let file = safetensors(&draft.tensors);
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(file[8..8 + header_len].to_vec()).unwrap();
    (draft.config.to_string(), header, (file.len() - 8 - header_len) as u64)
}

/// Describes a checkpoint of this config and a file of this header and as many bytes behind it.
fn describe(config: &[u8], header: &[u8], data_len: u64) {
    let start = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let file_len = start.len() as u64 + data_len;
    match fuzzing::describe(config, &start, file_len) {
        Ok(checkpoint) => assert_inside(&checkpoint),
        Err(error) => {
            let message = error.to_string();
            assert!(message.lines().count() <= 1, "{message}");
            assert!(
                ["config.json", "model.safetensors", "no file holds"]
                    .iter()
                    .any(|word| message.contains(word)),
                "{message}"
            );
        }
    }
}

/// The damage: bytes replaced, cut out or repeated.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Replace(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), prop::sample::select(b"0123456789-.e\",:[]{}a \\".to_vec()))
            .prop_map(|(at, b)| Damage::Replace(at, b)),
        (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), 1..40usize).prop_map(|(at, n)| Damage::Cut(at, n)),
        (at(), 1..40usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
        at().prop_map(Damage::Truncate),
    ]
}

pub(crate) fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    match damage {
        Damage::Replace(at, byte) => *at.get_mut(bytes) = *byte,
        Damage::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
        Damage::Cut(at, n) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + n).min(bytes.len()));
        }
        Damage::Repeat(at, n) => {
            let at = at.index(bytes.len());
            let piece = bytes[at..(at + n).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        Damage::Truncate(at) => bytes.truncate(at.index(bytes.len())),
    }
}

/// A value that a config might hold in place of another.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0u64), 1..300u64, any::<u64>()].prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1e-6), -1e300..1e300].prop_map(Value::from),
        prop::sample::select(vec!["default", "yarn", "affine", "silu", "qwen3_moe", "qwen3_next", "\n"])
            .prop_map(Value::from),
        prop::collection::vec(0..6u64, 0..6).prop_map(Value::from),
        Just(serde_json::json!({})),
        Just(serde_json::json!({"bits": 8, "group_size": 32, "rope_type": "default"})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn damaged_headers(
        name in prop::sample::select([&FIXTURES[..], &TO_PACK].concat()),
        damage in prop::collection::vec(damage(), 1..4),
    ) {
        let (config, header, data_len) = texts(name);
        let mut header = header.into_bytes();
        damage.iter().for_each(|damage| apply(&mut header, damage));
        describe(config.as_bytes(), &header, data_len);
    }

    #[test]
    fn damaged_configs(
        name in prop::sample::select([&FIXTURES[..], &TO_PACK].concat()),
        damage in prop::collection::vec(damage(), 1..4),
    ) {
        let (config, header, data_len) = texts(name);
        let mut config = config.into_bytes();
        damage.iter().for_each(|damage| apply(&mut config, damage));
        describe(&config, header.as_bytes(), data_len);
    }

    #[test]
    fn other_values(
        name in prop::sample::select([&FIXTURES[..], &TO_PACK].concat()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let (config, header, data_len) = texts(name);
        let mut config: Value = serde_json::from_str(&config).unwrap();
        for (at, value) in changes {
            let nested = config.get("text_config").is_some_and(Value::is_object);
            let fields = if nested { &mut config["text_config"] } else { &mut config };
            let fields = fields.as_object_mut().unwrap();
            let mut names: Vec<String> = fields.keys().cloned().collect();
            names.extend(["quantization", "rope_scaling", "num_local_experts"].map(String::from));
            fields.insert(at.get(&names).clone(), value);
        }
        describe(config.to_string().as_bytes(), header.as_bytes(), data_len);
    }

    #[test]
    fn the_length_in_front(first in any::<[u8; 8]>(), file_len in any::<u64>()) {
        let file = [&first[..], b"{}"].concat();
        let _ = fuzzing::safetensors_header(&file, file_len);
    }
}

/// Every single bit of a small model's header flipped: an error that names the file or the tensor, or a description that is
/// what it was (a flip in the metadata).
#[test]
fn every_flipped_bit_of_a_header() {
    let mut draft = Draft::of("qwen3_moe");
    let kept = |name: &str| match name.strip_prefix("model.layers.0.mlp.experts.") {
        Some(expert) => expert.starts_with(['0', '1']),
        None => !name.starts_with("model.layers.") || name.starts_with("model.layers.0."),
    };
    draft.tensors.retain(|tensor| kept(&tensor.name));
    let router = draft.tensor_mut("model.layers.0.mlp.gate.weight");
    (router.shape[0], router.data) = (2, router.data[..2 * 64 * 2].to_vec());
    for (field, value) in [("num_hidden_layers", 1), ("num_experts", 2)] {
        draft.fields().insert(field.to_owned(), value.into());
    }
    let config = draft.config.to_string().into_bytes();
    let file = safetensors(&draft.tensors);
    let file_len = file.len() as u64;
    let start_len = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let whole = fuzzing::describe(&config, &file[..start_len], file_len).unwrap();
    let mut n_harmless = 0;
    for bit in 0..start_len * 8 {
        let mut damaged = file[..start_len].to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match fuzzing::describe(&config, &damaged, file_len) {
            Ok(checkpoint) => {
                assert_eq!(checkpoint, whole, "bit {bit}");
                n_harmless += 1;
            }
            Err(error) => {
                let message = error.to_string();
                assert!(
                    ["model.safetensors", "no file holds"].iter().any(|word| message.contains(word)),
                    "{message}"
                );
            }
        }
    }
    // `format` and `pt`.
    assert!(n_harmless <= 8 * 8, "{n_harmless} flips changed nothing");
}
