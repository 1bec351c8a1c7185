//! What a config may say: what is read, what is refused and with which words.

use flashmill_checkpoint::{FfnKind, MixerKind, ModelSpec, Note};
use serde_json::{Value, json};

use crate::support::{Draft, open, refused, says};

/// A fixture with some text fields replaced; a field set to `"absent"` is removed.
fn with(name: &str, fields: Value) -> Draft {
    let mut draft = Draft::of(name);
    for (field, value) in fields.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => draft.fields().remove(field),
            _ => draft.fields().insert(field.clone(), value.clone()),
        };
    }
    draft
}

fn spec(name: &str, fields: Value) -> ModelSpec {
    open(with(name, fields).write().path()).spec().clone()
}

fn notes(name: &str, fields: Value) -> Vec<String> {
    open(with(name, fields).write().path()).notes().iter().map(Note::to_string).collect()
}

#[test]
fn values_that_would_change_the_computation_are_refused_by_name() {
    for (name, fields, words) in [
        ("qwen3_5_moe", json!({"hidden_act": "gelu"}), ["text_config.hidden_act", "\"gelu\""]),
        ("qwen3_5_moe", json!({"attention_bias": true}), ["text_config.attention_bias", "true"]),
        ("qwen3_moe", json!({"attention_bias": true}), ["attention_bias", "true"]),
        ("qwen3_5_moe", json!({"attn_output_gate": false}), ["text_config.attn_output_gate", "false"]),
        (
            "qwen3_5_moe",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e7}}),
            ["text_config.rope_parameters.rope_type", "\"yarn\""],
        ),
        (
            "qwen3_moe",
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
            ["rope_scaling.type", "linear"],
        ),
        (
            "qwen3_next",
            json!({"rope_scaling": {"rope_type": "yarn", "type": "default"}}),
            ["rope_scaling.rope_type", "yarn"],
        ),
        (
            "qwen3_next",
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            ["rope_parameters.full_attention", "rope_type"],
        ),
        (
            "qwen3_moe",
            json!({"use_sliding_window": true, "sliding_window": "absent"}),
            ["use_sliding_window", "true"],
        ),
        (
            "qwen3_moe",
            json!({"use_sliding_window": true, "sliding_window": 128}),
            ["use_sliding_window", "true"],
        ),
        (
            "qwen3_5_moe",
            json!({"layer_types": ["linear_attention", "sliding_attention", "linear_attention", "full_attention"]}),
            ["text_config.layer_types[1]", "sliding_attention"],
        ),
    ] {
        says(&refused(with(name, fields).write().path()), &["config.json", words[0], words[1]]);
    }
    // The fixture says null: there is no window to use. The other families do not read either field.
    spec("qwen3_moe", json!({"use_sliding_window": true}));
    spec("qwen3_next", json!({"use_sliding_window": true, "sliding_window": 128}));
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    for (name, field, value) in [
        ("qwen3_5_moe", "num_hidden_layers", json!(0)),
        ("qwen3_5_moe", "num_hidden_layers", json!(1_000_000_000_000u64)),
        ("qwen3_5_moe", "num_hidden_layers", json!(-4)),
        ("qwen3_5_moe", "num_hidden_layers", json!(4.5)),
        ("qwen3_5_moe", "num_hidden_layers", json!("4")),
        ("qwen3_5_moe", "hidden_size", json!(u64::MAX)),
        ("qwen3_5_moe", "hidden_size", json!([64])),
        ("qwen3_5_moe", "num_attention_heads", json!(0)),
        ("qwen3_5_moe", "num_attention_heads", json!(3)),
        ("qwen3_5_moe", "linear_num_value_heads", json!(5)),
        ("qwen3_5_moe", "linear_num_key_heads", json!(0)),
        ("qwen3_5_moe", "linear_conv_kernel_dim", json!(0)),
        ("qwen3_5_moe", "linear_conv_kernel_dim", json!(1u64 << 40)),
        ("qwen3_5_moe", "num_experts", json!(0)),
        ("qwen3_5_moe", "num_experts_per_tok", json!(0)),
        ("qwen3_5_moe", "num_experts_per_tok", json!(11)),
        ("qwen3_5_moe", "vocab_size", json!(1u64 << 40)),
        ("qwen3_5_moe", "rms_norm_eps", json!(-1.0)),
        ("qwen3_5_moe", "rms_norm_eps", json!("small")),
        ("qwen3_5_moe", "eos_token_id", json!("end")),
        ("qwen3_5_moe", "layer_types", json!(["full_attention"])),
        ("qwen3_5_moe", "layer_types", json!("full_attention")),
        ("qwen3_next", "full_attention_interval", json!(0)),
        ("qwen3_next", "partial_rotary_factor", json!(0.0)),
        ("qwen3_next", "partial_rotary_factor", json!(1.5)),
        // 5 of 32 values, which do not pair.
        ("qwen3_next", "partial_rotary_factor", json!(0.17)),
        ("qwen3_next", "rope_theta", json!(-1)),
        ("qwen3_moe", "decoder_sparse_step", json!(0)),
        ("qwen3_moe", "mlp_only_layers", json!(["first"])),
        ("qwen3_moe", "head_dim", json!(31)),
        ("qwen3_moe", "norm_topk_prob", json!("yes")),
        ("qwen3_moe", "num_local_experts", json!(9)),
    ] {
        let message = refused(with(name, json!({field: value.clone()})).write().path());
        says(&message, &["config.json", field]);
    }
}

