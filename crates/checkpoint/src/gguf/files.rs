use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use flashmill_layout::FileId;

use super::error::{GgufError, Problem};
use super::header::{Header, read_header};
use super::split::SplitName;
use super::tensor::Tensor;
use super::value::Metadata;

/// A GGUF model: one file, or all files of a split one, in order. Only headers have been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    files: Vec<GgufFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub len: u64,
    /// What it says.
    pub header: Header,
}

impl Gguf {
    /// Reads the header of `path` and, if it is one of the files of a split model, of the others.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let Some(split) = SplitName::parse(path) else {
            return Gguf::new(vec![open_file(path)?]);
        };
        let mut files = Vec::new();
        for (no, part) in (1..).zip(split.paths()) {
            if !part.exists() {
                let problem = Problem::MissingSplit { no, count: split.count, name: file_name(&part) };
                return Err(GgufError::new(path, problem));
            }
            files.push(open_file(&part)?);
        }
        Gguf::new(files)
    }

    /// Checks that `files` are one model, in order.
    pub fn new(files: Vec<GgufFile>) -> Result<Gguf, GgufError> {
        assert!(!files.is_empty(), "a model has a file");
        check_splits(&files)?;
        let mut seen: HashMap<&str, &Path> = HashMap::new();
        for file in &files {
            for tensor in &file.header.tensors {
                if let Some(other) = seen.insert(&tensor.name, &file.path) {
                    let (tensor, other) = (tensor.name.clone(), other.to_owned());
                    return Err(GgufError::new(&file.path, Problem::TensorInTwoFiles { tensor, other }));
                }
            }
        }
        Ok(Gguf { files })
    }

    /// The model of a directory: the one GGUF file in it, or the first file of the one split model, whether it is there or
    /// not. Vision projectors (`mmproj`) and importance matrices (`imatrix`) do not count.
    pub fn in_directory(dir: &Path) -> Result<Option<PathBuf>, GgufError> {
        let unreadable = |source| GgufError::new(dir, Problem::Io { action: "list", source });
        let mut models = BTreeSet::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = file_name(&path).to_lowercase();
            if name.ends_with(".gguf") && !["mmproj", "imatrix"].iter().any(|other| name.contains(other)) {
                models.insert(SplitName::parse(&path).map_or(path, |split| split.path(1)));
            }
        }
        if models.len() > 1 {
            let names = models.iter().map(|path| file_name(path)).collect();
            return Err(GgufError::new(dir, Problem::SeveralModels { names }));
        }
        Ok(models.pop_first())
    }

    /// The files; a `FileId` is a place in this list.
    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// What the first file says: it holds the metadata of the whole model.
    pub fn metadata(&self) -> &Metadata {
        &self.files[0].header.metadata
    }

    /// All tensors, file by file.
    pub fn tensors(&self) -> impl Iterator<Item = (FileId, &Tensor)> + '_ {
        (0..).zip(&self.files).flat_map(|(id, file)| file.header.tensors.iter().map(move |t| (FileId(id), t)))
    }
}

/// The metadata of a GGUF file; of a split model, its first file has them.
pub fn read_metadata(path: &Path) -> Result<Metadata, GgufError> {
    open_file(path).map(|file| file.header.metadata)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn open_file(path: &Path) -> Result<GgufFile, GgufError> {
    let fail = |action| move |source| GgufError::new(path, Problem::Io { action, source });
    // Asked before opening: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(fail("open"))?;
    if !metadata.is_file() {
        return Err(GgufError::new(path, Problem::NotAFile));
    }
    let file = File::open(path).map_err(fail("open"))?;
    let len = metadata.len();
    Ok(GgufFile { path: path.to_owned(), len, header: read_header(path, file, len)? })
}

/// The numbers that llama.cpp writes into the parts: which part it is, from 0, of how many, and all tensors of the model.
fn check_splits(files: &[GgufFile]) -> Result<(), GgufError> {
    const COUNT: &str = "split.count";
    let n_files = files.len() as u64;
    for (i, file) in files.iter().enumerate() {
        let fail = |problem| Err(GgufError::new(&file.path, problem));
        let number =
            |key: &str| file.header.metadata.get(key).map(|value| (value.as_u64(), value.to_string()));
        if let Some((Some(count), _)) = number(COUNT)
            && n_files == 1
            && count > 1
        {
            return fail(Problem::SplitName { count });
        }
        // A single file need not say anything; one that a name makes part of a model must.
        for (key, expected) in [(COUNT, n_files), ("split.no", i as u64)] {
            match number(key) {
                Some((Some(found), _)) if found == expected => {}
                None if n_files == 1 => {}
                Some((_, found)) => return fail(Problem::SplitKey { key, found, expected }),
                None => return fail(Problem::MissingKey { key: key.to_owned() }),
            }
        }
        let found = files.iter().map(|file| file.header.tensors.len() as u64).sum();
        match number("split.tensors.count") {
            Some((Some(expected), _)) if expected != found => {
                return fail(Problem::SplitTensors { found, expected });
            }
            _ => {}
        }
    }
    Ok(())
}
