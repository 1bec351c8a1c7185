//! The blocked product: eight rows of weights are unpacked once and meet all rows of activations, lane i for row i of half a panel.
//!
//! As at AVX2, the units of one accumulator follow each other, so that it stays in few registers.

use std::arch::aarch64::*;
use std::ops::Range;

use super::super::affine::{AffineRows, Blocked, Output, PANEL, TREE_ORDER};
use super::super::ggml::{Fast, GgmlRows, StepRows};
use super::affine::{Scales, chunk_bytes, chunk_load, planes, unpacked};
use super::{Neon, dot, dot_lane};

/// Rows of activations from which on this takes fewer instructions than one row after the other.
pub(super) const FROM: usize = 4;

/// # Safety
/// `y`'s columns are this thread's own.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment for all arms")]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn product(w: &AffineRows<'_>, x: &Blocked<'_>, scratch: &mut [i32], y: Output) {
    // SAFETY (all): this function has the features; `y` as the caller says.
    match (w.affine.bits, w.unit()) {
        (2, 64) => unsafe { all_rows::<2, 64>(w, x, scratch, y) },
        (3, 64) => unsafe { all_rows::<3, 64>(w, x, scratch, y) },
        (4, 64) => unsafe { all_rows::<4, 64>(w, x, scratch, y) },
        (5, 64) => unsafe { all_rows::<5, 64>(w, x, scratch, y) },
        (6, 64) => unsafe { all_rows::<6, 64>(w, x, scratch, y) },
        (8, 64) => unsafe { all_rows::<8, 64>(w, x, scratch, y) },
        (2, 32) => unsafe { all_rows::<2, 32>(w, x, scratch, y) },
        (3, 32) => unsafe { all_rows::<3, 32>(w, x, scratch, y) },
        (4, 32) => unsafe { all_rows::<4, 32>(w, x, scratch, y) },
        (5, 32) => unsafe { all_rows::<5, 32>(w, x, scratch, y) },
        (6, 32) => unsafe { all_rows::<6, 32>(w, x, scratch, y) },
        (8, 32) => unsafe { all_rows::<8, 32>(w, x, scratch, y) },
        (bits, unit) => unreachable!("codes of {bits} bits in units of {unit}"),
    }
}

/// Rows of weights that are unpacked together.
const ROWS: usize = 8;

/// Eight rows of weights, unpacked.
struct Unpacked<'a> {
    /// `[unit][register of the unit][ROWS]` of sixteen signed bytes, the codes of a unit in the order of the activations.
    codes: &'a mut [i32],
    /// `[unit][ROWS]`, as bits of f32.
    scales: &'a mut [i32],
    /// `[unit][ROWS]`, as bits of f32.
    biases: &'a mut [i32],
}

impl<'a> Unpacked<'a> {
    /// Room for rows of weights that meet `x`.
    fn new(scratch: &'a mut [i32], x: &Blocked<'_>) -> Self {
        let n_units = x.padded_cols / x.unit;
        let (codes, rest) = scratch.split_at_mut(x.padded_cols / 4 * ROWS);
        let (scales, rest) = rest.split_at_mut(n_units * ROWS);
        Unpacked { codes, scales, biases: &mut rest[..n_units * ROWS] }
    }
}

/// # Safety
/// The CPU has what [`Neon`] proves, so for every function below; `y`'s columns are this thread's own.
#[inline(always)]
unsafe fn all_rows<const BITS: usize, const UNIT: usize>(
    w: &AffineRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    assert!(x.padded_cols >= w.cols && x.unit == UNIT, "activations for W");
    let to = Unpacked::new(scratch, x);
    for first in (0..w.n_rows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(w.n_rows());
        let w = w.rows(rows.clone());
        // SAFETY: there is room for the activations' units, which are padded to whole chunks; the columns of `y` as the caller says.
        unsafe {
            unpack::<BITS, UNIT>(&w, to.codes);
            unpack_scales(&w, w.scales, to.scales);
            unpack_scales(&w, w.biases, to.biases);
            panels::<AffineForm<BITS, UNIT>>(&to, w.n_units(), x, rows, y);
        }
    }
}

