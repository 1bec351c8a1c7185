//! The machine's profile: measured once, kept in the user's cache.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use flashmill_engine::cost::{MachineProfile, Workload};
use flashmill_engine::{Checkpoint, EngineOptions, ReaderKind};
use flashmill_lab::profile;

use crate::demo::user_cache;
use crate::progress::Progress;

/// The kept profile for the disk that holds the model at `path`; `None` if there is none that can be read and makes sense.
fn kept(path: &Path, options: &EngineOptions) -> Option<MachineProfile> {
    let profile: MachineProfile = serde_json::from_slice(&fs::read(place(path, options)?).ok()?).ok()?;
    profile.is_sound().then_some(profile)
}

/// Puts into `options` the profile of this machine, where it was measured before: nothing is measured on the way to an answer.
pub(crate) fn use_kept(path: &Path, options: &mut EngineOptions) {
    options.profile = kept(path, options).map(Arc::new);
}

/// The profile with everything that predicting the model at `path` needs, measured where it is not kept or `again` is set, and kept
/// where that is possible.
pub(crate) fn measured(path: &Path, options: &EngineOptions, again: bool) -> Result<MachineProfile> {
    let mut found = if again { MachineProfile::default() } else { kept(path, options).unwrap_or_default() };
    let checkpoint = Checkpoint::open(path)?;
    let top_k = checkpoint.spec().moe.map_or(0, |moe| moe.top_k);
    let workload = Workload::of(&checkpoint, options.experts_per_token.unwrap_or(top_k));
    let mut bar = Progress::of_steps();
    bar.step("measuring the kernels and the memory", 0, 2);
    let mut changed = profile::complete(&mut found, &workload, options)?;
    if found.disk.is_empty() {
        bar.step("measuring the disk", 1, 2);
        let readers = [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache];
        profile::measure_disk(&mut found, &checkpoint, &readers)?;
        changed |= !found.disk.is_empty();
    }
    drop(bar);
    if changed && let Some(place) = place(path, options) {
        // Without a cache it is measured again the next time.
        let _ = keep(&found, &place);
    }
    Ok(found)
}

fn keep(profile: &MachineProfile, place: &Path) -> Result<()> {
    let dir = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec_pretty(profile)?)?;
    file.persist(place)?;
    Ok(())
}

/// A home may be shared by machines, a machine has several disks, and kernels change: each has a file of its own.
fn place(path: &Path, options: &EngineOptions) -> Option<PathBuf> {
    let level = options.level.map_or_else(|| "best".to_owned(), |level| level.to_string());
    let name = format!(
        "profile-{}-{}-{:x}-{level}-{}.json",
        env!("CARGO_PKG_VERSION"),
        host(),
        disk_of(path),
        options.n_threads()
    );
    Some(user_cache()?.join(name))
}

/// The machine's name as a part of a file's name.
pub(crate) fn host() -> String {
    let host = flashmill_engine::machine::name().unwrap_or_else(|| "machine".to_owned());
    host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect()
}

/// A number for the disk that holds the file at `path`.
#[cfg(unix)]
pub(crate) fn disk_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).map_or(0, |metadata| metadata.dev())
}

/// A number for the disk that holds the file at `path`.
#[cfg(not(unix))]
pub(crate) fn disk_of(_: &Path) -> u64 {
    0
}
