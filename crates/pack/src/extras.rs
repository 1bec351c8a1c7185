//! What goes beside the weights: tokenizer, chat template, configs; or a GGUF file's metadata.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use flashmill_checkpoint::Convention;
use flashmill_checkpoint::gguf::read_header;
use flashmill_checkpoint::packed::METADATA;

use crate::error::PackError;
use crate::source::Source;

/// Files that are copied where the source has them.
const TEXTS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
    METADATA,
];

/// Writes and flushes them; files of an earlier run are replaced.
pub(crate) fn write(source: &Source, out: &Path) -> Result<(), PackError> {
    if source.checkpoint().convention() == Convention::LlamaCpp {
        return write_metadata(&source.checkpoint().files()[0].path, &out.join(METADATA));
    }
    for name in TEXTS {
        let from = source.checkpoint().dir().join(name);
        match fs::read(&from) {
            Ok(bytes) => write_file(&out.join(name), &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(PackError::Io { path: from, action: "read", source }),
        }
    }
    Ok(())
}

/// Writes a whole file and waits until it has reached the disk.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    let failed = |source| PackError::Write { path: path.to_owned(), action: "write", source };
    let mut file = File::create(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Writes the metadata of a GGUF file as a GGUF file without tensors. What says that the file is one of several is left out.
fn write_metadata(from: &Path, to: &Path) -> Result<(), PackError> {
    let failed = |source| PackError::Io { path: from.to_owned(), action: "read", source };
    let mut file = File::open(from).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let header = read_header(from, &file, len)?;
    let keys = header.metadata.iter().map(|(key, _)| key);
    let kept: Vec<&Range<u64>> = keys
        .zip(&header.pairs)
        .filter(|(key, _)| !key.starts_with("split."))
        .map(|(_, place)| place)
        .collect();
    let mut bytes = Vec::from(*b"GGUF");
    bytes.extend_from_slice(&header.version.to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.extend_from_slice(&(kept.len() as u64).to_le_bytes());
    for place in kept {
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        // The header was read from these places a moment ago, within its limits.
        let wanted = place.end - place.start;
        let before = bytes.len() as u64;
        (&mut file).take(wanted).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 - before != wanted {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    write_file(to, &bytes)
}