/// The same for a type of blocks, the activations in plain order.
///
/// # Safety
/// `y`'s columns are this thread's own.
#[inline(always)]
pub(super) unsafe fn ggml<T: Fast>(
    s: Neon,
    w: &GgmlRows<'_>,
    x: &Blocked<'_>,
    scratch: &mut [i32],
    y: Output,
) {
    assert!(x.padded_cols >= w.cols && x.unit == T::UNIT, "activations for W");
    let n_units = w.cols / T::UNIT;
    let mut to = Unpacked::new(scratch, x);
    let mut step = StepRows::<ROWS>::new();
    for first in (0..w.n_rows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(w.n_rows());
        for i in 0..n_units.div_ceil(16) {
            step.unpack::<Neon, T>(s, &w.rows(rows.clone()), i);
            spread(&step, T::UNIT, 16 * i, &mut to);
        }
        // SAFETY: the weights are unpacked; the columns of `y` as the caller says.
        unsafe {
            match (T::UNIT, T::TYPE.has_offsets()) {
                (16, false) => panels::<BlockForm<16, false>>(&to, n_units, x, rows, y),
                (16, true) => panels::<BlockForm<16, true>>(&to, n_units, x, rows, y),
                (32, false) => panels::<BlockForm<32, false>>(&to, n_units, x, rows, y),
                (32, true) => panels::<BlockForm<32, true>>(&to, n_units, x, rows, y),
                (unit, _) => unreachable!("units of {unit}"),
            }
        }
    }
}

/// Sixteen units of `unit` values to their places from unit `first` on.
fn spread(from: &StepRows<ROWS>, unit: usize, first: usize, to: &mut Unpacked<'_>) {
    let n_runs = unit / 16;
    let codes = to.codes[first * unit / 4 * ROWS..].as_chunks_mut::<4>().0;
    let scales = &mut to.scales[first * ROWS..][..16 * ROWS];
    let biases = &mut to.biases[first * ROWS..][..16 * ROWS];
    for row in 0..ROWS {
        for u in 0..16 {
            for run in 0..n_runs {
                let to = &mut codes[(u * n_runs + run) * ROWS + row];
                for (dword, bytes) in to.iter_mut().zip(from.run(row, unit, u, run).as_chunks::<4>().0) {
                    *dword = i32::from_le_bytes(*bytes);
                }
            }
            scales[u * ROWS + row] = from.scales[row][u].to_bits().cast_signed();
            biases[u * ROWS + row] = from.offsets[row][u].to_bits().cast_signed();
        }
    }
}

/// How unpacked codes and their activations lie, and what their product consists of.
trait Form {
    /// Values of a unit.
    const UNIT: usize;
    /// Planes of the activations.
    const PLANES: usize;
    /// Dwords of a plane of activations that one unit has.
    const RUN: usize = Self::UNIT / 4 / Self::PLANES;
    /// Whether the codes are less 128.
    const LESS_128: bool;
    /// Whether units have offsets.
    const OFFSETS: bool;
}

/// Codes of `BITS` bits in affine units.
struct AffineForm<const BITS: usize, const UNIT: usize>;

impl<const BITS: usize, const UNIT: usize> Form for AffineForm<BITS, UNIT> {
    const UNIT: usize = UNIT;
    const PLANES: usize = planes(BITS);
    const LESS_128: bool = BITS == 8;
    const OFFSETS: bool = true;
}

/// Units of blocks, in plain order.
struct BlockForm<const UNIT: usize, const OFFSETS: bool>;

impl<const UNIT: usize, const OFFSETS: bool> Form for BlockForm<UNIT, OFFSETS> {
    const UNIT: usize = UNIT;
    const PLANES: usize = 1;
    const LESS_128: bool = false;
    const OFFSETS: bool = OFFSETS;
}

/// Rows `rows` of `W`, which are unpacked, with all rows of activations.
///
/// # Safety
/// The weights are unpacked, and the columns of `y` are this thread's own.
#[target_feature(enable = "neon,dotprod")]
unsafe fn panels<F: Form>(w: &Unpacked<'_>, n_units: usize, x: &Blocked<'_>, rows: Range<usize>, y: Output) {
    for panel in 0..x.n_rows().div_ceil(PANEL) {
        let first_x = panel * PANEL;
        let tile = Tile {
            w,
            x: x.panel(panel, F::UNIT),
            n_units,
            first_x,
            n_x: (x.n_rows() - first_x).min(PANEL),
            first_row: rows.start,
            n_rows: rows.len(),
            y,
        };
        // SAFETY: the weights are unpacked; a panel has `PANEL` rows, of which the first are real.
        unsafe {
            match tile.n_x {
                ..=4 => tile.compute::<F, 1>(),
                _ => tile.compute::<F, 2>(),
            }
        }
    }
}

/// Scales (or biases) of up to eight rows, unit by unit; those of rows that do not exist repeat the last one.
///
/// # Safety
/// `to` has room for `w`'s units, rounded up to four.
#[inline(always)]
unsafe fn unpack_scales(w: &AffineRows<'_>, part: &[u8], to: &mut [i32]) {
    let last = w.n_rows() - 1;
    let scales = Scales { float: w.affine.scales, halved: w.units_of_group() == 2 };
    for unit in (0..w.n_units()).step_by(4) {
        let at = scales.bytes_of(unit);
        for half in 0..2 {
            // SAFETY: the row has its bytes; four units of four rows are written to their places.
            unsafe {
                let mut square = [vdupq_n_f32(0.0); 4];
                for (row, lanes) in square.iter_mut().enumerate() {
                    let row = &part[(4 * half + row).min(last) * w.group_bytes()..][..w.group_bytes()];
                    *lanes = scales.load_some(row.as_ptr().add(at), row.len() - at);
                }
                for (i, lanes) in transpose(square).into_iter().enumerate() {
                    let to = &mut to[(unit + i) * ROWS + 4 * half..][..4];
                    vst1q_f32(to.as_mut_ptr().cast(), lanes);
                }
            }
        }
    }
}

