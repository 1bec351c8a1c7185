//! A forward pass makes no heap allocation, in decode and in prefill, streamed from the disk.
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flashmill_checkpoint::Checkpoint;
use flashmill_kernels::{Cpu, CpuOptions};
use flashmill_model::{Model, ModelOptions, Prefetch, Sequence, Wanted};
use flashmill_store::{ReaderKind, StoreOptions};

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static N_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn forward_does_not_allocate() {
    for name in ["qwen3_5_moe_mlx4", "qwen3_5_moe", "qwen3_moe"] {
        for reader in [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache] {
            let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fixtures", name].iter().collect();
            let store = StoreOptions { reader, slot_bytes: 700 << 10, ..StoreOptions::default() };
            let prefetch = Prefetch::Router2;
            let options =
                ModelOptions { max_rows: 64, context: 256, prefetch, store, ..ModelOptions::default() };
            let cpu = Cpu::new(CpuOptions { threads: 2, level: None }).unwrap();
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let mut model = Model::load(&checkpoint, Box::new(cpu), options, &mut |_, _| ()).unwrap();
            let mut state = model.new_state().unwrap();
            let mut step = |tokens: &[u32]| {
                let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
                model.forward(&mut batch, None, None).unwrap();
            };
            let prompt: Vec<u32> = (0..50).map(|i| i * 7 % 400).collect();
            step(&prompt);
            (0..8).for_each(|token| step(&[token]));
            let before = N_ALLOCATIONS.load(Ordering::Relaxed);
            COUNTS.store(true, Ordering::Relaxed);
            step(&prompt);
            (0..30).for_each(|token| step(&[token * 11]));
            COUNTS.store(false, Ordering::Relaxed);
            let n = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(n, 0, "{name}, {reader}: {n} allocations in 31 passes over 80 tokens");
        }
    }
}
