//! The parsers of outside bytes as functions of bytes, for the fuzz targets. Not part of the library's promise.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::files::{self, FileEntry, Index};
use crate::{config, header};

/// A safetensors file that starts with `bytes` and is `file_len` long: every tensor it accepts lies inside the file.
pub fn safetensors_header(bytes: &[u8], file_len: u64) -> Result<(), CheckpointError> {
    let header = header::read(Path::new("fuzz.safetensors"), bytes, file_len)?;
    for tensor in &header.tensors {
        let end = tensor.offset.checked_add(tensor.len).expect("an accepted tensor's end fits 64 bits");
        assert!(tensor.offset >= 8 && end <= file_len, "{tensor:?} lies outside a file of {file_len} bytes");
    }
    Ok(())
}

/// A config.
pub fn config(bytes: &[u8]) -> Result<(), CheckpointError> {
    config::parse(Path::new("config.json"), bytes).map(|_| ())
}

/// An index.
pub fn index(bytes: &[u8]) -> Result<(), CheckpointError> {
    Index::parse(Path::new("model.safetensors.index.json"), bytes).map(|_| ())
}

/// A whole checkpoint of one file: a config, and the file's header with the file's length in front of its bytes.
pub fn describe(config: &[u8], file: &[u8], file_len: u64) -> Result<Checkpoint, CheckpointError> {
    let (dir, path) = (PathBuf::from("."), PathBuf::from("config.json"));
    let config = config::parse(&path, config)?;
    let files = vec![FileEntry { path: PathBuf::from("model.safetensors"), len: file_len }];
    let table = files::table(&files, vec![header::read(&files[0].path, file, file_len)?])?;
    Checkpoint::describe(dir, &path, config, files, table)
}
