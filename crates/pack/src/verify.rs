//! What files hold is what it should be: every byte can be read, the checksums of a packed model agree, and no scale or float is
//! a NaN or an infinity. That types, shapes and places fit the model is checked by opening it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flashmill_checkpoint::packed::{Checksum, Manifest, TrunkItem, trunk_items};
use flashmill_checkpoint::{Checkpoint, Convention, MatrixRef};
use flashmill_layout::ggml::Unpacked;
use flashmill_layout::{Encoding, Extent, Float, GgmlType, MatrixShape};
use flashmill_store::{Files, StoreError};
use xxhash_rust::xxh3::Xxh3;

use crate::error::PackError;

/// Bytes of a weight of the trunk that a thread holds at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// What was found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Bytes that were read.
    pub bytes: u64,
    /// Records and weights of the trunk.
    pub n_checked: usize,
    /// The model is packed, so that its bytes were compared with checksums.
    pub has_checksums: bool,
    /// What is wrong, in the order of the files.
    pub failures: Vec<Failure>,
}

/// What is wrong with a weight.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It cannot be read.
    #[error("{weight}: {source}")]
    Read {
        /// Its name.
        weight: String,
        /// Why.
        source: StoreError,
    },
    /// Its bytes are not those that were written.
    #[error(
        "{path}: {weight} has the checksum {found}, but was written with {expected}; its bytes have changed"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Its name.
        weight: String,
        /// What the manifest says.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// It holds a NaN or an infinity.
    #[error("{path}: {weight} holds a NaN or an infinity in its {what}, row {row}")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Its name.
        weight: String,
        /// `values`, `scales`, `biases`.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
}

/// Checks all weights of a model with all cores. `progress` is told the bytes read and in all, from any thread.
pub fn verify(path: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<VerifyReport, PackError> {
    let checkpoint = Checkpoint::open_to_pack(path)?;
    let manifest = match checkpoint.convention() {
        Convention::Packed => Some(Manifest::read(checkpoint.dir())?),
        _ => None,
    };
    let paths: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
    let files = Files::open(&paths)?;
    let units = units(&checkpoint, manifest.as_ref());
    let total = units.iter().map(Unit::bytes).sum();
    let inspector =
        Inspector { checkpoint: &checkpoint, files: &files, read: AtomicU64::new(0), total, progress };
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let mut buffer = Vec::new();
        while let Some((i, unit)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, units.get(i)?)))
        {
            if let Err(failure) = inspector.check(unit, &mut buffer) {
                failures.lock().expect("no thread panics here").push((i, failure));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) + 2 {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner().expect("no thread panicked");
    failures.sort_by_key(|&(i, _)| i);
    Ok(VerifyReport {
        bytes: total,
        n_checked: units.len(),
        has_checksums: manifest.is_some(),
        failures: failures.into_iter().map(|(_, failure)| failure).collect(),
    })
}

/// What one thread checks at a time.
struct Unit {
    name: String,
    /// What it is made of, each with its part and the shape of its matrix.
    runs: Vec<Run>,
    sums: Sums,
}

#[derive(Clone, Copy)]
struct Run {
    extent: Extent,
    shape: MatrixShape,
    part: usize,
    /// Bytes of the part before this run.
    before: u64,
}

enum Sums {
    None,
    /// One of each part.
    Parts(Vec<Checksum>),
    /// One of everything.
    Whole(Checksum),
}

impl Unit {
    fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.extent.len).sum()
    }
}

/// The runs of a matrix. Of words that have yet to be rearranged only the scales are numbers.
fn matrix_runs(matrix: &MatrixRef) -> Vec<Run> {
    /// The third tensor of GPTQ's and AWQ's matrices.
    const SCALES: usize = 2;
    let mut all = runs(matrix.shape, &matrix.parts);
    if let Some(words) = matrix.transposed {
        for run in &mut all {
            if run.part == SCALES {
                run.shape.encoding = Encoding::Float(words.scales);
            }
            run.part = 0;
        }
    }
    all
}

/// The runs of some parts.
fn runs(shape: MatrixShape, parts: &[Vec<Extent>]) -> Vec<Run> {
    let mut all = Vec::new();
    for (part, extents) in parts.iter().enumerate() {
        let mut before = 0;
        for &extent in extents {
            all.push(Run { extent, shape, part, before });
            before += extent.len;
        }
    }
    all
}

