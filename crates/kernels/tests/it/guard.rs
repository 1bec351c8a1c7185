//! No kernel reads a byte outside the weights it was given: their parts lie against pages that cannot be read.

#![allow(unsafe_code)]

use flashmill_kernels::suite::{Random, Stage, StoredMatrix, encodings};
use flashmill_kernels::{Cpu, CpuOptions, Glu, Level};
use flashmill_layout::{Encoding, MatrixView};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// A multiple of the page size of any system.
const PAGE: usize = 64 << 10;

/// Where bytes lie in their pages.
#[derive(Clone, Copy, Debug)]
enum Against {
    PageBefore,
    PageBehind,
}

/// Bytes with an unreadable page before and behind the pages that hold them.
struct Guarded {
    map: *mut std::ffi::c_void,
    map_len: usize,
    at: usize,
    len: usize,
}

impl Guarded {
    fn new(bytes: &[u8], against: Against) -> Guarded {
        let room = bytes.len().next_multiple_of(PAGE);
        let map_len = room + 2 * PAGE;
        let none = std::ptr::null_mut();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the system picks.
        let map = unsafe { mmap_anonymous(none, map_len, access, MapFlags::PRIVATE) }.expect("memory");
        let at = PAGE
            + match against {
                Against::PageBefore => 0,
                Against::PageBehind => room - bytes.len(),
            };
        // SAFETY: all addresses lie in the mapping, which is ours alone and not borrowed yet.
        unsafe {
            map.cast::<u8>().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            mprotect(map, PAGE, MprotectFlags::empty()).expect("a guard page");
            mprotect(map.byte_add(PAGE + room), PAGE, MprotectFlags::empty()).expect("a guard page");
        }
        Guarded { map, map_len, at, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: these bytes of the mapping are readable and never written while `self` lives.
        unsafe { std::slice::from_raw_parts(self.map.cast::<u8>().add(self.at), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { munmap(self.map, self.map_len) }.expect("the mapping is given back");
    }
}

struct GuardedMatrix {
    stored: StoredMatrix,
    parts: Vec<Guarded>,
}

impl GuardedMatrix {
    fn new(stored: StoredMatrix, against: Against) -> GuardedMatrix {
        let n_parts = stored.shape.encoding.n_parts();
        let parts = (0..n_parts).map(|part| Guarded::new(stored.part(part), against)).collect();
        GuardedMatrix { stored, parts }
    }

    fn view(&self) -> MatrixView<'_> {
        let parts: Vec<&[u8]> = self.parts.iter().map(Guarded::bytes).collect();
        MatrixView::new(self.stored.shape, &parts)
    }
}

fn expert(level: Level, glu: &Glu<'_>, x: &[f32], n_rows: usize) -> Vec<f32> {
    let mut cpu = Cpu::new(CpuOptions { threads: 2, level: Some(level) }).expect("two threads");
    let (rows, hidden) = (glu.gate.shape.rows, glu.gate.shape.cols);
    let mut stage = Stage::new(&mut cpu, n_rows, hidden.max(rows), 1);
    let (x, y) = (stage.given(x), stage.room(n_rows * hidden));
    let all: Vec<u32> = (0..n_rows as u32).collect();
    stage.backend.expert(glu, x, &all, y, 0);
    stage.result(y, n_rows * hidden)
}

fn check(random: &mut Random, level: Level, encoding: Encoding, against: Against) {
    let unit = encoding.granularity().max(32);
    let hidden = unit * random.pick(&[1, 2, 3, 5]);
    let intermediate = unit * random.pick(&[1, 3]);
    let n_rows = random.pick(&[1, 2, 9, 17]);
    let stored = [(intermediate, hidden), (intermediate, hidden), (hidden, intermediate)]
        .map(|(rows, cols)| StoredMatrix::random(random, rows, cols, encoding));
    let guarded = stored.clone().map(|stored| GuardedMatrix::new(stored, against));
    let x = random.values(n_rows * hidden);
    let [gate, up, down] = stored.each_ref().map(StoredMatrix::view);
    let expected = expert(level, &Glu { gate, up, down }, &x, n_rows);
    let [gate, up, down] = guarded.each_ref().map(GuardedMatrix::view);
    let got = expert(level, &Glu { gate, up, down }, &x, n_rows);
    assert!(got == expected, "{level:?}, {encoding}, {intermediate} of {hidden}, {n_rows} rows, {against:?}");
}

#[test]
fn kernels_stay_inside_the_weights() {
    let mut random = Random::new(7);
    for level in Level::available() {
        for encoding in encodings() {
            check(&mut random, level, encoding, Against::PageBefore);
            check(&mut random, level, encoding, Against::PageBehind);
        }
    }
}
