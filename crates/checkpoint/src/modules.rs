//! Finds single modules among the tensors: a matrix plain or quantised, a stack of matrices, a vector. Every shape is checked
//! against the model's, every type against what its role allows.

use std::path::{Path, PathBuf};

use flashmill_layout::{Affine, Encoding, Extent, Float, MatrixShape};

use crate::error::CheckpointError;
use crate::files::{FileEntry, StoredTensor, Table};
use crate::quantization::{Override, Quantization};
use crate::transposed::Transposed;
use crate::weights::{MatrixRef, VectorMap, VectorRef};

mod fp8;
mod transposed;

/// The tensors of a checkpoint, on the way from names to roles.
pub(crate) struct Modules<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) config_path: &'a Path,
    pub(crate) files: &'a [FileEntry],
    pub(crate) table: Table,
    pub(crate) quantization: Option<&'a Quantization>,
}

/// A matrix, or a stack of equal matrices one after the other, as whole tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// The tensor of values or codes.
    pub(crate) name: String,
    /// One matrix.
    pub(crate) shape: MatrixShape,
    /// One run a part: all matrices of the stack.
    pub(crate) parts: Vec<Extent>,
    /// As in [`MatrixRef`]; never a stack.
    pub(crate) transposed: Option<Transposed>,
}

const FLOATS: &str = "F32, F16 or BF16";
const CODES: &str = "U32 codes of a quantised weight";

