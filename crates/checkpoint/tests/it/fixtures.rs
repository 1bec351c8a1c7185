//! The fixtures are described as they are.

use flashmill_checkpoint::{
    AttentionSpec, Checkpoint, Convention, DeltaNetSpec, Family, FfnKind, FfnRef, HeadOrder, LayerKind,
    MatrixRef, MixerKind, MixerRef, ModelSpec, MoeSpec, Note, Role, SkippedGroup, VectorMap, VectorRef,
};
use flashmill_layout::{Affine, Encoding, Float};

use crate::support::{Draft, FIXTURES, bytes, decode, fixture, open, values};

fn layers(kinds: &str) -> Vec<LayerKind> {
    kinds
        .chars()
        .map(|kind| LayerKind {
            mixer: if kind == 'a' { MixerKind::Attention } else { MixerKind::DeltaNet },
            ffn: FfnKind::Moe,
        })
        .collect()
}

fn qwen3_5() -> ModelSpec {
    ModelSpec {
        family: Family::Qwen35Moe,
        hidden_size: 64,
        vocab_size: 512,
        max_positions: 4096,
        rms_norm_eps: 1e-6,
        layers: layers("ddda"),
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
            head_order: HeadOrder::Grouped,
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
        eos_token_ids: vec![470],
    }
}

fn qwen3_next() -> ModelSpec {
    ModelSpec {
        family: Family::Qwen3Next,
        attention: AttentionSpec { head_dim: 32, rotary_dim: 8, ..qwen3_5().attention },
        delta_net: qwen3_5().delta_net.map(|sizes| DeltaNetSpec { value_dim: 16, ..sizes }),
        moe: Some(MoeSpec {
            n_experts: 8,
            top_k: 2,
            intermediate_size: 96,
            shared_intermediate_size: Some(80),
            normalize_top_k: true,
        }),
        eos_token_ids: vec![472],
        ..qwen3_5()
    }
}

fn qwen3_moe() -> ModelSpec {
    ModelSpec {
        family: Family::Qwen3Moe,
        layers: layers("aaaa"),
        attention: AttentionSpec {
            head_dim: 32,
            rotary_dim: 32,
            rope_theta: 1e6,
            gated: false,
            ..qwen3_5().attention
        },
        delta_net: None,
        moe: qwen3_next().moe.map(|sizes| MoeSpec { shared_intermediate_size: None, ..sizes }),
        ..qwen3_next()
    }
}

#[test]
fn specs() {
    for (name, spec, convention) in [
        ("qwen3_5_moe", qwen3_5(), Convention::HuggingFace),
        ("qwen3_5_moe_mlx4", qwen3_5(), Convention::Mlx),
        ("qwen3_5_moe_mlx2", qwen3_5(), Convention::Mlx),
        ("qwen3_5_moe_fp8", qwen3_5(), Convention::HuggingFace),
        ("qwen3_next", qwen3_next(), Convention::HuggingFace),
        ("qwen3_moe", qwen3_moe(), Convention::HuggingFace),
    ] {
        let checkpoint = open(&fixture(name));
        assert_eq!(*checkpoint.spec(), spec, "{name}");
        assert_eq!(checkpoint.convention(), convention, "{name}");
        assert_eq!(checkpoint.dir(), fixture(name));
    }
}

#[test]
fn a_file_of_the_directory_stands_for_it() {
    let expected = open(&fixture("qwen3_5_moe"));
    for file in ["config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"] {
        assert_eq!(open(&fixture("qwen3_5_moe").join(file)), expected, "{file}");
    }
}

/// Every matrix of a description, experts included.
pub(crate) fn matrices(checkpoint: &Checkpoint) -> Vec<MatrixRef> {
    let trunk = checkpoint.trunk();
    let mut all = vec![trunk.embed.clone()];
    all.extend(trunk.head.clone());
    for (i, layer) in trunk.layers.iter().enumerate() {
        match &layer.mixer {
            MixerRef::Attention(a) => all.extend([&a.q, &a.k, &a.v, &a.o].map(MatrixRef::clone)),
            MixerRef::DeltaNet(d) => all.extend([&d.qkv, &d.z, &d.b, &d.a, &d.out].map(MatrixRef::clone)),
        }
        match &layer.ffn {
            FfnRef::Moe { router, shared } => {
                all.push(router.clone());
                for shared in shared.iter() {
                    let glu = &shared.glu;
                    all.extend([&glu.gate, &glu.up, &glu.down, &shared.gate_logit].map(MatrixRef::clone));
                }
                for expert in 0..checkpoint.spec().moe.unwrap().n_experts {
                    let glu = checkpoint.bundle(i, expert).glu;
                    all.extend([glu.gate, glu.up, glu.down]);
                }
            }
            FfnRef::Dense(glu) => all.extend([&glu.gate, &glu.up, &glu.down].map(MatrixRef::clone)),
        }
    }
    all
}

