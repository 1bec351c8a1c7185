//! From the manifest and the headers to roles: every tensor is taken once, its type and shape checked against the model's.

use std::collections::BTreeMap;
use std::path::Path;

use flashmill_layout::{Encoding, Extent, FileId, Float, MatrixShape};

use super::encoding::{encoding_name, parse_encoding, part_tensors};
use super::error::{PackedError, Problem};
use super::manifest::{ExpertsEntry, MANIFEST, Manifest, TrunkEntry};
use super::{RECORD_ALIGN, TRUNK, experts_file, experts_tensor};
use crate::bundles::LayerBundles;
use crate::error::CheckpointError;
use crate::files::{self, FileEntry};
use crate::header::{self, Header, Tensor};
use crate::spec::{FfnKind, MixerKind, ModelSpec, MoeSpec};
use crate::weights::{
    AttentionRef, DeltaNetRef, FfnRef, GluRef, LayerRef, MatrixRef, MixerRef, SharedExpertRef, Trunk,
    VectorMap, VectorRef,
};

/// What a packed model holds.
pub(crate) struct Parts {
    pub(crate) files: Vec<FileEntry>,
    pub(crate) spec: ModelSpec,
    pub(crate) trunk: Trunk,
    pub(crate) bundles: Vec<Option<LayerBundles>>,
    pub(crate) manifest: Manifest,
}

/// Opens a packed directory.
pub(crate) fn open(dir: &Path) -> Result<Parts, CheckpointError> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Err(PackedError::new(dir, Problem::Unfinished).into());
    }
    let manifest = Manifest::read(dir)?;
    open_parts(&path, manifest, |name| {
        let path = dir.join(name);
        let (file, len) = files::open_file(&path)?;
        let header = header::read(&path, file, len)?;
        Ok((FileEntry { path, len }, header))
    })
}

/// Describes the model of a manifest; `read` gives a file's entry and header by its name.
pub(crate) fn open_parts(
    path: &Path,
    manifest: Manifest,
    mut read: impl FnMut(&str) -> Result<(FileEntry, Header), CheckpointError>,
) -> Result<Parts, CheckpointError> {
    let mut spec = manifest.model.spec(path)?;
    if let Some(delta) = &mut spec.delta_net {
        delta.head_order = manifest.head_order();
    }
    let (file, header) = read(TRUNK)?;
    let mut reader = TrunkReader::new(path, &file.path, &manifest.trunk, header);
    let trunk = reader.trunk(&spec)?;
    reader.finish()?;
    let mut files = vec![file];
    let mut entries = manifest.experts.iter();
    let mut bundles = Vec::with_capacity(spec.layers.len());
    for (layer, kind) in spec.layers.iter().enumerate() {
        bundles.push(match kind.ffn {
            FfnKind::Dense => None,
            FfnKind::Moe => {
                let entry = entries.next().filter(|entry| entry.layer == layer).ok_or_else(|| {
                    let (found, expected) = ("another layer".to_owned(), format!("layer {layer}"));
                    PackedError::new(path, Problem::Entry { what: "experts", found, expected })
                })?;
                let moe = spec.moe.as_ref().expect("a model with experts has their sizes");
                let (file, header) = read(&experts_file(layer))?;
                let id = FileId(files.len() as u32);
                let found = experts(path, &file.path, entry, header, id, spec.hidden_size, moe)?;
                files.push(file);
                Some(found)
            }
        });
    }
    if let Some(entry) = entries.next() {
        let (found, expected) = (format!("layer {}", entry.layer), "no more layers".to_owned());
        return Err(PackedError::new(path, Problem::Entry { what: "experts", found, expected }).into());
    }
    Ok(Parts { files, spec, trunk, bundles, manifest })
}

/// The encoding of a manifest's name, for rows of `cols` values.
fn encoding(path: &Path, tensor: &str, name: &str, cols: usize) -> Result<Encoding, PackedError> {
    let encoding = parse_encoding(name).ok_or_else(|| {
        let (tensor, name) = (tensor.to_owned(), crate::fields::cut(name.to_owned()));
        PackedError::new(path, Problem::Encoding { tensor, name })
    })?;
    if !cols.is_multiple_of(encoding.granularity()) {
        let (tensor, encoding) = (tensor.to_owned(), name.to_owned());
        return Err(PackedError::new(path, Problem::Granularity { tensor, cols, encoding }));
    }
    Ok(encoding)
}

fn check_count(path: &Path, what: &str, found: usize, expected: usize) -> Result<(), PackedError> {
    match found == expected {
        true => Ok(()),
        false => Err(PackedError::new(path, Problem::Checksums { what: what.to_owned(), found, expected })),
    }
}

