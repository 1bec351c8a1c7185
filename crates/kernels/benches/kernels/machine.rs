//! What the memory gives.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Instant;

use flashmill_kernels::{Backend, Cpu, CpuOptions};
use flashmill_layout::{Encoding, Float, MatrixShape};

/// The middle of the times.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// GB/s of a plain read of 512 MB of the backend's memory by `threads` threads, each its own contiguous share.
pub(crate) fn read_bandwidth(threads: usize) -> f64 {
    let mut cpu = Cpu::new(CpuOptions { threads: 1, level: None }).expect("one thread");
    let shape = MatrixShape { rows: 1 << 15, cols: 1 << 12, encoding: Encoding::Float(Float::F32) };
    let matrix = cpu.matrix(shape);
    let bytes = cpu.matrix_part(matrix, 0);
    bytes.fill(1);
    let parts = [(bytes.as_ptr() as usize, bytes.len())];
    let reader = Reader::new(threads);
    let mut times: Vec<f64> = (0..15).map(|_| reader.read(&parts, shape.rows)).collect();
    shape.bytes() as f64 / median(&mut times) / 1e9
}

/// Threads that read memory and do nothing else.
pub(crate) struct Reader {
    /// For each thread: ranges of addresses to read.
    orders: Vec<Sender<Vec<(usize, usize)>>>,
    times: Receiver<(Instant, Instant)>,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    pub(crate) fn new(threads: usize) -> Reader {
        let (done, times) = channel();
        let barrier = Arc::new(Barrier::new(threads));
        let arrived = Arc::new(AtomicUsize::new(0));
        let mut orders = Vec::new();
        let handles = (0..threads).map(|_| {
            let (order, inbox) = channel::<Vec<(usize, usize)>>();
            orders.push(order);
            let (done, barrier, arrived) = (done.clone(), Arc::clone(&barrier), Arc::clone(&arrived));
            std::thread::spawn(move || {
                for (round, ranges) in inbox.iter().enumerate() {
                    // The barrier's waking is slow: meet once more, awake, so that all start together.
                    barrier.wait();
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < (round + 1) * threads {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    ranges.iter().for_each(|&range| sum(range));
                    if done.send((start, Instant::now())).is_err() {
                        return;
                    }
                }
            })
        });
        let threads = handles.collect();
        Reader { orders, times, threads }
    }

    /// Seconds for reading all parts, each split into as many shares of its rows as there are threads.
    pub(crate) fn read(&self, parts: &[(usize, usize)], rows: usize) -> f64 {
        let n = self.orders.len();
        for (i, order) in self.orders.iter().enumerate() {
            let ranges = parts.iter().map(|&(address, bytes)| {
                let row = bytes / rows;
                let (start, end) = (rows * i / n, rows * (i + 1) / n);
                (address + start * row, (end - start) * row)
            });
            order.send(ranges.collect()).expect("the readers live");
        }
        let times: Vec<(Instant, Instant)> =
            (0..n).map(|_| self.times.recv().expect("the readers live")).collect();
        let start = times.iter().map(|time| time.0).min().expect("a reader");
        let end = times.iter().map(|time| time.1).max().expect("a reader");
        (end - start).as_secs_f64()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.orders.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads every byte.
#[allow(unsafe_code, reason = "the buffers belong to the backend")]
fn sum((address, bytes): (usize, usize)) {
    static TOTAL: AtomicU64 = AtomicU64::new(0);
    // SAFETY: the caller's buffers live and are not written while they are read.
    let words = unsafe { std::slice::from_raw_parts(address as *const [u64; 8], bytes / 64) };
    let mut lanes = [0u64; 8];
    for word in words {
        for (lane, word) in lanes.iter_mut().zip(word) {
            *lane ^= *word;
        }
    }
    TOTAL.fetch_add(lanes.iter().fold(0, |sum, &lane| sum ^ lane), Ordering::Relaxed);
}
