//! Importance files of both forms, and what they do to the errors.

use std::fs;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::Checkpoint;
use flashmill_layout::MatrixView;
use flashmill_pack::{Importance, PackOptions, RecipeOptions, Rule};

use crate::support::{bits, bytes, fixture, open, packed};

/// Weights of input `i` of expert `e`: a few inputs matter far more than the others.
fn weight(expert: usize, input: usize) -> f32 {
    let spread = (input * 7 + expert * 3) % 16;
    if spread == 0 { 100.0 } else { 0.01 * (1 + spread) as f32 }
}

const HIDDEN: usize = 64;
const WIDTH: usize = 128;
const EXPERTS: usize = 10;

/// Name, inputs, counts of each expert, sums of squares.
type Stat = (String, usize, Vec<f32>, Vec<f32>);

/// Of the experts of all four layers of the fixture; expert 4 was never used.
fn stats() -> Vec<Stat> {
    let mut all = Vec::new();
    for layer in 0..4 {
        for (name, cols) in [("gate", HIDDEN), ("up", HIDDEN), ("down", WIDTH)] {
            let counts: Vec<f32> = (0..EXPERTS).map(|e| if e == 4 { 0.0 } else { (e + 2) as f32 }).collect();
            let sums = (0..EXPERTS * cols).map(|i| weight(i / cols, i % cols) * counts[i / cols]).collect();
            all.push((format!("blk.{layer}.ffn_{name}_exps.weight"), cols, counts, sums));
        }
    }
    all
}

/// The newer form, written here by the format's description.
fn write_gguf(path: &Path) {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut tensors: Vec<(String, [u64; 2], Vec<f32>)> = Vec::new();
    for (name, cols, counts, sums) in stats() {
        tensors.push((format!("{name}.in_sum2"), [cols as u64, EXPERTS as u64], sums));
        tensors.push((format!("{name}.counts"), [1, EXPERTS as u64], counts));
    }
    let mut file = Vec::from(*b"GGUF");
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(string("general.type"));
    file.extend(8u32.to_le_bytes());
    file.extend(string("imatrix"));
    let mut data = Vec::new();
    for (name, dims, values) in &tensors {
        file.extend(string(name));
        file.extend(2u32.to_le_bytes());
        dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    fs::write(path, file).unwrap();
}

/// The older form: mean squares times the number of calls.
fn write_dat(path: &Path) {
    let stats = stats();
    let mut file = Vec::from((stats.len() as i32).to_le_bytes());
    for (name, cols, counts, sums) in &stats {
        file.extend((name.len() as i32).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(7i32.to_le_bytes());
        file.extend((sums.len() as i32).to_le_bytes());
        for (i, sum) in sums.iter().enumerate() {
            let count = counts[i / cols];
            let mean = if count > 0.0 { sum / count } else { 0.0 };
            file.extend((7.0 * mean).to_le_bytes());
        }
    }
    fs::write(path, file).unwrap();
}

fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (gguf, dat) = (dir.path().join("imatrix.gguf"), dir.path().join("imatrix.dat"));
    write_gguf(&gguf);
    write_dat(&dat);
    (dir, gguf, dat)
}

fn packed_with(importance: &Path, recipe: RecipeOptions) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = PackOptions {
        source: fixture("qwen3_5_moe"),
        out: dir.path().join("out"),
        recipe,
        importance: Some(importance.to_owned()),
        ..PackOptions::default()
    };
    let plan = flashmill_pack::plan(options).unwrap();
    assert_eq!(plan.recipe().importance.as_deref(), importance.file_name().and_then(|name| name.to_str()));
    flashmill_pack::pack(&plan, &|_, _| ()).unwrap();
    dir
}

/// All values of gate, up and down of an expert.
fn values(checkpoint: &Checkpoint, layer: usize, expert: usize) -> [Vec<f32>; 3] {
    let glu = checkpoint.bundle(layer, expert).glu;
    [glu.gate, glu.up, glu.down].map(|matrix| {
        let parts: Vec<Vec<u8>> = matrix.parts.iter().map(|runs| bytes(checkpoint, runs[0])).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let view = MatrixView::new(matrix.shape, &parts);
        let mut values = vec![0.0; matrix.shape.rows * matrix.shape.cols];
        values.chunks_mut(matrix.shape.cols).enumerate().for_each(|(row, out)| view.decode_row(row, out));
        values
    })
}

#[test]
fn both_forms_say_the_same() {
    let (_dir, gguf, dat) = files();
    for path in [&gguf, &dat] {
        let importance = Importance::open(path).unwrap();
        let name = "blk.2.ffn_down_exps.weight";
        let weights = importance.weights(name, 3, EXPERTS, WIDTH).unwrap().unwrap();
        for (input, found) in weights.into_iter().enumerate() {
            assert!((found / weight(3, input) - 1.0).abs() < 1e-6, "input {input}: {found}");
        }
        assert_eq!(importance.weights(name, 4, EXPERTS, WIDTH).unwrap(), None, "never used");
        assert_eq!(importance.weights("output.weight", 0, 1, HIDDEN).unwrap(), None);
        let error = importance.weights(name, 0, EXPERTS, HIDDEN).unwrap_err().to_string();
        assert!(error.contains("1280 values, but the model makes it 640"), "{error}");
    }
}

