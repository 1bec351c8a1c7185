//! Reading what a description points at, and building checkpoints on disk from pieces.

use std::fs;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::{Checkpoint, MatrixRef, VectorMap, VectorRef};
use flashmill_layout::{Extent, MatrixView};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The fixtures whose families and formats are read.
pub(crate) const FIXTURES: [&str; 6] =
    ["qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_5_moe_mlx2", "qwen3_5_moe_fp8", "qwen3_next", "qwen3_moe"];

/// Those that have to be packed first.
pub(crate) const TO_PACK: [&str; 2] = ["qwen3_5_moe_gptq4", "qwen3_5_moe_awq4"];

/// The repository's fixture of this name.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub(crate) fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// The message of a checkpoint that must not open; it is one line.
pub(crate) fn refused(dir: &Path) -> String {
    let message = match Checkpoint::open(dir) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error.to_string(),
    };
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// Asserts that a message says all of this.
#[track_caller]
pub(crate) fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// The bytes of an extent.
pub(crate) fn bytes(checkpoint: &Checkpoint, extent: Extent) -> Vec<u8> {
    let file = &checkpoint.files()[extent.file.0 as usize];
    let all = fs::read(&file.path).expect("the file can be read");
    assert_eq!(all.len() as u64, file.len, "{}", file.path.display());
    all[extent.offset as usize..extent.end() as usize].to_vec()
}

/// All values of a matrix, row by row, through layout's own decoder.
pub(crate) fn decode(checkpoint: &Checkpoint, matrix: &MatrixRef) -> Vec<f32> {
    let parts: Vec<Vec<u8>> = matrix
        .parts
        .iter()
        .map(|runs| runs.iter().flat_map(|&run| bytes(checkpoint, run)).collect())
        .collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let view = MatrixView::new(matrix.shape, &parts);
    let mut values = vec![0.0; matrix.shape.rows * matrix.shape.cols];
    for (row, out) in values.chunks_mut(matrix.shape.cols).enumerate() {
        view.decode_row(row, out);
    }
    values
}

/// All values of a vector, mapped.
pub(crate) fn values(checkpoint: &Checkpoint, vector: &VectorRef) -> Vec<f32> {
    let bytes = bytes(checkpoint, vector.extent);
    assert_eq!(bytes.len(), vector.len * vector.float.bytes(), "{}", vector.name);
    (0..vector.len)
        .map(|i| vector.float.get(&bytes, i))
        .map(|w| match vector.map {
            VectorMap::Identity => w,
            VectorMap::OnePlus => 1.0 + w,
            VectorMap::NegExp => -w.exp(),
        })
        .collect()
}

/// A tensor in memory, as this test's own reader sees the files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Tensor {
    /// The values of a BF16 or F32 tensor.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let value = |bytes: &[u8]| match *bytes {
            [low, high] => f32::from_bits(u32::from_le_bytes([0, 0, low, high])),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!(),
        };
        match self.dtype.as_str() {
            "BF16" => self.data.chunks(2).map(value).collect(),
            "F32" => self.data.chunks(4).map(value).collect(),
            other => panic!("{} is {other}", self.name),
        }
    }

    /// The same tensor with these values in F32.
    pub(crate) fn with_floats(&self, values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: "F32".to_owned(), data, ..self.clone() }
    }
}

/// A checkpoint that can be changed and written.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Tensor>,
}

impl Draft {
    /// A fixture, read without the library.
    pub(crate) fn of(name: &str) -> Draft {
        let dir = fixture(name);
        let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("model") && name.ends_with(".safetensors")
        });
        paths.sort();
        Draft { config, tensors: paths.iter().flat_map(|path| read_tensors(path)).collect() }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) fn remove(&mut self, name: &str) -> Tensor {
        let at =
            self.tensors.iter().position(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
        self.tensors.remove(at)
    }

    /// The object that holds the text model's fields.
    pub(crate) fn fields(&mut self) -> &mut Map<String, Value> {
        let nested = self.config.get("text_config").is_some();
        let fields = if nested { &mut self.config["text_config"] } else { &mut self.config };
        fields.as_object_mut().unwrap()
    }

    /// Writes one file and the config into a fresh directory.
    pub(crate) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write_config(dir.path());
        fs::write(dir.path().join("model.safetensors"), safetensors(&self.tensors)).unwrap();
        dir
    }

    pub(crate) fn write_config(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
    }
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += tensor.data.len();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    file_of(&header, tensors.iter().flat_map(|tensor| tensor.data.iter().copied()).collect())
}

/// A safetensors file of this header, as text, and these data.
pub(crate) fn file_of(header: &str, data: Vec<u8>) -> Vec<u8> {
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &data].concat()
}

fn read_tensors(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let data = &bytes[8 + header_len..];
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, entry)| Tensor {
            name: name.clone(),
            dtype: entry["dtype"].as_str().unwrap().to_owned(),
            shape: entry["shape"].as_array().unwrap().iter().map(number).collect(),
            data: data[number(&entry["data_offsets"][0])..number(&entry["data_offsets"][1])].to_vec(),
        })
        .collect()
}

/// A fixture copied file by file into a fresh directory.
pub(crate) fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if file == "config.json" || file.starts_with("model") {
            fs::write(dir.path().join(file), fs::read(&path).unwrap()).unwrap();
        }
    }
    dir
}

/// What mlx-lm's converter makes of the files without quantising: names, stacked experts, convolution, norms (kept in f32
/// here, so that nothing is lost).
pub(crate) fn to_mlx(draft: &mut Draft) {
    let mut tensors = Vec::new();
    for mut tensor in std::mem::take(&mut draft.tensors) {
        if tensor.name.starts_with("mtp.") || tensor.name.starts_with("model.visual.") {
            continue;
        }
        tensor.name = match tensor.name.strip_prefix("model.language_model.") {
            Some(rest) => format!("language_model.model.{rest}"),
            None => format!("language_model.{}", tensor.name),
        };
        if tensor.name.ends_with("conv1d.weight") {
            tensor.shape.swap(1, 2);
        }
        if tensor.name.ends_with("norm.weight") && !tensor.name.ends_with("linear_attn.norm.weight") {
            let plus: Vec<f32> = tensor.floats().iter().map(|w| 1.0 + w).collect();
            tensor = tensor.with_floats(&plus);
        }
        if let Some(at) = tensor.name.strip_suffix("experts.gate_up_proj") {
            let at = at.to_owned();
            let (n, size, hidden) = (tensor.shape[0], tensor.shape[1] / 2, tensor.shape[2]);
            let half = size * hidden * 2;
            let experts = |first: usize| -> Vec<u8> {
                (0..n).flat_map(|e| tensor.data[(2 * e + first) * half..][..half].to_vec()).collect()
            };
            for (i, projection) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let name = format!("{at}switch_mlp.{projection}.weight");
                let shape = vec![n, size, hidden];
                tensors.push(Tensor { name, dtype: tensor.dtype.clone(), shape, data: experts(i) });
            }
            continue;
        }
        if let Some(at) = tensor.name.strip_suffix("experts.down_proj") {
            tensor.name = format!("{at}switch_mlp.down_proj.weight");
        }
        tensors.push(tensor);
    }
    draft.tensors = tensors;
}
