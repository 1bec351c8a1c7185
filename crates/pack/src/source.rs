use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use flashmill_checkpoint::packed::{TrunkItem, trunk_items};
use flashmill_checkpoint::transposed::Transposed;
use flashmill_checkpoint::{Checkpoint, Convention, MatrixRef, ModelSpec, VectorMap, VectorRef};
use flashmill_layout::{Extent, FileId, MatrixShape};
use flashmill_store::{Files, StoreError};

use crate::error::PackError;

/// A matrix that can be packed.
///
/// Its shape names the encoding that holds it without any change: its own where there is one, otherwise the one that a
/// lossless rearrangement leads to. Values follow from the parts, so that parts are all that a source gives.
pub trait SourceMatrix: Send + Sync {
    /// The tensor's name in the source, for messages.
    fn name(&self) -> &str;

    /// Rows, columns and encoding.
    fn shape(&self) -> MatrixShape;

    /// Bytes `offset..offset + out.len()` of part `part`, in which all rows lie one after the other.
    fn read_part(&self, part: usize, offset: u64, out: &mut [u8]) -> Result<(), PackError>;
}

/// A weight of the trunk.
pub enum Item {
    /// A matrix; [`Source::matrix`] opens it.
    Matrix(MatrixRef),
    /// A vector; [`Source::vector`] reads it.
    Vector(VectorRef),
}

/// A model that can be packed.
pub struct Source {
    checkpoint: Checkpoint,
    bytes: Arc<Bytes>,
    /// The directory or the GGUF file, canonical.
    path: PathBuf,
}

/// Where the weights are read.
enum Bytes {
    /// All files are there.
    Here(Files),
    /// They come and go; an entry a file, of one file.
    Arriving(Vec<RwLock<Option<Files>>>),
}

impl Bytes {
    /// # Panics
    /// If the file has not arrived.
    fn read_exact(&self, extent: Extent, into: &mut [u8]) -> Result<(), StoreError> {
        match self {
            Bytes::Here(files) => files.read_exact(extent, into),
            Bytes::Arriving(files) => {
                let file = files[extent.file.0 as usize].read().unwrap_or_else(PoisonError::into_inner);
                let file = file.as_ref().expect("a task begins when its files are here");
                file.read_exact(Extent { file: FileId(0), ..extent }, into)
            }
        }
    }
}

impl Source {
    /// Opens a model that this program reads, in place or not.
    pub fn open(path: &Path) -> Result<Source, PackError> {
        let checkpoint = Checkpoint::open_to_pack(path)?;
        let paths: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
        let bytes = Bytes::Here(Files::open(&paths)?);
        Source::new(path, checkpoint, bytes)
    }

    /// The same for files that hold their headers and are as long as they will be; their weights come later.
    pub fn open_arriving(path: &Path) -> Result<Source, PackError> {
        let checkpoint = Checkpoint::open_to_pack(path)?;
        let bytes = Bytes::Arriving(checkpoint.files().iter().map(|_| RwLock::new(None)).collect());
        Source::new(path, checkpoint, bytes)
    }

    fn new(path: &Path, checkpoint: Checkpoint, bytes: Bytes) -> Result<Source, PackError> {
        // A config or a file of weights stands for its directory, a GGUF file for itself.
        let path = match checkpoint.convention() {
            Convention::LlamaCpp => path,
            Convention::HuggingFace | Convention::Mlx | Convention::Packed => checkpoint.dir(),
        };
        let io = |source| PackError::Io { path: path.to_owned(), action: "find", source };
        let path = std::fs::canonicalize(path).map_err(io)?;
        Ok(Source { checkpoint, bytes: Arc::new(bytes), path })
    }

    /// Whether the files come later.
    pub(crate) fn is_arriving(&self) -> bool {
        matches!(*self.bytes, Bytes::Arriving(_))
    }

    /// A file is whole and lies at `path`; without one it is here no more.
    pub(crate) fn set_file(&self, file: usize, path: Option<&Path>) -> Result<(), PackError> {
        let Bytes::Arriving(files) = &*self.bytes else { return Ok(()) };
        let open = path.map(|path| Files::open(&[path.to_owned()])).transpose()?;
        *files[file].write().unwrap_or_else(PoisonError::into_inner) = open;
        Ok(())
    }