/// The records of a layer: one tensor `[n_experts, stride]` of bytes.
fn experts(
    manifest: &Path,
    path: &Path,
    entry: &ExpertsEntry,
    header: Header,
    file: FileId,
    hidden: usize,
    moe: &MoeSpec,
) -> Result<LayerBundles, PackedError> {
    let name = experts_tensor(entry.layer);
    let size = moe.intermediate_size;
    let mut shapes = Vec::with_capacity(3);
    for ((rows, cols), encoding_of) in
        [(size, hidden), (size, hidden), (hidden, size)].into_iter().zip(&entry.encodings)
    {
        shapes.push(MatrixShape { rows, cols, encoding: encoding(manifest, &name, encoding_of, cols)? });
    }
    let shapes: [MatrixShape; 3] = shapes.try_into().expect("three encodings");
    check_count(manifest, &name, entry.checksums.len(), moe.n_experts)?;
    let record: u64 = shapes.iter().map(|shape| shape.bytes() as u64).sum();
    let stride = record.next_multiple_of(RECORD_ALIGN);
    let mut tensors = Tensors::new(path, header);
    let offset = tensors.take(&name, "U8", &[moe.n_experts as u64, stride])?.offset;
    tensors.finish()?;
    if !offset.is_multiple_of(RECORD_ALIGN) {
        return Err(PackedError::new(path, Problem::Misaligned { offset }));
    }
    let first = Extent { file, offset, len: record };
    Ok(LayerBundles::of_records(moe.n_experts, shapes, &name, first, stride))
}

/// The tensors of a file that no role has taken yet.
struct Tensors<'a> {
    path: &'a Path,
    left: BTreeMap<String, Tensor>,
}

impl<'a> Tensors<'a> {
    fn new(path: &'a Path, header: Header) -> Self {
        Tensors {
            path,
            left: header.tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(),
        }
    }

    fn take(&mut self, name: &str, dtype: &str, shape: &[u64]) -> Result<Tensor, PackedError> {
        let tensor = name.to_owned();
        let Some(found) = self.left.remove(name) else {
            return Err(PackedError::new(self.path, Problem::MissingTensor { tensor }));
        };
        match found.dtype.name() == dtype && found.shape == shape {
            true => Ok(found),
            false => {
                let (found, expected) =
                    (format!("{} {:?}", found.dtype.name(), found.shape), format!("{dtype} {shape:?}"));
                Err(PackedError::new(self.path, Problem::WrongTensor { tensor, found, expected }))
            }
        }
    }

    fn finish(mut self) -> Result<(), PackedError> {
        match self.left.pop_first() {
            None => Ok(()),
            Some((tensor, _)) => Err(PackedError::new(self.path, Problem::UnusedTensor { tensor })),
        }
    }
}

/// Walks the manifest's list and the file's tensors together, in the order of [`super::trunk_items`].
struct TrunkReader<'a> {
    manifest: &'a Path,
    entries: std::slice::Iter<'a, TrunkEntry>,
    tensors: Tensors<'a>,
}

impl<'a> TrunkReader<'a> {
    fn new(manifest: &'a Path, path: &'a Path, entries: &'a [TrunkEntry], header: Header) -> Self {
        TrunkReader { manifest, entries: entries.iter(), tensors: Tensors::new(path, header) }
    }

    fn finish(mut self) -> Result<(), PackedError> {
        match self.entries.next() {
            None => self.tensors.finish(),
            Some(entry) => {
                let (found, expected) = (crate::fields::cut(entry.name.clone()), "nothing".to_owned());
                Err(PackedError::new(self.manifest, Problem::Entry { what: "trunk", found, expected }))
            }
        }
    }

