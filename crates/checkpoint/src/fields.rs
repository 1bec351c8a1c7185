//! Typed reading of a JSON object's fields, which remembers what was read so that the rest can be listed.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::note::Note;

/// The fields of one object of a config. `null` is the same as absent.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// What stands before a field's name in messages: empty, or `text_config.`.
    scope: &'static str,
    map: &'a Map<String, Value>,
    read: BTreeSet<&'static str>,
    notes: Vec<Note>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, scope: &'static str, map: &'a Map<String, Value>) -> Self {
        Fields { path, scope, map, read: BTreeSet::new(), notes: Vec::new() }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The field's name as messages write it: on one line, since a name may come from the file.
    pub(crate) fn full_name(&self, name: &str) -> String {
        cut(one_line(&format!("{}{name}", self.scope)))
    }

    /// The value, if there is one that is not `null`.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.read.insert(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Notes a field of an inner object that nothing reads.
    pub(crate) fn note_ignored(&mut self, name: &str, value: &Value) {
        let note = Note::IgnoredField { field: self.full_name(name), value: short(value) };
        self.notes.push(note);
    }

    /// A number within `min..=max`; absent, `default` (and a note says so) if there is one.
    pub(crate) fn size(
        &mut self,
        name: &'static str,
        default: Option<usize>,
        (min, max): (usize, usize),
    ) -> Result<usize, CheckpointError> {
        match self.value(name) {
            Some(value) => self.bounded(name, value, (min, max)),
            None => {
                let default = default.ok_or_else(|| self.missing(name))?;
                self.notes.push(Note::DefaultedField { field: name, value: default.to_string() });
                Ok(default)
            }
        }
    }

    /// A whole number of any field as `usize` within `min..=max`.
    pub(crate) fn bounded(
        &self,
        name: &str,
        value: &Value,
        (min, max): (usize, usize),
    ) -> Result<usize, CheckpointError> {
        let number = value.as_u64().ok_or_else(|| self.wrong_type(name, value, "a whole number"))?;
        match usize::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(CheckpointError::FieldRange {
                path: self.path.to_owned(),
                field: self.full_name(name),
                value: number.to_string(),
                min: min as u64,
                max: max as u64,
            }),
        }
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, CheckpointError> {
        self.value(name)
            .map(|value| value.as_bool().ok_or_else(|| self.wrong_type(name, value, "true or false")))
            .transpose()
    }

    /// A flag whose absence has a meaning worth a note.
    pub(crate) fn flag_or(&mut self, name: &'static str, default: bool) -> Result<bool, CheckpointError> {
        Ok(self.flag(name)?.unwrap_or_else(|| {
            self.notes.push(Note::DefaultedField { field: name, value: default.to_string() });
            default
        }))
    }

    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<f64>, CheckpointError> {
        self.value(name)
            .map(|value| value.as_f64().ok_or_else(|| self.wrong_type(name, value, "a number")))
            .transpose()
    }

    /// Notes that a number's default was taken.
    pub(crate) fn note_defaulted(&mut self, name: &'static str, value: impl ToString) {
        self.notes.push(Note::DefaultedField { field: name, value: value.to_string() });
    }

    pub(crate) fn list(&mut self, name: &'static str) -> Result<Option<&'a [Value]>, CheckpointError> {
        self.value(name)
            .map(|value| match value {
                Value::Array(list) => Ok(list.as_slice()),
                _ => Err(self.wrong_type(name, value, "a list")),
            })
            .transpose()
    }

    pub(crate) fn object(
        &mut self,
        name: &'static str,
    ) -> Result<Option<&'a Map<String, Value>>, CheckpointError> {
        self.value(name)
            .map(|value| value.as_object().ok_or_else(|| self.wrong_type(name, value, "an object")))
            .transpose()
    }

    pub(crate) fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::FieldMissing { path: self.path.to_owned(), field: self.full_name(name) }
    }

    pub(crate) fn wrong_type(&self, name: &str, value: &Value, expected: &'static str) -> CheckpointError {
        CheckpointError::FieldType {
            path: self.path.to_owned(),
            field: self.full_name(name),
            value: short(value),
            expected,
        }
    }

    pub(crate) fn unsupported(&self, name: &str, value: &Value, supported: &'static str) -> CheckpointError {
        CheckpointError::FieldUnsupported {
            path: self.path.to_owned(),
            field: self.full_name(name),
            value: short(value),
            supported,
        }
    }

    pub(crate) fn disagree(
        &self,
        (field, value): (&str, usize),
        (other, other_value): (&str, usize),
        rule: &'static str,
    ) -> CheckpointError {
        CheckpointError::FieldsDisagree {
            path: self.path.to_owned(),
            field: self.full_name(field),
            value,
            other: self.full_name(other),
            other_value,
            rule,
        }
    }

    /// Notes on every field that was neither read nor is in `bookkeeping`, and on the defaults that were taken.
    pub(crate) fn into_notes(self, bookkeeping: &[&str]) -> Vec<Note> {
        let mut notes: Vec<Note> = self
            .map
            .iter()
            .filter(|(name, value)| {
                !value.is_null()
                    && !self.read.contains(name.as_str())
                    && !bookkeeping.contains(&name.as_str())
            })
            .map(|(name, value)| Note::IgnoredField { field: self.full_name(name), value: short(value) })
            .collect();
        notes.extend(self.notes);
        notes
    }
}

/// A value as JSON on one line, cut to some 120 characters.
pub(crate) fn short(value: &Value) -> String {
    // A config is bounded, so is this string; it is only made for fields that end in a message.
    cut(value.to_string())
}

/// Text with its control characters escaped.
fn one_line(text: &str) -> String {
    let escaped = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        match escaped(char) {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
    line
}

/// Text cut to some 120 characters.
pub(crate) fn cut(mut text: String) -> String {
    const MAX: usize = 120;
    if let Some((at, _)) = text.char_indices().nth(MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}
