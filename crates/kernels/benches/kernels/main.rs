//! GB/s of each kernel at each level, next to what this machine's memory gives to a plain read.
//!
//! `cargo bench -p flashmill-kernels` runs everything, `-- WORD ..` only the levels and the kernels that the words name (a part of a
//! kernel's name will do; `comparison` is products of 4-bit groups and of blocks against plain reads and each other).
//! Numbers are the median of several runs; runs of the comparison alternate with plain reads of the same buffers.

#![allow(clippy::print_stdout, reason = "a bench prints")]

mod machine;
mod work;

use std::time::Instant;

use flashmill_kernels::{Backend, Buffer, Cpu, CpuOptions, Level, Matrix};
use flashmill_layout::{Encoding, MatrixShape};
use machine::{Reader, median};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (levels, words): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| Level::available().any(|level| level.to_string() == *word));
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let counts: Vec<usize> = if threads > 1 { vec![1, threads] } else { vec![1] };
    println!("{threads} threads, levels {:?}", Level::available().collect::<Vec<_>>());

    let peaks: Vec<f64> = counts.iter().map(|&threads| machine::read_bandwidth(threads)).collect();
    for (threads, peak) in counts.iter().zip(&peaks) {
        println!("plain read, {threads} threads: {peak:.1} GB/s");
    }
    if wanted("comparison") {
        for &threads in &counts {
            comparison(threads);
        }
    }
    println!("\n{:<34} {:>8} {:>3} {:>12} {:>10}  of read", "kernel", "level", "thr", "time", "rate");
    for kernel in work::all().into_iter().filter(|kernel| wanted(&kernel.name)) {
        for level in
            Level::available().filter(|level| levels.is_empty() || levels.contains(&level.to_string()))
        {
            for (&threads, &peak) in counts.iter().zip(&peaks) {
                measure(&kernel, level, threads, peak);
            }
        }
    }
}

/// One line of the table.
fn measure(kernel: &work::Kernel, level: Level, threads: usize, peak: f64) {
    let mut cpu = Cpu::new(CpuOptions { threads, level: Some(level) }).expect("threads can be started");
    let slow = level == Level::SCALAR;
    let mut run = (kernel.prepare)(&mut cpu, slow);
    run.step(&mut cpu);
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (start.elapsed().as_millis() < 300 && times.len() < 1000) {
        let start = Instant::now();
        run.step(&mut cpu);
        times.push(start.elapsed().as_secs_f64());
        if slow && times.iter().sum::<f64>() > 0.5 {
            break;
        }
    }
    let time = median(&mut times);
    let rate = run.amount / time / 1e9;
    let share = if run.unit == "GB/s" { format!("{:5.0} %", 100.0 * rate / peak) } else { String::new() };
    println!(
        "{:<34} {level:>8} {threads:>3} {:>9.1} us {rate:>6.1} {}  {share}",
        kernel.name,
        time * 1e6,
        run.unit
    );
}

/// A matrix far larger than the cache, and its product with a row.
struct Contestant {
    cpu: Cpu,
    product: (Matrix, Buffer),
    x: Buffer,
    shape: MatrixShape,
    /// Address and length of each part.
    parts: Vec<(usize, usize)>,
}

impl Contestant {
    fn new(encoding: Encoding, threads: usize) -> Contestant {
        let cols = 4096;
        let rows = (256 << 20) / encoding.row_bytes(cols) / 64 * 64;
        let shape = MatrixShape { rows, cols, encoding };
        let mut cpu = Cpu::new(CpuOptions { threads, level: None }).expect("threads can be started");
        let w = work::random_matrix(&mut cpu, shape);
        let x = work::random_buffer(&mut cpu, shape.cols);
        let y = cpu.buffer(shape.rows);
        let parts = (0..encoding.n_parts()).map(|part| {
            let bytes = cpu.matrix_part(w, part);
            (bytes.as_ptr() as usize, bytes.len())
        });
        let parts = parts.collect();
        Contestant { cpu, product: (w, y), x, shape, parts }
    }

    /// GB/s of one product.
    fn run(&mut self) -> f64 {
        let start = Instant::now();
        self.cpu.linear(self.x, 1, &[self.product]);
        self.shape.bytes() as f64 / 1e9 / start.elapsed().as_secs_f64()
    }
}

/// Matrix-vector products of 4-bit groups and of each type of blocks, which alternate with each other and with plain reads of the same
/// bytes by as many threads with the same split of rows.
fn comparison(threads: usize) {
    let affine = work::affine(4, 64);
    let mut against = Contestant::new(affine, threads);
    let reader = Reader::new(threads);
    let blocks = work::FAST_TYPES.map(Encoding::Ggml);
    for encoding in [affine].into_iter().chain(blocks) {
        let mut one = Contestant::new(encoding, threads);
        let bytes = one.shape.bytes() as f64 / 1e9;
        let (mut reads, mut products, mut of_read, mut of_affine) = (vec![], vec![], vec![], vec![]);
        for _ in 0..15 {
            let read = bytes / reader.read(&one.parts, one.shape.rows);
            let (product, other) = (one.run(), against.run());
            reads.push(read);
            products.push(product);
            of_read.push(100.0 * product / read);
            of_affine.push(100.0 * product / other);
        }
        println!(
            "comparison, {encoding}, {threads} threads: {:.1} GB/s; plain read {:.1} GB/s, {:.0} % of it; {:.0} % of 4-bit groups",
            median(&mut products),
            median(&mut reads),
            median(&mut of_read),
            median(&mut of_affine)
        );
    }
}
