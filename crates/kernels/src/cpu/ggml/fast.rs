//! The block types that have fast products.

use flashmill_layout::GgmlType;

use super::bytes::Bytes;

mod basic;
mod grids;
mod k_quants;
mod levels;

pub(crate) use basic::{Q4_0, Q8_0};
pub(crate) use grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
pub(crate) use k_quants::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
pub(crate) use levels::{IQ4_NL, IQ4_XS, MXFP4};

/// A block type as registers of codes, and scales.
///
/// # Safety
/// [`Fast::Step`] consists of bytes: arrays of `u8`, or arrays of these.
pub(crate) unsafe trait Fast {
    const TYPE: GgmlType;
    /// Values of a unit: 16 or 32.
    const UNIT: usize;
    /// What the codes have too much, as a power of two.
    const BIAS: Option<u32> = None;
    /// Whether the codes come from [`Bytes::signed`] and have its bias; else they are unsigned and at most 127.
    const SIGNED: bool = false;
    /// Whether the codes come from [`Bytes::alternate`], of [`Fast::planes`].
    const ALTERNATE: bool = false;
    /// Whether a step is two blocks that begin with the halves `d` and `dmin` and with eight scales and eight mins of six bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for AVX-512"))]
    const SIX_BITS: bool = false;
    /// The blocks of sixteen units.
    type Step: Copy;

    /// Two registers of codes. Units of 32: the first and the second runs of units `4 * i ..`, for i below 4. Units of 16:
    /// units `8 * i ..` and the next four, for i below 2.
    fn codes<S: Bytes>(s: S, step: &Self::Step, i: usize) -> [S::B; 2];

    /// What [`Fast::codes`] takes its codes from, if they alternate: two planes of 32 bytes, each with units `4 * i ..` or the next two,
    /// the first in the low halves.
    fn planes<S: Bytes>(_s: S, _step: &Self::Step, _i: usize) -> S::B {
        unreachable!("codes of {} do not alternate", Self::TYPE)
    }

    /// The scales of the units, and their offsets in types that have them.
    fn scales<S: Bytes>(s: S, step: &Self::Step) -> (S::F, Option<S::F>);
}

/// `with_fast!(ty, T => expression of T, expression for the other types)`.
macro_rules! with_fast {
    ($ty:expr, $T:ident => $fast:expr, $other:expr) => {
        $crate::cpu::ggml::fast::with_fast_of!(
            $ty, $T => $fast, $other;
            Q4_0 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS MXFP4
        )
    };
}

macro_rules! with_fast_of {
    ($ty:expr, $T:ident => $fast:expr, $other:expr; $($name:ident)+) => {
        match $ty {
            $(flashmill_layout::GgmlType::$name => {
                type $T = $crate::cpu::ggml::fast::$name;
                $fast
            })+
            _ => $other,
        }
    };
}

pub(crate) use {with_fast, with_fast_of};

/// Sixteen bytes from `at` on.
#[inline(always)]
fn run(bytes: &[u8], at: usize) -> &[u8; 16] {
    bytes[at..].first_chunk().expect("sixteen bytes")
}

/// 32 bytes from `at` on.
#[inline(always)]
fn plane(bytes: &[u8], at: usize) -> &[u8; 32] {
    bytes[at..].first_chunk().expect("32 bytes")
}

/// 64 bytes from `at` on.
#[inline(always)]
fn register(bytes: &[u8], at: usize) -> &[u8; 64] {
    bytes[at..].first_chunk().expect("64 bytes")
}

#[inline(always)]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("2 bytes"))
}

#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("4 bytes"))
}

#[inline(always)]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes"))
}

/// The binary16 at byte `at`.
#[inline(always)]
fn f16_at<S: Bytes>(s: S, bytes: &[u8], at: usize) -> f32 {
    s.f16(u16_at(bytes, at))
}

/// Eight fields of four bits as bytes.
#[inline(always)]
fn nibbles(fields: u32) -> u64 {
    let x = u64::from(fields);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// Eight fields of two bits as bytes.
#[inline(always)]
fn quarters_of_bytes(fields: u16) -> u64 {
    let x = u64::from(fields);
    let x = (x | x << 24) & 0x0000_00ff_0000_00ff;
    let x = (x | x << 12) & 0x000f_000f_000f_000f;
    (x | x << 6) & 0x0303_0303_0303_0303
}
