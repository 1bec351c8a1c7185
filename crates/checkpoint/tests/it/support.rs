//! Reading what a description points at, and building small checkpoints on disk.

use std::fs;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::{Checkpoint, MatrixRef, VectorMap, VectorRef};
use flashmill_layout::{Extent, MatrixView};

/// The repository's fixture of this name.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The bytes of an extent.
pub(crate) fn bytes(checkpoint: &Checkpoint, extent: Extent) -> Vec<u8> {
    let file = &checkpoint.files()[extent.file.0 as usize];
    let all = fs::read(&file.path).expect("the file can be read");
    assert_eq!(all.len() as u64, file.len, "{}", file.path.display());
    all[extent.offset as usize..extent.end() as usize].to_vec()
}

/// All values of a matrix, row by row, through layout's own decoder.
pub(crate) fn decode(checkpoint: &Checkpoint, matrix: &MatrixRef) -> Vec<f32> {
    let parts: Vec<Vec<u8>> = matrix
        .parts
        .iter()
        .map(|runs| runs.iter().flat_map(|&run| bytes(checkpoint, run)).collect())
        .collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let view = MatrixView::new(matrix.shape, &parts);
    let mut values = vec![0.0; matrix.shape.rows * matrix.shape.cols];
    for (row, out) in values.chunks_mut(matrix.shape.cols).enumerate() {
        view.decode_row(row, out);
    }
    values
}

/// All values of a vector, mapped.
pub(crate) fn values(checkpoint: &Checkpoint, vector: &VectorRef) -> Vec<f32> {
    let bytes = bytes(checkpoint, vector.extent);
    assert_eq!(bytes.len(), vector.len * vector.float.bytes(), "{}", vector.name);
    (0..vector.len)
        .map(|i| vector.float.get(&bytes, i))
        .map(|w| match vector.map {
            VectorMap::Identity => w,
            VectorMap::OnePlus => 1.0 + w,
            VectorMap::NegExp => -w.exp(),
        })
        .collect()
}