#[test]
fn architectures() {
    for model_type in [json!("llama"), json!(7), json!("qwen3_5")] {
        let mut draft = Draft::of("qwen3_moe");
        draft.config["model_type"] = model_type.clone();
        says(
            &refused(draft.write().path()),
            &["config.json", "model_type", &model_type.to_string(), "qwen3_moe"],
        );
    }
    let mut draft = Draft::of("qwen3_moe");
    draft.fields().remove("model_type");
    says(&refused(draft.write().path()), &["config.json", "model_type is missing"]);
}

#[test]
fn quantisation_methods_that_are_not_read() {
    for (settings, words) in [
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            ["compressed-tensors", "packed integers"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}),
            ["compressed-tensors", "NVFP4"],
        ),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), ["modelopt", "NVFP4"]),
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), ["bitsandbytes", "MLX"]),
        (json!({"quant_method": "hqq", "bits": 4}), ["hqq", "not known"]),
    ] {
        let mut draft = Draft::of("qwen3_5_moe");
        draft.config["quantization_config"] = settings;
        let message = refused(draft.write().path());
        says(&message, &["config.json", "quantization_config.quant_method", "not read; use"]);
        says(&message, &words);
    }
    let mlx = |quantization: Value| {
        let mut draft = Draft::of("qwen3_5_moe_mlx4");
        for (field, value) in quantization.as_object().unwrap() {
            draft.config["quantization"][field] = value.clone();
        }
        refused(draft.write().path())
    };
    says(&mlx(json!({"mode": "mxfp4"})), &["quantization.mode", "mxfp4"]);
    says(&mlx(json!({"bits": 7})), &["quantization.bits is 7", "2, 3, 4"]);
    says(&mlx(json!({"group_size": 16})), &["quantization.group_size is 16", "32"]);
    says(&mlx(json!({"bits": null})), &["quantization.bits is missing"]);
    let two = json!({"lm_head": {"bits": 4}, "language_model.lm_head": {"bits": 8}});
    says(&mlx(two), &["quantization.language_model.lm_head", "one setting"]);
    // A name with a line end in it: still a message of one line.
    says(&mlx(json!({"l\nm_head\u{7}": {"bits": 1}})), &["quantization.l\\nm_head\\u{7}.bits is 1"]);
}