impl Modules<'_> {
    pub(crate) fn contains(&self, tensor: &str) -> bool {
        self.table.tensors.contains_key(tensor)
    }

    /// The matrix of a linear layer or an embedding.
    pub(crate) fn matrix(
        &mut self,
        module: &str,
        (rows, cols): (usize, usize),
        needed_by: &'static str,
    ) -> Result<MatrixRef, CheckpointError> {
        let stored = self.stored(module, &format!("{module}.weight"), None, (rows, cols), needed_by)?;
        Ok(stored.whole())
    }

    /// `weight`, one matrix or a stack of `n`, with the scales and biases that may stand beside it under the module's name.
    pub(crate) fn stored(
        &mut self,
        module: &str,
        weight: &str,
        n: Option<usize>,
        (rows, cols): (usize, usize),
        needed_by: &'static str,
    ) -> Result<Stored, CheckpointError> {
        let lead: Vec<u64> = n.map(|n| n as u64).into_iter().collect();
        let dims = |last: u64| [lead.as_slice(), &[rows as u64, last]].concat();
        if let Some(settings) = self.transposed_settings(module).filter(|_| n.is_none()) {
            return self.transposed(module, settings, (rows, cols));
        }
        let tensor = self.take(weight, needed_by)?;
        if self.is_fp8(weight, &tensor) {
            return self.fp8(weight, tensor, &lead, (rows, cols));
        }
        let scales_name = format!("{module}.scales");
        if !self.contains(&scales_name) {
            let float = self.float(weight, &tensor)?;
            self.expect_shape(weight, &tensor, &dims(cols as u64))?;
            let encoding = Encoding::Float(float);
            let shape = MatrixShape { rows, cols, encoding };
            let (name, parts) = (weight.to_owned(), vec![tensor.extent]);
            return Ok(Stored { name, shape, parts, transposed: None });
        }

        let biases_name = format!("{module}.biases");
        let scales = self.take(&scales_name, needed_by)?;
        let biases = self.take(&biases_name, "the quantised weight beside it")?;
        if tensor.dtype.name() != "U32" {
            return Err(self.wrong_dtype(weight, &tensor, CODES));
        }
        let scale_type = self.float(&scales_name, &scales)?;
        if biases.dtype != scales.dtype {
            let expected = "the same type as the scales beside it";
            return Err(self.wrong_dtype(&biases_name, &biases, expected));
        }
        let (bits, group) = self.affine(module, weight, &tensor)?;
        if cols % usize::from(group) != 0 {
            let path = self.path_of(&tensor);
            return Err(CheckpointError::QuantGroups { path, tensor: weight.to_owned(), cols, group });
        }
        let words = cols as u64 * u64::from(bits) / 32;
        let groups = cols as u64 / u64::from(group);
        for (name, tensor, last) in
            [(weight, &tensor, words), (&scales_name, &scales, groups), (&biases_name, &biases, groups)]
        {
            let expected = dims(last);
            if tensor.shape != expected {
                return Err(CheckpointError::QuantShape {
                    path: self.path_of(tensor),
                    tensor: name.to_owned(),
                    shape: tensor.shape.clone(),
                    bits,
                    group,
                    expected,
                });
            }
        }
        let encoding = Encoding::Affine(Affine { bits, group, scales: scale_type });
        let parts = vec![tensor.extent, scales.extent, biases.extent];
        let shape = MatrixShape { rows, cols, encoding };
        Ok(Stored { name: weight.to_owned(), shape, parts, transposed: None })
    }

    /// A small tensor of the given shape.
    pub(crate) fn vector(
        &mut self,
        name: &str,
        shape: &[usize],
        map: VectorMap,
        needed_by: &'static str,
    ) -> Result<VectorRef, CheckpointError> {
        let tensor = self.take(name, needed_by)?;
        let float = self.float(name, &tensor)?;
        let expected: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
        self.expect_shape(name, &tensor, &expected)?;
        let len = shape.iter().product();
        Ok(VectorRef { name: name.to_owned(), float, len, extent: tensor.extent, map })
    }

    /// Bits and group size of a module that has scales.
    fn affine(
        &self,
        module: &str,
        weight: &str,
        tensor: &StoredTensor,
    ) -> Result<(u8, u16), CheckpointError> {
        match self.quantization.and_then(Quantization::mlx).map(|mlx| mlx.of(module)) {
            Some(Override::Affine(affine)) => Ok((affine.bits, affine.group)),
            Some(Override::OtherMode(field, value)) => Err(CheckpointError::FieldUnsupported {
                path: self.config_path.to_owned(),
                field,
                value,
                supported: "affine",
            }),
            Some(Override::None) | None => Err(CheckpointError::QuantSettingsMissing {
                path: self.path_of(tensor),
                tensor: weight.to_owned(),
                config: self.config_path.to_owned(),
            }),
        }
    }

    pub(crate) fn take(
        &mut self,
        tensor: &str,
        needed_by: &'static str,
    ) -> Result<StoredTensor, CheckpointError> {
        self.table.tensors.remove(tensor).ok_or_else(|| CheckpointError::MissingTensor {
            dir: self.dir.to_owned(),
            tensor: tensor.to_owned(),
            needed_by,
        })
    }

    fn float(&self, name: &str, tensor: &StoredTensor) -> Result<Float, CheckpointError> {
        tensor.dtype.float().ok_or_else(|| self.wrong_dtype(name, tensor, FLOATS))
    }

    /// The error for rows that cannot be taken apart because they share scales.
    pub(crate) fn torn(&self, stored: &Stored) -> CheckpointError {
        let path = self.path(stored.parts[0]);
        CheckpointError::SharedScales { path, tensor: stored.name.clone() }
    }

    fn wrong_dtype(&self, name: &str, tensor: &StoredTensor, expected: &'static str) -> CheckpointError {
        CheckpointError::WrongDtype {
            path: self.path_of(tensor),
            tensor: name.to_owned(),
            dtype: tensor.dtype.name(),
            expected,
        }
    }

    fn expect_shape(
        &self,
        name: &str,
        tensor: &StoredTensor,
        expected: &[u64],
    ) -> Result<(), CheckpointError> {
        match tensor.shape == expected {
            true => Ok(()),
            false => Err(CheckpointError::WrongShape {
                path: self.path_of(tensor),
                tensor: name.to_owned(),
                shape: tensor.shape.clone(),
                expected: expected.to_vec(),
            }),
        }
    }

    pub(crate) fn path_of(&self, tensor: &StoredTensor) -> PathBuf {
        self.path(tensor.extent)
    }

    pub(crate) fn path(&self, extent: Extent) -> PathBuf {
        self.files[extent.file.0 as usize].path.clone()
    }
}

