//! How fast a plan will be: a cost formula over what the machine was measured to give.
//!
//! A layer's reads cannot start before its router has picked, and hits and the shared expert are computed while misses land. So a
//! decoded token takes the sum over layers of `up to the router + max(read, experts)`, and the head; a chunk of a prompt
//! likewise, with each expert that any of its tokens picked read once.

mod profile;

use flashmill_checkpoint::{Checkpoint, FfnRef, GluRef, MatrixRef, MixerRef, ModelSpec};
use flashmill_layout::{Encoding, MatrixShape};
use flashmill_store::ReaderKind;
use serde::Serialize;

pub use profile::{MachineProfile, ReadSpeed, RowCost};

use crate::Plan;

/// The prompt for which speeds are given where nobody names another.
pub const PROMPT: usize = 512;

/// The work of a model, layer by layer.
#[derive(Clone, Debug)]
pub struct Workload {
    hidden: usize,
    layers: Vec<LayerWork>,
    head: Product,
    n_experts: usize,
    top_k: usize,
}

/// The work of one layer for one row.
#[derive(Clone, Debug, Default)]
struct LayerWork {
    /// Products of the mixer, and the router.
    trunk: Vec<Product>,
    /// Multiplications of attention for each position that is attended to.
    attention: f64,
    /// Values of the DeltaNet state.
    delta: f64,
    /// The shared expert, or a dense network.
    shared: Vec<Product>,
    /// One routed expert; empty in a dense layer.
    expert: Vec<Product>,
    /// Bytes of one routed expert.
    bundle_bytes: f64,
    /// Reads of one routed expert.
    n_reads: usize,
}

/// A product with a matrix: its encoding and the multiplications of one row.
#[derive(Clone, Copy, Debug)]
struct Product {
    encoding: Encoding,
    macs: f64,
}

/// Where a model runs: the choices that the formula compares.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The name of the reader.
    pub reader: &'a str,
    /// Share of the picks that are in a slot while decoding, 0 to 1.
    pub hit_rate: f64,
    /// Share of all bundles that the slots hold, 0 to 1.
    pub resident_share: f64,
    /// Prompt tokens of one pass.
    pub chunk: usize,
}

/// What the formula says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Tokens decoded a second.
    pub decode_tok_per_s: f64,
    /// Prompt tokens read a second.
    pub prefill_tok_per_s: f64,
    /// Share of the picks that are in a slot while decoding, 0 to 1.
    pub hit_rate: f64,
    /// Bytes read for each decoded token.
    pub bytes_per_token: f64,
    /// Milliseconds of reading for each decoded token, overlapped or not.
    pub read_ms: f64,
    /// Milliseconds of computing for each decoded token.
    pub compute_ms: f64,
}

impl Setting<'_> {
    /// The setting of a plan with `reader`, where `hit_rate` of the picks hit.
    pub fn of<'a>(plan: &Plan, reader: &'a str, hit_rate: f64) -> Setting<'a> {
        Setting { reader, hit_rate, resident_share: plan.resident_share, chunk: plan.chunk }
    }
}

impl Workload {
    /// The work of the model of `checkpoint` with `top_k` experts a token.
    pub fn of(checkpoint: &Checkpoint, top_k: usize) -> Workload {
        let (spec, trunk) = (checkpoint.spec(), checkpoint.trunk());
        let layer = |(index, layer): (usize, &flashmill_checkpoint::LayerRef)| {
            let mut work = LayerWork::default();
            work.mixer(&layer.mixer, spec);
            match &layer.ffn {
                FfnRef::Dense(glu) => work.shared.extend(products_of(glu)),
                FfnRef::Moe { router, shared } => {
                    work.trunk.push(product(router));
                    if let Some(shared) = shared {
                        work.shared.extend(products_of(&shared.glu));
                        work.shared.push(product(&shared.gate_logit));
                    }
                    let bundle = checkpoint.bundle(index, 0);
                    work.expert = bundle.shapes().into_iter().map(Product::of).collect();
                    work.bundle_bytes = bundle.shapes().iter().map(|shape| shape.bytes() as f64).sum();
                    work.n_reads = bundle.extents().count().max(1);
                }
            }
            work
        };
        Workload {
            hidden: spec.hidden_size,
            layers: trunk.layers.iter().enumerate().map(layer).collect(),
            head: product(trunk.head.as_ref().unwrap_or(&trunk.embed)),
            n_experts: spec.moe.map_or(0, |moe| moe.n_experts),
            top_k,
        }
    }