/// Settings and tensors must agree, and a module without scales is unquantised whatever the config says.
#[test]
fn quantisation_settings_and_tensors() {
    let gate = "language_model.model.layers.0.mlp.gate";
    let edit = |edit: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::of("qwen3_5_moe_mlx4");
        edit(&mut draft);
        draft.write()
    };
    let dir = edit(&|draft| draft.config["quantization"][gate] = json!({"bits": 4, "group_size": 64}));
    says(&refused(dir.path()), &[gate, "[10, 16]", "4 bits", "[10, 8]", "config.json"]);
    let dir = edit(&|draft| draft.config["quantization"][gate] = json!({"bits": 8, "group_size": 32}));
    says(&refused(dir.path()), &["mlp.gate.scales", "[10, 1]", "groups of 32", "[10, 2]"]);
    let dir = edit(&|draft| draft.config["quantization"][gate] = json!({"bits": 8, "group_size": 128}));
    says(&refused(dir.path()), &[gate, "64 values", "groups of 128"]);
    let dir = edit(&|draft| draft.config["quantization"][gate] = json!(false));
    says(&refused(dir.path()), &[gate, "scales", "config.json"]);
    let dir = edit(&|draft| draft.config["quantization"][gate] = json!({"mode": "mxfp8"}));
    says(&refused(dir.path()), &["mlp.gate.mode", "mxfp8", "affine"]);
    let dir = edit(&|draft| {
        draft.config.as_object_mut().unwrap().remove("quantization");
        draft.config.as_object_mut().unwrap().remove("quantization_config");
    });
    says(&refused(dir.path()), &["embed_tokens.weight", "no quantization setting"]);
    let dir = edit(&|draft| drop(draft.remove(&format!("{gate}.biases"))));
    says(&refused(dir.path()), &["mlp.gate.biases"]);
    let dir = edit(&|draft| draft.tensor_mut(&format!("{gate}.biases")).dtype = "F16".to_owned());
    says(&refused(dir.path()), &["mlp.gate.biases", "F16", "scales"]);
    // Codes without their scales are no floats.
    let dir = edit(&|draft| drop(draft.remove(&format!("{gate}.scales"))));
    says(&refused(dir.path()), &["mlp.gate.weight", "U32", "BF16"]);

    // The gate unquantised, with the config still naming it; and only the copy of the settings left.
    let plain = Draft::of("qwen3_5_moe").remove("model.language_model.layers.0.mlp.gate.weight");
    let dir = edit(&|draft| {
        for part in ["weight", "scales", "biases"] {
            draft.remove(&format!("{gate}.{part}"));
        }
        let name = format!("{gate}.weight");
        draft.tensors.push(crate::support::Tensor { name, ..plain.clone() });
        draft.config.as_object_mut().unwrap().remove("quantization");
    });
    open(dir.path());
    // Settings inside text_config count as well, and paths without the model's prefix.
    let dir = edit(&|draft| {
        let settings = draft.config.as_object_mut().unwrap().remove("quantization").unwrap();
        draft.config.as_object_mut().unwrap().remove("quantization_config");
        let stripped: serde_json::Map<_, _> = settings
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, value)| (path.replace("language_model.model.", ""), value.clone()))
            .collect();
        draft.fields().insert("quantization".to_owned(), Value::Object(stripped));
    });
    open(dir.path());
}

#[test]
fn legacy_and_new_forms_mean_the_same() {
    let expected = spec("qwen3_moe", json!({}));
    // transformers 5 re-saves so.
    let resaved = json!({
        "rope_theta": "absent", "rope_scaling": "absent", "num_experts": "absent", "num_local_experts": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    });
    assert_eq!(spec("qwen3_moe", resaved), expected);
    let expected = spec("qwen3_next", json!({}));
    let resaved = json!({
        "rope_theta": "absent", "partial_rotary_factor": "absent", "full_attention_interval": "absent",
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    });
    assert_eq!(spec("qwen3_next", resaved), expected);
    // mlx-lm writes "type"; what the object leaves out comes from beside it.
    let mixed = json!({"rope_parameters": {"type": "default"}, "hidden_act": "swish"});
    assert_eq!(spec("qwen3_next", mixed), expected);
    // An empty or default rope_scaling is none.
    assert_eq!(spec("qwen3_next", json!({"rope_scaling": {}})), expected);
    assert_eq!(spec("qwen3_next", json!({"rope_scaling": {"type": "default"}})), expected);
}

