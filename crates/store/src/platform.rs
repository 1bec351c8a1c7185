//! What differs between operating systems: positional reads, direct opening, and the names of errors.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use crate::files::{ALIGN, Direct, NoDirect};

#[cfg(unix)]
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}

/// Both are the same file, not only the same path.
#[cfg(unix)]
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The identity of a file is not in stable std here; its length and time of change stand in.
#[cfg(windows)]
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.modified().ok() == b.modified().ok()
}

#[cfg(unix)]
pub(crate) fn is_too_many_files(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// ERROR_TOO_MANY_OPEN_FILES.
#[cfg(windows)]
pub(crate) fn is_too_many_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(4)
}

/// A direct read that a file system refuses although it opened the file so.
pub(crate) fn is_direct_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Asks the page cache to drop what was just read, so that it does not push out other pages of a memory cgroup.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn forget_cached(file: &File, offset: u64, len: u64) {
    // Only advice: where it is refused, the kernel reclaims the pages when it needs them.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), rustix::fs::Advice::DontNeed);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn forget_cached(_file: &File, _offset: u64, _len: u64) {}

/// Opens the file of `buffered` again for reads around the page cache.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn open_direct(path: &Path, buffered: &File) -> Result<Direct, NoDirect> {
    use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

    // Kernels before 6.1 do not know DIOALIGN and leave its bit out of the answer.
    let mut align = ALIGN;
    if let Ok(stat) = rustix::fs::statx(buffered, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        align = u64::from(stat.stx_dio_offset_align.max(stat.stx_dio_mem_align));
        if stat.stx_dio_offset_align == 0 || stat.stx_dio_mem_align == 0 {
            return Err(NoDirect::Unsupported);
        }
        if align > ALIGN || !align.is_power_of_two() {
            return Err(NoDirect::Alignment(align));
        }
    }
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| NoDirect::Refused(errno.into()))?;
    Ok(Direct { file: file.into(), align })
}

/// Opens the file again with F_NOCACHE.
#[cfg(target_vendor = "apple")]
pub(crate) fn open_direct(path: &Path, _buffered: &File) -> Result<Direct, NoDirect> {
    let file = File::open(path).map_err(NoDirect::Refused)?;
    rustix::fs::fcntl_nocache(&file, true).map_err(|errno| NoDirect::Refused(errno.into()))?;
    Ok(Direct { file, align: ALIGN })
}

/// Opens the file again with FILE_FLAG_NO_BUFFERING, which wants whole sectors: no disk has larger ones than a page.
#[cfg(windows)]
pub(crate) fn open_direct(path: &Path, _buffered: &File) -> Result<Direct, NoDirect> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_FLAG_NO_BUFFERING: u32 = 0x2000_0000;
    let file = File::options()
        .read(true)
        .custom_flags(FILE_FLAG_NO_BUFFERING)
        .open(path)
        .map_err(NoDirect::Refused)?;
    Ok(Direct { file, align: ALIGN })
}

/// Other systems read through the page cache.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
pub(crate) fn open_direct(_path: &Path, _buffered: &File) -> Result<Direct, NoDirect> {
    Err(NoDirect::Unsupported)
}