    /// The encodings whose speed the formula asks for, each once.
    pub fn encodings(&self) -> Vec<Encoding> {
        let mut found = vec![self.head.encoding];
        for layer in &self.layers {
            for product in layer.trunk.iter().chain(&layer.shared).chain(&layer.expert) {
                if !found.contains(&product.encoding) {
                    found.push(product.encoding);
                }
            }
        }
        found
    }

    /// The speed in `setting` of a prompt of `prompt` tokens after `context` others, and of decoding after both. `None` if the profile
    /// does not know an encoding, or the reader where experts must be read.
    pub fn predict(
        &self,
        profile: &MachineProfile,
        setting: &Setting<'_>,
        context: usize,
        prompt: usize,
    ) -> Option<Prediction> {
        if self.encodings().iter().any(|encoding| !profile.products.contains_key(&encoding.to_string())) {
            return None;
        }
        let prompt = prompt.max(1);
        let token = self.pass(profile, setting, 1, context + prompt, true)?;
        let (mut prefill, mut done) = (0.0, 0);
        while done < prompt {
            let rows = setting.chunk.clamp(1, prompt - done);
            prefill += self.pass(profile, setting, rows, context + done, done + rows == prompt)?.seconds;
            done += rows;
        }
        Some(Prediction {
            decode_tok_per_s: 1.0 / token.seconds,
            prefill_tok_per_s: done as f64 / prefill,
            hit_rate: setting.hit_rate,
            bytes_per_token: token.bytes,
            read_ms: token.read * 1e3,
            compute_ms: token.compute * 1e3,
        })
    }

    /// One forward pass of `rows` tokens that follow `context` others.
    fn pass(
        &self,
        profile: &MachineProfile,
        setting: &Setting<'_>,
        rows: usize,
        context: usize,
        head: bool,
    ) -> Option<Pass> {
        let n = rows as f64;
        let mut pass = Pass::default();
        // Picks are spread: the experts that at least one row has picked.
        let picks = n * self.top_k as f64;
        let missed_by_all = (1.0 - self.top_k as f64 / self.n_experts.max(1) as f64).powf(n);
        let union = if rows == 1 { picks } else { self.n_experts as f64 * (1.0 - missed_by_all) };
        let held = if rows == 1 { setting.hit_rate } else { setting.resident_share };
        for layer in &self.layers {
            let before = layer.before_experts(profile, self.hidden, n, context as f64);
            let experts = seconds(profile, &layer.expert, picks / union.max(1.0)) * picks;
            let compute = seconds(profile, &layer.shared, n) * n + experts;
            let misses = if layer.expert.is_empty() { 0.0 } else { union * (1.0 - held) };
            // A token's misses are few, and a layer with many is not made up for by one with none.
            let spread = if rows == 1 { binomial(self.top_k, 1.0 - held) } else { vec![(misses, 1.0)] };
            for (misses, share) in spread {
                let misses = if layer.expert.is_empty() { 0.0 } else { misses };
                let read = layer.read(profile, setting, misses)?;
                pass.seconds += share * (before + compute.max(read));
                pass.read += share * read;
            }
            pass.compute += before + compute;
            pass.bytes += misses * layer.bundle_bytes;
        }
        if head {
            // The logits of the last row only.
            let head = seconds(profile, &[self.head], 1.0);
            pass.seconds += head;
            pass.compute += head;
        }
        Some(pass)
    }
}

/// How often 0 to `n` of `n` independent picks miss, where each does with probability `p`.
fn binomial(n: usize, p: f64) -> Vec<(f64, f64)> {
    let mut shares = vec![0.0; n + 1];
    shares[0] = 1.0;
    for picks in 1..=n {
        for misses in (0..=picks).rev() {
            let one_less = if misses > 0 { shares[misses - 1] * p } else { 0.0 };
            shares[misses] = shares[misses] * (1.0 - p) + one_less;
        }
    }
    shares
        .into_iter()
        .enumerate()
        .map(|(misses, share)| (misses as f64, share))
        .filter(|&(_, share)| share > 0.0)
        .collect()
}

/// A pass in seconds and bytes.
#[derive(Default)]
struct Pass {
    seconds: f64,
    read: f64,
    compute: f64,
    bytes: f64,
}

/// The reader that predicts the fastest decoding of `plan`, and its prediction: `asked`, or of all that were measured the best if any will do.
pub(crate) fn best_reader(
    workload: &Workload,
    profile: &MachineProfile,
    plan: &Plan,
    asked: ReaderKind,
) -> Option<(ReaderKind, Prediction)> {
    let hit_rate = expected_hit_rate(plan.resident_share);
    let predict = |reader: ReaderKind| {
        let name = reader.to_string();
        Some((reader, workload.predict(profile, &Setting::of(plan, &name, hit_rate), 0, PROMPT)?))
    };
    let candidates: &[ReaderKind] = match asked {
        ReaderKind::Auto => &[ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache],
        _ => &[asked],
    };
    let faster = |a: (ReaderKind, Prediction), b: (ReaderKind, Prediction)| {
        // What is asked for first wins unless it is clearly slower: disks are noisy.
        if b.1.decode_tok_per_s > 1.1 * a.1.decode_tok_per_s { b } else { a }
    };
    candidates.iter().filter_map(|&reader| predict(reader)).reduce(faster)
}

