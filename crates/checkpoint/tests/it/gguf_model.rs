//! From a GGUF file to a model: every tensor finds its role, and what does not fit is named.

use std::path::Path;

use flashmill_checkpoint::gguf::{Gguf, SplitName};
use flashmill_checkpoint::{
    AttentionSpec, Checkpoint, DeltaNetRef, DeltaNetSpec, Family, FfnKind, FfnRef, HeadOrder, LayerKind,
    MixerKind, MixerRef, ModelSpec, MoeSpec, Note, SkippedGroup, VectorMap,
};

use crate::gguf_support::{
    ARRAY, BOOL, Draft, F32, STRING, U32, array, convert, glu, move_heads, string, tiled,
};
use crate::support::{copy, decode, fixture, open as open_hf, refused, says, values};

/// What is done to a good file.
type Change = fn(&mut Draft);

fn f32_fixture() -> Draft {
    Draft::of("qwen3_5_moe_gguf").in_f32()
}

#[test]
fn the_spec_of_the_fixture_is_known() {
    let checkpoint = f32_fixture().describe().unwrap();
    let layer = |mixer| LayerKind { mixer, ffn: FfnKind::Moe };
    let (delta, full) = (layer(MixerKind::DeltaNet), layer(MixerKind::Attention));
    let expected = ModelSpec {
        family: Family::Qwen35Moe,
        hidden_size: 64,
        vocab_size: 512,
        max_positions: 4096,
        rms_norm_eps: 1e-6,
        // Four of the five blocks; the last predicts one token further.
        layers: vec![delta, delta, delta, full],
        attention: AttentionSpec {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            rotary_dim: 16,
            rope_theta: 1e7,
            gated: true,
        },
        delta_net: Some(DeltaNetSpec {
            n_key_heads: 2,
            n_value_heads: 6,
            key_dim: 32,
            value_dim: 32,
            conv_kernel: 4,
            head_order: HeadOrder::Tiled,
        }),
        moe: Some(MoeSpec {
            n_experts: 10,
            top_k: 3,
            intermediate_size: 128,
            shared_intermediate_size: Some(192),
            normalize_top_k: true,
        }),
        dense_intermediate_size: None,
        tied_embeddings: false,
        eos_token_ids: vec![472],
    };
    assert_eq!(checkpoint.spec(), &expected);
    let Note::SkippedTensors { group, count, first, .. } = &checkpoint.notes()[0] else {
        panic!("{:?}", checkpoint.notes());
    };
    assert_eq!((*group, *count), (SkippedGroup::MultiTokenPrediction, 20));
    says(first, &["blk.4."]);
    assert_eq!(checkpoint.notes().len(), 1, "{:?}", checkpoint.notes());
    checkpoint.inspect();
}

#[test]
fn listed_recurrent_layers_win_over_the_interval() {
    let draft = Draft::of("qwen3_5_moe_kquant").in_f32();
    let mixers = |draft: &Draft| -> Vec<MixerKind> {
        draft.describe().unwrap().spec().layers.iter().map(|layer| layer.mixer).collect()
    };
    let both = vec![MixerKind::DeltaNet, MixerKind::Attention];
    let spec = draft.describe().unwrap().spec().clone();
    assert_eq!((spec.attention.head_dim, spec.attention.rotary_dim), (256, 64));
    // Wrong on purpose: every layer has attention by this.
    let mut listed = draft.clone();
    listed.set_u32("qwen35moe.full_attention_interval", 1);
    assert_eq!(mixers(&listed), both);
    let mut interval = draft.clone();
    interval.remove_key("qwen35moe.attention.recurrent_layers");
    assert_eq!(mixers(&interval), both);
    // No kv heads, no attention: how ollama's converter says it.
    let mut heads = interval.clone();
    heads.set_u32("qwen35moe.full_attention_interval", 1);
    let per_block = |numbers: [u32; 2]| array(U32, &numbers.map(|n| n.to_le_bytes().to_vec()));
    heads.set("qwen35moe.attention.head_count_kv", ARRAY, per_block([0, 1]));
    heads.set("qwen35moe.attention.head_count", ARRAY, per_block([7, 2]));
    assert_eq!(mixers(&heads), both);
    assert_eq!(heads.describe().unwrap().spec().attention, spec.attention);
}

