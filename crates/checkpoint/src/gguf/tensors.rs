//! The tensors of a model on the way from names to roles: each is taken once, its shape checked against the metadata's sizes and
//! its type against what its role allows.

use std::collections::BTreeMap;

use flashmill_layout::{Encoding, Extent, FileId, MatrixShape};

use super::error::Problem;
use super::files::Gguf;
use super::tensor::{Tensor, TensorType};
use crate::modules::Stored;
use crate::weights::{MatrixRef, VectorMap, VectorRef};

/// The tensors that no role has taken yet, by name.
pub(super) struct Tensors<'a> {
    left: BTreeMap<&'a str, (FileId, &'a Tensor)>,
}

impl<'a> Tensors<'a> {
    pub(super) fn of(gguf: &'a Gguf) -> Self {
        Tensors {
            left: gguf.tensors().map(|(file, tensor)| (tensor.name.as_str(), (file, tensor))).collect(),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Sizes of a tensor that is still there, fastest first.
    pub(super) fn dims(&self, name: &str) -> Option<&'a [u64]> {
        self.left.get(name).map(|(_, tensor)| tensor.dims())
    }

    /// What nobody took, by name.
    pub(super) fn left(&self) -> impl Iterator<Item = &'a Tensor> + '_ {
        self.left.values().map(|(_, tensor)| *tensor)
    }

    /// A matrix, or a stack of `n` of them.
    pub(super) fn stored(
        &mut self,
        name: &str,
        n: Option<usize>,
        (rows, cols): (usize, usize),
        needed_by: &'static str,
    ) -> Result<Stored, Problem> {
        let (file, tensor) = self.take(name, &[cols, rows, n.unwrap_or(1)], needed_by)?;
        let encoding = match tensor.ty {
            TensorType::Weights(ty) => Some(Encoding::of_ggml(ty)),
            TensorType::Other { .. } => None,
        };
        let expected = "a type that weights are read from";
        let encoding = encoding.ok_or_else(|| wrong_type(tensor, expected))?;
        let extent = Extent { file, offset: tensor.offset, len: tensor.len };
        let shape = MatrixShape { rows, cols, encoding };
        Ok(Stored { name: name.to_owned(), shape, parts: vec![extent], transposed: None })
    }

    /// A single matrix.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        shape: (usize, usize),
        needed_by: &'static str,
    ) -> Result<MatrixRef, Problem> {
        Ok(self.stored(name, None, shape, needed_by)?.whole())
    }

    /// A small tensor; `dims` are fastest first.
    pub(super) fn vector(
        &mut self,
        name: &str,
        dims: &[usize],
        needed_by: &'static str,
    ) -> Result<VectorRef, Problem> {
        let (file, tensor) = self.take(name, dims, needed_by)?;
        let float = match tensor.ty {
            TensorType::Weights(ty) => ty.float(),
            TensorType::Other { .. } => None,
        };
        let float = float.ok_or_else(|| wrong_type(tensor, "F32, F16 or BF16"))?;
        let extent = Extent { file, offset: tensor.offset, len: tensor.len };
        // The converter has added the 1 to norms and made A_log the factor of the decay.
        let (len, map) = (dims.iter().product(), VectorMap::Identity);
        Ok(VectorRef { name: name.to_owned(), float, len, extent, map })
    }

    /// Sizes of 1 at the end may be there or not.
    fn take(
        &mut self,
        name: &str,
        dims: &[usize],
        needed_by: &'static str,
    ) -> Result<(FileId, &'a Tensor), Problem> {
        let missing = || Problem::MissingTensor { tensor: name.to_owned(), needed_by };
        let (file, tensor) = self.left.remove(name).ok_or_else(missing)?;
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        match without_ones(tensor.dims()) == without_ones(&expected) {
            true => Ok((file, tensor)),
            false => {
                let (tensor, dims) = (name.to_owned(), tensor.dims().to_vec());
                let expected = without_ones(&expected).to_vec();
                Err(Problem::WrongShape { tensor, dims, expected })
            }
        }
    }
}

fn without_ones(dims: &[u64]) -> &[u64] {
    let len = dims.iter().rposition(|&dim| dim != 1).map_or(0, |last| last + 1);
    &dims[..len]
}

fn wrong_type(tensor: &Tensor, expected: &'static str) -> Problem {
    Problem::WrongType { tensor: tensor.name.clone(), ty: tensor.ty.name(), expected }
}
