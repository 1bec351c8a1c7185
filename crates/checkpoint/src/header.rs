//! The header of a safetensors file: eight bytes of length, then JSON that gives each tensor's type, shape and place. Only
//! this is read; every number in it is checked against the file's length before anyone uses it.
//!
//! The format (github.com/huggingface/safetensors, "Format"): offsets count from the end of the header, tensors do not
//! overlap and leave no holes, the header may be padded with spaces, `__metadata__` maps strings to strings.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use flashmill_layout::Float;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::CheckpointError;

/// The longest header that is read, the same as in the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_NAME_BYTES: usize = 1024;
/// Dimensions of a tensor.
const MAX_RANK: usize = 16;

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    /// In the order of their bytes.
    pub(crate) tensors: Vec<Tensor>,
    /// `__metadata__.format`: `pt`, `mlx`.
    pub(crate) format: Option<String>,
}

/// The types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dtype {
    name: &'static str,
    bits: u64,
}

impl Dtype {
    const ALL: [Dtype; 20] = {
        const fn of(name: &'static str, bits: u64) -> Dtype {
            Dtype { name, bits }
        }
        [
            of("BOOL", 8),
            of("F4", 4),
            of("F6_E2M3", 6),
            of("F6_E3M2", 6),
            of("U8", 8),
            of("I8", 8),
            of("F8_E5M2", 8),
            of("F8_E4M3", 8),
            of("F8_E8M0", 8),
            of("I16", 16),
            of("U16", 16),
            of("F16", 16),
            of("BF16", 16),
            of("I32", 32),
            of("U32", 32),
            of("F32", 32),
            of("C64", 64),
            of("F64", 64),
            of("I64", 64),
            of("U64", 64),
        ]
    };

    fn parse(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name == name)
    }

    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// The floating-point type that weights are read from.
    pub(crate) fn float(self) -> Option<Float> {
        match self.name {
            "F32" => Some(Float::F32),
            "F16" => Some(Float::F16),
            "BF16" => Some(Float::BF16),
            _ => None,
        }
    }

    /// Bytes of a tensor; `None` if they do not fit 64 bits or are not whole.
    fn bytes(self, shape: &[u64]) -> Option<u64> {
        let values = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
        let bits = values.checked_mul(self.bits)?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

/// Reads and checks the header of a file of `file_len` bytes; `path` is for messages.
pub(crate) fn read(path: &Path, mut file: impl Read, file_len: u64) -> Result<Header, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), action: "read the header", source };
    if file_len < 8 {
        return Err(CheckpointError::TooShort { path: path.to_owned(), file_len });
    }
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(io)?;
    if &start == b"version " {
        return Err(CheckpointError::LfsPointer { path: path.to_owned() });
    }
    let header_len = u64::from_le_bytes(start);
    if header_len > MAX_HEADER_BYTES || header_len > file_len - 8 {
        let (path, limit) = (path.to_owned(), MAX_HEADER_BYTES);
        return Err(CheckpointError::HeaderLength { path, header_len, file_len, limit });
    }
    let mut json = vec![0; header_len as usize];
    file.read_exact(&mut json).map_err(io)?;
    parse(path, &json, file_len)
}

/// Checks the JSON of a header that follows the first eight bytes of a file of `file_len` bytes.
fn parse(path: &Path, json: &[u8], file_len: u64) -> Result<Header, CheckpointError> {
    let raw: RawHeader = serde_json::from_slice(json)
        .map_err(|source| CheckpointError::HeaderJson { path: path.to_owned(), source })?;
    let mut entries = raw.tensors;
    entries.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));

    let data_start = 8 + json.len() as u64;
    let data_len = file_len - data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut previous_end = 0;
    for (name, raw) in entries {
        let [begin, end] = raw.data_offsets;
        let dtype = check_tensor(path, &name, &raw)?;
        if begin != previous_end {
            let (path, tensor) = (path.to_owned(), name);
            return Err(CheckpointError::TensorPlace { path, tensor, begin, previous_end });
        }
        previous_end = end;
        // Wraps only beyond the end of the file, which is checked below before anyone sees it.
        let offset = data_start.wrapping_add(begin);
        tensors.push(Tensor { name, dtype, shape: raw.shape, offset, len: end - begin });
    }
    let expected_len = data_start.saturating_add(previous_end);
    let path = path.to_owned();
    if previous_end > data_len {
        return Err(CheckpointError::Truncated { path, file_len, expected_len });
    }
    if previous_end < data_len {
        return Err(CheckpointError::TrailingBytes { path, file_len, expected_len });
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(CheckpointError::DuplicateTensor { path, tensor: pair[0].to_owned() });
    }
    Ok(Header { tensors, format: raw.format })
}

/// Type, shape and offsets of one tensor agree.
fn check_tensor(path: &Path, name: &str, raw: &RawTensor) -> Result<Dtype, CheckpointError> {
    let path = || path.to_owned();
    if name.len() > MAX_NAME_BYTES {
        return Err(CheckpointError::TensorName { path: path(), len: name.len(), limit: MAX_NAME_BYTES });
    }
    let Some(dtype) = Dtype::parse(&raw.dtype) else {
        let (tensor, dtype) = (name.to_owned(), crate::fields::cut(raw.dtype.clone()));
        return Err(CheckpointError::UnknownDtype { path: path(), tensor, dtype });
    };
    let [begin, end] = raw.data_offsets;
    let len = end.checked_sub(begin);
    if raw.shape.len() > MAX_RANK || len.is_none() || dtype.bytes(&raw.shape) != len {
        return Err(CheckpointError::TensorSize {
            path: path(),
            tensor: name.to_owned(),
            dtype: dtype.name,
            shape: raw.shape.iter().take(MAX_RANK + 1).copied().collect(),
            begin,
            end,
        });
    }
    Ok(dtype)
}

/// The header's JSON, with every name as it comes: a map type would keep only the last of two equal names.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    format: Option<String>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that describes tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { tensors: Vec::new(), format: None };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let mut metadata: BTreeMap<String, String> = map.next_value()?;
                        header.format = metadata.remove("format");
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
