//! Measures what the cost formula of `flashmill_engine::cost` needs: the kernels, the memory and the disk of this machine.

mod disk;
mod kernels;
mod memory;

pub(crate) use memory::gb_per_s as memory_gb_per_s;

use std::collections::btree_map::Entry;

use flashmill_engine::cost::{MachineProfile, Workload};
use flashmill_engine::{BackendKind, Checkpoint, EngineOptions, ReaderKind, machine};
use flashmill_kernels::{Backend as _, Cpu, CpuOptions};
use flashmill_store::StoreError;

/// Why a machine could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// There is no backend.
    #[error(transparent)]
    Cpu(#[from] flashmill_kernels::CpuError),
    /// The disk cannot be measured.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Adds to `profile` what predicting `workload` needs and is not in it yet, and says whether anything was added. A profile of another
/// backend is begun afresh; the plain reference has no speed worth predicting, and none is measured.
pub fn complete(
    profile: &mut MachineProfile,
    workload: &Workload,
    options: &EngineOptions,
) -> Result<bool, ProfileError> {
    if options.backend == BackendKind::Reference {
        return Ok(false);
    }
    let n_threads = options.n_threads();
    let mut cpu = Cpu::new(CpuOptions { threads: n_threads, level: options.level })?;
    let mut added = false;
    if profile.backend != cpu.name() {
        let disk = std::mem::take(&mut profile.disk);
        *profile = MachineProfile { backend: cpu.name(), disk, ..MachineProfile::default() };
        profile.memory_gb_per_s = memory::gb_per_s(n_threads);
        kernels::common(&mut cpu, profile);
        added = true;
    }
    for encoding in workload.encodings() {
        if let Entry::Vacant(place) = profile.products.entry(encoding.to_string()) {
            place.insert(kernels::product(&mut cpu, encoding));
            added = true;
        }
    }
    Ok(added)
}

/// Reads the files of `checkpoint` at random and cold with each of `readers`, and puts their speeds into `profile`. What the system does
/// not allow is left out, and so is everything where the files are too small to tell.
pub fn measure_disk(
    profile: &mut MachineProfile,
    checkpoint: &Checkpoint,
    readers: &[ReaderKind],
) -> Result<(), ProfileError> {
    for &reader in readers {
        match disk::speeds(checkpoint, reader) {
            Ok(speeds) if speeds.is_empty() => {}
            Ok(speeds) => {
                profile.disk.insert(reader.to_string(), speeds);
            }
            Err(_) if readers.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `bytes`, or an eighth of the memory that this process may use if that is less.
fn within_limits(bytes: usize) -> usize {
    match machine::available_ram().bytes {
        0 => bytes,
        available => bytes.min((available / 8) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_measured_and_no_more() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
        let checkpoint = Checkpoint::open(demo.as_ref()).unwrap();
        let workload = Workload::of(&checkpoint, 6);
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        let mut profile = MachineProfile::default();
        assert!(complete(&mut profile, &workload, &options).unwrap());
        assert_eq!(profile.products.len(), workload.encodings().len());
        for cost in
            profile.products.values().chain([&profile.attention, &profile.delta_rule, &profile.vectors])
        {
            assert!(cost.picoseconds.iter().all(|&(_, picoseconds)| picoseconds > 0.0), "{profile:?}");
        }
        let before = profile.clone();
        assert!(!complete(&mut profile, &workload, &options).unwrap());
        assert_eq!(profile, before);
        // An encoding that is not known yet is added to the others; another backend begins anew.
        let known = profile.products.keys().next().unwrap().clone();
        profile.products.remove(&known);
        assert!(complete(&mut profile, &workload, &options).unwrap());
        assert!(profile.products.contains_key(&known) && profile.memory_gb_per_s == before.memory_gb_per_s);
        let two = EngineOptions { threads: Some(2), ..EngineOptions::default() };
        assert!(complete(&mut profile, &workload, &two).unwrap());
        assert_ne!(profile.backend, before.backend);
    }

    #[test]
    fn the_reference_is_not_measured() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
        let workload = Workload::of(&Checkpoint::open(demo.as_ref()).unwrap(), 6);
        let options = EngineOptions { backend: BackendKind::Reference, ..EngineOptions::default() };
        let mut profile = MachineProfile::default();
        assert!(!complete(&mut profile, &workload, &options).unwrap());
        assert_eq!(profile, MachineProfile::default());
    }
}
