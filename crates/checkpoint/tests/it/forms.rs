//! One model in every form that files take: the description differs, the weights do not.

use flashmill_checkpoint::{
    Checkpoint, Convention, FfnKind, FfnRef, MatrixRef, MixerRef, Note, VectorMap, VectorRef,
};
use flashmill_layout::{Encoding, Float};
use serde_json::json;

use crate::support::{Draft, Tensor, decode, open, refused, says, to_mlx, values};

/// Splits the fused experts of transformers 5 into one tensor an expert and projection.
fn split_experts(draft: &mut Draft) {
    for layer in 0..4 {
        let at = format!("model.language_model.layers.{layer}.mlp.experts");
        let gate_up = draft.remove(&format!("{at}.gate_up_proj"));
        let down = draft.remove(&format!("{at}.down_proj"));
        let (n, size, hidden) = (gate_up.shape[0], gate_up.shape[1] / 2, gate_up.shape[2]);
        let half = size * hidden * 2;
        let mut push = |name: String, shape, data: &[u8]| {
            draft.tensors.push(Tensor { name, dtype: "BF16".to_owned(), shape, data: data.to_vec() });
        };
        for expert in 0..n {
            let both = &gate_up.data[expert * 2 * half..][..2 * half];
            push(format!("{at}.{expert}.gate_proj.weight"), vec![size, hidden], &both[..half]);
            push(format!("{at}.{expert}.up_proj.weight"), vec![size, hidden], &both[half..]);
            let data = &down.data[expert * half..][..half];
            push(format!("{at}.{expert}.down_proj.weight"), vec![hidden, size], data);
        }
    }
}

/// All values of both models, experts included, are equal.
fn assert_same_weights(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.spec(), b.spec());
    let same = |x: &MatrixRef, y: &MatrixRef| assert_eq!(decode(a, x), decode(b, y), "{}", x.name);
    let same_vector = |x: &VectorRef, y: &VectorRef| assert_eq!(values(a, x), values(b, y), "{}", x.name);
    same(&a.trunk().embed, &b.trunk().embed);
    same_vector(&a.trunk().final_norm, &b.trunk().final_norm);
    for (i, (x, y)) in a.trunk().layers.iter().zip(&b.trunk().layers).enumerate() {
        same_vector(&x.input_norm, &y.input_norm);
        same_vector(&x.post_norm, &y.post_norm);
        match (&x.mixer, &y.mixer) {
            (MixerRef::Attention(x), MixerRef::Attention(y)) => {
                same(&x.q, &y.q);
                same_vector(&x.q_norm, &y.q_norm);
                same_vector(&x.k_norm, &y.k_norm);
            }
            (MixerRef::DeltaNet(x), MixerRef::DeltaNet(y)) => {
                same(&x.qkv, &y.qkv);
                same(&x.out, &y.out);
                same_vector(&x.conv, &y.conv);
                same_vector(&x.decay, &y.decay);
                same_vector(&x.norm, &y.norm);
            }
            other => panic!("{other:?}"),
        }
        for expert in 0..a.spec().moe.unwrap().n_experts {
            let (x, y) = (a.bundle(i, expert).glu, b.bundle(i, expert).glu);
            same(&x.gate, &y.gate);
            same(&x.up, &y.up);
            same(&x.down, &y.down);
        }
    }
}

#[test]
fn fused_split_and_stacked_experts_are_the_same() {
    let draft = Draft::of("qwen3_5_moe");
    let (mut split, mut mlx) = (draft.clone(), draft.clone());
    let original_dir = draft.write();
    let original = open(original_dir.path());
    split_experts(&mut split);
    let split_dir = split.write();
    assert_same_weights(&original, &open(split_dir.path()));

    to_mlx(&mut mlx);
    let mlx_dir = mlx.write();
    let mlx = open(mlx_dir.path());
    assert_eq!(mlx.convention(), Convention::Mlx, "told by the convolution alone");
    assert_eq!(mlx.trunk().final_norm.map, VectorMap::Identity);
    assert_same_weights(&original, &mlx);
}

#[test]
fn the_convention_does_not_hang_on_names() {
    // MLX tensors under transformers' names, and the other way round: the convolution decides.
    for mlx in [false, true] {
        let mut draft = Draft::of("qwen3_5_moe");
        if mlx {
            to_mlx(&mut draft);
        }
        for tensor in &mut draft.tensors {
            let below = ["model.language_model.", "language_model.model.", "language_model."]
                .iter()
                .find_map(|prefix| tensor.name.strip_prefix(prefix));
            let head = tensor.name.contains("lm_head");
            if let Some(below) = below {
                tensor.name = if head { "lm_head.weight".to_owned() } else { format!("model.{below}") };
            }
        }
        let dir = draft.write();
        let expected = if mlx { Convention::Mlx } else { Convention::HuggingFace };
        assert_eq!(open(dir.path()).convention(), expected);
    }
}