fn units(checkpoint: &Checkpoint, manifest: Option<&Manifest>) -> Vec<Unit> {
    let mut units = Vec::new();
    for (i, (name, item)) in trunk_items(checkpoint.trunk()).into_iter().enumerate() {
        let sums = manifest.map_or(Sums::None, |manifest| Sums::Parts(manifest.trunk[i].checksums.clone()));
        let runs = match item {
            TrunkItem::Matrix(matrix) => matrix_runs(matrix),
            TrunkItem::Vector(vector) => {
                let encoding = Encoding::Float(vector.float);
                runs(MatrixShape { rows: 1, cols: vector.len, encoding }, &[vec![vector.extent]])
            }
        };
        units.push(Unit { name, runs, sums });
    }
    let entries = manifest.iter().flat_map(|manifest| &manifest.experts);
    let sums: HashMap<usize, &[Checksum]> = entries.map(|entry| (entry.layer, &*entry.checksums)).collect();
    for (layer, kind) in checkpoint.spec().layers.iter().enumerate() {
        let n_experts = match kind.ffn {
            flashmill_checkpoint::FfnKind::Dense => 0,
            flashmill_checkpoint::FfnKind::Moe => checkpoint.spec().moe.map_or(0, |moe| moe.n_experts),
        };
        for expert in 0..n_experts {
            let glu = checkpoint.bundle(layer, expert).glu;
            let matrices = [glu.gate, glu.up, glu.down];
            units.push(Unit {
                name: format!("expert {expert} of layer {layer}"),
                runs: matrices.iter().flat_map(matrix_runs).collect(),
                sums: sums.get(&layer).map_or(Sums::None, |sums| Sums::Whole(sums[expert])),
            });
        }
    }
    units
}

/// What the threads share.
struct Inspector<'a> {
    checkpoint: &'a Checkpoint,
    files: &'a Files,
    read: AtomicU64,
    total: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Inspector<'_> {
    /// All bytes of a unit, block by block. Where the checksum is wrong, it is told and not what the wrong bytes mean.
    fn check(&self, unit: &Unit, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let mut whole = Xxh3::new();
        let mut parts: Vec<Xxh3> = Vec::new();
        let mut not_finite = None;
        for run in &unit.runs {
            // In whole rows, so that blocks of GGML are whole, too.
            let row_bytes = run.shape.encoding.part_row_bytes(run.part, run.shape.cols).max(1);
            let block = (BLOCK_BYTES / row_bytes).max(1) as u64 * row_bytes as u64;
            let mut at = 0;
            while at < run.extent.len {
                let len = block.min(run.extent.len - at);
                buffer.resize(len as usize, 0);
                let read = self.files.read_exact(run.extent.slice(at, len), buffer);
                read.map_err(|source| Failure::Read { weight: unit.name.clone(), source })?;
                match unit.sums {
                    Sums::None => {}
                    Sums::Whole(_) => whole.update(buffer),
                    Sums::Parts(_) => {
                        parts.resize_with(parts.len().max(run.part + 1), Xxh3::new);
                        parts[run.part].update(buffer);
                    }
                }
                if not_finite.is_none()
                    && let Some((what, offset)) = find_not_finite(run.shape.encoding, run.part, buffer)
                {
                    let part_row = (run.before + at + offset as u64) / row_bytes as u64;
                    let row = part_row * run.shape.encoding.rows_of_part_row(run.part) as u64;
                    let (path, weight) = (self.path(run.extent), unit.name.clone());
                    not_finite = Some(Failure::NotFinite { path, weight, what, row: row as usize });
                }
                at += len;
                let read = self.read.fetch_add(len, Ordering::Relaxed) + len;
                (self.progress)(read, self.total);
            }
        }
        let pairs: Vec<(Checksum, u64)> = match &unit.sums {
            Sums::None => Vec::new(),
            Sums::Whole(sum) => vec![(*sum, whole.digest())],
            Sums::Parts(sums) => sums.iter().copied().zip(parts.iter().map(Xxh3::digest)).collect(),
        };
        for (expected, found) in pairs {
            let found = Checksum(found);
            if found != expected {
                let (path, weight) = (self.path(unit.runs[0].extent), unit.name.clone());
                return Err(Failure::Checksum { path, weight, expected, found });
            }
        }
        not_finite.map_or(Ok(()), Err)
    }

    fn path(&self, extent: Extent) -> PathBuf {
        self.checkpoint.files()[extent.file.0 as usize].path.clone()
    }
}