fn delta_net(checkpoint: &Checkpoint, layer: usize) -> &DeltaNetRef {
    match &checkpoint.trunk().layers[layer].mixer {
        MixerRef::DeltaNet(delta) => delta,
        MixerRef::Attention(_) => panic!("layer {layer} has attention"),
    }
}

/// Layer 0 of the fixture is stored without loss, so that it must equal the model it was converted from.
#[test]
fn the_fixture_holds_the_weights_of_the_hugging_face_one() {
    let (_dir, path) = f32_fixture().write();
    let gguf = Checkpoint::open(&path).unwrap();
    let hf = open_hf(&fixture("qwen3_5_moe"));
    let sizes = gguf.spec().delta_net.unwrap();
    let to = tiled(&sizes);
    let (a, b) = (delta_net(&gguf, 0), delta_net(&hf, 0));

    let keys = 2 * sizes.n_key_heads * sizes.key_dim;
    let qkv = decode(&hf, &b.qkv);
    let (qk, v) = qkv.split_at(keys * 64);
    assert_eq!(decode(&gguf, &a.qkv), [qk, &move_heads(v, &to)].concat());
    let conv = values(&hf, &b.conv);
    let (qk, v) = conv.split_at(keys * sizes.conv_kernel);
    assert_eq!(values(&gguf, &a.conv), [qk, &move_heads(v, &to)].concat());
    for (a, b) in [(&a.z, &b.z), (&a.b, &b.b), (&a.a, &b.a)] {
        assert_eq!(decode(&gguf, a), move_heads(&decode(&hf, b), &to), "{}", a.name);
    }
    assert_eq!(values(&gguf, &a.dt_bias), move_heads(&values(&hf, &b.dt_bias), &to));
    assert_eq!(values(&gguf, &a.norm), values(&hf, &b.norm));
    for (x, y) in values(&gguf, &a.decay).iter().zip(move_heads(&values(&hf, &b.decay), &to)) {
        assert!((x - y).abs() <= 1e-6 * y.abs() && *x < 0.0, "decay {x}, expected {y}");
    }
    let out: Vec<f32> =
        decode(&hf, &b.out).chunks(sizes.values()).flat_map(|row| move_heads(row, &to)).collect();
    assert_eq!(decode(&gguf, &a.out), out);

    for (i, (a, b)) in gguf.trunk().layers.iter().zip(&hf.trunk().layers).enumerate() {
        for (a, b) in [(&a.input_norm, &b.input_norm), (&a.post_norm, &b.post_norm)] {
            assert_eq!(a.map, VectorMap::Identity);
            assert_eq!(values(&gguf, a), values(&hf, b), "layer {i}");
        }
        let (FfnRef::Moe { router: a, .. }, FfnRef::Moe { router: b, .. }) = (&a.ffn, &b.ffn) else {
            panic!()
        };
        assert_eq!(decode(&gguf, a), decode(&hf, b), "layer {i}");
    }
    for expert in [0, 9] {
        let (a, b) = (gguf.bundle(0, expert).glu, hf.bundle(0, expert).glu);
        for ((_, a), (_, b)) in glu(&a).into_iter().zip(glu(&b)) {
            assert_eq!(decode(&gguf, a), decode(&hf, b), "expert {expert}");
        }
    }
}

