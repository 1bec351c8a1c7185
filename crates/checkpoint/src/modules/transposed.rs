//! GPTQ and AWQ modules: `qweight`, `qzeros`, `scales` and perhaps `g_idx` in place of `weight`.

use flashmill_layout::MatrixShape;

use super::{Modules, Stored};
use crate::error::CheckpointError;
use crate::quantization::TransposedSettings;

const WORDS: &str = "I32 words";

impl Modules<'_> {
    /// The settings, if `module` is stored in words.
    pub(super) fn transposed_settings(&self, module: &str) -> Option<TransposedSettings> {
        let settings = self.quantization?.transposed()?;
        self.contains(&format!("{module}.qweight")).then_some(settings)
    }

    /// The matrix of a module that is stored in words.
    pub(super) fn transposed(
        &mut self,
        module: &str,
        settings: TransposedSettings,
        (rows, cols): (usize, usize),
    ) -> Result<Stored, CheckpointError> {
        const BESIDE: &str = "the packed weight beside it";
        let names = ["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{module}.{part}"));
        let order = self.table.tensors.remove(&names[3]);
        let mut tensors = Vec::new();
        for name in &names[..3] {
            tensors.push(self.take(name, BESIDE)?);
        }
        let scales = self.float(&names[2], &tensors[2])?;
        let transposed = settings.of(cols, scales, order.is_some());
        tensors.extend(order);
        let path = self.path_of(&tensors[0]);
        let (tensor, bits, group) = (names[0].clone(), transposed.bits, transposed.group);
        for (i, (tensor, expected)) in tensors.iter().zip(transposed.shapes((rows, cols))).enumerate() {
            if i != 2 && tensor.dtype.name() != "I32" {
                return Err(self.wrong_dtype(&names[i], tensor, WORDS));
            }
            self.expect_shape(&names[i], tensor, &expected)?;
        }
        let encoding = transposed.encoding();
        let encoding = encoding.filter(|encoding| {
            cols.is_multiple_of(encoding.granularity()) && (cols * usize::from(bits)).is_multiple_of(32)
        });
        let Some(encoding) = encoding else {
            let group = u16::try_from(group).unwrap_or(u16::MAX);
            return Err(CheckpointError::QuantGroups { path, tensor, cols, group });
        };
        Ok(Stored {
            name: tensor,
            shape: MatrixShape { rows, cols, encoding },
            parts: tensors.iter().map(|tensor| tensor.extent).collect(),
            transposed: Some(transposed),
        })
    }
}