impl LayerWork {
    fn mixer(&mut self, mixer: &MixerRef, spec: &ModelSpec) {
        match mixer {
            MixerRef::Attention(weights) => {
                self.trunk.extend([&weights.q, &weights.k, &weights.v, &weights.o].map(product));
                self.attention = 2.0 * (spec.attention.n_heads * spec.attention.head_dim) as f64;
            }
            MixerRef::DeltaNet(weights) => {
                self.trunk
                    .extend([&weights.qkv, &weights.z, &weights.b, &weights.a, &weights.out].map(product));
                self.delta = spec.delta_net.map_or(0.0, |delta| (delta.values() * delta.key_dim) as f64);
            }
        }
    }

    /// Seconds until the router has picked for `n` rows after `context` others, the vector work of the whole layer included.
    fn before_experts(&self, profile: &MachineProfile, hidden: usize, n: f64, context: f64) -> f64 {
        let per_row = seconds(profile, &self.trunk, n)
            + self.attention * (context + n / 2.0) * profile.attention.seconds(n)
            + self.delta * profile.delta_rule.seconds(n)
            + hidden as f64 * profile.vectors.seconds(n);
        per_row * n
    }

    /// Seconds for reading `misses` bundles, all asked for at once.
    fn read(&self, profile: &MachineProfile, setting: &Setting<'_>, misses: f64) -> Option<f64> {
        if misses * self.bundle_bytes < 1.0 {
            return Some(0.0);
        }
        let in_flight = (misses * self.n_reads as f64).ceil() as usize;
        let read_bytes = (self.bundle_bytes / self.n_reads as f64) as u64;
        let gb_per_s = profile.disk_gb_per_s(setting.reader, read_bytes, in_flight)?;
        Some(misses * self.bundle_bytes / gb_per_s / 1e9)
    }
}

impl Product {
    fn of(shape: MatrixShape) -> Product {
        Product { encoding: shape.encoding, macs: shape.rows as f64 * shape.cols as f64 }
    }
}

fn product(matrix: &MatrixRef) -> Product {
    Product::of(matrix.shape)
}

fn products_of(glu: &GluRef) -> [Product; 3] {
    [&glu.gate, &glu.up, &glu.down].map(product)
}

/// Seconds for each row of `products` where `rows` rows share them.
fn seconds(profile: &MachineProfile, products: &[Product], rows: f64) -> f64 {
    let one = |product: &Product| {
        let cost = profile.products.get(&product.encoding.to_string());
        product.macs * cost.map_or(0.0, |cost| cost.seconds(rows))
    };
    products.iter().map(one).sum()
}

