//! The rotary embedding's settings, in their old and new forms.

use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::Fields;

/// Theta and the number of rotated values of a head. Without a `default_factor` the whole head is rotated and the config's
/// factor is not read.
///
/// As in transformers, a `rope_scaling` that holds anything replaces
/// `rope_parameters`, and the fields at top level fill in what the object leaves out.
pub(crate) fn parse(
    fields: &mut Fields<'_>,
    head_dim: usize,
    default_factor: Option<f64>,
) -> Result<(f64, usize), CheckpointError> {
    const SUPPORTED: &str = "default";
    let scaling = fields.object("rope_scaling")?.filter(|map| !map.is_empty());
    let (name, object) = match scaling {
        Some(map) => ("rope_scaling", Some(map)),
        None => ("rope_parameters", fields.object("rope_parameters")?),
    };
    let empty = Map::new();
    let object = object.unwrap_or(&empty);
    let get = |key: &str| object.get(key).filter(|value| !value.is_null());
    for key in ["rope_type", "type"] {
        match get(key) {
            Some(value) if value.as_str() == Some("default") => break,
            Some(value) => return Err(fields.unsupported(&format!("{name}.{key}"), value, SUPPORTED)),
            None => {}
        }
    }
    // One object a kind of layer: transformers has it, these families do not.
    for key in ["full_attention", "linear_attention"] {
        if let Some(value) = get(key) {
            return Err(fields.unsupported(&format!("{name}.{key}"), value, "one object for all layers"));
        }
    }
    // The sections say which frequencies follow an image's rows and columns; in text all three positions are equal.
    const READ: [&str; 6] =
        ["rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"];
    for (key, value) in object.iter().filter(|(key, _)| !READ.contains(&key.as_str())) {
        fields.note_ignored(&format!("{name}.{key}"), value);
    }

    let number = |fields: &mut Fields<'_>, key: &'static str| match get(key) {
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| fields.wrong_type(&format!("{name}.{key}"), value, "a number")),
        None => fields.number(key),
    };
    let theta = number(fields, "rope_theta")?.unwrap_or_else(|| {
        fields.note_defaulted("rope_theta", 10_000);
        10_000.0
    });
    if !(theta.is_finite() && theta > 0.0) {
        return Err(fields.unsupported("rope_theta", &Value::from(theta), "a positive number"));
    }
    let Some(default_factor) = default_factor else {
        return match head_dim % 2 {
            0 => Ok((theta, head_dim)),
            _ => Err(fields.unsupported("head_dim", &Value::from(head_dim), "an even number")),
        };
    };
    let factor = number(fields, "partial_rotary_factor")?.unwrap_or(default_factor);
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0) || rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        return Err(fields.unsupported(
            "partial_rotary_factor",
            &Value::from(factor),
            "a part of head_dim, above 0 and at most 1, that is an even number of values",
        ));
    }
    Ok((theta, rotary_dim))
}
