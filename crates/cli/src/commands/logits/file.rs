//! A safetensors file whose tensors are known by shape before their rows are.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

/// Element types that are written; all have four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F32,
    I32,
}

/// A tensor to come.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Writes rows in any order. The file appears under its name only when it is complete.
pub(super) struct TensorFile {
    target: PathBuf,
    file: NamedTempFile,
    tensors: Vec<Tensor>,
    /// First byte of each tensor.
    offsets: Vec<u64>,
}

impl TensorFile {
    /// Makes room for `tensors` beside `target`.
    pub(super) fn create(target: &Path, tensors: Vec<Tensor>) -> Result<TensorFile> {
        let cannot = || format!("cannot write {}", target.display());
        // A link is written through, a device or pipe gets the bytes at the end.
        let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        let directory = match target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) if !is_special(&target) => parent.to_owned(),
            _ => std::env::temp_dir(),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".flashmill-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(directory).map_err(error_of).with_context(cannot)?;
        let header = header(&tensors);
        file.write_all(&header).map_err(error_of).with_context(cannot)?;
        let mut at = header.len() as u64;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            offsets.push(at);
            at += bytes_of(tensor);
        }
        Ok(TensorFile { target, file, tensors, offsets })
    }

    /// Writes rows of a tensor from row `first` on.
    ///
    /// # Panics
    /// If there is no such tensor, or the rows do not lie in it.
    pub(super) fn write_f32(&mut self, name: &str, first: usize, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write(name, Dtype::F32, first, &bytes)
    }

    /// The same for whole numbers.
    pub(super) fn write_i32(&mut self, name: &str, first: usize, values: &[i32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write(name, Dtype::I32, first, &bytes)
    }

    fn write(&mut self, name: &str, dtype: Dtype, first: usize, bytes: &[u8]) -> Result<()> {
        let at = self.tensors.iter().position(|tensor| tensor.name == name);
        let at = at.unwrap_or_else(|| panic!("the file has no tensor {name}"));
        let tensor = &self.tensors[at];
        assert_eq!(tensor.dtype, dtype, "type of {name}");
        let begin = 4 * (first * tensor.cols) as u64;
        assert!(begin + bytes.len() as u64 <= bytes_of(tensor), "rows beyond the end of {name}");
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(self.offsets[at] + begin))
            .and_then(|_| file.write_all(bytes))
            .with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// Puts the file in its place.
    pub(super) fn finish(self) -> Result<()> {
        let cannot = || format!("cannot write {}", self.target.display());
        if is_special(&self.target) {
            let mut from = self.file.reopen().with_context(cannot)?;
            let mut to = File::options().write(true).open(&self.target).with_context(cannot)?;
            io::copy(&mut from, &mut to).with_context(cannot)?;
            return Ok(());
        }
        self.file.as_file().sync_all().with_context(cannot)?;
        let target = self.target.clone();
        self.file
            .persist(&target)
            .map_err(|error| error.error)
            .with_context(|| format!("cannot write {}", target.display()))?;
        Ok(())
    }
}

/// Something that a rename must not replace.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// `tempfile` adds the path of its own file, which is of no interest.
fn error_of(error: io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error)
}

fn bytes_of(tensor: &Tensor) -> u64 {
    4 * tensor.rows as u64 * tensor.cols as u64
}

/// Length (8 bytes), then JSON, padded with spaces so that the data starts at a multiple of 8.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut map = Map::new();
    let mut at = 0;
    for tensor in tensors {
        let dtype = match tensor.dtype {
            Dtype::F32 => "F32",
            Dtype::I32 => "I32",
        };
        let end = at + bytes_of(tensor);
        map.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": [tensor.rows, tensor.cols], "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut json = Value::Object(map).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tensors() -> Vec<Tensor> {
        let tensor = |name: &str, dtype, cols| Tensor { name: name.to_owned(), dtype, rows: 3, cols };
        vec![tensor("logits", Dtype::F32, 2), tensor("router.0.indices", Dtype::I32, 1)]
    }

    #[test]
    fn the_format() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("out.safetensors");
        let mut file = TensorFile::create(&path, tensors()).expect("created");
        assert!(!path.exists(), "not there before it is complete");
        file.write_f32("logits", 1, &[3.0, 4.0, 5.0, 6.0]).expect("written");
        file.write_i32("router.0.indices", 0, &[7, 8, 9]).expect("written");
        file.write_f32("logits", 0, &[1.0, 2.0]).expect("written");
        file.finish().expect("finished");
        let bytes = fs::read(&path).expect("a file");
        let len = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        assert_eq!(len % 8, 0);
        let header: Value = serde_json::from_slice(&bytes[8..8 + len]).expect("JSON");
        assert_eq!(header["logits"], json!({"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}));
        assert_eq!(
            header["router.0.indices"],
            json!({"dtype": "I32", "shape": [3, 1], "data_offsets": [24, 36]})
        );
        let data = &bytes[8 + len..];
        let floats: Vec<f32> =
            data[..24].chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        assert_eq!(floats, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(data[24..], [7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1, "nothing is left over");
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        drop(TensorFile::create(&directory.path().join("out"), tensors()).expect("created"));
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let real = directory.path().join("real");
        fs::write(&real, "old").expect("a file");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        TensorFile::create(&link, tensors()).expect("created").finish().expect("finished");
        assert!(link.is_symlink());
        assert_ne!(fs::read(&real).expect("a file"), b"old");
        TensorFile::create(Path::new("/dev/null"), tensors()).expect("created").finish().expect("finished");
        assert!(is_special(Path::new("/dev/null")));
    }
}
