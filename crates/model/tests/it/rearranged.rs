//! GPTQ and AWQ fixtures with their words rearranged to affine groups, as `pack` does it, in the form of MLX's tensors.

use std::fs;
use std::path::Path;

use flashmill_checkpoint::{Checkpoint, MatrixRef};
use flashmill_layout::{Encoding, Extent, Float};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

use crate::fixture;

struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// A directory with the fixture's goldens and a model that has the same values in every weight.
pub(crate) fn rearranged(name: &str) -> TempDir {
    let (from, to) = (fixture::path(name), tempfile::tempdir().expect("a directory"));
    for golden in ["golden.json", "golden.safetensors"] {
        fs::copy(from.join(golden), to.path().join(golden)).expect("the fixture has goldens");
    }
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).expect("a config")).expect("JSON");
    let config = config.as_object_mut().expect("an object");
    config.remove("quantization_config");
    config.insert("quantization".to_owned(), serde_json::json!({"bits": 4, "group_size": 32}));
    fs::write(to.path().join("config.json"), serde_json::to_vec(config).expect("JSON"))
        .expect("it is written");

    let file = fs::read(from.join("model.safetensors")).expect("one file of weights");
    let mut tensors = plain_tensors(&file);
    let checkpoint = Checkpoint::open_to_pack(&from).unwrap_or_else(|error| panic!("{name}: {error}"));
    for layer in 0..checkpoint.spec().layers.len() {
        for expert in 0..checkpoint.spec().moe.expect("experts").n_experts {
            let glu = checkpoint.bundle(layer, expert).glu;
            for matrix in [glu.gate, glu.up, glu.down] {
                tensors.extend(affine_tensors(&file, &matrix));
            }
        }
    }
    write(&to.path().join("model.safetensors"), &tensors);
    to
}

/// What is not in words.
fn plain_tensors(file: &[u8]) -> Vec<Tensor> {
    let stored = SafeTensors::deserialize(file).expect("safetensors");
    let in_words =
        |name: &str| [".qweight", ".qzeros", ".scales", ".g_idx"].iter().any(|part| name.ends_with(part));
    let tensor = |(name, view): (String, TensorView<'_>)| Tensor {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        data: view.data().to_vec(),
    };
    stored.tensors().into_iter().filter(|(name, _)| !in_words(name)).map(tensor).collect()
}

/// Codes, scales and biases of a matrix of words.
fn affine_tensors(file: &[u8], matrix: &MatrixRef) -> [Tensor; 3] {
    let transposed = matrix.transposed.expect("a matrix of words");
    let bytes = |run: &Extent| &file[run.offset as usize..run.end() as usize];
    let stored: Vec<&[u8]> = matrix.parts.iter().map(|part| bytes(&part[0])).collect();
    let parts = transposed.affine_parts(&matrix.shape, &stored).unwrap_or_else(|error| panic!("{error}"));
    let Encoding::Affine(affine) = matrix.shape.encoding else { panic!("{matrix:?}") };
    let float = match affine.scales {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::BF16 => Dtype::BF16,
    };
    let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
    let groups = cols / usize::from(affine.group);
    let module = matrix.name.rsplit_once('.').expect("a module and a part").0;
    let [codes, scales, biases] = parts;
    [
        ("weight", Dtype::U32, cols * usize::from(affine.bits) / 32, codes),
        ("scales", float, groups, scales),
        ("biases", float, groups, biases),
    ]
    .map(|(part, dtype, width, data)| Tensor {
        name: format!("{module}.{part}"),
        dtype,
        shape: vec![rows, width],
        data,
    })
}

fn write(path: &Path, tensors: &[Tensor]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data).expect("as many bytes");
        (tensor.name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).expect("it is written");
}
