//! The quantisation settings of a config: MLX's, or those of another tool, named by `quant_method`.

use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::{Fields, short};

mod fp8;
mod mlx;
mod transposed;

pub(crate) use mlx::{Mlx, Override};
pub(crate) use transposed::Settings as TransposedSettings;

/// How the config says that weights are quantised.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Quantization {
    /// MLX's affine groups.
    Mlx(Mlx),
    /// FP8 in blocks of 128 x 128. Which modules are, their tensors' types say.
    Fp8,
    /// GPTQ or AWQ. Which modules are, their tensors' names say.
    Transposed(TransposedSettings),
}

impl Quantization {
    /// MLX's settings, if they are that.
    pub(crate) fn mlx(&self) -> Option<&Mlx> {
        match self {
            Quantization::Mlx(mlx) => Some(mlx),
            Quantization::Fp8 | Quantization::Transposed(_) => None,
        }
    }

    /// The settings of GPTQ or AWQ, if they are that.
    pub(crate) fn transposed(&self) -> Option<TransposedSettings> {
        match self {
            Quantization::Transposed(settings) => Some(*settings),
            Quantization::Mlx(_) | Quantization::Fp8 => None,
        }
    }
}

/// The settings of a config's object, if it has any. `quantization` is MLX's; `quantization_config` is MLX's copy of it, or
/// names the method of another tool.
pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Option<Quantization>, CheckpointError> {
    let mlx = fields.object("quantization")?;
    let config = fields.object("quantization_config")?;
    let (name, map) = match (mlx, config) {
        (Some(map), _) => ("quantization", map),
        (None, Some(map)) => ("quantization_config", map),
        (None, None) => return Ok(None),
    };
    let Some(method) = map.get("quant_method").filter(|value| !value.is_null()) else {
        return mlx::parse(fields, name, map).map(Quantization::Mlx).map(Some);
    };
    match method.as_str() {
        Some("fp8") => {
            fp8::check(fields, name, map)?;
            Ok(Some(Quantization::Fp8))
        }
        Some("gptq") => transposed::gptq(fields, name, map).map(Quantization::Transposed).map(Some),
        Some("awq") => transposed::awq(fields, name, map).map(Quantization::Transposed).map(Some),
        _ => Err(not_read(fields, name, map, method)),
    }
}

/// The error for a method that is not read: what the format is, and what to use instead.
fn not_read(fields: &Fields<'_>, name: &str, map: &Map<String, Value>, method: &Value) -> CheckpointError {
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let format = match method.as_str() {
        Some("compressed-tensors") if text("format").contains("nvfp4") => "NVFP4 of compressed-tensors",
        Some("compressed-tensors") if text("format").contains("pack") => {
            "packed integers of compressed-tensors"
        }
        Some("compressed-tensors") => "a format of compressed-tensors",
        Some("modelopt" | "modelopt_fp4") if text("quant_algo") != "FP8" => "NVFP4 of NVIDIA's ModelOpt",
        Some("modelopt") => "FP8 of NVIDIA's ModelOpt, with a scale for each tensor",
        Some("bitsandbytes") => "bitsandbytes",
        Some("exl2" | "exl3") => "EXL of ExLlama",
        _ => "a method that is not known",
    };
    CheckpointError::QuantMethodNotRead {
        path: fields.path().to_owned(),
        field: fields.full_name(&format!("{name}.quant_method")),
        method: short(method),
        format,
    }
}
