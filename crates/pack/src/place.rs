//! Where a packed model may be written.

use std::fs;
use std::path::Path;

use flashmill_checkpoint::packed::{JOURNAL, MANIFEST};

use crate::error::PackError;
use crate::source::Source;

/// The output may be new, empty, or begun ([`check_out`]); and it must not lie among the source's files.
pub(crate) fn check_place(source: &Source, out: &Path) -> Result<(), PackError> {
    let io = |source| PackError::Io { path: out.to_owned(), action: "look at", source };
    if source.path().is_dir()
        && fs::canonicalize(nearest_existing(out)).map_err(io)?.starts_with(source.path())
    {
        let source_dir = source.path().to_owned();
        return Err(PackError::OutInSource { out: out.to_owned(), source_dir });
    }
    check_out(out)
}

/// The part of the check of an output that needs no source: it may be new, empty, begun or finished.
///
/// # Errors
/// If it is no directory, or holds files that are not ours.
pub fn check_out(out: &Path) -> Result<(), PackError> {
    let io = |source| PackError::Io { path: out.to_owned(), action: "look at", source };
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(PackError::OutNotADirectory { out: out.to_owned() });
        }
        Err(error) => return Err(io(error)),
    };
    let is_ours = [JOURNAL, MANIFEST].iter().any(|name| out.join(name).exists());
    match entries.count() {
        0 => Ok(()),
        _ if is_ours => Ok(()),
        _ => Err(PackError::OutNotEmpty { out: out.to_owned() }),
    }
}

/// The path, or the innermost of its directories that is there.
pub(crate) fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path })
        .find(|path| path.exists())
        .unwrap_or(Path::new("."))
}
