//! The memory of the slots: one page-aligned anonymous allocation, and the two ways to touch it.
//!
//! A [`Pin`] reads a slot, a [`Loan`] writes a piece of it; a slot's word says which of the two there are, and the other is
//! then refused. So a leased slot is never written, whatever the code above does.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::files::ALIGN;

/// One loan in a slot's word; pins count below it.
const LOAN: u32 = 1 << 16;

/// All slots. Pages that were never written take no memory.
pub(crate) struct SlotMemory {
    pages: Pages,
    /// `n_slots + 1` starts, multiples of [`ALIGN`].
    starts: Box<[usize]>,
    /// For each slot the number of pins, or [`LOAN`] times the number of loans.
    words: Box<[AtomicU32]>,
}

/// The right to read a slot until it is dropped.
pub(crate) struct Pin {
    memory: Arc<SlotMemory>,
    slot: u32,
}

/// The only right to write some bytes of a slot until it is dropped.
pub(crate) struct Loan {
    memory: Arc<SlotMemory>,
    slot: u32,
    /// Bytes of `memory.pages`, inside the slot.
    start: usize,
    len: usize,
}

impl SlotMemory {
    /// Slots of the given lengths, multiples of [`ALIGN`].
    pub(crate) fn new(lens: impl Iterator<Item = usize>) -> io::Result<Arc<SlotMemory>> {
        let mut starts = vec![0];
        let mut end = 0usize;
        for len in lens {
            assert!(len.is_multiple_of(ALIGN as usize), "a slot of {len} bytes is not whole pages");
            end = end.checked_add(len).ok_or(io::ErrorKind::OutOfMemory)?;
            starts.push(end);
        }
        let words = (1..starts.len()).map(|_| AtomicU32::new(0)).collect();
        Ok(Arc::new(SlotMemory { pages: Pages::new(end)?, starts: starts.into(), words }))
    }

    /// Bytes of all slots.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len
    }

    /// Somebody reads the slot.
    pub(crate) fn is_pinned(&self, slot: u32) -> bool {
        // Acquire: what the readers did with the bytes happened before whoever writes them next.
        self.words[slot as usize].load(Ordering::Acquire) != 0
    }

    /// Reads a slot.
    ///
    /// # Panics
    /// If the slot is being written.
    pub(crate) fn pin(self: &Arc<Self>, slot: u32) -> Pin {
        let word = &self.words[slot as usize];
        // Acquire: the bytes that the loans wrote are seen.
        let pinned = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |count| {
            (count < LOAN - 1).then_some(count + 1)
        });
        assert!(pinned.is_ok(), "slot {slot} is read while it is written, or by too many");
        Pin { memory: Arc::clone(self), slot }
    }

    /// Writes a slot.
    ///
    /// # Panics
    /// If the slot is being read or written.
    pub(crate) fn lend(self: &Arc<Self>, slot: u32) -> Loan {
        let word = &self.words[slot as usize];
        let lent = word.compare_exchange(0, LOAN, Ordering::Acquire, Ordering::Relaxed);
        assert!(lent.is_ok(), "slot {slot} is written while it is in use");
        let start = self.starts[slot as usize];
        let len = self.starts[slot as usize + 1] - start;
        Loan { memory: Arc::clone(self), slot, start, len }
    }
}

impl Pin {
    /// The bytes of the slot.
    pub(crate) fn bytes(&self) -> &[u8] {
        let start = self.memory.starts[self.slot as usize];
        let end = self.memory.starts[self.slot as usize + 1];
        // SAFETY: `start..end` lies in the allocation, which the `Arc` keeps, and which was zeroed at first. The slot's word
        // counts this pin, so no `Loan` of the slot exists and none is made: nobody writes these bytes.
        unsafe { std::slice::from_raw_parts(self.memory.pages.at(start), end - start) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // Release: our reads happened before the next loan, which acquires.
        self.memory.words[self.slot as usize].fetch_sub(1, Ordering::Release);
    }
}

impl Loan {
    /// Bytes that may be written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the allocation, which the `Arc` keeps, and which was zeroed at first. Loans of a slot come
        // from one by `split_off`, so their ranges are disjoint; the slot's word counts this one, so there is no `Pin`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.pages.at(self.start), self.len) }
    }

