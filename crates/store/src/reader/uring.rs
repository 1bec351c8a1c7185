//! io_uring: many reads in flight from one thread, which the kernel fills while the thread computes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, types};

use super::{Finished, Read, Reader};
use crate::Files;

pub(crate) struct Uring {
    ring: IoUring,
    files: Arc<Files>,
    /// The reads that the kernel may be writing into, by the number they carry through the ring.
    in_flight: Vec<Option<Read>>,
    /// Numbers that are free.
    free: Vec<u32>,
    /// Some reads are in the ring that the kernel has not been told of.
    unflushed: bool,
}

impl Uring {
    /// A ring for `depth` reads.
    ///
    /// # Errors
    /// If the kernel has no io_uring, an old one without plain reads, or forbids it.
    pub(crate) fn new(files: Arc<Files>, depth: usize) -> io::Result<Uring> {
        let ring = IoUring::new(depth.next_power_of_two() as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let in_flight = (0..depth).map(|_| None).collect();
        Ok(Uring { ring, files, in_flight, free: (0..depth as u32).rev().collect(), unflushed: false })
    }

    fn n_in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    /// Tells the kernel of new reads and waits until `n` have ended.
    fn submit(&mut self, n: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(n) {
                Ok(_) => {
                    self.unflushed = false;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel's completion queue is full or memory is short: taking what has ended makes room.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn collect(&mut self, into: &mut Vec<Finished>) {
        for entry in self.ring.completion() {
            let number = entry.user_data() as u32;
            let read = self.in_flight[number as usize].take().expect("the kernel ends a read once");
            self.free.push(number);
            let result = entry.result();
            let result =
                if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
            into.push((read, result));
        }
    }
}

impl Reader for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn start(&mut self, mut read: Read) {
        let fd = types::Fd(read.handle(&self.files).as_raw_fd());
        let offset = read.offset();
        let target = read.target();
        let len = u32::try_from(target.len()).expect("a read is shorter than 4 GiB");
        let entry = opcode::Read::new(fd, target.as_mut_ptr(), len).offset(offset).build();
        let number = self.free.pop().expect("no more reads than the depth");
        let entry = entry.user_data(u64::from(number));
        // SAFETY: the kernel writes only into the loan of `read`, which is kept in `in_flight` until the entry's completion is
        // taken, and `drop` waits for that or leaks it; moving the `Read` does not move the loan's bytes. The descriptor stays
        // open because `files` is kept as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the ring has an entry for each read in flight");
        self.in_flight[number as usize] = Some(read);
        self.unflushed = true;
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed { self.submit(0) } else { Ok(()) }
    }

    fn finished(&mut self, wait: bool, into: &mut Vec<Finished>) -> io::Result<()> {
        let before = into.len();
        self.flush()?;
        self.collect(into);
        while wait && into.len() == before && self.n_in_flight() > 0 {
            self.submit(1)?;
            self.collect(into);
        }
        Ok(())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.n_in_flight() > 0 {
            if self.finished(true, &mut ended).is_err() {
                // Whether the kernel still writes is not known, so the memory is never given back.
                std::mem::forget(std::mem::take(&mut self.in_flight));
                return;
            }
        }
    }
}
