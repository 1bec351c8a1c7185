//! The block types of GGML, as GGUF files hold them: what a block is made of and, the values it holds, in plain scalar code.
//!
//! A row is a run of blocks, each of [`GgmlType::block_values`] neighbouring values. Every type that is not a plain float is the
//! same thing underneath: small signed codes, one scale for each group of 16 or 32 of them, and in some types an offset:
//! `w = scale * code + offset`. [`GgmlType::unpack_block`] gives these, which is what integer kernels need, and
//! [`GgmlType::decode_block`] the values. A product `scale * code` never needs more than the 24 bits of an f32, so that a fused
//! multiply-add gives the same bits as a product and a sum.
//!
//! Layouts: `ggml-common.h` and `ggml-quants.c` of github.com/ggml-org/ggml, and `quants.py` of the Python package `gguf`.

mod basic;
mod fp4;
mod grids;
mod iq;
mod k_quants;
mod ternary;

use half::f16;

use crate::Float;

pub use fp4::FP4_DOUBLED;
pub use grids::{GRID_IQ1, GRID_IQ2_S, GRID_IQ2_XS, GRID_IQ2_XXS, GRID_IQ3_S, GRID_IQ3_XXS, signs};
pub use iq::IQ4_VALUES;

/// Values of the largest block.
pub const MAX_BLOCK_VALUES: usize = 256;

/// The most groups of a block.
pub const MAX_BLOCK_GROUPS: usize = 16;

/// A type of GGML's tensors. Those that only hold activations or integers are left out.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation, the modules draw the blocks")]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

/// A block as codes, scales and offsets: value `i` is `scales[i / group] * codes[i] + offsets[i / group]`.
///
/// Only the block's own values and groups are written; what lies behind them is left as it was.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// One a value.
    pub codes: [i8; MAX_BLOCK_VALUES],
    /// One a group.
    pub scales: [f32; MAX_BLOCK_GROUPS],
    /// One a group; left alone by types without offsets.
    pub offsets: [f32; MAX_BLOCK_GROUPS],
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked {
            codes: [0; MAX_BLOCK_VALUES],
            scales: [0.0; MAX_BLOCK_GROUPS],
            offsets: [0.0; MAX_BLOCK_GROUPS],
        }
    }
}

/// What is fixed for a type.
struct Facts {
    /// `ggml_type` of ggml.h.
    code: u32,
    name: &'static str,
    block_values: usize,
    block_bytes: usize,
    group: usize,
    offsets: bool,
}

impl GgmlType {
    /// All of them, in the order of the enum.
    pub const ALL: [GgmlType; 26] = {
        use GgmlType::*;
        [
            F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ1_M,
            IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4,
        ]
    };