#[test]
fn the_weighted_error_is_lower_and_that_of_unused_experts_is_the_same() {
    let (_dir, gguf, dat) = files();
    let source = open(&fixture("qwen3_5_moe"));
    for (path, n_bits) in [(&gguf, 2), (&dat, 4)] {
        let (plain, fitted) = (packed("qwen3_5_moe", bits(n_bits)), packed_with(path, bits(n_bits)));
        let (plain, fitted) = (open(&plain.path().join("out")), open(&fitted.path().join("out")));
        for expert in 0..EXPERTS {
            let (exact, plain, fitted) =
                (values(&source, 1, expert), values(&plain, 1, expert), values(&fitted, 1, expert));
            for i in 0..3 {
                let cols = [HIDDEN, HIDDEN, WIDTH][i];
                let error = |found: &[f32]| -> f64 {
                    let pairs = exact[i].iter().zip(found).enumerate();
                    pairs
                        .map(|(at, (a, b))| f64::from(weight(expert, at % cols)) * f64::from(a - b).powi(2))
                        .sum()
                };
                let ratio = error(&fitted[i]) / error(&plain[i]);
                if expert == 4 {
                    assert_eq!(plain[i], fitted[i]);
                } else {
                    assert!(
                        ratio < 0.9,
                        "{n_bits} bits, expert {expert}, matrix {i}: the error is {ratio} of MLX's"
                    );
                }
            }
        }
    }
}

/// The manifest holds a checksum of every record and of every part of the trunk.
#[test]
fn fitted_bytes_are_the_same_for_any_number_of_threads() {
    let (dir, gguf, _) = files();
    let [one, many] = [1, 5].map(|threads| {
        let out = dir.path().join(format!("of-{threads}"));
        let options = PackOptions {
            source: fixture("qwen3_5_moe"),
            out: out.clone(),
            recipe: bits(2),
            importance: Some(gguf.clone()),
            threads: Some(threads),
            ..PackOptions::default()
        };
        flashmill_pack::pack(&flashmill_pack::plan(options).unwrap(), &|_, _| ()).unwrap();
        fs::read_to_string(out.join("flashmill.json")).unwrap()
    });
    assert!(one == many, "the manifests differ");
    assert!(one.contains("2 bits, groups of 64, down 3 bits, scales fitted"), "the manifest says how");
}

#[test]
fn recipes_do_not_mix() {
    let (dir, gguf, _) = files();
    let options = |rule, importance| PackOptions {
        source: fixture("qwen3_5_moe"),
        out: dir.path().join("out"),
        recipe: RecipeOptions { rule, ..bits(2) },
        importance,
        ..PackOptions::default()
    };
    let error =
        flashmill_pack::plan(options(Some(Rule::Range), Some(gguf))).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("no importance") && error.contains("recipe range"), "{error}");
    let plan = |rule| flashmill_pack::plan(options(rule, None)).unwrap();
    flashmill_pack::pack(&plan(Some(Rule::Range)), &|_, _| ()).unwrap();
    assert!(plan(Some(Rule::Range)).already_packed().unwrap().is_some());
    let error = plan(None).already_packed().unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
}

#[test]
fn damaged_files_are_errors() {
    let (dir, gguf, dat) = files();
    let refused = |bytes: &[u8], words: &str| {
        let path = dir.path().join("damaged");
        fs::write(&path, bytes).unwrap();
        let error = Importance::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.lines().count() == 1, "{error}");
        assert!(error.contains(words), "{words:?} is not in: {error}");
    };
    let whole = fs::read(&dat).unwrap();
    for cut in (0..whole.len()).step_by(97) {
        refused(&whole[..cut], "truncated");
    }
    for number in [i32::MIN, -1, 0, i32::MAX] {
        let mut bytes = whole.clone();
        bytes[4..8].copy_from_slice(&number.to_le_bytes());
        refused(&bytes, "length of a name");
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        refused(&bytes, "llama-imatrix");
    }
    let mut bytes = whole.clone();
    bytes[9] = 0xff;
    refused(&bytes, "UTF-8");
    let whole = fs::read(&gguf).unwrap();
    for cut in (4..whole.len()).step_by(997) {
        refused(&whole[..cut], "");
    }
    // Of another model: nothing fits, or the sizes do not.
    let options = |source: &str, importance: &Path| PackOptions {
        source: fixture(source),
        out: dir.path().join("out"),
        recipe: bits(4),
        importance: Some(importance.to_owned()),
        ..PackOptions::default()
    };
    let error = flashmill_pack::plan(options("qwen3_moe", &gguf)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("another model"), "{error}");
}