/// Everything the two describe holds the same values.
#[track_caller]
fn assert_same_model(a: &Checkpoint, b: &Checkpoint) {
    let mut spec = a.spec().clone();
    spec.eos_token_ids.clone_from(&b.spec().eos_token_ids);
    assert_eq!(&spec, b.spec());
    let (x, y) = (a.trunk(), b.trunk());
    assert_eq!(decode(a, &x.embed), decode(b, &y.embed));
    assert_eq!(x.head.as_ref().map(|m| decode(a, m)), y.head.as_ref().map(|m| decode(b, m)));
    assert_eq!(values(a, &x.final_norm), values(b, &y.final_norm));
    for (i, (x, y)) in x.layers.iter().zip(&y.layers).enumerate() {
        assert_eq!(values(a, &x.input_norm), values(b, &y.input_norm), "layer {i}");
        assert_eq!(values(a, &x.post_norm), values(b, &y.post_norm), "layer {i}");
        match (&x.mixer, &y.mixer) {
            (MixerRef::Attention(x), MixerRef::Attention(y)) => {
                for (m, n) in [(&x.q, &y.q), (&x.k, &y.k), (&x.v, &y.v), (&x.o, &y.o)] {
                    assert_eq!(decode(a, m), decode(b, n), "{}", m.name);
                }
                for (m, n) in [(&x.q_norm, &y.q_norm), (&x.k_norm, &y.k_norm)] {
                    assert_eq!(values(a, m), values(b, n), "{}", m.name);
                }
            }
            (MixerRef::DeltaNet(x), MixerRef::DeltaNet(y)) => {
                for (m, n) in [(&x.qkv, &y.qkv), (&x.z, &y.z), (&x.b, &y.b), (&x.a, &y.a), (&x.out, &y.out)] {
                    assert_eq!(decode(a, m), decode(b, n), "{}", m.name);
                }
                let pairs =
                    [(&x.conv, &y.conv), (&x.decay, &y.decay), (&x.dt_bias, &y.dt_bias), (&x.norm, &y.norm)];
                for (m, n) in pairs {
                    assert_eq!(values(a, m), values(b, n), "{}", m.name);
                }
            }
            _ => panic!("layer {i} mixes tokens in two ways"),
        }
        let (FfnRef::Moe { router: r, shared: s }, FfnRef::Moe { router: t, shared: u }) = (&x.ffn, &y.ffn)
        else {
            panic!("layer {i} has no experts");
        };
        assert_eq!(decode(a, r), decode(b, t), "layer {i}");
        assert_eq!(s.is_some(), u.is_some());
        if let (Some(s), Some(u)) = (s, u) {
            assert_eq!(decode(a, &s.gate_logit), decode(b, &u.gate_logit));
            for ((_, m), (_, n)) in glu(&s.glu).into_iter().zip(glu(&u.glu)) {
                assert_eq!(decode(a, m), decode(b, n), "{}", m.name);
            }
        }
        for expert in 0..a.spec().moe.unwrap().n_experts {
            let (x, y) = (a.bundle(i, expert).glu, b.bundle(i, expert).glu);
            for ((_, m), (_, n)) in glu(&x).into_iter().zip(glu(&y)) {
                assert_eq!(decode(a, m), decode(b, n), "layer {i}, expert {expert}");
            }
        }
    }
}

