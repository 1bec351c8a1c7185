//! FP8 checkpoints: E4M3 codes with scales for blocks of 128 x 128, the last of which may be short.

use flashmill_layout::{Encoding, Float};
use serde_json::{Value, json};

use crate::fixtures::matrices;
use crate::support::{Draft, Tensor, decode, fixture, open, refused, says};

const FP8: &str = "qwen3_5_moe_fp8";
const GATE: &str = "model.language_model.layers.0.mlp.experts.3.gate_proj.weight";

/// The value of an E4M3 code by its definition: 4 bits of exponent with bias 7, 3 of mantissa.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code < 128 { magnitude } else { -magnitude }
}

#[test]
fn weights_are_codes_times_the_scales_of_their_blocks() {
    let (checkpoint, draft) = (open(&fixture(FP8)), Draft::of(FP8));
    let mut n_ragged = 0;
    let mut n_checked = 0;
    for matrix in matrices(&checkpoint) {
        let tensor = draft.tensor(&matrix.name);
        if tensor.dtype != "F8_E4M3" {
            assert_eq!(matrix.shape.encoding, Encoding::Float(Float::BF16), "{}", matrix.name);
            continue;
        }
        assert_eq!(matrix.shape.encoding, Encoding::Fp8 { scales: Float::BF16 }, "{}", matrix.name);
        let scales = draft.tensor(&format!("{}_scale_inv", matrix.name)).floats();
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        n_ragged += usize::from(rows % 128 != 0);
        n_checked += 1;
        let wide = cols.div_ceil(128);
        assert_eq!(scales.len(), rows.div_ceil(128) * wide);
        for (i, got) in decode(&checkpoint, &matrix).into_iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let expected = e4m3(tensor.data[i]) * scales[row / 128 * wide + col / 128];
            assert_eq!(got.to_bits(), expected.to_bits(), "{} at {row}, {col}", matrix.name);
        }
    }
    assert!(n_checked > 100 && n_ragged > 10, "{n_checked} matrices, {n_ragged} of them ragged");
}

#[test]
fn weights_are_those_of_the_original() {
    let (checkpoint, original) = (open(&fixture(FP8)), open(&fixture("qwen3_5_moe")));
    for (matrix, expected) in matrices(&checkpoint).iter().zip(matrices(&original)) {
        let want = decode(&original, &expected);
        let largest = want.iter().fold(0f32, |most, w| most.max(w.abs()));
        for (got, want) in decode(&checkpoint, matrix).into_iter().zip(want) {
            // Half a step of three bits of mantissa, or of the subnormals (the largest of a block becomes 448 of 2^-9 each).
            let bound = (want.abs() / 16.0).max(largest / 448.0 / 1024.0) * 1.01;
            assert!((got - want).abs() <= bound, "{}: {got} {want}", matrix.name);
        }
    }
}

/// `[E, rows, cols]` of the experts' tensors, for a list of projections.
fn stack(draft: &mut Draft, layer: usize, projections: &[&str], suffix: &str) -> Tensor {
    let mut all = Vec::new();
    let mut shape = Vec::new();
    let mut dtype = String::new();
    for expert in 0..10 {
        let mut rows = 0;
        for projection in projections {
            let tensor = draft.remove(&format!(
                "model.language_model.layers.{layer}.mlp.experts.{expert}.{projection}.weight{suffix}"
            ));
            rows += tensor.shape[0];
            shape = vec![10, rows, tensor.shape[1]];
            dtype = tensor.dtype;
            all.extend(tensor.data);
        }
    }
    Tensor { name: String::new(), dtype, shape, data: all }
}

