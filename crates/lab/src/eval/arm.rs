//! The ways in which one model is run: with which weights, with how many experts a token, and whether its routing minds the cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use flashmill_engine::{Checkpoint, EngineError, EngineOptions, Role};
use flashmill_pack::{Bits, PackError, PackOptions, PackReport, RecipeOptions};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use super::EvalError;
use crate::calibrate::{CalibrationText, Event, built_in_key, prepare};

/// How often somebody looks how far packing is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The weights of an arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// The model as it is.
    Stored,
    /// What `flashmill pack --bits N` makes of it: experts of so many bits, the trunk of at least 8; calibrated at 2 and 3.
    Bits(u8),
    /// Another form of the model, in these files.
    Variant(PathBuf),
}

/// One way to run the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its weights.
    pub weights: Weights,
    /// Experts of a token.
    pub experts: usize,
    /// The share of the router's choice that may be given up for experts in the cache.
    pub cache_aware: f64,
}

impl Arm {
    /// What people read.
    pub fn name(&self) -> String {
        let routing = match self.cache_aware {
            0.0 => String::new(),
            share => format!(", cache-aware {share}"),
        };
        format!("{}, {} experts{routing}", self.weights_name(), self.experts)
    }

    /// How it is run, where everything runs as `engine` says.
    pub(super) fn engine(&self, engine: &EngineOptions) -> EngineOptions {
        EngineOptions {
            experts_per_token: Some(self.experts),
            cache_aware: self.cache_aware,
            ..engine.clone()
        }
    }

    /// What decides its weights, the files of the model apart.
    pub(super) fn weights_key(&self) -> Result<String, EvalError> {
        Ok(match &self.weights {
            Weights::Stored => "stored".to_owned(),
            Weights::Bits(bits @ (2 | 3)) => format!("bits {bits}, calibrated on {:x}", built_in_key()),
            Weights::Bits(bits) => format!("bits {bits}"),
            Weights::Variant(path) => format!("variant {:x}", identity(path)?),
        })
    }

    /// The weights, for people.
    pub(super) fn weights_name(&self) -> String {
        match &self.weights {
            Weights::Stored => "as stored".to_owned(),
            Weights::Bits(bits) => format!("{bits} bits"),
            Weights::Variant(path) => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }
}

/// What a token costs in an arm. Bytes are those of the weights that one decoded token uses: all of the trunk, but of a table of
/// embeddings that is not the head as well only a row; and the records of its picks, as though none of them was in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmFacts {
    /// Experts of a token.
    pub experts_per_token: usize,
    /// Bits of a routed expert's weight, scales included.
    pub expert_bits: f64,
    /// The same of all other weights.
    pub trunk_bits: f64,
    /// Bytes of the picks.
    pub expert_bytes_per_token: u64,
    /// Bytes of the trunk.
    pub trunk_bytes_per_token: u64,
}

impl ArmFacts {
    /// Of the files at `path`.
    pub(super) fn of(path: &Path, experts: usize) -> Result<ArmFacts, EvalError> {
        let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
        let found = checkpoint.inspect();
        let top_k = checkpoint.spec().moe.map_or(1, |moe| moe.top_k) as u64;
        let routed = found.roles.iter().filter(|role| role.role == Role::RoutedExperts);
        let (bytes, params) =
            routed.fold((0, 0), |(bytes, params), role| (bytes + role.bytes, params + role.params));
        let trunk_bytes = found.weight_bytes - bytes;
        let bits = |bytes: u64, n: u64| if n == 0 { 0.0 } else { 8.0 * bytes as f64 / n as f64 };
        let embed = checkpoint.trunk().embed.shape;
        let unread = if checkpoint.trunk().head.is_some() {
            (embed.bytes() - embed.bytes() / embed.rows) as u64
        } else {
            0
        };
        Ok(ArmFacts {
            experts_per_token: experts,
            expert_bits: bits(bytes, params),
            trunk_bits: bits(trunk_bytes, found.total_params - params),
            expert_bytes_per_token: found.expert_bytes_per_token / top_k * experts as u64,
            trunk_bytes_per_token: trunk_bytes - unread,
        })
    }

    /// Bytes of a token in all.
    pub fn bytes_per_token(&self) -> u64 {
        self.expert_bytes_per_token + self.trunk_bytes_per_token
    }
}