    /// The type whose number in a GGUF file is `code`.
    pub fn from_code(code: u32) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|ty| ty.code() == code)
    }

    /// Its number in a GGUF file.
    pub fn code(self) -> u32 {
        self.facts().code
    }

    /// Its name, as everyone writes it.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Values of a block; a row has a multiple of this many.
    pub fn block_values(self) -> usize {
        self.facts().block_values
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// Neighbouring values that share a scale: 16 or 32, a divisor of the block; 1 for plain floats, which have no scales.
    pub fn group(self) -> usize {
        self.facts().group
    }

    /// Groups of a block.
    pub fn block_groups(self) -> usize {
        self.block_values() / self.group()
    }

    /// Whether a group has an offset beside its scale.
    pub fn has_offsets(self) -> bool {
        self.facts().offsets
    }

    /// The plain float that it is, if it is one.
    pub fn float(self) -> Option<Float> {
        match self {
            GgmlType::F32 => Some(Float::F32),
            GgmlType::F16 => Some(Float::F16),
            GgmlType::BF16 => Some(Float::BF16),
            _ => None,
        }
    }

    /// Bytes of a row of `cols` values, a multiple of the block's.
    pub fn row_bytes(self, cols: usize) -> usize {
        debug_assert!(
            cols.is_multiple_of(self.block_values()),
            "a row of {cols} values is not whole blocks of {self}"
        );
        cols / self.block_values() * self.block_bytes()
    }

    /// The naive truth: the values of a row.
    ///
    /// # Panics
    /// If `row` is not as many bytes as `out.len()` values take, or these are not whole blocks.
    pub fn decode_row(self, row: &[u8], out: &mut [f32]) {
        let (values, bytes) = (self.block_values(), self.block_bytes());
        assert!(
            out.len().is_multiple_of(values),
            "a row of {} values is not whole blocks of {self}",
            out.len()
        );
        assert_eq!(row.len(), out.len() / values * bytes, "{} values of {self}", out.len());
        for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(values)) {
            self.decode_block(block, out);
        }
    }

    /// The values of one block.
    ///
    /// # Panics
    /// If `block` is not one block, or `out` not as many values.
    pub fn decode_block(self, block: &[u8], out: &mut [f32]) {
        assert_eq!(out.len(), self.block_values(), "values of a block of {self}");
        assert_eq!(block.len(), self.block_bytes(), "bytes of a block of {self}");
        if let Some(float) = self.float() {
            out[0] = float.get(block, 0);
            return;
        }
        let mut unpacked = Unpacked::default();
        self.unpack_block(block, &mut unpacked);
        for (group, out) in out.chunks_exact_mut(self.group()).enumerate() {
            let (scale, offset) = (unpacked.scales[group], unpacked.offsets[group]);
            let codes = &unpacked.codes[group * self.group()..];
            for (value, &code) in out.iter_mut().zip(codes) {
                let product = scale * f32::from(code);
                // Not `+ 0.0` where there is none: the product may be a negative zero.
                *value = if self.has_offsets() { product + offset } else { product };
            }
        }
    }

    /// The codes, scales and offsets of one block.
    ///
    /// # Panics
    /// If `block` is not one block, or the type is a plain float.
    pub fn unpack_block(self, block: &[u8], out: &mut Unpacked) {
        assert_eq!(block.len(), self.block_bytes(), "bytes of a block of {self}");
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => panic!("{self} has no codes"),
            GgmlType::Q4_0 => basic::q4_0(block, out),
            GgmlType::Q4_1 => basic::q4_1(block, out),
            GgmlType::Q5_0 => basic::q5_0(block, out),
            GgmlType::Q5_1 => basic::q5_1(block, out),
            GgmlType::Q8_0 => basic::q8_0(block, out),
            GgmlType::Q2_K => k_quants::q2_k(block, out),
            GgmlType::Q3_K => k_quants::q3_k(block, out),
            GgmlType::Q4_K => k_quants::q4_k(block, out),
            GgmlType::Q5_K => k_quants::q5_k(block, out),
            GgmlType::Q6_K => k_quants::q6_k(block, out),
            GgmlType::IQ1_S => iq::iq1_s(block, out),
            GgmlType::IQ1_M => iq::iq1_m(block, out),
            GgmlType::IQ2_XXS => iq::iq2_xxs(block, out),
            GgmlType::IQ2_XS => iq::iq2_xs(block, out),
            GgmlType::IQ2_S => iq::iq2_s(block, out),
            GgmlType::IQ3_XXS => iq::iq3_xxs(block, out),
            GgmlType::IQ3_S => iq::iq3_s(block, out),
            GgmlType::IQ4_NL => iq::iq4_nl(block, out),
            GgmlType::IQ4_XS => iq::iq4_xs(block, out),
            GgmlType::TQ1_0 => ternary::tq1_0(block, out),
            GgmlType::TQ2_0 => ternary::tq2_0(block, out),
            GgmlType::MXFP4 => fp4::mxfp4(block, out),
            GgmlType::NVFP4 => fp4::nvfp4(block, out),
        }
    }

    /// The table of all types: code, name, values and bytes of a block, values of a group.
    fn facts(self) -> Facts {
        let of = |code, name, block_values, block_bytes, group| {
            let offsets = matches!(
                self,
                GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q2_K | GgmlType::Q4_K | GgmlType::Q5_K
            );
            Facts { code, name, block_values, block_bytes, group, offsets }
        };
        match self {
            GgmlType::F32 => of(0, "F32", 1, 4, 1),
            GgmlType::F16 => of(1, "F16", 1, 2, 1),
            GgmlType::BF16 => of(30, "BF16", 1, 2, 1),
            GgmlType::Q4_0 => of(2, "Q4_0", 32, 18, 32),
            GgmlType::Q4_1 => of(3, "Q4_1", 32, 20, 32),
            GgmlType::Q5_0 => of(6, "Q5_0", 32, 22, 32),
            GgmlType::Q5_1 => of(7, "Q5_1", 32, 24, 32),
            GgmlType::Q8_0 => of(8, "Q8_0", 32, 34, 32),
            GgmlType::Q2_K => of(10, "Q2_K", 256, 84, 16),
            GgmlType::Q3_K => of(11, "Q3_K", 256, 110, 16),
            GgmlType::Q4_K => of(12, "Q4_K", 256, 144, 32),
            GgmlType::Q5_K => of(13, "Q5_K", 256, 176, 32),
            GgmlType::Q6_K => of(14, "Q6_K", 256, 210, 16),
            GgmlType::IQ1_S => of(19, "IQ1_S", 256, 50, 32),
            GgmlType::IQ1_M => of(29, "IQ1_M", 256, 56, 16),
            GgmlType::IQ2_XXS => of(16, "IQ2_XXS", 256, 66, 32),
            GgmlType::IQ2_XS => of(17, "IQ2_XS", 256, 74, 16),
            GgmlType::IQ2_S => of(22, "IQ2_S", 256, 82, 16),
            GgmlType::IQ3_XXS => of(18, "IQ3_XXS", 256, 98, 32),
            GgmlType::IQ3_S => of(21, "IQ3_S", 256, 110, 32),
            GgmlType::IQ4_NL => of(20, "IQ4_NL", 32, 18, 32),
            GgmlType::IQ4_XS => of(23, "IQ4_XS", 256, 136, 32),
            GgmlType::TQ1_0 => of(34, "TQ1_0", 256, 54, 32),
            GgmlType::TQ2_0 => of(35, "TQ2_0", 256, 66, 32),
            GgmlType::MXFP4 => of(39, "MXFP4", 32, 17, 32),
            GgmlType::NVFP4 => of(40, "NVFP4", 64, 36, 16),
        }
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The binary16 at byte `at`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Word `index` of an array of little-endian 16-bit words.
fn u16_at(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

/// Word `index` of an array of little-endian 32-bit words.
fn u32_at(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * index..][..4].try_into().expect("4 bytes"))
}

/// Field `index` of an array of `bits`-wide fields, lowest first within a byte.
fn field(bytes: &[u8], bits: usize, index: usize) -> u8 {
    let first = bits * index;
    bytes[first / 8] >> (first % 8) & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_and_are_unique() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_code(ty.code()), Some(ty));
        }
        // Removed types, activation types, integers, what does not exist.
        for code in [4, 5, 9, 15, 24, 28, 31, 36, 38, 41, u32::MAX] {
            assert_eq!(GgmlType::from_code(code), None, "{code}");
        }
    }

    #[test]
    fn blocks_and_groups_fit_what_is_reserved_for_them() {
        for ty in GgmlType::ALL {
            assert!(ty.block_values() <= MAX_BLOCK_VALUES, "{ty}");
            assert!(ty.block_values().is_multiple_of(ty.group()), "{ty}");
            assert!(ty.float().is_some() || ty.block_groups() <= MAX_BLOCK_GROUPS, "{ty}");
        }
    }
}