#[test]
fn fused_experts_are_the_same() {
    let mut draft = Draft::of(FP8);
    for layer in 0..4 {
        for (fused, projections) in
            [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])]
        {
            for suffix in ["", "_scale_inv"] {
                let name = format!("model.language_model.layers.{layer}.mlp.experts.{fused}{suffix}");
                let stacked = stack(&mut draft, layer, projections, suffix);
                draft.tensors.push(Tensor { name, ..stacked });
            }
        }
    }
    let (fused, single) = (draft.write(), open(&fixture(FP8)));
    let fused = open(fused.path());
    for layer in 0..4 {
        for expert in 0..10 {
            let (a, b) = (fused.bundle(layer, expert).glu, single.bundle(layer, expert).glu);
            for (a, b) in [(a.gate, b.gate), (a.up, b.up), (a.down, b.down)] {
                assert_eq!(a.shape, b.shape);
                assert_eq!(decode(&fused, &a), decode(&single, &b), "layer {layer}, expert {expert}");
            }
        }
    }
}

#[test]
fn weights_and_scales_belong_together() {
    let edit = |edit: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::of(FP8);
        edit(&mut draft);
        refused(draft.write().path())
    };
    let scales = format!("{GATE}_scale_inv");
    let message = edit(&|draft| drop(draft.remove(&scales)));
    says(&message, &["model.safetensors", GATE, &scales, "F8_E4M3", "wrong"]);
    let message = edit(&|draft| {
        let tensor = draft.tensor_mut(GATE);
        tensor.dtype = "BF16".to_owned();
        tensor.data = [tensor.data.clone(), tensor.data.clone()].concat();
    });
    says(&message, &[GATE, "is BF16", "F8_E4M3"]);
    let message = edit(&|draft| {
        let tensor = draft.tensor_mut(&scales);
        tensor.shape = vec![2, 1];
        tensor.data = tensor.data.repeat(2);
    });
    says(&message, &[&scales, "[2, 1]", "[1, 1]"]);
    let message = edit(&|draft| draft.tensor_mut(GATE).dtype = "F8_E5M2".to_owned());
    says(&message, &[GATE, "F8_E5M2"]);
    let message = edit(&|draft| drop(draft.config.as_object_mut().unwrap().remove("quantization_config")));
    says(&message, &["no quantization setting", "config.json"]);
}

#[test]
fn settings() {
    let with = |field: &str, value: Value| {
        let mut draft = Draft::of(FP8);
        draft.config["quantization_config"][field] = value;
        draft.write()
    };
    for (field, value) in [
        ("weight_block_size", json!([64, 128])),
        ("weight_block_size", Value::Null),
        ("weight_per_tensor", json!(true)),
        ("fmt", json!("e5m2")),
    ] {
        let message = refused(with(field, value.clone()).path());
        says(&message, &[&format!("quantization_config.{field}"), &value.to_string(), "supported"]);
    }
    let dir = with("fmt", json!("e4m3"));
    let notes: Vec<String> = open(dir.path()).notes().iter().map(ToString::to_string).collect();
    assert!(notes.iter().any(|note| note.contains("quantization_config.activation_scheme")), "{notes:?}");
    assert!(!notes.iter().any(|note| note.contains("modules_to_not_convert")), "{notes:?}");
}

/// The heads of `qwen3_next` lie together; with 32 rows each they share blocks of 128 and cannot be taken apart.
#[test]
fn heads_that_share_a_block() {
    let mut draft = Draft::of("qwen3_next");
    draft.config["quantization_config"] =
        json!({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]});
    let name = "model.layers.0.linear_attn.in_proj_qkvz.weight";
    let tensor = draft.tensor_mut(name);
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    tensor.dtype = "F8_E4M3".to_owned();
    tensor.data = vec![0x38; rows * cols];
    let n = rows.div_ceil(128) * cols.div_ceil(128);
    let scales = Tensor {
        name: format!("{name}_scale_inv"),
        dtype: "BF16".to_owned(),
        shape: vec![rows.div_ceil(128), cols.div_ceil(128)],
        data: [0x80, 0x3f].repeat(n),
    };
    draft.tensors.push(scales);
    says(&refused(draft.write().path()), &[name, "blocks of several rows", "BF16"]);
}
