//! Memory of the backend: zeroed, aligned to cache lines, in huge pages where it is large.

use std::alloc::Layout;
use std::ptr::NonNull;

/// Zeroed bytes at an address that is a multiple of 64.
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    mapped: bool,
}

// SAFETY: `Memory` owns its bytes as a `Vec<u8>` does.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads, or goes through `Span`, whose methods are unsafe.
unsafe impl Sync for Memory {}

const ALIGNMENT: usize = 64;
/// From this size on memory is mapped: pages are then zeroed when first touched, and may be huge.
const MAPPED_FROM: usize = 1 << 20;

impl Memory {
    /// `bytes` zero bytes.
    pub(crate) fn zeroed(bytes: usize) -> Memory {
        if bytes == 0 {
            return Memory { start: NonNull::<Line>::dangling().cast(), bytes, mapped: false };
        }
        if bytes >= MAPPED_FROM
            && let Some(start) = map(bytes)
        {
            return Memory { start, bytes, mapped: true };
        }
        let layout = layout(bytes);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Memory { start, bytes, mapped: false }
    }

    /// Its size.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points at `bytes` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as values that the threads of a region share.
    pub(crate) fn span<T: Plain>(&self) -> Span<T> {
        Span { start: self.start.as_ptr().cast(), len: self.bytes / size_of::<T>() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        if self.mapped {
            unmap(self.start, self.bytes);
        } else {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout(self.bytes)) };
        }
    }
}

#[repr(align(64))]
struct Line;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("a size below isize::MAX")
}

/// Types of which every bit pattern is a value.
///
/// # Safety
/// All bit patterns must be valid, and the alignment at most 64.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and floats have no invalid bit patterns.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// Values that several threads use at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Span<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a `Span` is an address; using it is unsafe and says who may touch what.
unsafe impl<T: Plain> Send for Span<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Span<T> {}

impl<T: Plain> Span<T> {
    /// Number of values.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Whether both are the same memory.
    pub(crate) fn is(self, other: Span<T>) -> bool {
        self.start == other.start
    }

    /// `len` values from `at` on.
    ///
    /// # Safety
    /// The memory lives, and nobody writes these values, during `'a`.
    #[inline(always)]
    pub(crate) unsafe fn get<'a>(self, at: usize, len: usize) -> &'a [T] {
        self.check(at, len);
        // SAFETY: in bounds by `check`; life and absence of writers by the caller.
        unsafe { std::slice::from_raw_parts(self.start.add(at), len) }
    }

    /// `len` values from `at` on, to be written.
    ///
    /// # Safety
    /// The memory lives, and nobody else reads or writes these values, during `'a`.
    #[inline(always)]
    pub(crate) unsafe fn get_mut<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        self.check(at, len);
        // SAFETY: in bounds by `check`; life and exclusiveness by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    #[inline(always)]
    fn check(self, at: usize, len: usize) {
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.len),
            "values {at}+{len} of a buffer of {}",
            self.len
        );
    }
}

#[cfg(unix)]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }.ok()?;
    // Fewer TLB misses; a refusal changes nothing but speed.
    #[cfg(target_os = "linux")]
    // SAFETY: the range was mapped just now; the advice does not change its contents.
    let _ = unsafe { rustix::mm::madvise(start, bytes, rustix::mm::Advice::LinuxHugepage) };
    NonNull::new(start.cast())
}

#[cfg(unix)]
fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the range is one mapping of ours that nobody uses any more: its owner is being dropped.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), bytes) };
}

#[cfg(not(unix))]
fn map(_bytes: usize) -> Option<NonNull<u8>> {
    None
}

#[cfg(not(unix))]
fn unmap(_start: NonNull<u8>, _bytes: usize) {
    unreachable!("nothing is mapped here");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_writable() {
        for bytes in [0, 1, 100, MAPPED_FROM - 1, MAPPED_FROM, 5 * MAPPED_FROM + 3] {
            let mut memory = Memory::zeroed(bytes);
            assert_eq!(memory.bytes().len(), bytes);
            assert_eq!(memory.bytes().as_ptr() as usize % ALIGNMENT, 0);
            assert!(memory.bytes().iter().all(|&byte| byte == 0));
            memory.bytes_mut().fill(7);
            assert!(memory.bytes().iter().all(|&byte| byte == 7));
        }
    }
}
