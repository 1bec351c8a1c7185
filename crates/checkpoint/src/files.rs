//! Finds a checkpoint's files and reads their headers into one table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flashmill_layout::{Extent, FileId};
use serde_json::{Map, Value};

use crate::error::CheckpointError;
use crate::fields::short;
use crate::gguf::Gguf;
use crate::header::{self, Dtype, Header};
use crate::packed;

/// One file of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes when it was opened.
    pub len: u64,
}

/// A tensor of some file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) extent: Extent,
}

/// All tensors of all files by name. Whoever uses a tensor takes it out; what is left at the end was not used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
    /// Some file's metadata say `format: mlx`.
    pub(crate) says_mlx: bool,
}

/// config.json holds one entry a quantised module at most.
const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// An index holds one line a tensor.
const MAX_INDEX_BYTES: u64 = 256 << 20;
const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a path that a user gives means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory with a config and safetensors files.
    Directory(PathBuf),
    /// A GGUF file, or one of the files of a split model.
    Gguf(PathBuf),
    /// A directory of the packed form.
    Packed(PathBuf),
}

/// A file stands for its model: a GGUF file for itself, a config, an index or a file of weights for its directory. A directory
/// without safetensors files stands for the GGUF model in it.
pub(crate) fn source(path: &Path) -> Result<Source, CheckpointError> {
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, "open", source))?;
    if metadata.is_dir() {
        if packed::is_packed(path) {
            return Ok(Source::Packed(path.to_owned()));
        }
        // An index without its files is a download that has not ended.
        let has_safetensors = path.join(INDEX).exists() || !named_shards(path)?.is_empty();
        let gguf = if has_safetensors { None } else { Gguf::in_directory(path)? };
        return Ok(gguf.map_or_else(|| Source::Directory(path.to_owned()), Source::Gguf));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(Source::Gguf(path.to_owned())),
        Some("json" | "safetensors") => {
            let dir = parent(path);
            let is_packed = packed::is_packed(&dir);
            Ok(if is_packed { Source::Packed(dir) } else { Source::Directory(dir) })
        }
        // Stores that name files by their checksum give no extension.
        _ if metadata.is_file() && starts_as_gguf(path)? => Ok(Source::Gguf(path.to_owned())),
        _ => Err(CheckpointError::UnknownFile { path: path.to_owned() }),
    }
}

