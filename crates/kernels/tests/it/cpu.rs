//! `Cpu` at every level of this machine: against `Reference` by tolerance, against itself to the bit.

use flashmill_kernels::suite::{Make, Precision, check_backend, same_bits};
use flashmill_kernels::{Backend, Cpu, CpuOptions, Level};

/// Inputs of quantised products are rounded in groups of 64 values.
const PRECISION: Precision = Precision::i16(64);

fn make(level: Level, threads: usize) -> impl Fn() -> Box<dyn Backend> {
    move || Box::new(Cpu::new(CpuOptions { threads, level: Some(level) }).expect("threads can be started"))
}

#[test]
fn every_level_is_near_the_reference() {
    for (i, level) in Level::available().enumerate() {
        check_backend(&make(level, 1 + i), &PRECISION, 10 + i as u64);
    }
}

#[test]
fn every_level_and_number_of_threads_gives_the_same_bits() {
    let mut makes: Vec<Box<dyn Fn() -> Box<dyn Backend>>> = Vec::new();
    for level in Level::available() {
        for threads in [1, 2, 3, 7] {
            makes.push(Box::new(make(level, threads)));
        }
    }
    let makes: Vec<Make<'_>> = makes.iter().map(|make| make as Make<'_>).collect();
    same_bits(&makes, 20);
}