fn vectors(checkpoint: &Checkpoint) -> Vec<VectorRef> {
    let trunk = checkpoint.trunk();
    let mut all = vec![trunk.final_norm.clone()];
    for layer in &trunk.layers {
        all.extend([layer.input_norm.clone(), layer.post_norm.clone()]);
        match &layer.mixer {
            MixerRef::Attention(a) => all.extend([a.q_norm.clone(), a.k_norm.clone()]),
            MixerRef::DeltaNet(d) => {
                all.extend([&d.conv, &d.decay, &d.dt_bias, &d.norm].map(VectorRef::clone));
            }
        }
    }
    all
}

/// The weights of the model cover every byte of the files that is not a header or a skipped tensor, once.
#[test]
fn every_byte_is_described_once() {
    for name in FIXTURES {
        let checkpoint = open(&fixture(name));
        let mut extents: Vec<_> =
            matrices(&checkpoint).iter().flat_map(|matrix| matrix.parts.concat()).collect();
        extents.extend(vectors(&checkpoint).iter().map(|vector| vector.extent));
        let described: u64 = extents.iter().map(|extent| extent.len).sum();
        extents.sort_by_key(|extent| (extent.file, extent.offset));
        for pair in extents.windows(2) {
            assert!(pair[0].file != pair[1].file || pair[0].end() <= pair[1].offset, "{name}: {pair:?}");
        }
        let stored: usize = Draft::of(name).tensors.iter().map(|tensor| tensor.data.len()).sum();
        let skipped: u64 = checkpoint
            .notes()
            .iter()
            .map(|note| match note {
                Note::SkippedTensors { bytes, .. } => *bytes,
                _ => 0,
            })
            .sum();
        assert_eq!(described + skipped, stored as u64, "{name}");
        assert_eq!(checkpoint.inspect().weight_bytes, described, "{name}");
    }
}

/// Matrices of unquantised files that are one tensor hold that tensor's values, as this test reads them.
#[test]
fn plain_matrices_hold_their_tensors() {
    for name in ["qwen3_5_moe", "qwen3_next", "qwen3_moe"] {
        let (checkpoint, draft) = (open(&fixture(name)), Draft::of(name));
        let mut n_checked = 0;
        for matrix in matrices(&checkpoint) {
            let tensor = draft.tensor(&matrix.name);
            if tensor.shape == [matrix.shape.rows, matrix.shape.cols] {
                assert_eq!(decode(&checkpoint, &matrix), tensor.floats(), "{name}: {}", matrix.name);
                n_checked += 1;
            }
        }
        assert!(n_checked > 30, "{name}: {n_checked}");
        for vector in vectors(&checkpoint) {
            let stored = draft.tensor(&vector.name).floats();
            let expected: Vec<f32> = stored
                .iter()
                .map(|w| {
                    let head_norm = vector.name.ends_with("linear_attn.norm.weight");
                    match name {
                        _ if vector.name.ends_with("A_log") => -w.exp(),
                        "qwen3_moe" => *w,
                        _ if vector.name.ends_with("norm.weight") && !head_norm => 1.0 + w,
                        _ => *w,
                    }
                })
                .collect();
            assert_eq!(values(&checkpoint, &vector), expected, "{name}: {}", vector.name);
        }
    }
}

/// The fused tensors: expert e's gate is the first half of its rows, its up the second.
#[test]
fn fused_experts() {
    let (checkpoint, draft) = (open(&fixture("qwen3_5_moe")), Draft::of("qwen3_5_moe"));
    let (hidden, size) = (64, 128);
    for layer in 0..4 {
        let at = format!("model.language_model.layers.{layer}.mlp.experts");
        let gate_up = draft.tensor(&format!("{at}.gate_up_proj")).floats();
        let down = draft.tensor(&format!("{at}.down_proj")).floats();
        for expert in 0..10 {
            let glu = checkpoint.bundle(layer, expert).glu;
            let both = &gate_up[expert * 2 * size * hidden..][..2 * size * hidden];
            assert_eq!(decode(&checkpoint, &glu.gate), both[..size * hidden]);
            assert_eq!(decode(&checkpoint, &glu.up), both[size * hidden..]);
            assert_eq!(decode(&checkpoint, &glu.down), down[expert * hidden * size..][..hidden * size]);
        }
    }
}