    /// Name of the directory or file.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What was opened, canonical.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the files say.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        self.checkpoint.spec()
    }

    /// The trunk's weights by their names in the packed form, in the order of its manifest.
    pub fn trunk(&self) -> Vec<(String, Item)> {
        let item = |item| match item {
            TrunkItem::Matrix(matrix) => Item::Matrix(matrix.clone()),
            TrunkItem::Vector(vector) => Item::Vector(vector.clone()),
        };
        trunk_items(self.checkpoint.trunk()).into_iter().map(|(name, found)| (name, item(found))).collect()
    }

    /// Shapes of gate, up and down of a layer's experts; `None` where it is dense.
    pub fn expert_shapes(&self, layer: usize) -> Option<[MatrixShape; 3]> {
        self.checkpoint.bundle_shapes(layer)
    }

    /// Gate, up and down of an expert; [`Source::matrix`] opens them.
    pub fn expert(&self, layer: usize, expert: usize) -> [MatrixRef; 3] {
        let glu = self.checkpoint.bundle(layer, expert).glu;
        [glu.gate, glu.up, glu.down]
    }

    /// Opens a matrix to be read. One whose words run across its rows is read and rearranged here.
    pub fn matrix(&self, matrix: MatrixRef) -> Result<Box<dyn SourceMatrix>, PackError> {
        Ok(match matrix.transposed {
            None => Box::new(Stored { files: self.bytes.clone(), matrix }),
            Some(words) => Box::new(Rearranged::new(&self.bytes, matrix, words)?),
        })
    }

    /// The values of a vector that the formulas use, as F32 bytes.
    pub fn vector(&self, vector: &VectorRef) -> Result<Vec<u8>, PackError> {
        let VectorRef { float, len, extent, map, .. } = *vector;
        let mut bytes = vec![0; len * float.bytes()];
        self.bytes.read_exact(extent, &mut bytes)?;
        let value = |i| match (float.get(&bytes, i), map) {
            (value, VectorMap::Identity) => value,
            (value, VectorMap::OnePlus) => 1.0 + value,
            (value, VectorMap::NegExp) => -value.exp(),
        };
        Ok((0..len).flat_map(|i| f32::to_le_bytes(value(i))).collect())
    }
}

/// A matrix whose parts lie in the files as they are.
struct Stored {
    files: Arc<Bytes>,
    matrix: MatrixRef,
}

impl SourceMatrix for Stored {
    fn name(&self) -> &str {
        &self.matrix.name
    }

    fn shape(&self) -> MatrixShape {
        self.matrix.shape
    }

    fn read_part(&self, part: usize, offset: u64, out: &mut [u8]) -> Result<(), PackError> {
        let (mut at, mut done) = (0, 0);
        for &run in &self.matrix.parts[part] {
            let first = (offset + done as u64).saturating_sub(at);
            if first < run.len && done < out.len() {
                let n = ((run.len - first) as usize).min(out.len() - done);
                let extent: Extent = run.slice(first, n as u64);
                self.files.read_exact(extent, &mut out[done..done + n])?;
                done += n;
            }
            at += run.len;
        }
        assert_eq!(done, out.len(), "the bytes asked for lie in part {part} of {}", self.matrix.name);
        Ok(())
    }
}

/// A matrix of GPTQ or AWQ, held whole in the encoding that its words became.
struct Rearranged {
    matrix: MatrixRef,
    parts: [Vec<u8>; 3],
}

impl Rearranged {
    fn new(files: &Bytes, matrix: MatrixRef, words: Transposed) -> Result<Rearranged, PackError> {
        let mut stored = Vec::with_capacity(matrix.parts.len());
        for runs in &matrix.parts {
            let mut bytes = vec![0; runs.iter().map(|run| run.len as usize).sum()];
            let mut at = 0;
            for &run in runs {
                files.read_exact(run, &mut bytes[at..at + run.len as usize])?;
                at += run.len as usize;
            }
            stored.push(bytes);
        }
        let parts = words
            .affine_parts(&matrix.shape, &stored)
            .map_err(|source| PackError::Transposed { tensor: matrix.name.clone(), source })?;
        Ok(Rearranged { matrix, parts })
    }
}

impl SourceMatrix for Rearranged {
    fn name(&self) -> &str {
        &self.matrix.name
    }

    fn shape(&self) -> MatrixShape {
        self.matrix.shape
    }

    fn read_part(&self, part: usize, offset: u64, out: &mut [u8]) -> Result<(), PackError> {
        out.copy_from_slice(&self.parts[part][offset as usize..][..out.len()]);
        Ok(())
    }
}