/// The first NaN or infinity among the floats of whole rows of a part: what it is, and the byte where it or its block starts.
fn find_not_finite(encoding: Encoding, part: usize, bytes: &[u8]) -> Option<(&'static str, usize)> {
    match encoding {
        Encoding::Float(float) => Some(("values", find_float(float, bytes)?)),
        Encoding::Affine(_) if part == 0 => None,
        Encoding::Affine(affine) => {
            Some((if part == 1 { "scales" } else { "biases" }, find_float(affine.scales, bytes)?))
        }
        Encoding::Ggml(ty) => Some(("scales", find_block(ty, bytes)?)),
        // All ones but the sign is E4M3's NaN; it has no infinity.
        Encoding::Fp8 { .. } if part == 0 => {
            Some(("values", bytes.iter().position(|byte| byte & 0x7f == 0x7f)?))
        }
        Encoding::Fp8 { scales } => Some(("scales", find_float(scales, bytes)?)),
    }
}

fn find_float(float: Float, bytes: &[u8]) -> Option<usize> {
    let size = float.bytes();
    let exponent: u32 = match float {
        Float::F32 => 0x7f80_0000,
        Float::F16 => 0x7c00,
        Float::BF16 => 0x7f80,
    };
    let is_bad = |value: u32| value & exponent == exponent;
    // First whether there is one, in a loop that is as wide as the machine.
    let any = match size {
        2 => bytes
            .chunks_exact(2)
            .fold(false, |any, pair| any | is_bad(u32::from(u16::from_le_bytes([pair[0], pair[1]])))),
        _ => bytes
            .chunks_exact(4)
            .fold(false, |any, b| any | is_bad(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
    };
    let first = || (0..bytes.len() / size).find(|&i| !float.get(bytes, i).is_finite());
    any.then(first).flatten().map(|i| i * size)
}

fn find_block(ty: GgmlType, bytes: &[u8]) -> Option<usize> {
    let mut unpacked = Unpacked::default();
    let n_groups = ty.block_groups();
    let is_bad = |block: &[u8]| {
        ty.unpack_block(block, &mut unpacked);
        let offsets = if ty.has_offsets() { &unpacked.offsets[..n_groups] } else { &[] };
        !unpacked.scales[..n_groups].iter().chain(offsets).all(|value| value.is_finite())
    };
    bytes.chunks_exact(ty.block_bytes()).position(is_bad).map(|i| i * ty.block_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_floats_are_found() {
        for float in [Float::F32, Float::F16, Float::BF16] {
            let size = float.bytes();
            let bytes: Vec<u8> = vec![0x11; 40 * size];
            assert_eq!(find_float(float, &bytes), None);
            for bad in [0x7fu8, 0xff] {
                let mut bytes = bytes.clone();
                // All ones in the exponent, and something behind it.
                bytes[17 * size + size - 2..][..2].copy_from_slice(&[0xff, bad]);
                assert_eq!(find_float(float, &bytes), Some(17 * size), "{float}");
            }
        }
    }

    #[test]
    fn bad_scales_of_blocks_are_found() {
        for ty in [GgmlType::Q8_0, GgmlType::Q4_1, GgmlType::Q6_K, GgmlType::Q4_K, GgmlType::IQ4_XS] {
            let good = vec![0u8; 3 * ty.block_bytes()];
            assert_eq!(find_block(ty, &good), None, "{ty}");
            // Every 16-bit infinity that can stand in the second block: at least one place is a scale.
            let found = (0..ty.block_bytes() - 1).filter(|at| {
                let mut bytes = good.clone();
                bytes[ty.block_bytes() + at..][..2].copy_from_slice(&[0, 0x7c]);
                find_block(ty, &bytes) == Some(ty.block_bytes())
            });
            assert!((1..=2).contains(&found.count()), "{ty}");
        }
    }
}
