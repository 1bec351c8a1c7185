use flashmill_layout::{Affine, Encoding, Float, GgmlType, MatrixShape, MatrixView};
use half::{bf16, f16};

use super::ggml;

/// Random numbers that a seed repeats (splitmix64).
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Uniform between `low` and `high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// Close to a normal distribution of variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform(-0.5, 0.5)).sum()
    }

    /// `n` values of variance 1.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// `n` activations: runs of 16 of very different size, some of them zero, with outliers.
    pub fn activations(&mut self, n: usize) -> Vec<f32> {
        let mut size = 1.0;
        (0..n)
            .map(|i| {
                if i % 16 == 0 {
                    size = self.pick(&[0.0, 0.01, 0.3, 1.0, 1.0, 1.0, 3.0, 20.0]);
                }
                size * self.normal() * if self.below(64) == 0 { 8.0 } else { 1.0 }
            })
            .collect()
    }

    /// The numbers less than `n` in random order.
    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A matrix and its bytes, which start at an odd address.
#[derive(Clone)]
pub struct StoredMatrix {
    /// Its shape.
    pub shape: MatrixShape,
    /// Each part after `lead` bytes of something else.
    parts: Vec<Vec<u8>>,
    lead: usize,
}

impl StoredMatrix {
    /// Random weights with products of about the size of the inputs.
    pub fn random(random: &mut Random, rows: usize, cols: usize, encoding: Encoding) -> Self {
        let shape = MatrixShape { rows, cols, encoding };
        let lead = 1 + 2 * random.below(8);
        let spread = 1.0 / (cols as f32).sqrt();
        let parts = match encoding {
            Encoding::Float(float) => {
                vec![stored(float, lead, (0..rows * cols).map(|_| spread * random.normal()))]
            }
            Encoding::Affine(affine) => affine_parts(random, &shape, affine, lead, spread),
            Encoding::Ggml(ty) => {
                let mut bytes = vec![0xee; lead];
                bytes.extend(ggml::blocks(random, ty, rows * cols / ty.block_values(), spread));
                vec![bytes]
            }
            Encoding::Fp8 { scales } => fp8_parts(random, &shape, scales, lead, spread),
        };
        StoredMatrix { shape, parts, lead }
    }

    /// A view of the bytes where they lie.
    pub fn view(&self) -> MatrixView<'_> {
        let parts: Vec<&[u8]> = self.parts.iter().map(|part| &part[self.lead..]).collect();
        MatrixView::new(self.shape, &parts)
    }

    /// The bytes of part `part`.
    pub fn part(&self, part: usize) -> &[u8] {
        &self.parts[part][self.lead..]
    }

    /// The same with the magnitudes of scales and biases, or of the values: row `row` of `code * |scale| + |bias|` bounds what is
    /// added up in a product, before anything cancels.
    pub fn magnitudes(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.cols];
        match self.shape.encoding {
            Encoding::Float(_) | Encoding::Fp8 { .. } => {
                self.view().decode_row(row, &mut out);
                out.iter_mut().for_each(|value| *value = value.abs());
            }
            Encoding::Ggml(ty) => ggml::magnitudes(ty, self.view().row(row)[0], &mut out),
            Encoding::Affine(affine) => {
                let [codes, scales, biases] = self.view().row(row);
                for (i, value) in out.iter_mut().enumerate() {
                    let group = i / usize::from(affine.group);
                    let (scale, bias) = (affine.scales.get(scales, group), affine.scales.get(biases, group));
                    *value = f32::from(affine.code(codes, i)) * scale.abs() + bias.abs();
                }
            }
        }
        out
    }
}

/// Random codes, scales of either sign, biases that centre most groups.
fn affine_parts(
    random: &mut Random,
    shape: &MatrixShape,
    affine: Affine,
    lead: usize,
    spread: f32,
) -> Vec<Vec<u8>> {
    let groups = shape.rows * shape.cols / usize::from(affine.group);
    let largest = ((1u32 << affine.bits) - 1) as f32;
    let codes = (0..lead + shape.part_bytes(0)).map(|_| random.bits() as u8).collect();
    let scales: Vec<f32> = (0..groups)
        .map(|_| spread * 4.0 / largest * random.pick(&[0.0, 0.3, 1.0, 1.0, -1.0]) * random.uniform(0.5, 1.0))
        .collect();
    let biases: Vec<f32> = scales.iter().map(|scale| -scale * largest * random.uniform(0.3, 0.7)).collect();
    vec![codes, stored(affine.scales, lead, scales), stored(affine.scales, lead, biases)]
}

/// Random codes of any size but NaN, a scale for each block of 128 x 128.
fn fp8_parts(
    random: &mut Random,
    shape: &MatrixShape,
    scales: Float,
    lead: usize,
    spread: f32,
) -> Vec<Vec<u8>> {
    let code = |bits: u64| if bits & 0x7f == 0x7f { 0x7e } else { bits as u8 };
    let codes = (0..lead + shape.part_bytes(0)).map(|_| code(random.bits())).collect();
    let n_scales = shape.part_bytes(1) / scales.bytes();
    // The mean square of a code is that of a value of size 100 or so.
    let values: Vec<f32> = (0..n_scales)
        .map(|_| spread / 100.0 * random.pick(&[0.1, 1.0, 1.0]) * random.uniform(0.5, 1.0))
        .collect();
    vec![codes, stored(scales, lead, values)]
}

/// `lead` arbitrary bytes, then the values.
fn stored(float: Float, lead: usize, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let mut bytes = vec![0xee; lead];
    for value in values {
        match float {
            Float::F32 => bytes.extend(value.to_le_bytes()),
            Float::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Float::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
        }
    }
    bytes
}

/// All encodings: every float; every width, group and type of scale; every GGML type.
pub fn encodings() -> Vec<Encoding> {
    let floats = [Float::F32, Float::F16, Float::BF16];
    let mut all: Vec<Encoding> = floats.map(Encoding::Float).to_vec();
    all.extend(floats.map(|scales| Encoding::Fp8 { scales }));
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.extend(floats.map(|scales| Encoding::Affine(Affine { bits, group, scales })));
        }
    }
    all.extend(GgmlType::ALL.into_iter().filter(|ty| ty.float().is_none()).map(Encoding::Ggml));
    all
}

/// A number of columns that `encoding` allows: ragged ones for floats and FP8, up to 19 groups for the others.
pub(super) fn some_cols(random: &mut Random, encoding: Encoding) -> usize {
    match encoding {
        Encoding::Float(_) => random.pick(&[1, 7, 16, 31, 80, 96, 192, 273, 520]),
        Encoding::Fp8 { .. } => random.pick(&[1, 16, 31, 127, 128, 129, 192, 273, 520]),
        Encoding::Affine(affine) => usize::from(affine.group) * random.pick(&[1, 2, 3, 5, 6, 8, 16, 17, 19]),
        Encoding::Ggml(ty) => ty.block_values() * random.pick(&[1, 2, 3, 5, 9]),
    }
}
