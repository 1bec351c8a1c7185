//! Packing a fixture into a fresh directory, and reading what lies there.

use std::path::{Path, PathBuf};

use flashmill_checkpoint::Checkpoint;
use flashmill_checkpoint::packed::{TrunkItem, trunk_items};
use flashmill_layout::Extent;
use flashmill_pack::{Bits, PackError, PackOptions, PackReport, RecipeOptions};
use tempfile::TempDir;

pub(crate) const SAFETENSORS: [&str; 5] =
    ["qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_5_moe_mlx2", "qwen3_next", "qwen3_moe"];

/// A model that this program reads.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    match dir.join("model.gguf") {
        gguf if gguf.exists() => gguf,
        _ => dir,
    }
}

pub(crate) fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn bits(bits: u8) -> RecipeOptions {
    let bits = if bits == 16 { Bits::Float } else { Bits::Affine(bits) };
    RecipeOptions { bits: Some(bits), ..RecipeOptions::default() }
}

pub(crate) fn pack(source: &Path, out: &Path, recipe: RecipeOptions) -> Result<PackReport, PackError> {
    let options =
        PackOptions { source: source.to_owned(), out: out.to_owned(), recipe, ..PackOptions::default() };
    flashmill_pack::pack(&flashmill_pack::plan(options)?, &|_, _| ())
}

/// A packed fixture; the directory is its `out`.
pub(crate) fn packed(name: &str, recipe: RecipeOptions) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    pack(&fixture(name), &out, recipe).unwrap_or_else(|error| panic!("{name}: {error}"));
    dir
}

pub(crate) fn bytes(checkpoint: &Checkpoint, extent: Extent) -> Vec<u8> {
    let all = std::fs::read(&checkpoint.files()[extent.file.0 as usize].path).unwrap();
    all[extent.offset as usize..extent.end() as usize].to_vec()
}

/// The parts of every matrix of the model, by name: those of the trunk, and all experts of a layer.
pub(crate) fn matrices(checkpoint: &Checkpoint) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut all = Vec::new();
    for (name, item) in trunk_items(checkpoint.trunk()) {
        if let TrunkItem::Matrix(matrix) = item {
            let part = |runs: &Vec<Extent>| runs.iter().flat_map(|&run| bytes(checkpoint, run)).collect();
            all.push((name, matrix.parts.iter().map(part).collect()));
        }
    }
    for layer in 0..checkpoint.spec().layers.len() {
        let runs = checkpoint.bundle_extents(layer);
        all.push((
            format!("experts of {layer}"),
            runs.into_iter().map(|run| bytes(checkpoint, run)).collect(),
        ));
    }
    all
}