/// Share of the picks of a trained model that hit while the slots hold `share` of the experts, both 0 to 1.
///
/// Routers repeat themselves. Published traces of LRU caches on prompts that were not tuned for, of Qwen3-Next-80B (512 experts, 10
/// picked) and Qwen3.5-35B and 122B (256, 8 picked), lie within some 5 points of this line through them.
pub fn expected_hit_rate(share: f64) -> f64 {
    const RECORDED: [(f64, f64); 7] =
        [(0.0, 0.0), (0.0625, 0.50), (0.125, 0.62), (0.25, 0.76), (0.375, 0.84), (0.6, 0.92), (1.0, 1.0)];
    profile::between(&RECORDED, share).unwrap_or(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_rates_rise_with_the_share_held() {
        let rates: Vec<f64> =
            (0..=100).map(|percent| expected_hit_rate(f64::from(percent) / 100.0)).collect();
        assert!(rates.is_sorted());
        assert_eq!((rates[0], rates[100]), (0.0, 1.0));
        assert!((rates[25] - 0.76).abs() < 1e-9);
    }

    /// Two layers of 10 experts of which 2 are picked, in a profile whose numbers are round.
    fn workload() -> Workload {
        let product = |macs| vec![Product { encoding: Encoding::Float(flashmill_layout::Float::BF16), macs }];
        let layer = LayerWork {
            trunk: product(1e6),
            attention: 100.0,
            shared: product(1e6),
            expert: product(1e6),
            bundle_bytes: 2e6,
            n_reads: 2,
            ..LayerWork::default()
        };
        let head = product(4e6)[0];
        Workload { hidden: 1000, layers: vec![layer.clone(), layer], head, n_experts: 10, top_k: 2 }
    }

    /// 1 ns per multiplication alone, a quarter of it in 100 rows; a disk of 1 GB/s.
    fn profile() -> MachineProfile {
        let rows = RowCost { picoseconds: vec![(1, 1000.0), (100, 250.0)] };
        let read = ReadSpeed { bytes: 1 << 20, depth: 1, gb_per_s: 1.0 };
        MachineProfile {
            products: [("BF16".to_owned(), rows.clone())].into(),
            attention: rows.clone(),
            vectors: rows,
            disk: [("uring".to_owned(), vec![read])].into(),
            ..MachineProfile::default()
        }
    }

    #[test]
    fn a_token_waits_for_the_longer_of_reads_and_experts() {
        let (workload, profile) = (workload(), profile());
        let predict = |hit_rate, context| {
            let setting = Setting { reader: "uring", hit_rate, resident_share: hit_rate, chunk: 100 };
            workload.predict(&profile, &setting, context, 1).unwrap()
        };
        // A layer: 1 ms trunk, 1 us vectors, 3 ms of experts; then 4 ms of head.
        let resident = predict(1.0, 0);
        assert!((1.0 / resident.decode_tok_per_s - (2.0 * 4.001e-3 + 4e-3)).abs() < 1e-6, "{resident:?}");
        assert_eq!(resident.bytes_per_token, 0.0);
        // Without a hit, 2 picks of 2 MB take 4 ms, longer than the 3 ms of the experts.
        let streamed = predict(0.0, 0);
        assert!((1.0 / streamed.decode_tok_per_s - (2.0 * 5.001e-3 + 4e-3)).abs() < 1e-6, "{streamed:?}");
        assert!((streamed.read_ms - 8.0).abs() < 1e-9 && streamed.bytes_per_token == 8e6, "{streamed:?}");
        // 1000 positions are 100,000 multiplications more a layer.
        let far = predict(1.0, 1000);
        let more = 1.0 / far.decode_tok_per_s - 1.0 / resident.decode_tok_per_s;
        assert!((more - 2.0 * 1e-4).abs() < 1e-6, "{more}");
    }

    #[test]
    fn misses_are_spread_over_layers() {
        let shares = binomial(2, 0.25);
        assert_eq!(shares, [(0.0, 0.5625), (1.0, 0.375), (2.0, 0.0625)]);
        assert_eq!(binomial(3, 0.0), [(0.0, 1.0)]);
        // One miss is read in 2 ms, while 3 ms of experts are computed; two take 4 ms. The mean of the misses alone would hide them.
        let (workload, profile) = (workload(), profile());
        let setting = Setting { reader: "uring", hit_rate: 0.75, resident_share: 0.75, chunk: 100 };
        let token = 1.0 / workload.predict(&profile, &setting, 0, 1).unwrap().decode_tok_per_s;
        assert!((token - (2.0 * (1.001e-3 + 3e-3 + 0.0625 * 1e-3) + 4e-3)).abs() < 1e-6, "{token}");
    }

    #[test]
    fn a_chunk_reads_every_expert_once() {
        let (workload, profile) = (workload(), profile());
        let setting = |chunk| Setting { reader: "uring", hit_rate: 0.0, resident_share: 0.0, chunk };
        let seconds =
            |chunk| 100.0 / workload.predict(&profile, &setting(chunk), 0, 100).unwrap().prefill_tok_per_s;
        // All 10 experts of a layer are picked by 100 rows: 20 MB, 20 ms, less than 20 rows an expert of 200 computed rows.
        let compute = |rows: f64| profile.products["BF16"].seconds(rows) * 1e6;
        let vectors = 1000.0 * 100.0 * profile.vectors.seconds(100.0);
        let attention = 100.0 * 100.0 * 50.0 * profile.attention.seconds(100.0);
        let layer = 200.0 * compute(100.0) + vectors + attention + 200.0 * compute(20.0);
        let whole = 2.0 * layer + compute(1.0) * 4.0;
        assert!((seconds(100) / whole - 1.0).abs() < 1e-3, "{} and {whole}", seconds(100));
        assert!(seconds(10) > 1.5 * seconds(100), "short chunks unpack and read again");
    }

    #[test]
    fn a_reader_that_was_not_measured_gives_nothing() {
        let setting = Setting { reader: "pread", hit_rate: 0.5, resident_share: 0.5, chunk: 10 };
        assert_eq!(workload().predict(&profile(), &setting, 0, 10), None);
        let resident = Setting { hit_rate: 1.0, resident_share: 1.0, ..setting };
        assert!(workload().predict(&profile(), &resident, 0, 10).is_some());
    }
}
