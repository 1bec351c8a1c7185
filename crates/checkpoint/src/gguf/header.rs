use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::error::{GgufError, Place, Problem};
use super::source::Source;
use super::tensor::Tensor;
use super::value::{Metadata, Value};

/// The most metadata pairs that are read; models have about fifty.
const MAX_PAIRS: u64 = 1 << 16;
/// The most tensors of one file; the largest models have a few thousand.
const MAX_TENSORS: u64 = 1 << 16;
/// Bytes of a key, as the format says.
const MAX_KEY_BYTES: u64 = 65_535;
/// Where the metadata does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 30;

/// A checked header: every tensor lies inside the file, and no two overlap.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Named values.
    pub metadata: Metadata,
    /// In the file's order.
    pub tensors: Vec<Tensor>,
    /// Where each metadata pair lies in the file.
    pub pairs: Vec<Range<u64>>,
    /// Tensors start at multiples of this, from the start of the data.
    pub alignment: u64,
    /// The first byte of the data; behind the end of a file without tensors.
    pub data_start: u64,
}

/// Reads and checks the header of a file of `file_len` bytes; `path` is for messages.
pub fn read_header(path: &Path, file: impl Read, file_len: u64) -> Result<Header, GgufError> {
    read(&mut Source::new(file, file_len), file_len).map_err(|problem| GgufError::new(path, problem))
}

fn read<R: Read>(source: &mut Source<R>, file_len: u64) -> Result<Header, Problem> {
    let version = read_version(source)?;
    let n_tensors = count(source.u64()?, "tensors", MAX_TENSORS)?;
    let n_pairs = count(source.u64()?, "metadata pairs", MAX_PAIRS)?;

    let (mut pairs, mut places) = (Vec::new(), Vec::new());
    for index in 0..n_pairs {
        let start = source.offset;
        source.place = Place::Key(index);
        let key = source.string(Some(MAX_KEY_BYTES))?;
        source.place = Place::Value(key.clone());
        pairs.push((key, Value::read(source)?));
        places.push(start..source.offset);
    }
    let metadata = Metadata::new(pairs)?;
    let alignment = alignment(&metadata)?;

    let mut tensors = Vec::new();
    for index in 0..n_tensors {
        source.place = Place::Tensor(index);
        tensors.push(Tensor::read(source)?);
    }
    // Far from the end of 64 bits: a header has at most some hundred megabytes.
    let data_start = source.offset.next_multiple_of(alignment);
    for tensor in &mut tensors {
        place(tensor, alignment, data_start, file_len)?;
    }
    check_together(&tensors)?;
    Ok(Header { version, metadata, pairs: places, tensors, alignment, data_start })
}

fn read_version<R: Read>(source: &mut Source<R>) -> Result<u32, Problem> {
    let found = source.array()?;
    if &found == b"vers" {
        return Err(Problem::LfsPointer);
    }
    if &found != b"GGUF" {
        return Err(Problem::Magic { found });
    }
    match source.u32()? {
        version @ 2..=3 => Ok(version),
        1 => Err(Problem::VersionOne),
        version if version & 0xffff == 0 && version != 0 => Err(Problem::BigEndian),
        version => Err(Problem::Version { version }),
    }
}

fn count(count: u64, what: &'static str, limit: u64) -> Result<u64, Problem> {
    match count <= limit {
        true => Ok(count),
        false => Err(Problem::TooMany { what, count, limit }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(value) => value
            .as_u64()
            .filter(|&alignment| alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT)
            .ok_or_else(|| Problem::Alignment { alignment: value.to_string(), limit: MAX_ALIGNMENT }),
    }
}

/// Turns an offset in the data into one in the file, which must hold the tensor.
fn place(tensor: &mut Tensor, alignment: u64, data_start: u64, file_len: u64) -> Result<(), Problem> {
    let (offset, len) = (tensor.offset, tensor.len);
    let name = || tensor.name.clone();
    if offset % alignment != 0 {
        return Err(Problem::Misaligned { tensor: name(), offset, alignment });
    }
    let begin = data_start.checked_add(offset);
    let end = begin.and_then(|begin| begin.checked_add(len));
    match (begin, end) {
        (Some(begin), Some(end)) if end <= file_len => {
            tensor.offset = begin;
            Ok(())
        }
        _ => Err(Problem::OutsideFile { tensor: name(), offset, len, data_start, file_len }),
    }
}

/// No name twice, no byte in two tensors.
fn check_together(tensors: &[Tensor]) -> Result<(), Problem> {
    let mut by_name: Vec<&Tensor> = tensors.iter().collect();
    by_name.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = by_name.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Problem::DuplicateTensor { tensor: pair[0].name.clone() });
    }
    let mut by_place = by_name;
    by_place.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in by_place.windows(2) {
        let (other, tensor) = (pair[0], pair[1]);
        let other_end = other.offset + other.len;
        if tensor.offset < other_end {
            let (tensor, begin) = (tensor.name.clone(), tensor.offset);
            return Err(Problem::Overlap { tensor, begin, other: other.name.clone(), other_end });
        }
    }
    Ok(())
}
