use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flashmill_layout::{Extent, MatrixShape};

use crate::bundles::LayerBundles;
use crate::config::{self, Config};
use crate::error::CheckpointError;
use crate::files::{self, FileEntry, Source, Table};
use crate::gguf::{self, Gguf, GgufError, GgufModel};
use crate::modules::Modules;
use crate::names;
use crate::note::{Note, SkippedGroup};
use crate::packed::{self, Recipe};
use crate::quantization::Quantization;
use crate::spec::ModelSpec;
use crate::trunk::{self, Convention};
use crate::weights::{BundleRef, Trunk};

/// The metadata of a GGUF model whose weights are stored in another form, in a file without tensors.
const GGUF_METADATA: &str = "metadata.gguf";

/// A model, described: what it is and where each of its weights lies. Holds no open file and no weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    dir: PathBuf,
    gguf_metadata: Option<PathBuf>,
    files: Vec<FileEntry>,
    spec: ModelSpec,
    trunk: Trunk,
    bundles: Vec<Option<LayerBundles>>,
    convention: Convention,
    notes: Vec<Note>,
    /// The method whose weights cannot be used in place.
    must_be_packed: Option<&'static str>,
    recipe: Option<Recipe>,
}

impl Checkpoint {
    /// Reads the headers of a model: of a GGUF file (all files if it is one of a split model), of a directory with one GGUF
    /// model, of a packed directory, or of a Hugging Face or MLX directory and its config. A file of such a directory stands for
    /// it.
    ///
    /// # Errors
    /// If anything is missing, damaged or not supported, or the weights have to be packed first.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = Checkpoint::open_to_pack(path)?;
        match checkpoint.must_be_packed {
            Some(method) => Err(CheckpointError::MustBePacked { dir: checkpoint.dir, method }),
            None => Ok(checkpoint),
        }
    }

    /// The same, also for weights that have to be packed before they can be used: the parts of a matrix that is
    /// [`transposed`](crate::MatrixRef::transposed) are not those of its encoding.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_to_pack(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let dir = match files::source(path)? {
            Source::Gguf(path) => return Ok(Checkpoint::of_gguf(&Gguf::open(&path)?)?),
            Source::Packed(dir) => {
                let parts = packed::open(&dir)?;
                return Ok(Checkpoint::of_packed(dir, parts));
            }
            Source::Directory(dir) => dir,
        };
        let (config_path, bytes) = files::read_config(&dir)?;
        let config = config::parse(&config_path, &bytes)?;
        let (files, table) = files::open(&dir)?;
        Checkpoint::describe(dir, &config_path, config, files, table)
    }

    /// The model of GGUF headers that have been read.
    pub fn of_gguf(gguf: &Gguf) -> Result<Checkpoint, GgufError> {
        let GgufModel { spec, trunk, bundles, notes } = gguf::describe(gguf)?;
        let files: Vec<FileEntry> =
            gguf.files().iter().map(|file| FileEntry { path: file.path.clone(), len: file.len }).collect();
        Ok(Checkpoint {
            dir: files::parent(&files[0].path),
            gguf_metadata: Some(files[0].path.clone()),
            files,
            spec,
            trunk,
            bundles: bundles.into_iter().map(Some).collect(),
            convention: Convention::LlamaCpp,
            notes,
            must_be_packed: None,
            recipe: None,
        })
    }

    /// Finds each weight of the config's model in the table.
    pub(crate) fn describe(
        dir: PathBuf,
        config_path: &Path,
        config: Config,
        files: Vec<FileEntry>,
        table: Table,
    ) -> Result<Checkpoint, CheckpointError> {
        let Config { mut spec, quantization, mut notes } = config;
        let quantization = quantization.as_ref();
        let must_be_packed =
            quantization.and_then(Quantization::transposed).map(|settings| settings.method());
        let mut modules = Modules { dir: &dir, config_path, files: &files, table, quantization };
        let weights = trunk::find(&mut modules, &mut spec, &mut notes)?;
        notes.extend(leftovers(&modules)?);
        Ok(Checkpoint {
            spec,
            trunk: weights.trunk,
            bundles: weights.bundles,
            convention: weights.convention,
            notes,
            gguf_metadata: Some(dir.join(GGUF_METADATA)).filter(|path| path.exists()),
            dir,
            files,
            must_be_packed,
            recipe: None,
        })
    }

    /// A packed model.
    pub(crate) fn of_packed(dir: PathBuf, parts: packed::Parts) -> Checkpoint {
        let packed::Parts { files, spec, trunk, bundles, manifest } = parts;
        Checkpoint {
            gguf_metadata: Some(dir.join(GGUF_METADATA)).filter(|path| path.exists()),
            dir,
            files,
            spec,
            trunk,
            bundles,
            convention: Convention::Packed,
            notes: Vec::new(),
            must_be_packed: None,
            recipe: Some(manifest.recipe),
        }
    }

    /// The directory that it lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The GGUF file whose metadata hold tokenizer, chat template and sampling settings: the model's own first file, or the
    /// `metadata.gguf` that stands in its directory. `None` where these are files of their own.
    pub fn gguf_metadata(&self) -> Option<&Path> {
        self.gguf_metadata.as_deref()
    }

    /// The files of weights; an extent's `FileId` is a place in this list.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The weights that every token uses.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// Shapes of gate, up and down of the routed experts of a layer; `None` where it is dense.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn bundle_shapes(&self, layer: usize) -> Option<[MatrixShape; 3]> {
        self.bundles[layer].as_ref().map(|bundles| bundles.shapes)
    }

    /// One routed expert.
    ///
    /// # Panics
    /// If there is no such layer or expert, or the layer is dense.
    pub fn bundle(&self, layer: usize, expert: usize) -> BundleRef {
        self.layer_bundles(layer).bundle(expert)
    }

    /// All experts of a layer, one after the other: `[expert][gate parts, up parts, down parts]`. Empty where it is dense.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn bundle_extents(&self, layer: usize) -> Vec<Extent> {
        let Some(bundles) = &self.bundles[layer] else { return Vec::new() };
        (0..bundles.n_experts).flat_map(|expert| bundles.extents(expert)).collect()
    }

    /// Whether the files follow transformers or mlx-lm where the two differ.
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// What the user may want to know: fields and tensors that nothing uses.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How a packed model was made; `None` of any other.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    fn layer_bundles(&self, layer: usize) -> &LayerBundles {
        self.bundles[layer].as_ref().unwrap_or_else(|| panic!("layer {layer} is dense and has no bundles"))
    }
}

/// Notes on the tensors that are left; an error if one lies in a layer, where it would have changed the results.
fn leftovers(modules: &Modules<'_>) -> Result<Vec<Note>, CheckpointError> {
    let mut groups: BTreeMap<SkippedGroup, (usize, u64, String)> = BTreeMap::new();
    for (name, tensor) in &modules.table.tensors {
        let group = names::skipped_group(name);
        if group == SkippedGroup::Other && names::in_a_layer(name) {
            return Err(CheckpointError::UnusedTensor {
                path: modules.path_of(tensor),
                tensor: name.clone(),
            });
        }
        let (count, bytes, _) = groups.entry(group).or_insert_with(|| (0, 0, name.clone()));
        *count += 1;
        *bytes += tensor.extent.len;
    }
    let note = |(group, (count, bytes, first))| Note::SkippedTensors { group, count, bytes, first };
    Ok(groups.into_iter().map(note).collect())
}
