use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use flashmill_layout::{Extent, FileId};

use crate::StoreError;
use crate::platform;

/// Where slots and covers are aligned, whatever a file asks for: a multiple of every alignment that is read directly.
pub(crate) const ALIGN: u64 = 4096;

/// Bytes of one read of [`Files::read_exact`]; also how much of the page cache it fills at a time.
const PIECE_BYTES: usize = 8 << 20;

/// The open files of a checkpoint.
///
/// Each is open twice: once through the page cache, and once around it where the file system allows that.
#[derive(Debug)]
pub struct Files {
    files: Vec<OpenFile>,
}

/// One file of a checkpoint.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) path: PathBuf,
    /// Bytes when it was opened.
    pub(crate) len: u64,
    pub(crate) buffered: File,
    pub(crate) direct: Result<Direct, NoDirect>,
}

/// A file open around the page cache.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) file: File,
    /// Power of two, at most [`ALIGN`], to which offsets, lengths and addresses are aligned.
    pub(crate) align: u64,
}

/// Why a file is not read around the page cache.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))] // the other systems only refuse
pub(crate) enum NoDirect {
    /// The system said no, at opening or at the first read.
    Refused(io::Error),
    /// It would have to be aligned to more than a page.
    Alignment(u64),
    /// The kernel says that the file system cannot.
    Unsupported,
}

impl fmt::Display for NoDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoDirect::Refused(source) => write!(f, "{source}"),
            NoDirect::Alignment(align) => write!(f, "it wants an alignment of {align} bytes"),
            NoDirect::Unsupported => f.write_str("its file system has no direct reads"),
        }
    }
}

impl Files {
    /// Opens `paths`; the file of `paths[i]` is `FileId(i)`.
    ///
    /// # Errors
    /// Names the first file that cannot be opened, or that is replaced meanwhile.
    pub fn open(paths: &[PathBuf]) -> Result<Files, StoreError> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let file = OpenFile::open(path).map_err(|error| match error {
                StoreError::Open { path, source } if platform::is_too_many_files(&source) => {
                    StoreError::TooManyFiles { path, n_open: files.len() }
                }
                other => other,
            })?;
            files.push(file);
        }
        Ok(Files { files })
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// No file is open.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Bytes of a file when it was opened.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn file_len(&self, file: FileId) -> Result<u64, StoreError> {
        Ok(self.get(file)?.len)
    }

    /// Asks the system to drop what its page cache holds of the files, so that reads through it are cold.
    pub fn forget_cached(&self) {
        for file in &self.files {
            platform::forget_cached(&file.buffered, 0, file.len);
        }
    }

    /// Reads the bytes of `extent` into `into`, through the page cache, which is asked to forget them.
    ///
    /// # Errors
    /// If the extent is not in the file, or cannot be read whole. `into` then holds anything.
    ///
    /// # Panics
    /// If `into` has not the length of the extent.
    pub fn read_exact(&self, extent: Extent, into: &mut [u8]) -> Result<(), StoreError> {
        assert_eq!(into.len() as u64, extent.len, "a buffer of the extent's length");
        self.check(extent)?;
        let file = self.get(extent.file)?;
        let mut done = 0;
        while done < into.len() {
            let end = into.len().min(done + PIECE_BYTES);
            let offset = extent.offset + done as u64;
            match platform::read_at(&file.buffered, &mut into[done..end], offset) {
                Ok(0) => return Err(file.short(extent.offset, extent.len, done as u64)),
                Ok(n) => {
                    platform::forget_cached(&file.buffered, offset, n as u64);
                    done += n;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(file.failed(extent.offset, extent.len, source)),
            }
        }
        Ok(())
    }

    /// Checks that an extent lies inside its file.
    pub(crate) fn check(&self, extent: Extent) -> Result<(), StoreError> {
        let file = self.get(extent.file)?;
        match extent.offset.checked_add(extent.len) {
            Some(end) if end <= file.len => Ok(()),
            _ => Err(StoreError::OutsideFile {
                path: file.path.clone(),
                offset: extent.offset,
                len: extent.len,
                file_len: file.len,
            }),
        }
    }

    pub(crate) fn get(&self, file: FileId) -> Result<&OpenFile, StoreError> {
        let n_files = self.files.len();
        self.files.get(file.0 as usize).ok_or(StoreError::NoSuchFile { file: file.0, n_files })
    }

    /// A file whose extents were checked before.
    pub(crate) fn at(&self, file: FileId) -> &OpenFile {
        &self.files[file.0 as usize]
    }

    /// For tests of what depends on the file system.
    #[cfg(test)]
    pub(crate) fn first_mut(&mut self) -> &mut OpenFile {
        &mut self.files[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &OpenFile> {
        self.files.iter()
    }
}

impl OpenFile {
    fn open(path: &Path) -> Result<OpenFile, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let buffered = File::open(path).map_err(failed)?;
        let meta = buffered.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let direct = match platform::open_direct(path, &buffered) {
            Err(NoDirect::Refused(error)) if platform::is_too_many_files(&error) => {
                return Err(failed(error));
            }
            direct => direct.and_then(first_direct_read),
        };
        if let Ok(direct) = &direct {
            let again = direct.file.metadata().map_err(failed)?;
            if !platform::same_file(&meta, &again) {
                return Err(StoreError::Replaced { path: path.to_owned() });
            }
        }
        Ok(OpenFile { path: path.to_owned(), len: meta.len(), buffered, direct })
    }

    /// The file ended inside an extent.
    pub(crate) fn short(&self, offset: u64, wanted: u64, got: u64) -> StoreError {
        StoreError::Short { path: self.path.clone(), offset, wanted, got }
    }

    /// A read of the file failed.
    pub(crate) fn failed(&self, offset: u64, len: u64, source: io::Error) -> StoreError {
        StoreError::Read { path: self.path.clone(), offset, len, source }
    }
}

/// Some file systems open a file for direct reads and then refuse to read it, so one page is tried.
fn first_direct_read(direct: Direct) -> Result<Direct, NoDirect> {
    #[repr(align(4096))]
    struct Page([u8; ALIGN as usize]);
    let mut page = Box::new(Page([0; ALIGN as usize]));
    match platform::read_at(&direct.file, &mut page.0, 0) {
        Ok(_) => Ok(direct),
        Err(error) => Err(NoDirect::Refused(error)),
    }
}