impl Stored {
    /// The one matrix of a tensor that is no stack.
    pub(crate) fn whole(self) -> MatrixRef {
        let parts = self.parts.into_iter().map(|extent| vec![extent]).collect();
        MatrixRef { name: self.name, shape: self.shape, parts, transposed: self.transposed }
    }

    /// The rows of `runs`, each a first row and a number of rows, as a matrix of its own. Neighbouring runs become one. `None`
    /// where that would tear rows apart that share their scales or words.
    pub(crate) fn gather(&self, runs: impl Iterator<Item = (usize, usize)>) -> Option<MatrixRef> {
        if self.transposed.is_some() {
            return None;
        }
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (first, n) in runs {
            match merged.last_mut() {
                Some((start, len)) if *start + *len == first => *len += n,
                _ => merged.push((first, n)),
            }
        }
        let rows = merged.iter().map(|&(_, n)| n).sum();
        let part = |(i, extent): (usize, &Extent)| -> Option<Vec<Extent>> {
            let shared = self.shape.encoding.rows_of_part_row(i);
            // A run that is followed by another must fill its last row of the part.
            let before_last = &merged[..merged.len().saturating_sub(1)];
            let whole = before_last.iter().all(|(_, n)| n.is_multiple_of(shared));
            let slice = |&(first, n): &(usize, usize)| self.slice(i, extent, first, n);
            whole.then(|| merged.iter().map(slice).collect())?
        };
        Some(MatrixRef {
            name: self.name.clone(),
            shape: MatrixShape { rows, ..self.shape },
            parts: self.parts.iter().enumerate().map(part).collect::<Option<_>>()?,
            transposed: None,
        })
    }

    /// The bytes of rows `first..first + n` of the first matrix in part `part`, which lies at `extent`.
    pub(crate) fn slice(&self, part: usize, extent: &Extent, first: usize, n: usize) -> Option<Extent> {
        let range = self.shape.part_range(part, first, n)?;
        Some(extent.slice(range.start as u64, range.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use flashmill_layout::FileId;

    use super::*;

    /// 500 rows of 256 columns in FP8: four rows of two scales, the last for 116 rows only.
    #[test]
    fn rows_are_gathered_with_their_scales_or_not_at_all() {
        let extent = |offset, len| Extent { file: FileId(0), offset, len };
        let shape = MatrixShape { rows: 500, cols: 256, encoding: Encoding::Fp8 { scales: Float::BF16 } };
        let parts = vec![extent(1000, 500 * 256), extent(7, 4 * 2 * 2)];
        let stored = Stored { name: "w".to_owned(), shape, parts, transposed: None };
        let gathered = stored.gather([(256, 128), (0, 64), (64, 64)].into_iter()).expect("whole blocks");
        assert_eq!(gathered.shape.rows, 256);
        assert_eq!(gathered.parts[0], [extent(1000 + 256 * 256, 128 * 256), extent(1000, 128 * 256)]);
        assert_eq!(gathered.parts[1], [extent(7 + 8, 4), extent(7, 4)]);
        // The short block may only come last: behind it the rows would meet the wrong scales.
        let last = stored.gather([(0, 128), (384, 116)].into_iter()).expect("the short block last");
        assert_eq!(last.parts[1], [extent(7, 4), extent(7 + 12, 4)]);
        for torn in
            [vec![(384, 116), (0, 128)], vec![(0, 64)], vec![(64, 128)], vec![(0, 128), (128 + 64, 64)]]
        {
            assert_eq!(stored.gather(torn.clone().into_iter()), None, "{torn:?}");
        }
    }
}
