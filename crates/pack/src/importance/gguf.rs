//! The newer form, a GGUF file: for each matrix `NAME.in_sum2`, the sums of squares `[n_matrices, n_inputs]`, and `NAME.counts`,
//! how many rows went into them, `[n_matrices, 1]`, both F32 (`tools/imatrix` of github.com/ggml-org/llama.cpp).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::gguf::{Gguf, Tensor, TensorType};
use flashmill_layout::{Extent, GgmlType};
use flashmill_store::Files;

use super::{Counts, Entry, ImportanceProblem, failed};
use crate::error::PackError;

/// Matrices of one name, at most: the experts of a layer.
const MAX_MATRICES: u64 = 1 << 16;

/// Names and places.
pub(super) fn entries(path: &Path) -> Result<HashMap<String, Entry>, PackError> {
    let gguf = Gguf::open(path)?;
    if gguf.files().len() != 1 {
        return Err(failed(path, ImportanceProblem::Unknown));
    }
    let files = Files::open(&[PathBuf::from(path)])?;
    let mut counts = HashMap::new();
    for (file, tensor) in gguf.tensors() {
        let Some(name) = tensor.name.strip_suffix(".counts") else { continue };
        check_type(path, tensor)?;
        if tensor.len / 4 > MAX_MATRICES {
            return Err(failed(
                path,
                ImportanceProblem::Tensor { tensor: tensor.name.clone(), what: "has too many values" },
            ));
        }
        let mut bytes = vec![0; tensor.len as usize];
        files.read_exact(Extent { file, offset: tensor.offset, len: tensor.len }, &mut bytes)?;
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("4 bytes"));
        counts.insert(name, bytes.chunks_exact(4).map(number).collect::<Vec<f32>>());
    }
    let mut entries = HashMap::new();
    for (_, tensor) in gguf.tensors() {
        let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
        check_type(path, tensor)?;
        let Some(counts) = counts.remove(name) else {
            return Err(failed(
                path,
                ImportanceProblem::Tensor { tensor: tensor.name.clone(), what: "has no counts" },
            ));
        };
        let entry = Entry { offset: tensor.offset, n_values: tensor.len / 4, counts: Counts::Each(counts) };
        entries.insert(name.to_owned(), entry);
    }
    match entries.is_empty() {
        false => Ok(entries),
        true => Err(failed(path, ImportanceProblem::Unknown)),
    }
}

fn check_type(path: &Path, tensor: &Tensor) -> Result<(), PackError> {
    match tensor.ty == TensorType::Weights(GgmlType::F32) {
        true => Ok(()),
        false => {
            Err(failed(path, ImportanceProblem::Tensor { tensor: tensor.name.clone(), what: "is not F32" }))
        }
    }
}
