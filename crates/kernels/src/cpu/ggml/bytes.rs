//! Sixty-four bytes at a time: what a level provides so that the fast product of each block type is written once.

use crate::cpu::simd::Simd;

/// Operations on 64 bytes, which are four *quarters* of sixteen, and on sixteen integers.
///
/// All of them must be `#[inline(always)]`, as those of [`Simd`].
pub(crate) trait Bytes: Simd {
    /// 64 bytes.
    type B: Copy;
    /// Sixteen lanes of i32.
    type I: Copy;

    /// What [`Bytes::signed`] adds, as a power of two; `None` if [`Bytes::dot`] takes signed bytes.
    const SIGNED_BIAS: Option<u32>;

    fn bytes(self, from: &[u8; 64]) -> Self::B;
    /// From four places.
    fn quarters(self, from: [&[u8; 16]; 4]) -> Self::B;
    /// The same sixteen bytes in every quarter.
    fn four_times(self, from: &[u8; 16]) -> Self::B;
    /// The same 32 bytes in both halves.
    fn twice(self, from: &[u8; 32]) -> Self::B;
    /// From eight words, the lowest byte first.
    fn words(self, from: [u64; 8]) -> Self::B;

    fn store_bytes(self, b: Self::B, to: &mut [u8; 64]);

    /// Quarters 0, 0, 2, 2.
    fn even_twice(self, b: Self::B) -> Self::B;
    /// Quarters 1, 1, 3, 3.
    fn odd_twice(self, b: Self::B) -> Self::B;

    /// Whether [`Bytes::alternate`] leaves the high halves where they are, that is, sixteen times too large.
    const HIGH_IN_PLACE: bool = false;
    /// Of two planes of 32 bytes: in the first register their first quarters, low halves and then high halves; in the second
    /// their second quarters.
    #[inline(always)]
    fn alternate(self, planes: Self::B) -> [Self::B; 2] {
        let by = [0, 4, 0, 4];
        let (even, odd) = (self.even_twice(planes), self.odd_twice(planes));
        [self.and(self.down(even, by), 15), self.and(self.down(odd, by), 15)]
    }
    /// Odd lanes divided by 16, if [`Bytes::HIGH_IN_PLACE`]: the sums of codes that [`Bytes::alternate`] gave.
    #[inline(always)]
    fn of_alternate(self, sums: Self::I) -> Self::I {
        sums
    }

    /// The bytes of quarter q shifted down by `by[q]` bits; bits of neighbours may come in from above.
    fn down(self, b: Self::B, by: [u32; 4]) -> Self::B;
    /// The bytes of quarter q shifted up by `by[q]` bits; bits of neighbours may come in from below.
    fn up(self, b: Self::B, by: [u32; 4]) -> Self::B;
    /// Each byte minus `n`, modulo 256.
    fn less(self, b: Self::B, n: u8) -> Self::B;
    /// Each byte and `mask`.
    fn and(self, b: Self::B, mask: u8) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// `table[index]` for indices below 16; every quarter of `table` is the same.
    fn lookup(self, table: Self::B, index: Self::B) -> Self::B;
    /// Signed bytes as [`Bytes::dot`] wants them: with `1 << SIGNED_BIAS` added, or as they are.
    fn signed(self, b: Self::B) -> Self::B;
    /// `64 - b` where the byte's bit of `minus` is set, else `64 + b`; bytes are at most 63.
    fn around_64(self, b: Self::B, minus: u64) -> Self::B;

    /// Products of codes and activations, added up so that the four lanes of quarter q are sums that add up to quarter q of all
    /// registers. Codes are unsigned and at most 127, or come from [`Bytes::signed`]; activations are dealt as
    /// [`Simd::ggml_dealt`] says.
    fn dot<const N: usize>(self, codes: [Self::B; N], x: [&[i16; 64]; N]) -> Self::I;
    /// Lane `4 * i + q` is the sum of the four lanes of quarter q of `lanes[i]`.
    fn add_up(self, lanes: [Self::I; 4]) -> Self::I;
    /// `sums - (of << bias)`, where `of` holds integers.
    fn without_bias(self, sums: Self::I, of: Self::F, bias: u32) -> Self::I;
    /// Rounded to nearest even.
    fn to_f32(self, lanes: Self::I) -> Self::F;

    /// Sixteen signed bytes, the lowest byte of the first word first.
    fn bytes_to_f32(self, bytes: [u64; 2]) -> Self::F;
    /// The value of a binary16.
    fn f16(self, bits: u16) -> f32;
    /// Eight lanes of the binary16 in the lower half of each word, and eight lanes of those in the upper halves.
    #[inline(always)]
    fn pairs(self, low: u32, high: u32) -> [Self::F; 2] {
        [
            self.pair(self.f16(low as u16), self.f16(high as u16)),
            self.pair(self.f16((low >> 16) as u16), self.f16((high >> 16) as u16)),
        ]
    }
    /// Eight lanes of each.
    fn pair(self, low: f32, high: f32) -> Self::F;
}