#[test]
fn without_a_convolution_the_other_signs_decide() {
    // One tap: both shapes are [C, 1, 1].
    let shrink = |draft: &mut Draft| {
        draft.fields().insert("linear_conv_kernel_dim".to_owned(), json!(1));
        for tensor in &mut draft.tensors {
            if tensor.name.ends_with("conv1d.weight") {
                tensor.data.truncate(tensor.shape[0] * 2);
                tensor.shape = vec![tensor.shape[0], 1, 1];
            }
        }
    };
    let mut draft = Draft::of("qwen3_5_moe");
    shrink(&mut draft);
    let dir = draft.write();
    assert_eq!(open(dir.path()).trunk().final_norm.map, VectorMap::OnePlus);
    to_mlx(&mut draft);
    shrink(&mut draft);
    let dir = draft.write();
    assert_eq!(open(dir.path()).trunk().final_norm.map, VectorMap::Identity);
}

#[test]
fn a_flat_config_is_the_nested_one() {
    let draft = Draft::of("qwen3_5_moe");
    let nested = draft.write();
    for model_type in ["qwen3_5_moe_text", "qwen3_5_moe"] {
        let mut flat = draft.clone();
        flat.config = draft.config["text_config"].clone();
        flat.config["model_type"] = json!(model_type);
        let dir = flat.write();
        assert_eq!(open(dir.path()).spec(), open(nested.path()).spec());
    }
}

#[test]
fn a_quantised_interleaved_projection() {
    // qwen3_next with in_proj_qkvz and in_proj_ba at 8 bits, group 32: rows of codes, scales and biases move together.
    let mut draft = Draft::of("qwen3_next");
    draft.config["quantization"] = json!({"bits": 4, "group_size": 64, "mode": "affine"});
    for layer in 0..3 {
        for name in ["in_proj_qkvz", "in_proj_ba"] {
            let module = format!("model.layers.{layer}.linear_attn.{name}");
            draft.config["quantization"][&module] = json!({"bits": 8, "group_size": 32});
            let weight = draft.remove(&format!("{module}.weight"));
            let rows = weight.shape[0];
            // Row r decodes to the number r: code r % 256, scale 1, bias 256 * (r / 256).
            let codes = (0..rows).flat_map(|row| vec![row as u8; 64]).collect();
            let biases = (0..rows * 2).flat_map(|i| ((i / 2 / 256 * 256) as f32).to_le_bytes()).collect();
            let scales = (0..rows * 2).flat_map(|_| 1f32.to_le_bytes()).collect();
            for (part, dtype, shape, data) in [
                ("weight", "U32", vec![rows, 16], codes),
                ("scales", "F32", vec![rows, 2], scales),
                ("biases", "F32", vec![rows, 2], biases),
            ] {
                let name = format!("{module}.{part}");
                draft.tensors.push(Tensor { name, dtype: dtype.to_owned(), shape, data });
            }
        }
    }
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert_eq!(checkpoint.convention(), Convention::HuggingFace, "the convolution is [C, 1, K]");
    let MixerRef::DeltaNet(delta) = &checkpoint.trunk().layers[1].mixer else { panic!() };
    let first_of_rows = |matrix| -> Vec<usize> {
        decode(&checkpoint, matrix).chunks(64).map(|row| row[0] as usize).collect()
    };
    let range = |first: usize, n: usize| (first..first + n).collect::<Vec<_>>();
    // Per key head: 32 q, 32 k, 48 v, 48 z; 3 b, 3 a.
    let qkv = [range(0, 32), range(160, 32), range(32, 32), range(192, 32), range(64, 48), range(224, 48)];
    assert_eq!(first_of_rows(&delta.qkv), qkv.concat());
    assert_eq!(first_of_rows(&delta.z), [range(112, 48), range(272, 48)].concat());
    assert_eq!(first_of_rows(&delta.b), [range(0, 3), range(6, 3)].concat());
    assert_eq!(first_of_rows(&delta.a), [range(3, 3), range(9, 3)].concat());
}

#[test]
fn one_key_head_needs_no_runs() {
    let mut draft = Draft::of("qwen3_next");
    draft.fields().insert("linear_num_key_heads".to_owned(), json!(1));
    draft.fields().insert("linear_key_head_dim".to_owned(), json!(64));
    // Same totals: 1 * (64 + 64 + 96 + 96) rows.
    let dir = draft.write();
    let MixerRef::DeltaNet(delta) = open(dir.path()).trunk().layers[0].mixer.clone() else { panic!() };
    assert_eq!(delta.qkv.parts[0].len(), 1);
    assert_eq!(delta.z.parts[0].len(), 1);
}

