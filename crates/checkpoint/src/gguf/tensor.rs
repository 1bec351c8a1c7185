use std::io::Read;

use flashmill_layout::GgmlType;

use super::error::Problem;
use super::source::Source;

/// Dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// Bytes of a tensor's name; ggml itself stops at 63.
const MAX_NAME_BYTES: u64 = 1024;

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    dims: [u64; MAX_RANK as usize],
    n_dims: u32,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// One that weights are read from.
    Weights(GgmlType),
    /// One that models of ours have no use for.
    Other {
        /// Its name.
        name: &'static str,
        /// Values of a block.
        block_values: u64,
        /// Bytes of a block.
        block_bytes: u64,
    },
}

impl Tensor {
    /// Sizes, the fastest first: the values of a row come first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.n_dims as usize]
    }

    /// Reads one description; `offset` is still from the start of the data. The type and shape are checked, the place is not.
    pub(super) fn read<R: Read>(source: &mut Source<R>) -> Result<Tensor, Problem> {
        let tensor = source.string(Some(MAX_NAME_BYTES))?;
        let n_dims = source.u32()?;
        if n_dims > MAX_RANK {
            return Err(Problem::Rank { tensor, n_dims });
        }
        let mut dims = [1; MAX_RANK as usize];
        for dim in &mut dims[..n_dims as usize] {
            *dim = source.u64()?;
        }
        let code = source.u32()?;
        let offset = source.u64()?;
        let Some(ty) = TensorType::from_code(code) else {
            return Err(Problem::UnknownType { tensor, code });
        };
        let block = ty.block_values();
        if dims[0] % block != 0 {
            return Err(Problem::PartialBlock { tensor, ty: ty.name(), cols: dims[0], block });
        }
        let blocks = dims[1..].iter().try_fold(dims[0] / block, |product, &dim| product.checked_mul(dim));
        let len = blocks.and_then(|blocks| blocks.checked_mul(ty.block_bytes())).filter(|&len| len > 0);
        let Some(len) = len else {
            return Err(Problem::Shape { tensor, dims: dims[..n_dims as usize].to_vec() });
        };
        Ok(Tensor { name: tensor, ty, dims, n_dims, offset, len })
    }
}

impl TensorType {
    /// The type whose number is `code` (`ggml_type` of ggml.h).
    fn from_code(code: u32) -> Option<TensorType> {
        let other = |name, block_values, block_bytes| TensorType::Other { name, block_values, block_bytes };
        GgmlType::from_code(code).map(TensorType::Weights).or(match code {
            9 => Some(other("Q8_1", 32, 40)),
            15 => Some(other("Q8_K", 256, 292)),
            24 => Some(other("I8", 1, 1)),
            25 => Some(other("I16", 1, 2)),
            26 => Some(other("I32", 1, 4)),
            27 => Some(other("I64", 1, 8)),
            28 => Some(other("F64", 1, 8)),
            41 => Some(other("Q1_0", 128, 18)),
            _ => None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::Weights(ty) => ty.name(),
            TensorType::Other { name, .. } => name,
        }
    }

    fn block_values(self) -> u64 {
        match self {
            TensorType::Weights(ty) => ty.block_values() as u64,
            TensorType::Other { block_values, .. } => block_values,
        }
    }

    fn block_bytes(self) -> u64 {
        match self {
            TensorType::Weights(ty) => ty.block_bytes() as u64,
            TensorType::Other { block_bytes, .. } => block_bytes,
        }
    }
}
