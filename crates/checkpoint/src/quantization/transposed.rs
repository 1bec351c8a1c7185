//! `quant_method: gptq` and `awq`.

use flashmill_layout::Float;
use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::Fields;
use crate::transposed::{Transposed, Words};

/// What the config says about all quantised modules. Which they are, the tensors say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    words: Words,
    bits: u8,
    /// `None`: one group, the whole row.
    group: Option<usize>,
    symmetric: bool,
}

impl Settings {
    /// For a matrix of `cols` inputs with scales of this type.
    pub(crate) fn of(&self, cols: usize, scales: Float, has_order: bool) -> Transposed {
        let Settings { words, bits, group, symmetric } = *self;
        Transposed { words, bits, group: group.unwrap_or(cols), scales, symmetric, has_order }
    }

    /// The name of the method.
    pub(crate) fn method(&self) -> &'static str {
        match self.words {
            Words::Gptq { .. } => "GPTQ",
            Words::Awq => "AWQ",
        }
    }
}

/// Reads the settings of GPTQ.
pub(super) fn gptq(
    fields: &mut Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
) -> Result<Settings, CheckpointError> {
    let bits = bits(fields, name, map, &[2, 4, 8], "2, 4, 8")?;
    let group = group(fields, name, map)?;
    let zero_offset = match map.get("checkpoint_format").map(Value::as_str) {
        None | Some(Some("gptq")) => 1,
        Some(Some("gptq_v2")) => 0,
        _ => return Err(unsupported(fields, name, map, "checkpoint_format", "gptq, gptq_v2")),
    };
    // Groups of columns that are not neighbours.
    if map.get("desc_act").is_some_and(|value| *value != Value::Bool(false)) {
        return Err(unsupported(fields, name, map, "desc_act", "false"));
    }
    if map.get("pack_dtype").is_some_and(|value| value != "int32") {
        return Err(unsupported(fields, name, map, "pack_dtype", "int32"));
    }
    let symmetric = flag(fields, name, map, "sym")?.unwrap_or(true);
    dynamic(fields, name, map)?;
    Ok(Settings { words: Words::Gptq { zero_offset }, bits, group, symmetric })
}

/// Reads the settings of AWQ.
pub(super) fn awq(
    fields: &mut Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
) -> Result<Settings, CheckpointError> {
    let bits = bits(fields, name, map, &[4], "4")?;
    let group = group(fields, name, map)?;
    if map.get("version").and_then(Value::as_str).is_some_and(|version| !version.eq_ignore_ascii_case("gemm"))
    {
        return Err(unsupported(fields, name, map, "version", "gemm"));
    }
    if flag(fields, name, map, "zero_point")? == Some(false) {
        return Err(unsupported(fields, name, map, "zero_point", "true"));
    }
    Ok(Settings { words: Words::Awq, bits, group, symmetric: false })
}

/// `dynamic` maps patterns of modules to settings of their own. `-:` leaves modules alone, and so do they who have no settings;
/// other bits or groups for some modules are not read.
fn dynamic(fields: &Fields<'_>, name: &str, map: &Map<String, Value>) -> Result<(), CheckpointError> {
    let Some(Value::Object(patterns)) = map.get("dynamic") else { return Ok(()) };
    for (pattern, settings) in patterns {
        let none = settings.is_null() || settings.as_object().is_some_and(Map::is_empty);
        if !pattern.starts_with("-:") && !none {
            let field = format!("{name}.dynamic.{pattern}");
            return Err(fields.unsupported(&field, settings, "patterns that start with -:"));
        }
    }
    Ok(())
}

fn bits(
    fields: &Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
    allowed: &[u8],
    supported: &'static str,
) -> Result<u8, CheckpointError> {
    let found = map.get("bits").and_then(Value::as_u64);
    let known = allowed.iter().copied().find(|&bits| found == Some(u64::from(bits)));
    known.ok_or_else(|| unsupported(fields, name, map, "bits", supported))
}

fn group(
    fields: &Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
) -> Result<Option<usize>, CheckpointError> {
    match map.get("group_size").and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        Some(group @ 32..=65_536) if group % 32 == 0 => Ok(Some(group as usize)),
        _ => Err(unsupported(fields, name, map, "group_size", "-1, 32, 64, 128 and multiples of it")),
    }
}

fn flag(
    fields: &Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
    key: &str,
) -> Result<Option<bool>, CheckpointError> {
    let Some(value) = map.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
    let wrong = || fields.wrong_type(&format!("{name}.{key}"), value, "true or false");
    value.as_bool().ok_or_else(wrong).map(Some)
}

fn unsupported(
    fields: &Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
    key: &str,
    supported: &'static str,
) -> CheckpointError {
    fields.unsupported(&format!("{name}.{key}"), map.get(key).unwrap_or(&Value::Null), supported)
}