#[test]
fn tied_embeddings() {
    let mut draft = Draft::of("qwen3_5_moe");
    let head = draft.remove("lm_head.weight");
    says(&refused(draft.write().path()), &["lm_head.weight", "the head"]);
    draft.config["tie_word_embeddings"] = json!(true);
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert!(checkpoint.trunk().head.is_none() && checkpoint.spec().tied_embeddings);
    // The inner object says it in files of mlx-lm.
    draft.config["tie_word_embeddings"] = json!(false);
    draft.fields().insert("tie_word_embeddings".to_owned(), json!(true));
    assert!(open(draft.write().path()).spec().tied_embeddings);
    // A stored head is used, and said.
    draft.tensors.push(head);
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert!(checkpoint.trunk().head.is_some() && !checkpoint.spec().tied_embeddings);
    assert!(checkpoint.notes().iter().any(|note| matches!(note, Note::StoredHead { .. })));
}

#[test]
fn dense_layers() {
    let mut draft = Draft::of("qwen3_moe");
    draft.fields().insert("mlp_only_layers".to_owned(), json!([1]));
    draft.tensors.retain(|tensor| !tensor.name.starts_with("model.layers.1.mlp."));
    let template = draft.tensor("model.layers.0.self_attn.q_norm.weight").clone();
    for (projection, shape) in [("gate_proj", [160, 64]), ("up_proj", [160, 64]), ("down_proj", [64, 160])] {
        let name = format!("model.layers.1.mlp.{projection}.weight");
        draft.tensors.push(Tensor {
            name,
            shape: shape.to_vec(),
            data: vec![0; 160 * 64 * 2],
            ..template.clone()
        });
    }
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert_eq!(checkpoint.spec().layers[1].ffn, FfnKind::Dense);
    assert_eq!(checkpoint.spec().dense_intermediate_size, Some(160));
    assert!(matches!(checkpoint.trunk().layers[1].ffn, FfnRef::Dense(_)));
    assert_eq!(checkpoint.bundle_shapes(1), None);
    assert!(checkpoint.bundle_extents(1).is_empty());
    assert!(checkpoint.bundle_shapes(0).is_some());

    // Every second layer, by the step.
    draft.fields().insert("mlp_only_layers".to_owned(), json!([]));
    draft.fields().insert("decoder_sparse_step".to_owned(), json!(2));
    says(&refused(draft.write().path()), &["model.layers.0.mlp.gate_proj.weight"]);
}

#[test]
fn any_float_type_for_any_tensor() {
    let mut draft = Draft::of("qwen3_moe");
    for name in
        ["model.norm.weight", "model.layers.2.self_attn.q_proj.weight", "model.layers.0.mlp.gate.weight"]
    {
        let tensor = draft.tensor_mut(name);
        let values = tensor.floats();
        *tensor = tensor.with_floats(&values);
    }
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert_eq!(checkpoint.trunk().final_norm.float, Float::F32);
    let MixerRef::Attention(attention) = &checkpoint.trunk().layers[2].mixer else { panic!() };
    assert_eq!(attention.q.shape.encoding, Encoding::Float(Float::F32));
}

#[test]
fn opening_a_large_model_is_cheap() {
    // 48 layers of 512 experts, one tensor each, 73,728 in all: what counts is that it is linear. Sizes are tiny.
    let mut draft = Draft::of("qwen3_moe");
    let base: Vec<Tensor> =
        draft.tensors.iter().filter(|tensor| tensor.name.starts_with("model.layers.0.")).cloned().collect();
    draft.tensors.retain(|tensor| !tensor.name.starts_with("model.layers."));
    draft.fields().insert("num_hidden_layers".to_owned(), json!(48));
    draft.fields().insert("num_experts".to_owned(), json!(512));
    draft.fields().insert("moe_intermediate_size".to_owned(), json!(1));
    for layer in 0..48 {
        let prefix = format!("model.layers.{layer}.");
        for tensor in base.iter().filter(|tensor| !tensor.name.contains(".mlp.")) {
            let name = tensor.name.replace("model.layers.0.", &prefix);
            draft.tensors.push(Tensor { name, ..tensor.clone() });
        }
        let mut push = |name: String, shape: Vec<usize>| {
            let data = vec![0; shape.iter().product::<usize>() * 2];
            draft.tensors.push(Tensor { name, dtype: "BF16".to_owned(), shape, data });
        };
        push(format!("{prefix}mlp.gate.weight"), vec![512, 64]);
        for expert in 0..512 {
            for (projection, shape) in [("gate_proj", [1, 64]), ("up_proj", [1, 64]), ("down_proj", [64, 1])]
            {
                push(format!("{prefix}mlp.experts.{expert}.{projection}.weight"), shape.to_vec());
            }
        }
    }
    let dir = draft.write();
    let checkpoint = open(dir.path());
    assert_eq!(checkpoint.bundle_extents(47).len(), 512 * 3);
    assert_eq!(checkpoint.bundle(47, 511).glu.down.name, "model.layers.47.mlp.experts.511.down_proj.weight");
}