/// A number for the files of the model at `path`: names, lengths and times of the weights and of the small files beside them.
pub(super) fn identity(path: &Path) -> Result<u64, EvalError> {
    let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
    let mut files: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
    let dir = checkpoint.dir();
    let cannot = |path: &Path, error| EvalError::Read { path: path.to_owned(), error };
    if checkpoint.gguf_metadata().is_none() {
        for entry in fs::read_dir(dir).map_err(|error| cannot(dir, error))? {
            let path = entry.map_err(|error| cannot(dir, error))?.path();
            if path.extension().is_some_and(|extension| extension == "json" || extension == "jinja") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hash = Xxh3Default::new();
    for file in &files {
        let stamp = || -> io::Result<(u64, u128)> {
            let data = fs::metadata(file)?;
            let since = data.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Ok((data.len(), since.as_nanos()))
        };
        let (len, time) = stamp().map_err(|error| cannot(file, error))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(&len.to_le_bytes());
        hash.update(&time.to_le_bytes());
    }
    Ok(hash.digest())
}

/// The files of an arm's weights: packed when they are first asked for, and removed when this is dropped.
pub(super) struct Files<'a> {
    weights: &'a Weights,
    model: &'a Path,
    /// How the model is opened to be calibrated: as `flashmill pack` does, but within the budget.
    engine: EngineOptions,
    /// Where they are packed.
    dir: PathBuf,
    is_packed: bool,
}

impl<'a> Files<'a> {
    pub(super) fn new(
        weights: &'a Weights,
        model: &'a Path,
        engine: &EngineOptions,
        dir: PathBuf,
    ) -> Files<'a> {
        let engine = EngineOptions { ram_bytes: engine.ram_bytes, ..EngineOptions::default() };
        Files { weights, model, engine, dir, is_packed: false }
    }

    /// Where they are. What a run that was killed has packed is taken over. `tell` is told what is done to them and the share that is
    /// done, 0 to 1.
    pub(super) fn path(&mut self, tell: &mut dyn FnMut(&str, f64)) -> Result<PathBuf, EvalError> {
        let bits = match self.weights {
            Weights::Stored => return Ok(self.model.to_owned()),
            Weights::Variant(path) => return Ok(path.clone()),
            Weights::Bits(bits) => *bits,
        };
        if !self.is_packed {
            self.is_packed = true;
            let recipe = RecipeOptions { bits: Some(Bits::Affine(bits)), ..RecipeOptions::default() };
            let (source, out) = (self.model.to_owned(), self.dir.clone());
            let options = PackOptions { source, out, recipe, ..PackOptions::default() };
            let plan = flashmill_pack::plan(options.clone()).map_err(Box::new)?;
            if plan.gains_by_importance() {
                let prepared = prepare(options, &CalibrationText::BuiltIn, &self.engine, &mut |event| {
                    if let Event::Calibrating { done, total } = event {
                        tell("calibrating", done as f64 / total.max(1) as f64);
                    }
                });
                let prepared = prepared.map_err(Box::new)?;
                watched(|progress| prepared.pack(progress), tell)?;
            } else {
                watched(|progress| flashmill_pack::pack(&plan, progress), tell)?;
            }
        }
        Ok(self.dir.clone())
    }
}

/// Packs on a thread of its own while this one tells how far it is.
fn watched(
    pack: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> Result<PackReport, PackError> + Send,
    tell: &mut dyn FnMut(&str, f64),
) -> Result<(), EvalError> {
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(1));
    let report = thread::scope(|scope| {
        let (done, total) = (&done, &total);
        let packing = scope.spawn(move || {
            pack(&|n_done, n| {
                total.store(n.max(1), Ordering::Relaxed);
                done.store(n_done, Ordering::Relaxed);
            })
        });
        while !packing.is_finished() {
            tell("packing", done.load(Ordering::Relaxed) as f64 / total.load(Ordering::Relaxed) as f64);
            thread::sleep(LOOK_EVERY);
        }
        packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    report.map_err(Box::new)?;
    Ok(())
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        if self.is_packed {
            // What stays is taken over or removed by the next run.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Everything that decides the numbers of an arm, as text; with cache-aware routing that is also what decides what the cache holds.
pub(super) fn settings(engine: &EngineOptions, experts: usize) -> String {
    let routing = if engine.cache_aware > 0.0 { format!(" {engine:?}") } else { String::new() };
    format!("{:?} {:?} {experts}{routing}", engine.backend, engine.kv)
}
