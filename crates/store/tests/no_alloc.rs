//! In its steady state a fetch takes nothing from the heap, on any thread.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flashmill_layout::{Extent, FileId};
use flashmill_store::{Files, Order, ReaderKind, Records, Store, StoreOptions};

struct Counting;

static N_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Fetches of eight records in both orders, hits and misses; returns the sum of their first bytes.
fn fetches(store: &mut Store, n: u32) -> u64 {
    let mut sum = 0;
    let mut picks = [0; 8];
    for round in 0..n {
        for (at, pick) in picks.iter_mut().enumerate() {
            *pick = (at as u32 * 5 + round * 3) % 40;
        }
        let order = if round % 5 == 4 { Order::Ascending } else { Order::Arrival };
        let mut fetch = store.fetch(0, &picks, order).unwrap();
        let ahead = picks.map(|pick| (pick + 3) % 40);
        fetch.ahead(0, &ahead, 3 * 36 * 1024).unwrap();
        while let Some((_, lease)) = fetch.next().unwrap() {
            sum += u64::from(lease.part(0)[0]);
        }
    }
    sum
}

// One test, so that no other thread of the harness allocates meanwhile.
#[test]
fn fetches_take_nothing_from_the_heap() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![1; 40 * 30_000]).unwrap();
    for reader in ReaderKind::ALL {
        let files = Arc::new(Files::open(&[file.path().to_owned()]).unwrap());
        let mut records = Records::new();
        let extents = (0..80).map(|part| Extent { file: FileId(0), offset: part * 15_000, len: 15_000 });
        records.push_layer(2, extents.collect());
        let slot_bytes = 12 * Store::floor_bytes(&records);
        let options = StoreOptions { reader, slot_bytes, depth: 6, ..StoreOptions::default() };
        let mut store = Store::open(files, records, &options).unwrap();
        fetches(&mut store, 200);

        let misses = store.stats().misses;
        let before = N_ALLOCATIONS.load(Ordering::Relaxed);
        let sum = fetches(&mut store, 300);
        let n_allocations = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(sum, 300 * 8);
        assert!(store.stats().misses > misses + 300, "the fetches read");
        assert_eq!(n_allocations, 0, "{reader} as {}", store.reader_name());
    }
}
