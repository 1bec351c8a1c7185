//! FP8 weights: E4M3 codes, and beside them `weight_scale_inv`, which multiplies in spite of its name.

use flashmill_layout::{Encoding, FP8_BLOCK, MatrixShape};

use super::{Modules, Stored};
use crate::error::CheckpointError;
use crate::files::StoredTensor;
use crate::quantization::Quantization;

impl Modules<'_> {
    /// Whether a weight, or what stands beside it, says FP8.
    pub(super) fn is_fp8(&self, weight: &str, tensor: &StoredTensor) -> bool {
        tensor.dtype.name() == "F8_E4M3" || self.contains(&scales_of(weight))
    }

    /// The matrix, or stack of `lead[0]` matrices, of an FP8 weight. Read without its scales it would be silently wrong, so
    /// both or none must be there.
    pub(super) fn fp8(
        &mut self,
        weight: &str,
        tensor: StoredTensor,
        lead: &[u64],
        (rows, cols): (usize, usize),
    ) -> Result<Stored, CheckpointError> {
        let scales_name = scales_of(weight);
        let Some(scales) = self.table.tensors.remove(&scales_name) else {
            let (path, tensor) = (self.path_of(&tensor), weight.to_owned());
            return Err(CheckpointError::ScalesMissing { path, tensor, scales: scales_name });
        };
        if tensor.dtype.name() != "F8_E4M3" {
            let expected = "F8_E4M3, since scales of FP8 blocks stand beside it";
            return Err(self.wrong_dtype(weight, &tensor, expected));
        }
        if self.quantization != Some(&Quantization::Fp8) {
            return Err(CheckpointError::QuantSettingsMissing {
                path: self.path_of(&tensor),
                tensor: weight.to_owned(),
                config: self.config_path.to_owned(),
            });
        }
        let float = self.float(&scales_name, &scales)?;
        let blocks = |size: usize| size.div_ceil(FP8_BLOCK) as u64;
        self.expect_shape(weight, &tensor, &[lead, &[rows as u64, cols as u64]].concat())?;
        self.expect_shape(&scales_name, &scales, &[lead, &[blocks(rows), blocks(cols)]].concat())?;
        let shape = MatrixShape { rows, cols, encoding: Encoding::Fp8 { scales: float } };
        let parts = vec![tensor.extent, scales.extent];
        Ok(Stored { name: weight.to_owned(), shape, parts, transposed: None })
    }
}

fn scales_of(weight: &str) -> String {
    format!("{weight}_scale_inv")
}
