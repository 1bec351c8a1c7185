//! The `quantization` setting of MLX files: bits and group size for all modules, and for single ones.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::{Fields, short};
use crate::names;

/// Bits and group size of each module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mlx {
    base: Affine,
    /// By the module's path below the model's prefix.
    modules: HashMap<String, Override>,
}

/// What the config says about one module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Override {
    /// These bits and this group size.
    Affine(Affine),
    /// It is not quantised.
    None,
    /// A mode that is not read: the field's name and the mode as JSON.
    OtherMode(String, String),
}

/// MLX's affine mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affine {
    pub(crate) bits: u8,
    pub(crate) group: u16,
}

impl Mlx {
    /// The settings of a module, by its path as the tensors' names have it.
    pub(crate) fn of(&self, module: &str) -> Override {
        let found = self.modules.get(names::below_prefix(module));
        found.cloned().unwrap_or(Override::Affine(self.base))
    }
}

/// The settings in `map`, the config's object `name`.
pub(super) fn parse(
    fields: &mut Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
) -> Result<Mlx, CheckpointError> {
    if let Some(mode) = other_mode(map) {
        return Err(fields.unsupported(&format!("{name}.mode"), mode, "affine"));
    }
    let base = affine(fields, name, map, None)?;
    let mut modules = HashMap::new();
    for (module, value) in map {
        if matches!(module.as_str(), "bits" | "group_size" | "mode") {
            continue;
        }
        let field = format!("{name}.{module}");
        let setting = match value {
            Value::Bool(true) => Override::Affine(base),
            Value::Bool(false) | Value::Null => Override::None,
            Value::Object(map) => match other_mode(map) {
                Some(mode) => Override::OtherMode(fields.full_name(&format!("{field}.mode")), short(mode)),
                // Where an entry is silent, MLX takes its own default, not the base.
                None => Override::Affine(affine(fields, &field, map, Some(Affine { bits: 4, group: 64 }))?),
            },
            // Other tools' remarks beside the settings, such as "linear_class".
            _ => {
                fields.note_ignored(&field, value);
                continue;
            }
        };
        let path = names::below_prefix(module).to_owned();
        match modules.get(&path) {
            Some(other) if *other != setting => {
                return Err(fields.unsupported(&field, value, "one setting for each module"));
            }
            _ => modules.insert(path, setting),
        };
    }
    Ok(Mlx { base, modules })
}

fn other_mode(map: &Map<String, Value>) -> Option<&Value> {
    map.get("mode").filter(|mode| !mode.is_null() && mode.as_str() != Some("affine"))
}

fn affine(
    fields: &Fields<'_>,
    name: &str,
    map: &Map<String, Value>,
    default: Option<Affine>,
) -> Result<Affine, CheckpointError> {
    let number = |key: &str, default: Option<u16>, allowed: &[u16], supported| {
        let field = format!("{name}.{key}");
        let Some(value) = map.get(key).filter(|value| !value.is_null()) else {
            return default.ok_or_else(|| fields.missing(&field));
        };
        let number = value.as_u64().ok_or_else(|| fields.wrong_type(&field, value, "a whole number"))?;
        let known = allowed.iter().find(|&&known| u64::from(known) == number);
        known.copied().ok_or_else(|| fields.unsupported(&field, value, supported))
    };
    let bits = number("bits", default.map(|d| d.bits.into()), &[2, 3, 4, 5, 6, 8], "2, 3, 4, 5, 6, 8")?;
    let group = number("group_size", default.map(|d| d.group), &[32, 64, 128], "32, 64, 128")?;
    Ok(Affine { bits: bits as u8, group })
}