fn starts_as_gguf(path: &Path) -> Result<bool, CheckpointError> {
    let (file, _) = open_file(path)?;
    let mut start = Vec::new();
    file.take(4).read_to_end(&mut start).map_err(|source| io_error(path, "read", source))?;
    Ok(start == b"GGUF")
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The config's path and bytes.
pub(crate) fn read_config(dir: &Path) -> Result<(PathBuf, Vec<u8>), CheckpointError> {
    let path = dir.join(CONFIG);
    match read_json_file(&path, MAX_CONFIG_BYTES) {
        Ok(bytes) => Ok((path, bytes)),
        Err(CheckpointError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(CheckpointError::NoConfig { dir: dir.to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// Opens every file of weights and reads its header.
pub(crate) fn open(dir: &Path) -> Result<(Vec<FileEntry>, Table), CheckpointError> {
    let (paths, index) = list(dir)?;
    let mut files = Vec::new();
    let mut headers = Vec::new();
    for path in paths {
        let (file, len) = open_file(&path)?;
        headers.push(header::read(&path, file, len)?);
        files.push(FileEntry { path, len });
    }
    let table = table(&files, headers)?;
    if let Some(index) = index {
        index.check(&files, &table)?;
    }
    Ok((files, table))
}

/// One table of all headers.
pub(crate) fn table(files: &[FileEntry], headers: Vec<Header>) -> Result<Table, CheckpointError> {
    let mut table = Table::default();
    for (i, header) in headers.into_iter().enumerate() {
        table.says_mlx |= header.format.as_deref() == Some("mlx");
        for tensor in header.tensors {
            let extent = Extent { file: FileId(i as u32), offset: tensor.offset, len: tensor.len };
            let stored = StoredTensor { dtype: tensor.dtype, shape: tensor.shape, extent };
            if let Some(other) = table.tensors.get(&tensor.name) {
                return Err(CheckpointError::TensorInTwoFiles {
                    tensor: tensor.name,
                    first: files[other.extent.file.0 as usize].path.clone(),
                    second: files[i].path.clone(),
                });
            }
            table.tensors.insert(tensor.name, stored);
        }
    }
    Ok(table)
}

/// The files of weights in the order of their names, and the index if it is what names them. As in transformers, one
/// `model.safetensors` comes before an index; without either, as in mlx-lm, every `model*.safetensors` counts.
fn list(dir: &Path) -> Result<(Vec<PathBuf>, Option<Index>), CheckpointError> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok((vec![single], None));
    }
    let path = dir.join(INDEX);
    if path.exists() {
        let bytes = read_json_file(&path, MAX_INDEX_BYTES)?;
        let index = Index::parse(&path, &bytes)?;
        let mut shards: Vec<PathBuf> = index.shard_of.values().map(|name| dir.join(name)).collect();
        shards.sort();
        shards.dedup();
        if let Some(shard) = shards.iter().find(|shard| !shard.exists()) {
            return Err(CheckpointError::MissingShard { shard: shard.clone(), named_by: path });
        }
        return Ok((shards, Some(index)));
    }
    let shards = named_shards(dir)?;
    check_counted(dir, &shards)?;
    match shards.is_empty() {
        false => Ok((shards, None)),
        true => Err(CheckpointError::NoWeights { dir: dir.to_owned() }),
    }
}

/// Every `model*.safetensors` of a directory, by name.
fn named_shards(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let unreadable = |source| io_error(dir, "list", source);
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors")) {
            shards.push(entry.path());
        }
    }
    shards.sort();
    Ok(shards)
}

/// Files named `model-00002-of-00005.safetensors` say how many there must be.
fn check_counted(dir: &Path, shards: &[PathBuf]) -> Result<(), CheckpointError> {
    for path in shards {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((start, count)) = name.rsplit_once("-of-") else { continue };
        let Some((start, _)) = start.rsplit_once('-') else { continue };
        let width = count.len();
        // Five digits as everyone writes them; more would be no count of files.
        let Some(n) = count.parse::<u32>().ok().filter(|_| width <= 5) else { continue };
        for i in 1..=n {
            let shard = dir.join(format!("{start}-{i:0width$}-of-{count}.safetensors"));
            if !shards.contains(&shard) {
                return Err(CheckpointError::MissingShard { shard, named_by: path.clone() });
            }
        }
    }
    Ok(())
}

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    shard_of: BTreeMap<String, String>,
}

impl Index {
    /// Reads the bytes of an index; `path` is for messages.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Index, CheckpointError> {
        let wrong = |value: &Value, expected| CheckpointError::FieldType {
            path: path.to_owned(),
            field: "weight_map".to_owned(),
            value: short(value),
            expected,
        };
        let json: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|source| CheckpointError::Json { path: path.to_owned(), source })?;
        let map = json.get("weight_map").ok_or_else(|| CheckpointError::FieldMissing {
            path: path.to_owned(),
            field: "weight_map".to_owned(),
        })?;
        let mut shard_of = BTreeMap::new();
        for (tensor, file) in map.as_object().ok_or_else(|| wrong(map, "an object"))? {
            let name = file.as_str().ok_or_else(|| wrong(file, "a file name"))?;
            if !is_plain_name(name) {
                let (tensor, file) = (tensor.clone(), short(file));
                return Err(CheckpointError::IndexPath { path: path.to_owned(), tensor, file });
            }
            shard_of.insert(tensor.clone(), name.to_owned());
        }
        if shard_of.is_empty() {
            return Err(wrong(map, "an object that names at least one tensor"));
        }
        Ok(Index { path: path.to_owned(), shard_of })
    }

    /// Every tensor lies where the index says.
    fn check(&self, files: &[FileEntry], table: &Table) -> Result<(), CheckpointError> {
        for (tensor, shard) in &self.shard_of {
            let place = table.tensors.get(tensor).map(|stored| &files[stored.extent.file.0 as usize].path);
            if place.and_then(|path| path.file_name()) != Some(shard.as_ref()) {
                return Err(CheckpointError::NotInShard {
                    shard: self.path.with_file_name(shard),
                    tensor: tensor.clone(),
                    index: self.path.clone(),
                });
            }
        }
        Ok(())
    }
}

/// A name that stays in its directory on every system.
fn is_plain_name(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(bad) && name.len() <= 255
}

pub(crate) fn open_file(path: &Path) -> Result<(File, u64), CheckpointError> {
    // Asked before opening: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, "open", source))?;
    if !metadata.is_file() {
        return Err(CheckpointError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(|source| io_error(path, "open", source))?;
    Ok((file, metadata.len()))
}

fn read_json_file(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let (file, len) = open_file(path)?;
    if len > limit {
        return Err(CheckpointError::FileTooLong { path: path.to_owned(), len, limit });
    }
    let mut bytes = Vec::new();
    // The file may have grown since.
    file.take(limit).read_to_end(&mut bytes).map_err(|source| io_error(path, "read", source))?;
    Ok(bytes)
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), action, source }
}