/// Unpacks up to eight rows; rows that do not exist repeat the last one.
///
/// # Safety
/// `to` has room for `w`'s units, rounded up to whole chunks.
#[inline(always)]
unsafe fn unpack<const BITS: usize, const UNIT: usize>(w: &AffineRows<'_>, to: &mut [i32]) {
    let run = AffineForm::<BITS, UNIT>::RUN;
    // Neighbouring dwords of a plane that stay neighbours.
    let piece = if run < 4 { run } else { 4 };
    let to: *mut u8 = to.as_mut_ptr().cast();
    for row in 0..ROWS {
        let codes = &w.codes[row.min(w.n_rows() - 1) * w.code_bytes()..][..w.code_bytes()];
        for (chunk, at) in (0..codes.len()).step_by(chunk_bytes(BITS)).enumerate() {
            let codes = &codes[at..];
            // SAFETY: `chunk_load` bytes are read, of the row or of the copy; stores go to the units of the chunk.
            unsafe {
                let fields = if codes.len() >= chunk_load(BITS) {
                    unpacked::<BITS>(codes.as_ptr())
                } else {
                    let mut copy = [0; 48];
                    copy[..codes.len()].copy_from_slice(codes);
                    unpacked::<BITS>(copy.as_ptr())
                };
                // The first dword of the chunk in each plane: of the row, as all planes of the blocks before have as many.
                let first = 4 * chunk;
                for j in 0..planes(BITS) {
                    let mut bytes = [0i8; 16];
                    vst1q_s8(bytes.as_mut_ptr(), fields[j]);
                    for (i, bytes) in bytes.chunks_exact(4 * piece).enumerate() {
                        let dword = first + i * piece;
                        let (unit, dword) = (dword / run, j * run + dword % run);
                        let register = (unit * (UNIT / 16) + dword / 4) * ROWS + row;
                        let to = to.add(16 * register + 4 * (dword % 4));
                        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, 4 * piece);
                    }
                }
            }
        }
    }
}

/// Eight rows of weights and a panel of activations.
struct Tile<'a> {
    w: &'a Unpacked<'a>,
    /// Pairs, scales and sums of [`Blocked::panel`].
    x: (&'a [i32], &'a [f32], &'a [f32]),
    n_units: usize,
    first_x: usize,
    n_x: usize,
    first_row: usize,
    n_rows: usize,
    y: Output,
}

