//! GPTQ and AWQ: not in place, and rearranged without changing a value.

use flashmill_checkpoint::transposed::{Transposed, TransposedError, Words};
use flashmill_checkpoint::{Checkpoint, MatrixRef};
use flashmill_layout::{Affine, Encoding, Float, MatrixShape, MatrixView};
use half::f16;
use serde_json::{Value, json};

use crate::fixtures::matrices;
use crate::support::{Draft, bytes, decode, fixture, open, refused, says};

const FIXTURES: [(&str, Float); 2] = [("qwen3_5_moe_gptq4", Float::F16), ("qwen3_5_moe_awq4", Float::F32)];

fn to_pack(name: &str) -> Checkpoint {
    Checkpoint::open_to_pack(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of a matrix of words, by the sentences of the formats' descriptions.
fn by_definition(draft: &Draft, module: &str, (rows, cols): (usize, usize), awq: bool) -> Vec<f32> {
    let words = |part: &str| -> Vec<u32> {
        let data = &draft.tensor(&format!("{module}.{part}")).data;
        data.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    let (qweight, qzeros) = (words("qweight"), words("qzeros"));
    let scales: Vec<f32> = draft
        .tensor(&format!("{module}.scales"))
        .data
        .chunks(2)
        .map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32())
        .collect();
    let group: Vec<usize> = match awq {
        true => (0..cols).map(|col| col / 32).collect(),
        false => words("g_idx").into_iter().map(|group| group as usize).collect(),
    };
    // Which nibble of a word is output 8 * word + i.
    let order = [0, 2, 4, 6, 1, 3, 5, 7];
    let nibble = |i: usize| if awq { order.iter().position(|&o| o == i).unwrap() } else { i };
    let code = |row: usize, col: usize| match awq {
        true => qweight[col * (rows / 8) + row / 8] >> (4 * nibble(row % 8)) & 15,
        false => qweight[col / 8 * rows + row] >> (4 * (col % 8)) & 15,
    };
    let zero = |row: usize, col: usize| {
        let zero = qzeros[group[col] * (rows / 8) + row / 8] >> (4 * nibble(row % 8)) & 15;
        if awq { zero } else { zero + 1 }
    };
    let value = |i: usize| {
        let (row, col) = (i / cols, i % cols);
        scales[group[col] * rows + row] * (code(row, col) as f32 - zero(row, col) as f32)
    };
    (0..rows * cols).map(value).collect()
}

/// The values of a matrix, rearranged if it has to be.
fn repacked(checkpoint: &Checkpoint, matrix: &MatrixRef) -> Vec<f32> {
    let Some(transposed) = matrix.transposed else { return decode(checkpoint, matrix) };
    let stored: Vec<Vec<u8>> = matrix.parts.iter().map(|part| bytes(checkpoint, part[0])).collect();
    let parts = transposed.affine_parts(&matrix.shape, &stored).unwrap();
    let view = MatrixView::new(matrix.shape, &parts.each_ref().map(Vec::as_slice));
    let mut values = vec![0.0; matrix.shape.rows * matrix.shape.cols];
    for (row, out) in values.chunks_mut(matrix.shape.cols).enumerate() {
        view.decode_row(row, out);
    }
    values
}

#[test]
fn experts_keep_every_value() {
    for (name, scales) in FIXTURES {
        let (checkpoint, draft) = (to_pack(name), Draft::of(name));
        let original = open(&fixture("qwen3_5_moe"));
        let mut n_checked = 0;
        for (matrix, plain) in matrices(&checkpoint).iter().zip(matrices(&original)) {
            let values = repacked(&checkpoint, matrix);
            let want = decode(&original, &plain);
            if matrix.transposed.is_none() {
                assert_eq!(values, want, "{name} {}", matrix.name);
                continue;
            }
            n_checked += 1;
            assert_eq!(matrix.shape.encoding, Encoding::Affine(Affine { bits: 4, group: 32, scales }));
            let module =
                matrix.name.strip_suffix(".qweight").or(matrix.name.strip_suffix(".weight")).unwrap();
            let size = (matrix.shape.rows, matrix.shape.cols);
            assert_eq!(values, by_definition(&draft, module, size, name.contains("awq")), "{name} {module}");
            for (got, want) in values.chunks(32).zip(want.chunks(32)) {
                let range = want.iter().fold(0f32, |most, w| most.max(w.abs())) * 2.0;
                let near = |(got, want): (&f32, &f32)| (got - want).abs() <= range / 15.0;
                assert!(got.iter().zip(want).all(near), "{name} {module}: {got:?} {want:?}");
            }
        }
        assert_eq!(n_checked, 4 * 10 * 3, "{name}");
    }
}

#[test]
fn in_place_is_an_error_that_says_what_to_type() {
    for (name, method) in [("qwen3_5_moe_gptq4", "GPTQ"), ("qwen3_5_moe_awq4", "AWQ")] {
        let message = refused(&fixture(name));
        says(&message, &[method, &format!("flashmill pack {} OUT", fixture(name).display())]);
    }
}

#[test]
fn settings() {
    let message = |name: &str, field: &str, value: &Value| {
        let mut draft = Draft::of(name);
        draft.config["quantization_config"][field] = value.clone();
        let dir = draft.write();
        let error = Checkpoint::open_to_pack(dir.path()).expect_err("it is refused").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    for (name, field, value) in [
        ("qwen3_5_moe_gptq4", "bits", json!(3)),
        ("qwen3_5_moe_gptq4", "bits", Value::Null),
        ("qwen3_5_moe_gptq4", "group_size", json!(16)),
        ("qwen3_5_moe_gptq4", "group_size", json!(0)),
        ("qwen3_5_moe_gptq4", "group_size", json!(u64::MAX)),
        ("qwen3_5_moe_gptq4", "desc_act", json!(true)),
        ("qwen3_5_moe_gptq4", "checkpoint_format", json!("marlin")),
        ("qwen3_5_moe_gptq4", "pack_dtype", json!("int8")),
        ("qwen3_5_moe_awq4", "bits", json!(8)),
        ("qwen3_5_moe_awq4", "version", json!("gemv")),
        ("qwen3_5_moe_awq4", "zero_point", json!(false)),
    ] {
        let shown = if value.is_null() { "null".to_owned() } else { value.to_string() };
        says(
            &message(name, field, &value),
            &["config.json", &format!("quantization_config.{field} is {shown}")],
        );
    }
    let dynamic = json!({"+:.*down_proj": {"bits": 8}});
    says(&message("qwen3_5_moe_gptq4", "dynamic", &dynamic), &["dynamic.+:.*down_proj", "bits", "-:"]);
    // Another group size than the tensors': their shapes tell.
    says(&message("qwen3_5_moe_gptq4", "group_size", &json!(64)), &["qzeros", "[2, 16]", "[1, 16]"]);
}

#[test]
fn tensors() {
    let module = "model.language_model.layers.1.mlp.experts.2.up_proj";
    let message = |edit: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::of("qwen3_5_moe_gptq4");
        edit(&mut draft);
        let dir = draft.write();
        Checkpoint::open_to_pack(dir.path()).expect_err("it is refused").to_string()
    };
    for part in ["qzeros", "scales"] {
        let name = format!("{module}.{part}");
        says(&message(&|draft| drop(draft.remove(&name))), &["no file holds", &name]);
    }
    let name = format!("{module}.qweight");
    says(&message(&|draft| drop(draft.remove(&name))), &["no file holds", &format!("{module}.weight")]);
    says(&message(&|draft| draft.tensor_mut(&name).dtype = "F32".to_owned()), &[&name, "F32", "I32"]);
    // One expert without the g_idx that the others have.
    says(&message(&|draft| drop(draft.remove(&format!("{module}.g_idx")))), &[module, "alike"]);
}

/// 8 rows, 32 columns, one group.
fn small(symmetric: bool, has_order: bool) -> (Transposed, MatrixShape) {
    let words = Words::Gptq { zero_offset: 1 };
    let scales = Float::F16;
    let transposed = Transposed { words, bits: 4, group: 32, scales, symmetric, has_order };
    (transposed, MatrixShape { rows: 8, cols: 32, encoding: transposed.encoding().unwrap() })
}

#[test]
fn what_cannot_be_held_exactly_is_an_error() {
    let qweight = vec![0x21; 4 * 8 * 4];
    let halves = |value: f32| f16::from_f32(value).to_le_bytes().repeat(8);
    let (words, shape) = small(true, false);
    let parts = words.affine_parts(&shape, &[qweight.clone(), vec![0x77; 4], halves(0.5)]).unwrap();
    assert_eq!(parts[2], f16::from_f32(-4.0).to_le_bytes().repeat(8));
    let wrong = words.affine_parts(&shape, &[qweight.clone(), vec![0x79; 4], halves(0.5)]).unwrap_err();
    assert_eq!(wrong, TransposedError::NotSymmetric { zero: 10, expected: 8 });
    let wrong = words.affine_parts(&shape, &[qweight.clone(), vec![0x77; 4], halves(10_000.0)]).unwrap_err();
    assert!(matches!(wrong, TransposedError::Bias { zero: 8, .. }), "{wrong}");
    // Zeros of any kind in F32: 0.3 in 11 bits times 15.
    let (words, shape) = small(false, false);
    let parts = words.affine_parts(&shape, &[qweight.clone(), vec![0xee; 4], halves(0.3)]).unwrap();
    assert_eq!(parts[2], (-15.0 * f16::from_f32(0.3).to_f32()).to_le_bytes().repeat(8));
    let (words, shape) = small(true, true);
    let order = |at: usize| (0..32).flat_map(|i| i32::from(i == at).to_le_bytes()).collect::<Vec<u8>>();
    let stored = [qweight, vec![0x77; 4], halves(0.5), order(7)];
    assert_eq!(
        words.affine_parts(&shape, &stored).unwrap_err(),
        TransposedError::Order { column: 7, group: 1 }
    );
}

#[test]
fn other_widths_and_groups() {
    for (group, expected) in [(32, Some(32)), (64, Some(64)), (96, Some(32)), (256, Some(128)), (48, None)] {
        let words = Transposed { group, ..small(true, false).0 };
        let found = words.encoding().map(|encoding| encoding.granularity());
        assert_eq!(found, expected, "{group}");
    }
    // Two and eight bits: row r, column c holds (r + c) of that many bits.
    for bits in [2u8, 8] {
        let words = Transposed { bits, words: Words::Gptq { zero_offset: 0 }, ..small(true, false).0 };
        let shape = MatrixShape { rows: 16, cols: 64, encoding: words.encoding().unwrap() };
        let (per_word, mask) = (32 / usize::from(bits), (1u32 << bits) - 1);
        let word = |w: usize, row: usize| {
            (0..per_word)
                .map(|k| ((row + w * per_word + k) as u32 & mask) << (usize::from(bits) * k))
                .sum::<u32>()
        };
        let n_words = 64 / per_word;
        let qweight: Vec<u8> =
            (0..n_words).flat_map(|w| (0..16).flat_map(move |row| word(w, row).to_le_bytes())).collect();
        let middle = 1u32 << (bits - 1);
        let zeros: u32 = (0..per_word).map(|k| middle << (usize::from(bits) * k)).sum();
        let qzeros = zeros.to_le_bytes().repeat(2 * 16 / per_word);
        let scales = f16::from_f32(1.0).to_le_bytes().repeat(32);
        let parts = words.affine_parts(&shape, &[qweight, qzeros, scales]).unwrap();
        let view = MatrixView::new(shape, &parts.each_ref().map(Vec::as_slice));
        let mut row = vec![0.0; 64];
        for r in 0..16 {
            view.decode_row(r, &mut row);
            for (c, value) in row.iter().enumerate() {
                assert_eq!(*value, ((r + c) as u32 & mask) as f32 - middle as f32, "{bits} bits, {r}, {c}");
            }
        }
    }
}
