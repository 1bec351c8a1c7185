use super::super::simd::Simd;
use super::*;

pub(super) const BLOCKED_FROM: usize = usize::MAX;

pub(super) fn planes(_bits: u8) -> usize {
    1
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rows(s: Avx2, w: &AffineRows<'_>, x: QuantizedRow<'_>, y: &mut [f32]) {
    for (row, y) in y.iter_mut().enumerate() {
        *y = s.tree(s.load(&w.accumulate(row, x)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocked(
    _: Avx2,
    _w: &AffineRows<'_>,
    _x: &Blocked<'_>,
    _scratch: &mut [i32],
    _y: Output,
) {
    unreachable!();
}
