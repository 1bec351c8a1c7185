//! GB/s of each kernel at each level, next to what this machine's memory gives to a plain read.
//!
//! `cargo bench -p flashmill-kernels` runs everything, `-- WORD ..` only the levels and the kernels that the words name (a part of a
//! kernel's name will do; `comparison` is the 4-bit product against plain reads).
//! Numbers are the median of several runs; runs of the comparison alternate with plain reads of the same buffers.

#![allow(clippy::print_stdout, reason = "a bench prints")]

mod machine;
mod work;

use std::time::Instant;

use flashmill_kernels::{Backend, Cpu, CpuOptions, Level};
use flashmill_layout::{Affine, Encoding, Float, MatrixShape};
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
    for kernel in work::all().into_iter().filter(|kernel| wanted(kernel.name)) {
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

/// The 4-bit matrix-vector product of a matrix far larger than the cache, alternating with plain reads of its bytes by as
/// many threads with the same split of rows.
fn comparison(threads: usize) {
    let affine = Affine { bits: 4, group: 64, scales: Float::BF16 };
    let shape = MatrixShape { rows: 131_072, cols: 4096, encoding: Encoding::Affine(affine) };
    let mut cpu = Cpu::new(CpuOptions { threads, level: None }).expect("threads can be started");
    let w = work::random_matrix(&mut cpu, shape);
    let x = work::random_buffer(&mut cpu, shape.cols);
    let y = cpu.buffer(shape.rows);
    let parts: Vec<(usize, usize)> = (0..3)
        .map(|part| {
            let bytes = cpu.matrix_part(w, part);
            (bytes.as_ptr() as usize, bytes.len())
        })
        .collect();
    let reader = Reader::new(threads);
    let (mut reads, mut products) = (Vec::new(), Vec::new());
    for _ in 0..25 {
        reads.push(reader.read(&parts, shape.rows));
        let start = Instant::now();
        cpu.linear(x, 1, &[(w, y)]);
        products.push(start.elapsed().as_secs_f64());
    }
    let bytes = shape.bytes() as f64 / 1e9;
    let mut ratios: Vec<f64> = reads.iter().zip(&products).map(|(read, product)| read / product).collect();
    let (read, product, ratio) = (median(&mut reads), median(&mut products), median(&mut ratios));
    println!(
        "comparison, 4-bit 131072 x 4096, {threads} threads: product {:.1} GB/s, plain read {:.1} GB/s, ratio {:.1} %",
        bytes / product,
        bytes / read,
        100.0 * ratio
    );
}
