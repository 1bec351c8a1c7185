//! Where each byte of the output goes: worked out from the shapes alone, so that a run that starts over finds the same places.

use std::cmp::Reverse;

use flashmill_checkpoint::packed::{
    self, Checksum, ExpertsEntry, Manifest, PartTensor, RECORD_ALIGN, TRUNK, TrunkEntry, encoding_name,
    part_tensors,
};
use flashmill_layout::{Encoding, Float, MatrixShape};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::PackError;
use crate::recipe::Recipe;
use crate::source::{Item, Source};

/// The largest record that the store takes.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// Everything that will be written, manifest and text files apart.
pub(crate) struct Output {
    pub(crate) files: Vec<OutFile>,
    pub(crate) trunk: Vec<TrunkPlace>,
    pub(crate) layers: Vec<LayerPlace>,
}

/// A file of the output.
pub(crate) struct OutFile {
    pub(crate) name: String,
    /// The first bytes: the header's length, its JSON, spaces.
    pub(crate) header: Vec<u8>,
    pub(crate) len: u64,
}

/// A matrix or vector of the trunk, in file 0.
pub(crate) struct TrunkPlace {
    pub(crate) name: String,
    pub(crate) kind: TrunkKind,
    /// Where each part starts in the file.
    pub(crate) offsets: Vec<u64>,
}

/// What is stored there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TrunkKind {
    Matrix(MatrixShape),
    /// Values, as F32.
    Vector(usize),
}

/// The records of a layer.
pub(crate) struct LayerPlace {
    pub(crate) layer: usize,
    pub(crate) file: usize,
    /// Gate, up, down as they are written.
    pub(crate) shapes: [MatrixShape; 3],
    pub(crate) n_experts: usize,
    /// Where the first record starts.
    pub(crate) first: u64,
    pub(crate) record_bytes: u64,
    pub(crate) stride: u64,
}

impl Output {
    /// The output of a source by a recipe.
    pub(crate) fn new(
        source: &Source,
        items: &[(String, Item)],
        recipe: &mut Recipe,
    ) -> Result<Output, PackError> {
        let trunk: Vec<(String, TrunkKind)> = items
            .iter()
            .map(|(name, item)| {
                let kind = match item {
                    Item::Matrix(matrix) => TrunkKind::Matrix(recipe.trunk(name, matrix.shape)),
                    Item::Vector(vector) => TrunkKind::Vector(vector.len),
                };
                (name.clone(), kind)
            })
            .collect();
        let (file, trunk) = trunk_file(trunk);
        let (mut files, mut layers) = (vec![file], Vec::new());
        for layer in 0..source.spec().layers.len() {
            let Some(shapes) = source.expert_shapes(layer) else { continue };
            let n_experts =
                source.spec().moe.as_ref().expect("a layer of experts has their number").n_experts;
            let shapes = recipe.experts(shapes, n_experts);
            let (file, place) = experts_file(layer, files.len(), shapes, n_experts);
            if place.record_bytes > MAX_RECORD_BYTES {
                let (bytes, limit) = (place.record_bytes, MAX_RECORD_BYTES);
                return Err(PackError::RecordTooLarge { layer, bytes, limit });
            }
            files.push(file);
            layers.push(place);
        }
        Ok(Output { files, trunk, layers })
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    /// A hash of all places and shapes.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut all: Vec<u8> = Vec::new();
        for file in &self.files {
            all.extend_from_slice(file.name.as_bytes());
            all.extend_from_slice(&file.len.to_le_bytes());
            all.extend_from_slice(&file.header);
        }
        for layer in &self.layers {
            for shape in layer.shapes {
                all.extend_from_slice(encoding_name(shape.encoding).as_bytes());
            }
        }
        for place in &self.trunk {
            all.extend_from_slice(place.encoding().as_bytes());
        }
        xxh3_64(&all)
    }

    /// The manifest, from the checksums of all tasks in their order.
    pub(crate) fn manifest(
        &self,
        recipe: packed::Recipe,
        source: &Source,
        mut checksums: impl Iterator<Item = Vec<Checksum>>,
    ) -> Manifest {
        let mut next = || checksums.next().expect("every task is done");
        let trunk = self
            .trunk
            .iter()
            .map(|place| TrunkEntry {
                name: place.name.clone(),
                encoding: place.encoding(),
                checksums: next(),
            })
            .collect();
        let mut experts = Vec::with_capacity(self.layers.len());
        for place in &self.layers {
            experts.push(ExpertsEntry {
                layer: place.layer,
                encodings: place.shapes.map(|shape| encoding_name(shape.encoding)),
                checksums: (0..place.n_experts).flat_map(|_| next()).collect(),
            });
        }
        Manifest::new(recipe, source.spec(), trunk, experts)
    }
}