    /// Splits the loan: this one keeps the bytes before `at`, the new one has the others.
    pub(crate) fn split_off(&mut self, at: usize) -> Loan {
        assert!(at <= self.len, "split at {at} of {} bytes", self.len);
        let before = self.memory.words[self.slot as usize].fetch_add(LOAN, Ordering::Relaxed);
        assert!(before < u32::MAX - LOAN, "too many pieces of one slot");
        let rest = Loan {
            memory: Arc::clone(&self.memory),
            slot: self.slot,
            start: self.start + at,
            len: self.len - at,
        };
        self.len = at;
        rest
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Release: our writes happened before the next pin, which acquires.
        self.memory.words[self.slot as usize].fetch_sub(LOAN, Ordering::Release);
    }
}

/// Zeroed, page-aligned memory that is only taken from the system where it is written.
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: `Pages` is memory that belongs to nobody's thread; who may touch which bytes is settled by `Pin` and `Loan`.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// The address of a byte, or of the end.
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        // SAFETY: the offset lies in the allocation or at its end.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

#[cfg(all(unix, not(miri)))]
impl Pages {
    fn new(len: usize) -> io::Result<Pages> {
        use rustix::mm::{MapFlags, ProtFlags};
        if len == 0 {
            return Ok(Pages { base: NonNull::dangling(), len });
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that exists.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, rights, MapFlags::PRIVATE) }?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: the range is the mapping just made; the advice changes no contents. Refused, pages stay small.
        let _ = unsafe { rustix::mm::madvise(base, len, rustix::mm::Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { base, len })
    }
}

#[cfg(all(unix, not(miri)))]
impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping of `new`, which no `Pin` or `Loan` uses any more: each holds the `Arc` above this.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(any(windows, miri))]
impl Pages {
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, ALIGN as usize).expect("the length was checked by `new`")
    }

    fn new(len: usize) -> io::Result<Pages> {
        if len == 0 {
            return Ok(Pages { base: NonNull::dangling(), len });
        }
        if len > isize::MAX as usize - ALIGN as usize {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: the layout has a size above zero.
        let base = unsafe { std::alloc::alloc_zeroed(Pages::layout(len)) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { base, len })
    }
}

#[cfg(any(windows, miri))]
impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` with the same layout, and no longer used.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), Pages::layout(self.len)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_slots() -> Arc<SlotMemory> {
        SlotMemory::new([8192, 4096].into_iter()).unwrap()
    }

    #[test]
    fn slots_are_aligned_zeroed_and_apart() {
        let memory = two_slots();
        assert_eq!((memory.words.len(), memory.bytes()), (2, 12288));
        memory.lend(0).bytes_mut().fill(7);
        let (first, second) = (memory.pin(0), memory.pin(1));
        assert_eq!(first.bytes().as_ptr() as usize % ALIGN as usize, 0);
        assert_eq!(second.bytes().as_ptr() as usize % ALIGN as usize, 0);
        assert!(first.bytes().iter().all(|&byte| byte == 7) && first.bytes().len() == 8192);
        assert!(second.bytes().iter().all(|&byte| byte == 0) && second.bytes().len() == 4096);
    }

    #[test]
    fn pieces_of_a_loan_are_written_by_several_threads() {
        let memory = two_slots();
        let mut first = memory.lend(0);
        let mut second = first.split_off(100);
        let mut third = second.split_off(5000);
        assert_eq!((first.len(), second.len(), third.len()), (100, 5000, 3092));
        std::thread::scope(|scope| {
            scope.spawn(|| first.bytes_mut().fill(1));
            scope.spawn(|| second.bytes_mut().fill(2));
            third.bytes_mut().fill(3);
        });
        drop((first, second, third));
        let pin = memory.pin(0);
        let sums = [&pin.bytes()[..100], &pin.bytes()[100..5100], &pin.bytes()[5100..]];
        for (bytes, value) in sums.into_iter().zip(1..) {
            assert!(bytes.iter().all(|&byte| byte == value));
        }
    }

    #[test]
    #[should_panic(expected = "slot 1 is written while it is in use")]
    fn a_pinned_slot_is_never_lent() {
        let memory = two_slots();
        let _pin = memory.pin(1);
        memory.lend(1);
    }

    #[test]
    #[should_panic(expected = "slot 0 is read while it is written")]
    fn a_slot_with_a_piece_on_loan_is_never_pinned() {
        let memory = two_slots();
        let _rest = memory.lend(0).split_off(4096);
        memory.pin(0);
    }

    #[test]
    fn a_pin_outlives_the_memorys_owner() {
        let memory = two_slots();
        memory.lend(1).bytes_mut().fill(9);
        let pin = memory.pin(1);
        assert!(memory.is_pinned(1) && !memory.is_pinned(0));
        drop(memory);
        let last = std::thread::spawn(move || pin.bytes()[4095]).join().unwrap();
        assert_eq!(last, 9);
    }
}