/// The projections of qwen3_next against a de-interleaving that goes row by row through the four-dimensional view.
#[test]
fn interleaved_projections() {
    let (checkpoint, draft) = (open(&fixture("qwen3_next")), Draft::of("qwen3_next"));
    let (nk, r, dk, dv, hidden) = (2, 3, 32, 16, 64);
    for layer in 0..3 {
        let MixerRef::DeltaNet(delta) = &checkpoint.trunk().layers[layer].mixer else { panic!() };
        let at = format!("model.layers.{layer}.linear_attn");
        let rows = |name: &str| -> Vec<Vec<f32>> {
            draft
                .tensor(&format!("{at}.{name}.weight"))
                .floats()
                .chunks(hidden)
                .map(<[f32]>::to_vec)
                .collect()
        };
        let (mut q, mut k, mut v, mut z) = (vec![], vec![], vec![], vec![]);
        for (i, row) in rows("in_proj_qkvz").into_iter().enumerate() {
            match i % (2 * dk + 2 * r * dv) {
                place if place < dk => q.push(row),
                place if place < 2 * dk => k.push(row),
                place if place < 2 * dk + r * dv => v.push(row),
                _ => z.push(row),
            }
        }
        let (mut b, mut a) = (vec![], vec![]);
        for (i, row) in rows("in_proj_ba").into_iter().enumerate() {
            if i % (2 * r) < r { b.push(row) } else { a.push(row) }
        }
        assert_eq!((q.len(), v.len(), b.len()), (nk * dk, nk * r * dv, nk * r));
        assert_eq!(decode(&checkpoint, &delta.qkv), [q, k, v].concat().concat(), "layer {layer}");
        assert_eq!(decode(&checkpoint, &delta.z), z.concat(), "layer {layer}");
        assert_eq!(decode(&checkpoint, &delta.b), b.concat(), "layer {layer}");
        assert_eq!(decode(&checkpoint, &delta.a), a.concat(), "layer {layer}");
    }
}

/// The MLX files hold the weights of the BF16 files, up to what their bits can: a step of the group's range.
#[test]
fn mlx_weights_are_those_of_the_original() {
    let original = open(&fixture("qwen3_5_moe"));
    let expected = matrices(&original);
    for name in ["qwen3_5_moe_mlx4", "qwen3_5_moe_mlx2"] {
        let checkpoint = open(&fixture(name));
        let mut bits_seen = Vec::new();
        for (matrix, expected) in matrices(&checkpoint).iter().zip(&expected) {
            let Encoding::Affine(affine) = matrix.shape.encoding else { panic!("{matrix:?}") };
            bits_seen.push(affine.bits);
            let (got, want) = (decode(&checkpoint, matrix), decode(&original, expected));
            let group = usize::from(affine.group);
            for (got, want) in got.chunks(group).zip(want.chunks(group)) {
                let range = want.iter().fold(0f32, |most, w| most.max(w.abs())) * 2.0;
                // MLX moves the scale so that the value of largest magnitude is exact: a step is never more than the
                // range over the codes by more than a fifth; bf16 scales and biases add 1/256 of the magnitude twice.
                let step = range / f32::from((1u16 << affine.bits) - 1) * 1.2 + range / 128.0;
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() <= step, "{name} {}: {got} {want} {step}", matrix.name);
                }
            }
        }
        bits_seen.sort_unstable();
        bits_seen.dedup();
        assert_eq!(bits_seen, if name.ends_with('2') { vec![2, 4, 8] } else { vec![4, 8] });

        for (vector, expected) in vectors(&checkpoint).iter().zip(vectors(&original)) {
            let (got, want) = (values(&checkpoint, vector), values(&original, &expected));
            for (got, want) in got.iter().zip(want) {
                // Norms were rounded to bf16 after the 1 was added, the others were bf16 or f32 already.
                assert!((got - want).abs() <= want.abs() / 256.0, "{}: {got} {want}", vector.name);
            }
            assert_eq!(expected.map == VectorMap::NegExp, vector.map == VectorMap::NegExp);
        }
    }
}

#[test]
fn encodings_of_mlx_files_follow_the_overrides() {
    let affine = |bits| Encoding::Affine(Affine { bits, group: 64, scales: Float::BF16 });
    for (name, expert_bits) in [("qwen3_5_moe_mlx4", 4), ("qwen3_5_moe_mlx2", 2)] {
        let checkpoint = open(&fixture(name));
        for layer in 0..4 {
            let shapes = checkpoint.bundle_shapes(layer).unwrap();
            assert_eq!(shapes.map(|shape| shape.encoding), [affine(expert_bits); 3], "{name}");
            assert_eq!(shapes.map(|shape| (shape.rows, shape.cols)), [(128, 64), (128, 64), (64, 128)]);
            let FfnRef::Moe { router, shared } = &checkpoint.trunk().layers[layer].ffn else { panic!() };
            assert_eq!(router.shape.encoding, affine(8), "{name}");
            assert_eq!(shared.as_ref().unwrap().gate_logit.shape.encoding, affine(8), "{name}");
            assert_eq!(shared.as_ref().unwrap().glu.gate.shape.encoding, affine(4), "{name}");
        }
        assert_eq!(checkpoint.trunk().embed.shape.encoding, affine(4), "{name}");
    }
}