    fn entry(&mut self, name: &str) -> Result<&'a TrunkEntry, PackedError> {
        let found = self.entries.next();
        found.filter(|entry| entry.name == name).ok_or_else(|| {
            let found =
                found.map_or_else(|| "nothing".to_owned(), |entry| crate::fields::cut(entry.name.clone()));
            PackedError::new(
                self.manifest,
                Problem::Entry { what: "trunk", found, expected: name.to_owned() },
            )
        })
    }

    fn matrix(&mut self, name: &str, (rows, cols): (usize, usize)) -> Result<MatrixRef, PackedError> {
        let entry = self.entry(name)?;
        let shape =
            MatrixShape { rows, cols, encoding: encoding(self.manifest, name, &entry.encoding, cols)? };
        let tensors = part_tensors(shape);
        check_count(self.manifest, name, entry.checksums.len(), tensors.len())?;
        let mut parts = Vec::with_capacity(tensors.len());
        for part in &tensors {
            let tensor = self.tensors.take(&format!("{name}.{}", part.suffix), part.dtype, &part.shape)?;
            parts.push(vec![Extent { file: FileId(0), offset: tensor.offset, len: tensor.len }]);
        }
        Ok(MatrixRef { name: format!("{name}.{}", tensors[0].suffix), shape, parts, transposed: None })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<VectorRef, PackedError> {
        let entry = self.entry(name)?;
        if entry.encoding != encoding_name(Encoding::Float(Float::F32)) {
            let (tensor, name) = (name.to_owned(), crate::fields::cut(entry.encoding.clone()));
            return Err(PackedError::new(self.manifest, Problem::Encoding { tensor, name }));
        }
        check_count(self.manifest, name, entry.checksums.len(), 1)?;
        let tensor = self.tensors.take(name, "F32", &[len as u64])?;
        let extent = Extent { file: FileId(0), offset: tensor.offset, len: tensor.len };
        Ok(VectorRef { name: name.to_owned(), float: Float::F32, len, extent, map: VectorMap::Identity })
    }

    fn trunk(&mut self, spec: &ModelSpec) -> Result<Trunk, PackedError> {
        let table = (spec.vocab_size, spec.hidden_size);
        let embed = self.matrix("embed", table)?;
        let layers = (0..spec.layers.len()).map(|i| self.layer(spec, i)).collect::<Result<_, _>>()?;
        let final_norm = self.vector("final_norm", spec.hidden_size)?;
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(self.matrix("head", table)?),
        };
        Ok(Trunk { embed, layers, final_norm, head })
    }

    fn layer(&mut self, spec: &ModelSpec, i: usize) -> Result<LayerRef, PackedError> {
        let (hidden, at) = (spec.hidden_size, format!("layers.{i}"));
        Ok(LayerRef {
            input_norm: self.vector(&format!("{at}.input_norm"), hidden)?,
            mixer: match spec.layers[i].mixer {
                MixerKind::Attention => {
                    MixerRef::Attention(self.attention(spec, &format!("{at}.attention"))?)
                }
                MixerKind::DeltaNet => {
                    MixerRef::DeltaNet(Box::new(self.delta_net(spec, &format!("{at}.delta_net"))?))
                }
            },
            post_norm: self.vector(&format!("{at}.post_norm"), hidden)?,
            ffn: self.ffn(spec, spec.layers[i].ffn, &at)?,
        })
    }

    fn attention(&mut self, spec: &ModelSpec, at: &str) -> Result<AttentionRef, PackedError> {
        let (hidden, sizes) = (spec.hidden_size, &spec.attention);
        let (heads, kv) = (sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim);
        let queries = if sizes.gated { 2 * heads } else { heads };
        Ok(AttentionRef {
            q: self.matrix(&format!("{at}.q"), (queries, hidden))?,
            k: self.matrix(&format!("{at}.k"), (kv, hidden))?,
            v: self.matrix(&format!("{at}.v"), (kv, hidden))?,
            o: self.matrix(&format!("{at}.o"), (hidden, heads))?,
            q_norm: self.vector(&format!("{at}.q_norm"), sizes.head_dim)?,
            k_norm: self.vector(&format!("{at}.k_norm"), sizes.head_dim)?,
        })
    }

    fn delta_net(&mut self, spec: &ModelSpec, at: &str) -> Result<DeltaNetRef, PackedError> {
        let hidden = spec.hidden_size;
        let sizes = spec.delta_net.as_ref().expect("a family with DeltaNet layers has their sizes");
        Ok(DeltaNetRef {
            qkv: self.matrix(&format!("{at}.qkv"), (sizes.conv_channels(), hidden))?,
            z: self.matrix(&format!("{at}.z"), (sizes.values(), hidden))?,
            b: self.matrix(&format!("{at}.b"), (sizes.n_value_heads, hidden))?,
            a: self.matrix(&format!("{at}.a"), (sizes.n_value_heads, hidden))?,
            conv: self.vector(&format!("{at}.conv"), sizes.conv_channels() * sizes.conv_kernel)?,
            decay: self.vector(&format!("{at}.decay"), sizes.n_value_heads)?,
            dt_bias: self.vector(&format!("{at}.dt_bias"), sizes.n_value_heads)?,
            norm: self.vector(&format!("{at}.norm"), sizes.value_dim)?,
            out: self.matrix(&format!("{at}.out"), (hidden, sizes.values()))?,
        })
    }

    fn ffn(&mut self, spec: &ModelSpec, kind: FfnKind, at: &str) -> Result<FfnRef, PackedError> {
        let hidden = spec.hidden_size;
        if kind == FfnKind::Dense {
            let size = spec.dense_intermediate_size.expect("a model with dense layers has their size");
            return Ok(FfnRef::Dense(self.glu(&format!("{at}.dense"), hidden, size)?));
        }
        let moe = spec.moe.as_ref().expect("a model with experts has their sizes");
        let router = self.matrix(&format!("{at}.router"), (moe.n_experts, hidden))?;
        let shared = match moe.shared_intermediate_size {
            None => None,
            Some(size) => Some(SharedExpertRef {
                glu: self.glu(&format!("{at}.shared"), hidden, size)?,
                gate_logit: self.matrix(&format!("{at}.shared.gate_logit"), (1, hidden))?,
            }),
        };
        Ok(FfnRef::Moe { router, shared })
    }

    fn glu(&mut self, at: &str, hidden: usize, size: usize) -> Result<GluRef, PackedError> {
        Ok(GluRef {
            gate: self.matrix(&format!("{at}.gate"), (size, hidden))?,
            up: self.matrix(&format!("{at}.up"), (size, hidden))?,
            down: self.matrix(&format!("{at}.down"), (hidden, size))?,
        })
    }
}
