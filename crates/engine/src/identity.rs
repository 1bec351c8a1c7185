//! Which model this is, with which settings, as far as the bits of its states go.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::SystemTime;

use flashmill_checkpoint::Checkpoint;
use xxhash_rust::xxh3::Xxh3Default;

use crate::EngineOptions;
use crate::plan::Plan;

/// Changes with anything that changes the bits of a state: the order of a sum, the layout of a page.
const NUMERICS: u32 = 1;

/// Places of each file whose bytes are looked at, and how many there.
const SAMPLES: u64 = 8;
const SAMPLE_BYTES: u64 = 4096;

/// The files of a model, and the settings it was opened with.
pub(crate) struct Identity {
    files: Vec<(PathBuf, u64)>,
    settings: String,
}

impl Identity {
    pub(crate) fn new(checkpoint: &Checkpoint, plan: &Plan, options: &EngineOptions) -> Identity {
        // The spec holds what the config says.
        let spec = checkpoint.spec();
        let mut settings =
            format!("{spec:?} {:?} {:?} {}", options.backend, options.kv, plan.experts_per_token);
        if plan.cache_aware > 0.0 {
            // Its states are not those that the model itself would have.
            settings += &format!(" {}", plan.cache_aware);
        }
        Identity { files: files_of(checkpoint), settings }
    }

    /// The files alone, with no settings.
    pub(crate) fn of_files(checkpoint: &Checkpoint) -> Identity {
        Identity { files: files_of(checkpoint), settings: String::new() }
    }

    /// A hash of the settings and, of each file, name, length, time and some of its bytes. A file that was written again is another
    /// one; so is one of other weights whose time was set back.
    pub(crate) fn hash(&self) -> io::Result<u128> {
        let mut hash = Xxh3Default::new();
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&NUMERICS.to_le_bytes());
        add(self.settings.as_bytes());
        for (path, len) in &self.files {
            add(path.file_name().unwrap_or_default().as_encoded_bytes());
            add(&len.to_le_bytes());
            let mut file = File::open(path)?;
            let modified = file.metadata()?.modified().ok();
            let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            add(&since.map_or(0, |since| since.as_nanos()).to_le_bytes());
            for sample in 0..SAMPLES {
                // From the first bytes to the last.
                let at = len.saturating_sub(SAMPLE_BYTES) / (SAMPLES - 1) * sample;
                file.seek(SeekFrom::Start(at))?;
                let mut bytes = Vec::new();
                file.by_ref().take(SAMPLE_BYTES).read_to_end(&mut bytes)?;
                add(&bytes);
            }
        }
        Ok(hash.digest128())
    }
}

fn files_of(checkpoint: &Checkpoint) -> Vec<(PathBuf, u64)> {
    checkpoint.files().iter().map(|file| (file.path.clone(), file.len)).collect()
}
