//! `quant_method: fp8` as transformers and vLLM write it: E4M3 weights with a scale for each block of 128 x 128.

use serde_json::{Map, Value, json};

use crate::error::CheckpointError;
use crate::fields::Fields;

/// Checks the settings that change what the weights mean. The lists of modules that are left alone are not needed: a tensor's
/// type says whether it is FP8.
pub(super) fn check(
    fields: &mut Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
) -> Result<(), CheckpointError> {
    let field = |key: &str| format!("{name}.{key}");
    let blocks = map.get("weight_block_size").unwrap_or(&Value::Null);
    if *blocks != json!([128, 128]) {
        return Err(fields.unsupported(&field("weight_block_size"), blocks, "[128, 128]"));
    }
    for (key, value) in map {
        match (key.as_str(), value) {
            ("quant_method" | "weight_block_size", _) | (_, Value::Null) => {}
            ("modules_to_not_convert" | "ignored_layers", _) => {}
            ("weight_per_tensor" | "act_per_tensor", Value::Bool(false)) => {}
            ("weight_per_tensor", _) => return Err(fields.unsupported(&field(key), value, "false")),
            ("fmt", Value::String(fmt)) if fmt == "e4m3" => {}
            ("fmt", _) => return Err(fields.unsupported(&field(key), value, "e4m3")),
            // Activations are not rounded to 8 bits here, whatever the file suggests.
            _ => fields.note_ignored(&field(key), value),
        }
    }
    Ok(())
}
