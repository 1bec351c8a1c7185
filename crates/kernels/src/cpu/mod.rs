//! The CPU: one set of kernels at several SIMD levels, which all give the same bits (docs/NUMERICS.md).

#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "one index for several arrays of lanes")]

mod affine;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod delta;
mod float;
mod fp8;
mod ggml;
mod kv;
mod level;
mod math;
mod memory;
mod mix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod product;
mod quantize;
mod route;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;

use flashmill_layout::{MAX_PARTS, MatrixShape, MatrixView};

use crate::Buffer;
use crate::team::Team;
use kv::KvCache;
pub use level::{Level, LevelError};
use memory::{Memory, Span};
use product::Products;

/// The CPU as a [`crate::Backend`].
pub struct Cpu {
    level: Level,
    team: Team,
    buffers: Vec<Option<Values>>,
    matrices: Vec<Owned>,
    kv: Option<KvCache>,
    products: Products,
    attention: mix::Scratch,
}

/// How to use the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads that compute, the caller's included; at least 1.
    pub threads: usize,
    /// The instruction set; the best there is if none is given.
    pub level: Option<Level>,
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The system refuses threads.
    #[error("cannot start {threads} compute threads: {source}; lower --threads")]
    Threads {
        /// What was asked for.
        threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions { threads: std::thread::available_parallelism().map_or(1, usize::from), level: None }
    }
}

impl Cpu {
    /// A backend with a thread team of its own.
    ///
    /// # Errors
    /// If the system refuses the threads.
    pub fn new(options: CpuOptions) -> Result<Cpu, CpuError> {
        let threads = options.threads.max(1);
        let level = options.level.unwrap_or_default();
        let team = Team::new(threads).map_err(|source| CpuError::Threads { threads, source })?;
        Ok(Cpu {
            level,
            team,
            buffers: Vec::new(),
            matrices: Vec::new(),
            kv: None,
            products: Products::new(level, threads),
            attention: mix::Scratch::new(),
        })
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }
}

/// A buffer's memory.
struct Values {
    memory: Memory,
    /// Counts writes, so that what was derived from the values can be told from what is out of date.
    version: u64,
}

/// A matrix of the trunk.
struct Owned {
    shape: MatrixShape,
    parts: [Memory; MAX_PARTS],
}

impl Owned {
    fn view(&self) -> MatrixView<'_> {
        MatrixView { shape: self.shape, parts: std::array::from_fn(|i| self.parts[i].bytes()) }
    }
}

impl Cpu {
    fn values(&self, buffer: Buffer) -> &Values {
        self.buffers[buffer.0 as usize].as_ref().expect("the buffer has not been released")
    }

    /// A buffer that is read.
    fn input(&self, buffer: Buffer) -> Span<f32> {
        self.values(buffer).memory.span()
    }

    /// A buffer that is written.
    fn output(&mut self, buffer: Buffer) -> Span<f32> {
        let values = self.buffers[buffer.0 as usize].as_mut().expect("the buffer has not been released");
        values.version += 1;
        values.memory.span()
    }
}

/// Values `at..at + len` of `out`, which start as those of `x`; nothing is copied where both are one buffer.
///
/// # Safety
/// As [`Span::get`] for `x` and [`Span::get_mut`] for `out`. If the two are one buffer, `x_at == at` or the ranges are apart.
unsafe fn in_place<'a>(x: Span<f32>, x_at: usize, out: Span<f32>, at: usize, len: usize) -> &'a mut [f32] {
    let same = x.is(out) && x_at == at;
    // SAFETY: by the caller.
    let values = unsafe { out.get_mut(at, len) };
    if !same {
        // SAFETY: by the caller.
        values.copy_from_slice(unsafe { x.get(x_at, len) });
    }
    values
}
