use std::path::Path;

use flashmill_layout::ggml::{GgmlType, Unpacked};
use flashmill_layout::minifloat::{FloatGroups, e4m3};
use flashmill_layout::{Affine, Encoding, Float};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn bytes() -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors");
    std::fs::read(dir.join("dequant_vectors.safetensors"))
        .expect("fixtures/vectors is part of the repository")
}

fn values(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = tensors.tensor(name).expect(name).data();
    data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Equal bits; NaN equals any NaN.
#[track_caller]
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            "{what}, value {i}: {a:e}, expected {b:e}"
        );
    }
}

#[test]
fn every_ggml_type_is_exact() {
    let bytes = bytes();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> =
        tensors.names().into_iter().filter_map(|name| name.strip_prefix("ggml.")).collect();
    let types: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".raw")).collect();
    assert_eq!(types.len(), 24);
    for name in types {
        let ty = GgmlType::ALL.into_iter().find(|ty| ty.name() == name).expect(name);
        let raw = tensors.tensor(&format!("ggml.{name}.raw")).unwrap().data();
        let expected = values(&tensors, &format!("ggml.{name}.f32"));
        let mut row = vec![0.0; expected.len()];
        ty.decode_row(raw, &mut row);
        assert_same(&row, &expected, name);
    }
}

#[test]
fn sizes_and_numbers_are_those_of_the_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors/dequant_vectors.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let types = json["ggml"].as_object().unwrap();
    assert_eq!(types.len(), 24);
    for (name, facts) in types {
        let ty = GgmlType::from_code(facts["ggml_type_id"].as_u64().unwrap() as u32).expect(name);
        assert_eq!(ty.name(), name);
        assert_eq!(ty.block_values() as u64, facts["values_per_block"], "{name}");
        assert_eq!(ty.block_bytes() as u64, facts["bytes_per_block"], "{name}");
    }
}

#[test]
fn every_e4m3_code_is_exact() {
    let bytes = bytes();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let codes = tensors.tensor("fp8_e4m3.codes").unwrap().data();
    let found: Vec<f32> = codes.iter().map(|&code| e4m3(code)).collect();
    assert_eq!(found.len(), 256);
    assert_same(&found, &values(&tensors, "fp8_e4m3.f32"), "E4M3");
}

#[test]
fn mlx_groups_of_floats_are_exact() {
    let bytes = bytes();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for mode in ["mxfp4", "mxfp8", "nvfp4"] {
        let groups = FloatGroups::from_mode(mode).unwrap();
        let tensor = |part: &str| tensors.tensor(&format!("mlx.{mode}.{part}")).unwrap();
        let (codes, scales) = (tensor("packed"), tensor("scales"));
        let expected = values(&tensors, &format!("mlx.{mode}.f32"));
        for (row, expected) in expected.chunks_exact(256).enumerate() {
            let codes = &codes.data()[row * 32 * groups.bits()..][..32 * groups.bits()];
            let n_scales = 256 / groups.group();
            let mut found = [0.0; 256];
            groups.decode_row(codes, &scales.data()[row * n_scales..][..n_scales], &mut found);
            assert_same(&found, expected, mode);
        }
    }
}

#[test]
fn mlx_affine_groups_are_exact() {
    let bytes = bytes();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for bits in [2u8, 3, 4, 5, 6, 8] {
        for group in [32u16, 64, 128] {
            let name = format!("mlx.affine.{bits}.{group}");
            let encoding = Encoding::Affine(Affine { bits, group, scales: Float::BF16 });
            let parts =
                ["packed", "scales", "biases"].map(|part| tensors.tensor(&format!("{name}.{part}")).unwrap());
            for (row, expected) in values(&tensors, &format!("{name}.f32")).chunks_exact(256).enumerate() {
                let slices: [&[u8]; 3] = std::array::from_fn(|part| {
                    let len = encoding.part_row_bytes(part, 256);
                    &parts[part].data()[row * len..][..len]
                });
                let mut found = [0.0; 256];
                encoding.decode_row(&slices, &mut found);
                assert_same(&found, expected, &name);
            }
        }
    }
}

proptest! {
    /// Any bytes are a block: nothing panics, and codes, scales and offsets give the same values as decoding does.
    #[test]
    fn any_bytes_decode(seed in proptest::collection::vec(any::<u8>(), 256)) {
        for ty in GgmlType::ALL {
            let block: Vec<u8> = seed[..ty.block_bytes()].to_vec();
            let mut values = vec![0.0; ty.block_values()];
            ty.decode_block(&block, &mut values);
            if ty.float().is_some() {
                continue;
            }
            let mut unpacked = Unpacked::default();
            ty.unpack_block(&block, &mut unpacked);
            for (i, value) in values.iter().enumerate() {
                let (scale, code) = (unpacked.scales[i / ty.group()], f32::from(unpacked.codes[i]));
                // The product is exact, so that fusing it changes nothing.
                let expected = match ty.has_offsets() {
                    true => scale.mul_add(code, unpacked.offsets[i / ty.group()]),
                    false => scale * code,
                };
                prop_assert!(expected.to_bits() == value.to_bits() || expected.is_nan() && value.is_nan(), "{ty} {i}");
            }
        }
    }
}
