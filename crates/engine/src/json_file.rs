//! Reading the small text files beside a model, with a bound on their size.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::EngineError;

/// The largest configuration file that is read, in bytes.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;

/// The text of `path`, or `None` if there is no such file.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, EngineError> {
    let read_error = |source| EngineError::Read { path: path.to_owned(), source };
    let bytes = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(error)),
    };
    if bytes > limit {
        return Err(EngineError::FileTooLarge { path: path.to_owned(), bytes, limit });
    }
    fs::read_to_string(path).map(Some).map_err(read_error)
}

/// `path` as JSON, or `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<Option<T>, EngineError> {
    let Some(text) = read_text(path, limit)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(EngineError::Json { path: path.to_owned(), source }),
    }
}
