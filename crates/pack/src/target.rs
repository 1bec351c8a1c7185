//! The output's files: room for all bytes is taken before the first is written, and records go around the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flashmill_checkpoint::packed::RECORD_ALIGN;

use crate::error::PackError;
use crate::output::OutFile;

/// An open file of the output.
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// The same file around the page cache, where the system allows it.
    direct: Option<File>,
    refuses_direct: AtomicBool,
}

impl Target {
    /// Opens or makes a file with its header, its full length, and room on the disk for all of it.
    pub(crate) fn open(dir: &Path, out: &OutFile) -> Result<Target, PackError> {
        let path = dir.join(&out.name);
        let failed = |action| {
            let path = path.clone();
            move |source| PackError::Write { path, action, source }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed("create"))?;
        file.set_len(out.len).map_err(failed("set the length of"))?;
        reserve(&file, out.len).map_err(failed("take room for"))?;
        let direct = open_direct(&path);
        let target = Target { path, file, direct, refuses_direct: AtomicBool::new(false) };
        target.write(&out.header, 0)?;
        Ok(target)
    }

    /// Writes bytes anywhere.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), PackError> {
        write_all_at(&self.file, bytes, offset).map_err(|source| self.failed(source))
    }

    /// Writes whole pages from an [`AlignedBuffer`]: around the page cache, which would hold up the writer and throw out what is
    /// being read.
    pub(crate) fn write_pages(&self, bytes: &[u8], offset: u64) -> Result<(), PackError> {
        let direct = self.direct.as_ref().filter(|_| !self.refuses_direct.load(Ordering::Relaxed));
        match direct.map(|file| write_all_at(file, bytes, offset)) {
            Some(Ok(())) => Ok(()),
            // Some file systems open a file for direct writes and then refuse them.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refuses_direct.store(true, Ordering::Relaxed);
                self.write(bytes, offset)
            }
            Some(Err(source)) => Err(self.failed(source)),
            None => self.write(bytes, offset),
        }
    }

    /// Reads back what was written.
    pub(crate) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), PackError> {
        let failed = |source| PackError::Write { path: self.path.clone(), action: "read", source };
        read_exact_at(&self.file, bytes, offset).map_err(failed)
    }

    /// Waits until everything that was written has reached the disk.
    pub(crate) fn sync(&self) -> Result<(), PackError> {
        let failed = |source| PackError::Write { path: self.path.clone(), action: "flush", source };
        self.file.sync_all().map_err(failed)
    }

    fn failed(&self, source: io::Error) -> PackError {
        PackError::Write { path: self.path.clone(), action: "write", source }
    }
}

/// Bytes on the disk that a file has already, up to its length.
pub(crate) fn allocated(path: &Path) -> u64 {
    let Ok(data) = std::fs::metadata(path) else { return 0 };
    #[cfg(unix)]
    return (std::os::unix::fs::MetadataExt::blocks(&data) * 512).min(data.len());
    #[cfg(not(unix))]
    data.len()
}

/// Takes the blocks of a file, so that a disk that fills up meanwhile does not stop the run. File systems that cannot are left.
#[cfg(target_os = "linux")]
fn reserve(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .ok()
        .map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Memory that starts on a page.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    bytes: Vec<u8>,
}

impl AlignedBuffer {
    /// `len` zeros.
    pub(crate) fn zeroed(&mut self, len: usize) -> &mut [u8] {
        let align = RECORD_ALIGN as usize;
        self.bytes.clear();
        self.bytes.resize(len + align, 0);
        let start = self.bytes.as_ptr().align_offset(align);
        &mut self.bytes[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_page_and_are_zero() {
        let mut buffer = AlignedBuffer::default();
        for len in [4096, 100, 1 << 20, 8192] {
            let bytes = buffer.zeroed(len);
            assert_eq!((bytes.as_ptr().addr() % 4096, bytes.len()), (0, len));
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(7);
        }
    }
}