impl TrunkPlace {
    /// Bytes of each part.
    pub(crate) fn part_bytes(&self) -> Vec<u64> {
        match self.kind {
            TrunkKind::Vector(len) => vec![4 * len as u64],
            TrunkKind::Matrix(shape) => {
                (0..shape.encoding.n_parts()).map(|part| shape.part_bytes(part) as u64).collect()
            }
        }
    }

    fn encoding(&self) -> String {
        encoding_name(match self.kind {
            TrunkKind::Vector(_) => Encoding::Float(Float::F32),
            TrunkKind::Matrix(shape) => shape.encoding,
        })
    }
}

impl LayerPlace {
    /// Where the record of `expert` starts in its file.
    pub(crate) fn offset(&self, expert: usize) -> u64 {
        self.first + expert as u64 * self.stride
    }

    /// The bytes of a record that gate, up or down takes.
    pub(crate) fn range(&self, projection: usize) -> std::ops::Range<usize> {
        let start = self.shapes[..projection].iter().map(|shape| shape.bytes()).sum();
        start..start + self.shapes[projection].bytes()
    }
}

/// A tensor of a header.
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
}

impl Tensor {
    fn value_bytes(&self) -> u64 {
        match self.dtype {
            "U8" | "F8_E4M3" => 1,
            "F16" | "BF16" => 2,
            _ => 4,
        }
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.value_bytes()
    }
}

fn trunk_file(items: Vec<(String, TrunkKind)>) -> (OutFile, Vec<TrunkPlace>) {
    let mut tensors = Vec::new();
    for (i, (name, kind)) in items.iter().enumerate() {
        match *kind {
            TrunkKind::Vector(len) => {
                tensors.push((i, Tensor { name: name.clone(), dtype: "F32", shape: vec![len as u64] }));
            }
            TrunkKind::Matrix(shape) => {
                for PartTensor { suffix, dtype, shape } in part_tensors(shape) {
                    tensors
                        .push((i, Tensor { name: format!("{name}.{suffix}"), dtype, shape: shape.to_vec() }));
                }
            }
        }
    }
    // The largest types first: then every tensor is aligned to its values. A stable sort keeps the parts of a matrix in order,
    // save where a part has larger values than the one before it.
    tensors.sort_by_key(|(_, tensor)| Reverse(tensor.value_bytes()));
    let (header, starts) = header(tensors.iter().map(|(_, tensor)| tensor));
    let len = starts
        .last()
        .zip(tensors.last())
        .map_or(header.len() as u64, |(&start, (_, last))| start + last.bytes());
    let mut places: Vec<TrunkPlace> =
        items.into_iter().map(|(name, kind)| TrunkPlace { name, kind, offsets: Vec::new() }).collect();
    let by_name: std::collections::HashMap<&str, u64> =
        tensors.iter().zip(&starts).map(|((_, tensor), &start)| (tensor.name.as_str(), start)).collect();
    for place in &mut places {
        place.offsets = match place.kind {
            TrunkKind::Vector(_) => vec![by_name[place.name.as_str()]],
            TrunkKind::Matrix(shape) => part_tensors(shape)
                .iter()
                .map(|part| by_name[format!("{}.{}", place.name, part.suffix).as_str()])
                .collect(),
        };
    }
    (OutFile { name: TRUNK.to_owned(), header, len }, places)
}

fn experts_file(
    layer: usize,
    file: usize,
    shapes: [MatrixShape; 3],
    n_experts: usize,
) -> (OutFile, LayerPlace) {
    let record_bytes: u64 = shapes.iter().map(|shape| shape.bytes() as u64).sum();
    let stride = record_bytes.next_multiple_of(RECORD_ALIGN);
    let shape = vec![n_experts as u64, stride];
    let tensor = Tensor { name: packed::experts_tensor(layer), dtype: "U8", shape };
    let (header, starts) = header([&tensor].into_iter());
    let len = starts[0] + tensor.bytes();
    let place = LayerPlace { layer, file, shapes, n_experts, first: starts[0], record_bytes, stride };
    (OutFile { name: packed::experts_file(layer), header, len }, place)
}

/// The start of a safetensors file, padded so that the data start on a page, and where each tensor starts.
fn header<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> (Vec<u8>, Vec<u64>) {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({"format": "flashmill"}));
    let (mut at, mut starts) = (0, Vec::new());
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        map.insert(tensor.name.clone(), entry);
        starts.push(at);
        at = end;
    }
    let mut json = Value::Object(map).to_string().into_bytes();
    let start = (8 + json.len() as u64).next_multiple_of(RECORD_ALIGN);
    json.resize(start as usize - 8, b' ');
    starts.iter_mut().for_each(|offset| *offset += start);
    ([&(json.len() as u64).to_le_bytes()[..], &json].concat(), starts)
}