/// What the store takes is what the bundles say, expert by expert.
#[test]
fn bundle_extents_are_those_of_the_bundles() {
    for name in FIXTURES {
        let checkpoint = open(&fixture(name));
        let n_experts = checkpoint.spec().moe.unwrap().n_experts;
        for layer in 0..4 {
            let expected: Vec<_> = (0..n_experts)
                .flat_map(|expert| checkpoint.bundle(layer, expert).extents().collect::<Vec<_>>())
                .collect();
            assert_eq!(checkpoint.bundle_extents(layer), expected, "{name}");
            let shapes = checkpoint.bundle_shapes(layer).unwrap();
            for expert in 0..n_experts {
                let bundle = checkpoint.bundle(layer, expert);
                assert_eq!(bundle.shapes(), shapes, "{name}");
                let len: u64 = bundle.extents().map(|extent| extent.len).sum();
                assert_eq!(len, shapes.iter().map(|shape| shape.bytes() as u64).sum::<u64>(), "{name}");
                let first = bundle.extents().next().unwrap();
                assert_eq!(bytes(&checkpoint, first).len() as u64, first.len);
            }
        }
    }
}

#[test]
fn notes_list_what_is_not_used() {
    let checkpoint = open(&fixture("qwen3_5_moe"));
    let ignored = |field: &str| {
        checkpoint.notes().iter().find_map(|note| match note {
            Note::IgnoredField { field: name, value } if name == field => Some(value.clone()),
            _ => None,
        })
    };
    assert_eq!(ignored("text_config.mamba_ssm_dtype").as_deref(), Some("\"float32\""));
    assert_eq!(ignored("text_config.mtp_num_hidden_layers").as_deref(), Some("1"));
    assert_eq!(ignored("text_config.hidden_size"), None);
    let skipped = |wanted: SkippedGroup| {
        checkpoint.notes().iter().find_map(|note| match note {
            Note::SkippedTensors { group, count, bytes, .. } if *group == wanted => Some((*count, *bytes)),
            _ => None,
        })
    };
    assert_eq!(skipped(SkippedGroup::Vision), Some((21, 71_904)));
    assert_eq!(skipped(SkippedGroup::MultiTokenPrediction), Some((19, 715_008)));
    assert_eq!(skipped(SkippedGroup::Other), None);
}

/// Sums by hand for the BF16 fixture, and the sizes that the design quotes for the large model's formulas.
#[test]
fn inspection() {
    let inspection = open(&fixture("qwen3_5_moe")).inspect();
    let bytes_of =
        |wanted: Role| inspection.roles.iter().find(|role| role.role == wanted).map(|role| role.bytes);
    assert_eq!(bytes_of(Role::Embed), Some(512 * 64 * 2));
    assert_eq!(bytes_of(Role::Attention), Some((512 * 64 + 2 * 128 * 64 + 64 * 256) * 2));
    assert_eq!(bytes_of(Role::Router), Some(4 * 10 * 64 * 2));
    assert_eq!(bytes_of(Role::SharedExpert), Some(4 * (3 * 192 * 64 + 64) * 2));
    assert_eq!(bytes_of(Role::RoutedExperts), Some(4 * 10 * 3 * 128 * 64 * 2));
    assert_eq!(bytes_of(Role::DenseFfn), None);
    assert_eq!(inspection.expert_bytes, Some((3 * 128 * 64 * 2, 3 * 128 * 64 * 2)));
    assert_eq!(inspection.expert_bytes_per_token, 4 * 3 * 3 * 128 * 64 * 2);
    assert_eq!(inspection.kv_bytes_per_token, 2 * 2 * 64 * 2);
    assert_eq!(inspection.delta_net_state_bytes, 3 * 4 * (6 * 32 * 32 + 320 * 3));
    assert_eq!(inspection.total_params - inspection.active_params, 512 * 64 + 4 * 7 * 3 * 128 * 64);
    assert!((inspection.bits_per_weight - 16.0).abs() < 0.1, "{}", inspection.bits_per_weight);
    let mlx = open(&fixture("qwen3_5_moe_mlx4")).inspect();
    // 4 bits and a scale and a bias of 16 bits for 64 values; gates at 8 bits, vectors at 16 add a little.
    assert!((4.5..4.7).contains(&mlx.bits_per_weight), "{}", mlx.bits_per_weight);
    assert_eq!(mlx.total_params, inspection.total_params);
}