#[test]
fn which_field_wins() {
    // layer_types over the interval (here it would say attention everywhere).
    let types = ["linear_attention", "linear_attention", "linear_attention", "full_attention"];
    let both = spec("qwen3_next", json!({"full_attention_interval": 1, "layer_types": types}));
    assert_eq!(both.layers.iter().filter(|layer| layer.mixer == MixerKind::DeltaNet).count(), 3);
    // The object over the fields beside it; rope_scaling over rope_parameters.
    let rope = json!({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0});
    assert_eq!(spec("qwen3_next", rope).attention.rope_theta, 5.0);
    let rope = json!({"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": {"rope_theta": 6.0}});
    assert_eq!(spec("qwen3_next", rope).attention.rope_theta, 6.0);
}

#[test]
fn defaults_are_those_of_the_family_and_noted() {
    let absent = json!({"norm_topk_prob": "absent", "head_dim": "absent"});
    // qwen3_moe: 64 / 4 values a head, which the tensors contradict.
    says(&refused(with("qwen3_moe", absent).write().path()), &["q_proj.weight", "[128, 64]", "[64, 64]"]);
    let spec_without = spec("qwen3_moe", json!({"norm_topk_prob": "absent"}));
    assert!(!spec_without.moe.unwrap().normalize_top_k);
    assert!(spec("qwen3_next", json!({"norm_topk_prob": "absent"})).moe.unwrap().normalize_top_k);
    assert!(!spec("qwen3_next", json!({"norm_topk_prob": false})).moe.unwrap().normalize_top_k);
    // qwen3_5_moe renormalises whatever the file says.
    assert!(spec("qwen3_5_moe", json!({"norm_topk_prob": false})).moe.unwrap().normalize_top_k);
    let said = notes("qwen3_moe", json!({"norm_topk_prob": "absent", "rope_theta": null})).join("\n");
    says(&said, &["norm_topk_prob is missing, the family's default false", "rope_theta is missing"]);
    assert_eq!(spec("qwen3_next", json!({"rope_theta": "absent"})).attention.rope_theta, 10_000.0);
    assert_eq!(spec("qwen3_next", json!({"partial_rotary_factor": null})).attention.rotary_dim, 8);
}

#[test]
fn ignored_fields_are_listed_with_their_values() {
    let said = notes("qwen3_5_moe", json!({"output_gate_type": "swish", "norm_topk_prob": false})).join("\n");
    says(&said, &["text_config.output_gate_type = \"swish\"", "text_config.norm_topk_prob = false"]);
    // The family rotates whole heads whatever this says.
    let said = notes("qwen3_moe", json!({"partial_rotary_factor": 0.5})).join("\n");
    says(&said, &["partial_rotary_factor = 0.5"]);
    assert_eq!(spec("qwen3_moe", json!({"partial_rotary_factor": 0.5})).attention.rotary_dim, 32);
    let said =
        notes("qwen3_next", json!({"rope_parameters": {"rope_type": "default", "factor": 2}})).join("\n");
    says(&said, &["rope_parameters.factor = 2"]);
    let long = notes("qwen3_5_moe", json!({"remark": "\u{e9}".repeat(500)}));
    assert!(long.iter().all(|note| note.chars().count() < 200), "{long:?}");
}

#[test]
fn end_tokens() {
    assert_eq!(spec("qwen3_moe", json!({"eos_token_id": [1, 2]})).eos_token_ids, [1, 2]);
    assert!(spec("qwen3_moe", json!({"eos_token_id": null})).eos_token_ids.is_empty());
    let mut draft = with("qwen3_5_moe", json!({"eos_token_id": "absent"}));
    draft.config["eos_token_id"] = json!([9]);
    assert_eq!(open(draft.write().path()).spec().eos_token_ids, [9]);
}

#[test]
fn layers_without_experts() {
    // No experts at all: every layer is dense, and the tensors of the experts are then too many.
    let message = refused(with("qwen3_moe", json!({"num_experts": 0})).write().path());
    says(&message, &["model.layers.0.mlp.gate_proj.weight", "a dense layer"]);
    let spec = spec("qwen3_5_moe", json!({"mlp_only_layers": [0], "decoder_sparse_step": 3}));
    assert!(spec.layers.iter().all(|layer| layer.ffn == FfnKind::Moe), "qwen3_5_moe reads neither");
}
