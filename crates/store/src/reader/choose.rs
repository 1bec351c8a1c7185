//! Which reader is used: what was asked for if the system allows it, else the next best, with the reason.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use flashmill_layout::FileId;

use super::pool::Pool;
use super::{Read, Reader};
use crate::files::ALIGN;
use crate::memory::SlotMemory;
use crate::{Files, ReaderKind, StoreError, StoreOptions};

/// What the system calls reads around the page cache.
const DIRECT: &str = if cfg!(target_vendor = "apple") {
    "F_NOCACHE"
} else if cfg!(windows) {
    "NO_BUFFERING"
} else {
    "O_DIRECT"
};

/// A reader, whether it reads around the page cache where a file allows it, and its name for people.
pub(crate) struct Choice {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) direct: bool,
    pub(crate) name: String,
}

/// Makes the reader that `options` ask for, or the next best.
pub(crate) fn choose(files: &Arc<Files>, options: &StoreOptions) -> Result<Choice, StoreError> {
    choose_with(files, options, try_uring)
}

fn choose_with(
    files: &Arc<Files>,
    options: &StoreOptions,
    try_uring: impl FnOnce(&Arc<Files>, usize) -> io::Result<Box<dyn Reader>>,
) -> Result<Choice, StoreError> {
    let n_direct = files.iter().filter(|file| file.direct.is_ok()).count();
    let direct = options.reader != ReaderKind::PageCache && n_direct > 0;
    let how = if direct { DIRECT } else { "page cache" };
    let mut notes = String::new();

    // Without direct reads io_uring copies from the page cache in the caller's own time, which threads do beside it.
    let wants_uring = match options.reader {
        ReaderKind::Auto => direct,
        ReaderKind::Uring => true,
        ReaderKind::Pread | ReaderKind::PageCache => false,
    };
    if wants_uring {
        match try_uring(files, options.depth) {
            Ok(reader) => {
                note_buffered_files(files, options, &mut notes);
                return Ok(Choice { reader, direct, name: format!("io_uring, {how}{notes}") });
            }
            Err(error) => notes = format!("; io_uring: {error}"),
        }
    }
    note_buffered_files(files, options, &mut notes);
    let pool = Pool::new(Arc::clone(files), options.io_threads, options.depth)
        .map_err(|source| StoreError::Reader { name: "pread", source })?;
    let name = format!("pread on {} threads, {how}{notes}", pool.n_threads());
    Ok(Choice { reader: Box::new(pool), direct, name })
}

/// Says how many files are read through the page cache though the reader would rather not, and why the first of them is.
fn note_buffered_files(files: &Files, options: &StoreOptions, notes: &mut String) {
    if options.reader == ReaderKind::PageCache {
        return;
    }
    let mut refusals =
        files.iter().filter_map(|file| file.direct.as_ref().err().map(|why| (&file.path, why)));
    if let Some((path, why)) = refusals.next() {
        let n_buffered = 1 + refusals.count();
        let n_files = files.len();
        *notes += &format!("; {n_buffered} of {n_files} files without {DIRECT} ({}: {why})", path.display());
    }
}

#[cfg(target_os = "linux")]
fn try_uring(files: &Arc<Files>, depth: usize) -> io::Result<Box<dyn Reader>> {
    let mut reader: Box<dyn Reader> = Box::new(super::uring::Uring::new(Arc::clone(files), depth)?);
    first_read(&mut *reader, files)?;
    Ok(reader)
}

#[cfg(not(target_os = "linux"))]
fn try_uring(_files: &Arc<Files>, _depth: usize) -> io::Result<Box<dyn Reader>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// One read through the reader: a sandbox may allow the ring and refuse its use.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn first_read(reader: &mut dyn Reader, files: &Files) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let page = SlotMemory::new(std::iter::once(ALIGN as usize))?;
    reader.start(Read {
        slot: 0,
        file: FileId(0),
        direct: true,
        start: 0,
        loan: page.lend(0),
        at: 0,
        wanted: 0..0,
        reached: 0,
        stalls: 0,
        begun: Instant::now(),
    });
    let mut finished = Vec::with_capacity(1);
    while finished.is_empty() {
        reader.finished(true, &mut finished)?;
    }
    finished.swap_remove(0).1.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::files::NoDirect;

    fn name_of(files: Files, reader: ReaderKind, uring: io::Result<()>) -> (String, bool, bool) {
        let files = Arc::new(files);
        let options = StoreOptions { reader, io_threads: 2, ..StoreOptions::default() };
        let mut asked = false;
        let choice = choose_with(&files, &options, |files, depth| {
            asked = true;
            // A pool stands in for the ring, so that the test runs where there is none.
            uring.and_then(|()| Ok(Box::new(Pool::new(Arc::clone(files), 1, depth)?) as Box<dyn Reader>))
        });
        let choice = choice.unwrap();
        (choice.name, choice.direct, asked)
    }

    fn files(with_direct: bool) -> Files {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        let mut files = Files::open(&[file.path().to_owned()]).unwrap();
        let open = files.first_mut();
        if with_direct {
            let direct = crate::files::Direct { file: open.buffered.try_clone().unwrap(), align: 512 };
            open.direct = Ok(direct);
        } else {
            open.direct = Err(NoDirect::Unsupported);
        }
        files
    }

    #[test]
    fn the_best_that_the_system_allows_is_used_and_the_rest_is_said() {
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        let none = "1 of 1 files without";
        // kind, file allows direct reads, the ring works: how it is named, whether it reads around the cache, the ring was tried
        let cases = [
            (ReaderKind::Auto, true, true, "io_uring, ", true, true),
            (ReaderKind::Auto, true, false, "io_uring: permission denied", true, true),
            (ReaderKind::Auto, false, true, none, false, false),
            (ReaderKind::Uring, false, true, "io_uring, page cache; 1 of 1", false, true),
            (ReaderKind::Uring, false, false, "page cache; io_uring: permission denied; 1 of 1", false, true),
            (ReaderKind::Pread, true, true, "pread on 2 threads, ", true, false),
            (ReaderKind::Pread, false, true, none, false, false),
            (ReaderKind::PageCache, true, true, "pread on 2 threads, page cache", false, false),
        ];
        for (kind, with_direct, ring, named, direct, tried) in cases {
            let uring = if ring { Ok(()) } else { denied() };
            let (name, is_direct, asked) = name_of(files(with_direct), kind, uring);
            assert!(name.contains(named), "{kind}, {with_direct}, {ring}: {name}");
            assert_eq!((is_direct, asked), (direct, tried), "{kind}, {with_direct}, {ring}: {name}");
        }
    }
}