/// Describes a draft while its file is there, so that values can be read.
fn opened<T>(draft: &Draft, use_it: impl FnOnce(&Checkpoint) -> T) -> T {
    let (_dir, path) = draft.write();
    use_it(&Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn qwen3_next_and_qwen3_moe_come_back() {
    for name in ["qwen3_next", "qwen3_moe"] {
        let hf = open_hf(&fixture(name));
        opened(&convert(&hf), |gguf| assert_same_model(gguf, &hf));
    }
}

#[test]
fn the_older_layout_of_qwen3_next_comes_back() {
    let hf = open_hf(&fixture("qwen3_next"));
    let sizes = hf.spec().delta_net.unwrap();
    let (n, hidden) = (sizes.n_key_heads, hf.spec().hidden_size);
    let mut draft = convert(&hf);
    for layer in 0..hf.spec().layers.len() {
        if hf.spec().layers[layer].mixer == MixerKind::Attention {
            continue;
        }
        let qkv = draft.remove(&format!("blk.{layer}.attn_qkv.weight")).floats();
        let z = draft.remove(&format!("blk.{layer}.attn_gate.weight")).floats();
        let (q, rest) = qkv.split_at(n * sizes.key_dim * hidden);
        let (k, v) = rest.split_at(n * sizes.key_dim * hidden);
        let head = |all: &[f32], i: usize| all[all.len() / n * i..][..all.len() / n].to_vec();
        let both: Vec<f32> = (0..n).flat_map(|i| [q, k, v, &z].map(|all| head(all, i)).concat()).collect();
        draft.push(&format!("blk.{layer}.ssm_in.weight"), &[hidden, both.len() / hidden], &both);
    }
    opened(&draft, |gguf| assert_same_model(gguf, &hf));
}

#[test]
fn joined_tensors_are_taken_apart() {
    let hf = open_hf(&fixture("qwen3_next"));
    let mut draft = convert(&hf);
    let hidden = hf.spec().hidden_size;
    let n_experts = hf.spec().moe.unwrap().n_experts;
    for layer in 0..hf.spec().layers.len() {
        let mut take = |name: &str| draft.remove(&format!("blk.{layer}.{name}.weight")).floats();
        let (gate, up) = (take("ffn_gate_exps"), take("ffn_up_exps"));
        let size = gate.len() / n_experts;
        let both: Vec<f32> =
            gate.chunks(size).zip(up.chunks(size)).flat_map(|(g, u)| [g, u].concat()).collect();
        let dims = [hidden, 2 * size / hidden, n_experts];
        draft.push(&format!("blk.{layer}.ffn_gate_up_exps.weight"), &dims, &both);
        if hf.spec().layers[layer].mixer == MixerKind::Attention {
            let mut take = |name: &str| draft.remove(&format!("blk.{layer}.{name}.weight")).floats();
            let all = [take("attn_q"), take("attn_k"), take("attn_v")].concat();
            draft.push(&format!("blk.{layer}.attn_qkv.weight"), &[hidden, all.len() / hidden], &all);
        }
    }
    opened(&draft, |gguf| assert_same_model(gguf, &hf));
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    let full = f32_fixture();
    let spec = full.describe().unwrap().spec().clone();
    let mut tied = full.clone();
    tied.remove("output.weight");
    let checkpoint = tied.describe().unwrap();
    assert!(checkpoint.spec().tied_embeddings && checkpoint.trunk().head.is_none());
    // A gate of one dimension, no head of its own, no block behind the layers.
    let mut bare = full.clone();
    bare.tensor_mut("blk.0.ffn_gate_inp_shexp.weight").dims = vec![64];
    bare.tensors.retain(|tensor| !tensor.name.starts_with("blk.4."));
    bare.remove_key("qwen35moe.nextn_predict_layers");
    bare.set_u32("qwen35moe.block_count", 4);
    for key in ["full_attention_interval", "attention.value_length", "rope.dimension_sections"] {
        bare.remove_key(&format!("qwen35moe.{key}"));
    }
    let checkpoint = bare.describe().unwrap();
    assert_eq!(checkpoint.spec(), &spec);
    assert_eq!(checkpoint.notes(), []);
    // Neutral values of keys that could change the results, and keys that say nothing.
    let mut neutral = full.clone();
    neutral.set("qwen35moe.rope.scaling.type", STRING, string("none"));
    neutral.set("qwen35moe.rope.scaling.factor", F32, 1f32.to_le_bytes().to_vec());
    neutral.set_u32("qwen35moe.expert_gating_func", 1);
    neutral.set("qwen35moe.expert_weights_norm", BOOL, vec![1]);
    neutral.set_u32("qwen35moe.vocab_size", 512);
    neutral.set_u32("qwen35moe.nobody_reads_this", 5);
    let checkpoint = neutral.describe().unwrap();
    assert_eq!(checkpoint.spec(), &spec);
    let ignored: Vec<_> =
        checkpoint.notes().iter().filter(|note| matches!(note, Note::IgnoredField { .. })).collect();
    assert_eq!(ignored.len(), 1, "{ignored:?}");
    says(&ignored[0].to_string(), &["qwen35moe.nobody_reads_this = 5"]);
}

#[test]
fn what_does_not_fit_is_named() {
    let cases: [(Change, &[&str]); 31] = [
        (
            |d| d.set("general.architecture", STRING, string("llama")),
            &["\"llama\" is not supported", "qwen35moe"],
        ),
        (|d| d.set_u32("general.architecture", 1), &["general.architecture", "a string"]),
        (|d| d.remove_key("general.architecture"), &["general.architecture is missing"]),
        (|d| d.remove_key("qwen35moe.block_count"), &["qwen35moe.block_count is missing"]),
        (|d| d.remove_key("qwen35moe.ssm.state_size"), &["qwen35moe.ssm.state_size is missing"]),
        (|d| d.remove_key("qwen35moe.attention.layer_norm_rms_epsilon"), &["epsilon is missing"]),
        (
            |d| d.remove_key("qwen35moe.expert_feed_forward_length"),
            &["expert_feed_forward_length is missing"],
        ),
        (|d| d.set_u32("qwen35moe.block_count", 0), &["block_count is 0, outside 1..=4096"]),
        (|d| d.set_u32("qwen35moe.block_count", u32::MAX), &["block_count is 4294967295"]),
        (|d| d.set_u32("qwen35moe.block_count", 7), &["\"blk.4.attn_qkv.weight\""]),
        (
            |d| d.set_u32("qwen35moe.nextn_predict_layers", 5),
            &["nextn_predict_layers is 5", "block_count = 5"],
        ),
        (|d| d.set_u32("qwen35moe.nextn_predict_layers", 0), &["blk.4."]),
        (
            |d| d.set("qwen35moe.embedding_length", STRING, string("64")),
            &["embedding_length", "a whole number"],
        ),
        (
            |d| d.set_u32("qwen35moe.embedding_length", 128),
            &["\"token_embd.weight\"", "[64, 512]", "[128, 512]"],
        ),
        (|d| d.set_u32("qwen35moe.attention.head_count", 3), &["head_count is 3", "a multiple"]),
        (|d| d.set_u32("qwen35moe.attention.value_length", 32), &["value_length is 32", "equal"]),
        (|d| d.set_u32("qwen35moe.rope.dimension_count", 17), &["dimension_count is 17", "even"]),
        (|d| d.set_u32("qwen35moe.ssm.time_step_rank", 7), &["time_step_rank is 7", "a multiple"]),
        (|d| d.set_u32("qwen35moe.ssm.inner_size", 100), &["inner_size is 100", "a multiple"]),
        (|d| d.set_u32("qwen35moe.expert_used_count", 11), &["expert_used_count is 11", "expert_count = 10"]),
        (|d| d.set_u32("qwen35moe.expert_gating_func", 2), &["expert_gating_func is 2", "softmax"]),
        (
            |d| d.set("qwen35moe.rope.scaling.type", STRING, string("yarn")),
            &["rope.scaling.type is \"yarn\"", "none"],
        ),
        (
            |d| d.set("qwen35moe.rope.scaling.factor", F32, 4f32.to_le_bytes().to_vec()),
            &["rope.scaling.factor is 4", "supported: 1"],
        ),
        (
            |d| d.set("qwen35moe.rope.freq_base", F32, f32::NAN.to_le_bytes().to_vec()),
            &["rope.freq_base is NaN", "a positive number"],
        ),
        (
            |d| d.set("qwen35moe.attention.recurrent_layers", ARRAY, array(BOOL, &[vec![1], vec![0]])),
            &["recurrent_layers is 2", "block_count = 5"],
        ),
        (
            |d| {
                let heads = [2u32, 2, 2, 4, 2].map(|n| n.to_le_bytes().to_vec());
                d.set("qwen35moe.attention.head_count", ARRAY, array(U32, &heads[..4]));
            },
            &["head_count is 4", "one number a block"],
        ),
        (
            |d| {
                d.remove("blk.2.ssm_out.weight");
            },
            &["\"blk.2.ssm_out.weight\"", "Gated DeltaNet"],
        ),
        (|d| d.push("blk.1.attn_q.bias", &[64], &[0.0; 64]), &["\"blk.1.attn_q.bias\"", "nothing uses it"]),
        (|d| d.push("rope_freqs.weight", &[8], &[0.0; 8]), &["\"rope_freqs.weight\"", "nothing uses it"]),
        (
            |d| {
                let norm = d.tensor_mut("blk.0.attn_norm.weight");
                (norm.code, norm.data) = (8, vec![0; 68]);
            },
            &["\"blk.0.attn_norm.weight\" is Q8_0", "F32, F16 or BF16"],
        ),
        (|d| d.tensor_mut("blk.3.attn_output.weight").code = 26, &["\"blk.3.attn_output.weight\" is I32"]),
    ];
    let draft = f32_fixture();
    for (change, words) in cases {
        let mut draft = draft.clone();
        change(&mut draft);
        says(&draft.describe().expect_err(words[0]), words);
    }
}

/// Writes a model as `n` files, tensors dealt out in turn, and returns the directory.
fn write_split(draft: &Draft, n: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for no in 0..n {
        std::fs::write(dir.path().join(part_name(no, n)), part(draft, no, n).bytes()).unwrap();
    }
    dir
}

fn part_name(no: u32, n: u32) -> String {
    format!("m-Q4_K_M-{:05}-of-{n:05}.gguf", no + 1)
}

/// The first part has the metadata and, as llama.cpp may write it, no tensors.
fn part(draft: &Draft, no: u32, n: u32) -> Draft {
    let mut part = Draft::default();
    if no == 0 {
        part.pairs.clone_from(&draft.pairs);
    } else {
        let mine = |(i, _): &(usize, _)| *i as u32 % (n - 1) == no - 1;
        part.tensors =
            draft.tensors.iter().cloned().enumerate().filter(mine).map(|(_, tensor)| tensor).collect();
    }
    part.set("split.no", 2, (no as u16).to_le_bytes().to_vec());
    part.set("split.count", 2, (n as u16).to_le_bytes().to_vec());
    part.set("split.tensors.count", 5, (draft.tensors.len() as i32).to_le_bytes().to_vec());
    part
}

#[test]
fn split_models_open_from_any_part() {
    let hf = open_hf(&fixture("qwen3_moe"));
    let draft = convert(&hf);
    let dir = write_split(&draft, 4);
    for no in 0..4 {
        let checkpoint = Checkpoint::open(&dir.path().join(part_name(no, 4))).unwrap();
        assert_eq!(checkpoint.files().len(), 4);
        assert_eq!(checkpoint.dir(), dir.path());
        assert_same_model(&checkpoint, &hf);
    }
    assert_same_model(&Checkpoint::open(dir.path()).unwrap(), &hf);
    assert_eq!(Gguf::in_directory(dir.path()).unwrap().unwrap(), dir.path().join(part_name(0, 4)));
    assert_eq!(SplitName::parse(&dir.path().join(part_name(2, 4))).unwrap().paths().count(), 4);
}

#[test]
fn damaged_sets_of_parts_are_refused() {
    let draft = convert(&open_hf(&fixture("qwen3_moe")));
    let refused = |dir: &Path| {
        let message = Gguf::open(&dir.join(part_name(0, 3))).expect_err("the set is damaged").to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    };
    let replace = |dir: &Path, no: u32, change: fn(&mut Draft)| {
        let mut part = part(&draft, no, 3);
        change(&mut part);
        std::fs::write(dir.join(part_name(no, 3)), part.bytes()).unwrap();
    };
    let dir = write_split(&draft, 3);
    std::fs::remove_file(dir.path().join(part_name(2, 3))).unwrap();
    says(&refused(dir.path()), &["part 3 of 3", "m-Q4_K_M-00003-of-00003.gguf", "missing"]);
    let cases: [(Change, &[&str]); 5] = [
        (|part| part.set("split.no", 2, vec![0, 0]), &["split.no is 0, but should be 2"]),
        (|part| part.set("split.count", 2, vec![9, 0]), &["split.count is 9, but should be 3"]),
        (|part| part.remove_key("split.count"), &["split.count is missing"]),
        (
            |part| {
                part.tensors.pop();
            },
            &["split.tensors.count"],
        ),
        (
            |part| {
                part.tensors.pop();
                part.push("token_embd.weight", &[1], &[0.0]);
            },
            &["\"token_embd.weight\" is also in", "00002-of-00003.gguf"],
        ),
    ];
    for (change, words) in cases {
        replace(dir.path(), 2, change);
        says(&refused(dir.path()), words);
    }
    // A part under another name would be taken for a whole model.
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(dir.path().join(part_name(0, 3)), &renamed).unwrap();
    says(&Gguf::open(&renamed).expect_err("a part").to_string(), &["-00001-of-00003.gguf"]);
}

#[test]
fn a_directory_stands_for_its_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
    assert_eq!(Gguf::in_directory(dir.path()).unwrap(), None);
    let model = convert(&open_hf(&fixture("qwen3_moe"))).bytes();
    std::fs::write(dir.path().join("a.gguf"), &model).unwrap();
    let expected = Checkpoint::open(&dir.path().join("a.gguf")).unwrap();
    assert_eq!(expected.gguf_metadata(), Some(&*dir.path().join("a.gguf")));
    // What lies beside models: vision projectors, importance matrices, a config, a file that is no model.
    for name in ["mmproj-F16.gguf", "Qwen-mmproj.gguf", "imatrix_unsloth.gguf", "config.json", "README.md"] {
        write(name);
    }
    assert_eq!(Checkpoint::open(dir.path()).unwrap(), expected);
    // A store that names files by their checksums.
    std::fs::write(dir.path().join("sha256-1f3e"), &model).unwrap();
    assert_eq!(Checkpoint::open(&dir.path().join("sha256-1f3e")).unwrap().spec(), expected.spec());

    write("b-00002-of-00002.gguf");
    let message = refused(dir.path());
    says(&message, &["several GGUF models, a.gguf, b-00001-of-00002.gguf; name the file"]);
    (0..9).for_each(|i| write(&format!("c{i}.gguf")));
    says(&refused(dir.path()), &["c5.gguf and 3 more; name the file"]);
    // Any file of a split model stands for it, also if the first is missing.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("b-00002-of-00002.gguf"), "").unwrap();
    says(&refused(dir.path()), &["part 1 of 2, b-00001-of-00002.gguf, is missing"]);
}

#[test]
fn safetensors_come_before_gguf() {
    let dir = copy("qwen3_moe");
    let expected = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(expected.gguf_metadata(), None);
    std::fs::write(dir.path().join("a.gguf"), "").unwrap();
    std::fs::write(dir.path().join("b.gguf"), "").unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap(), expected);
    std::fs::write(dir.path().join("metadata.gguf"), "").unwrap();
    let with_metadata = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(with_metadata.gguf_metadata(), Some(&*dir.path().join("metadata.gguf")));
}
