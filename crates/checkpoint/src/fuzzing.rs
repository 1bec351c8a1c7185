//! The parsers of outside bytes as functions of bytes, for the fuzz targets. Not part of the library's promise.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::files::{self, FileEntry, Index};
use crate::packed::{self, MANIFEST, Manifest};
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

/// A packed model: a manifest, and the headers of its files in the order in which they are read, the trunk first. A header that
/// is missing is empty.
pub fn packed(manifest: &[u8], headers: &[&[u8]]) -> Result<Checkpoint, CheckpointError> {
    let path = Path::new(MANIFEST);
    let manifest = Manifest::parse(path, manifest)?;
    let mut headers = headers.iter();
    let parts = packed::open_parts(path, manifest, |name| {
        let path = PathBuf::from(name);
        let json = headers.next().copied().unwrap_or(b"{}");
        let start = [&(json.len() as u64).to_le_bytes()[..], json].concat();
        let len = (start.len() as u64).saturating_add(last_offset(json));
        let header = header::read(&path, &start[..], len)?;
        Ok((FileEntry { path, len }, header))
    })?;
    Ok(Checkpoint::of_packed(PathBuf::from("."), parts))
}

/// The largest number that stands before a `]`: the length that a header's own offsets ask for, so that inputs get past the
/// check for truncation.
pub fn last_offset(header: &[u8]) -> u64 {
    let digits = |end: usize| {
        let start = header[..end].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |at| at + 1);
        std::str::from_utf8(&header[start..end]).ok()?.parse::<u64>().ok()
    };
    let ends = header.iter().enumerate().filter(|(_, byte)| **byte == b']').map(|(at, _)| at);
    ends.filter_map(digits).filter(|&n| n < 1 << 40).max().unwrap_or(0)
}
