//! Which model this is, with which settings, as far as the bits of its states go.

use std::time::SystemTime;

use flashmill_checkpoint::Checkpoint;
use xxhash_rust::xxh3::Xxh3Default;

use crate::EngineOptions;
use crate::plan::Plan;

/// Changes with anything that changes the bits of a state: the order of a sum, the layout of a page.
const NUMERICS: u32 = 1;

/// A hash of names, lengths and times of the model's files, and of the settings. A file that was written again is another one.
pub(crate) fn of(checkpoint: &Checkpoint, plan: &Plan, options: &EngineOptions) -> u128 {
    let mut hash = Xxh3Default::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(&NUMERICS.to_le_bytes());
    for file in checkpoint.files() {
        add(file.path.file_name().unwrap_or_default().as_encoded_bytes());
        add(&file.len.to_le_bytes());
        let modified = file.path.metadata().and_then(|meta| meta.modified()).ok();
        let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        add(&since.map_or(0, |since| since.as_nanos()).to_le_bytes());
    }
    // The spec holds what the config says.
    add(format!("{:?}", checkpoint.spec()).as_bytes());
    add(format!("{:?} {:?} {}", options.backend, options.kv, plan.experts_per_token).as_bytes());
    hash.digest128()
}