impl Tile<'_> {
    /// The first `4 * H` rows of the panel.
    ///
    /// # Safety
    /// The weights are unpacked, and the columns of `y` are this thread's own.
    #[inline(always)]
    unsafe fn compute<F: Form, const H: usize>(&self) {
        // SAFETY: units are below `n_units`, of which the slices have all.
        unsafe {
            let zeros = [[vdupq_n_f32(0.0); H]; ROWS];
            // What has been added up of each level of the tree.
            let mut done = [zeros; 5];
            let units_of_lane = self.x.1.len() / PANEL / 16;
            for (step, &lane) in TREE_ORDER.iter().enumerate() {
                let mut acc = zeros;
                let mut unit = lane;
                while unit < self.n_units {
                    self.unit::<F, H>(unit, step * units_of_lane + unit / 16, &mut acc);
                    unit += 16;
                }
                let mut level = 0;
                while step >> level & 1 == 1 {
                    for r in 0..ROWS {
                        for h in 0..H {
                            acc[r][h] = vaddq_f32(done[level][r][h], acc[r][h]);
                        }
                    }
                    level += 1;
                }
                done[level] = acc;
            }
            for (r, sums) in done[4].iter().enumerate().take(self.n_rows) {
                let mut lanes = [0.0; PANEL];
                for (h, &sums) in sums.iter().enumerate() {
                    vst1q_f32(lanes[4 * h..][..4].as_mut_ptr(), sums);
                }
                for (i, &sum) in lanes.iter().enumerate().take(self.n_x) {
                    self.y.row(self.first_x + i, self.first_row + r, 1)[0] = sum;
                }
            }
        }
    }

    /// Adds one unit, which is at `place` of the panel, to the accumulators.
    ///
    /// # Safety
    /// The unit exists.
    #[inline(always)]
    unsafe fn unit<F: Form, const H: usize>(
        &self,
        unit: usize,
        place: usize,
        acc: &mut [[float32x4_t; H]; ROWS],
    ) {
        // SAFETY: by the caller.
        unsafe {
            let sums = self.integer_sums::<F, H>(unit, place);
            let w_scales: *const f32 = self.w.scales.as_ptr().add(unit * ROWS).cast();
            let w_biases: *const f32 = self.w.biases.as_ptr().add(unit * ROWS).cast();
            for h in 0..H {
                let x_scale = vld1q_f32(self.x.1.as_ptr().add(place * PANEL + 4 * h));
                let x_sum = vld1q_f32(self.x.2.as_ptr().add(place * PANEL + 4 * h));
                for r in 0..ROWS {
                    let scale = vmulq_n_f32(x_scale, *w_scales.add(r));
                    acc[r][h] = vfmaq_f32(acc[r][h], vcvtq_f32_s32(sums[r][h]), scale);
                    if F::OFFSETS {
                        acc[r][h] = vfmaq_n_f32(acc[r][h], x_sum, *w_biases.add(r));
                    }
                }
            }
        }
    }

    /// The integer sums of one unit: with the high bytes of the activations, and on top of 256 times that with the low ones.
    ///
    /// # Safety
    /// The unit exists.
    #[inline(always)]
    unsafe fn integer_sums<F: Form, const H: usize>(
        &self,
        unit: usize,
        place: usize,
    ) -> [[int32x4_t; H]; ROWS] {
        // SAFETY: by the caller.
        unsafe {
            let w: *const i8 = self.w.codes.as_ptr().add(unit * F::UNIT / 4 * ROWS).cast();
            // High bytes, then low bytes.
            let x: *const i8 = self.x.0.as_ptr().add(place * F::UNIT / 2 * PANEL).cast();
            let mut sums = [[vdupq_n_s32(0); H]; ROWS];
            // What is missing where codes are less 128: 128 times the activations.
            let mut rest = [vdupq_n_s32(0); H];
            for plane in 0..2 {
                if plane == 1 {
                    for r in 0..ROWS {
                        for h in 0..H {
                            sums[r][h] = vshlq_n_s32::<8>(sums[r][h]);
                        }
                    }
                    for h in 0..H {
                        rest[h] = vshlq_n_s32::<8>(rest[h]);
                    }
                }
                for register in 0..F::UNIT / 16 {
                    let w = w.add(16 * ROWS * register);
                    let mut codes = [vdupq_n_s8(0); ROWS];
                    for r in 0..ROWS {
                        codes[r] = vld1q_s8(w.add(16 * r));
                    }
                    let mut q = [[vdupq_n_s8(0); H]; 4];
                    for lane in 0..4 {
                        let at = plane * F::UNIT / 4 + 4 * register + lane;
                        for h in 0..H {
                            q[lane][h] = vld1q_s8(x.add(4 * PANEL * at + 16 * h));
                        }
                    }
                    for h in 0..H {
                        for r in 0..ROWS {
                            sums[r][h] = dot_lane::<0>(sums[r][h], q[0][h], codes[r]);
                        }
                        for r in 0..ROWS {
                            sums[r][h] = dot_lane::<1>(sums[r][h], q[1][h], codes[r]);
                        }
                        for r in 0..ROWS {
                            sums[r][h] = dot_lane::<2>(sums[r][h], q[2][h], codes[r]);
                        }
                        for r in 0..ROWS {
                            sums[r][h] = dot_lane::<3>(sums[r][h], q[3][h], codes[r]);
                        }
                        if F::LESS_128 {
                            for lane in 0..4 {
                                rest[h] = dot(rest[h], q[lane][h], vdupq_n_s8(1));
                            }
                        }
                    }
                }
            }
            if F::LESS_128 {
                for r in 0..ROWS {
                    for h in 0..H {
                        sums[r][h] = vaddq_s32(sums[r][h], vshlq_n_s32::<7>(rest[h]));
                    }
                }
            }
            sums
        }
    }
}

/// Lane i of register j becomes lane j of register i.
#[inline(always)]
unsafe fn transpose(a: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let pairs =
            [vtrn1q_f32(a[0], a[1]), vtrn2q_f32(a[0], a[1]), vtrn1q_f32(a[2], a[3]), vtrn2q_f32(a[2], a[3])];
        let mut b = [vdupq_n_f64(0.0); 4];
        for i in 0..4 {
            b[i] = vreinterpretq_f64_f32(pairs[i]);
        }
        [
            vreinterpretq_f32_f64(vtrn1q_f64(b[0], b[2])),
            vreinterpretq_f32_f64(vtrn1q_f64(b[1], b[3])),
            vreinterpretq_f32_f64(vtrn2q_f64(b[0], b[2])),
            vreinterpretq_f32_f64(vtrn2q_f64(b[1], b[3])),
        ]
    }
}
