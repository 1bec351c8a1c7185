//! GGUF metadata by key, with errors that name the file and the key.

use std::path::{Path, PathBuf};

use flashmill_checkpoint::CheckpointError;
use flashmill_checkpoint::gguf::{self, Array, Metadata, Strings, Value};

use crate::EngineError;

/// The metadata of a GGUF file.
pub(crate) struct GgufKeys {
    path: PathBuf,
    metadata: Metadata,
}

impl GgufKeys {
    /// Reads a file's header.
    pub(crate) fn open(path: &Path) -> Result<GgufKeys, EngineError> {
        let metadata = gguf::read_metadata(path).map_err(CheckpointError::from)?;
        Ok(GgufKeys::new(path, metadata))
    }

    /// `path` is for messages.
    pub(crate) fn new(path: &Path, metadata: Metadata) -> GgufKeys {
        GgufKeys { path: path.to_owned(), metadata }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, EngineError> {
        self.get(key, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, EngineError> {
        self.get(key, "a bool", Value::as_bool)
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        self.get(key, "a number", Value::as_f64)
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&Strings>, EngineError> {
        self.get(key, "an array of strings", Value::as_strings)
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<&Array>, EngineError> {
        self.get(key, "an array", Value::as_array)
    }

    /// A value that must be there.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, EngineError> {
        value.ok_or_else(|| EngineError::MetadataMissing { path: self.path.clone(), key: key.to_owned() })
    }

    /// An error about a key's value.
    pub(crate) fn wrong(&self, key: &str, found: impl ToString, expected: &'static str) -> EngineError {
        EngineError::Field {
            path: self.path.clone(),
            field: key.to_owned(),
            found: found.to_string(),
            expected,
        }
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, EngineError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, value, expected))
    }
}
