use std::time::{Duration, Instant};

/// A part of the forward pass whose time is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Token rows of the embedding table.
    Embed,
    /// Full attention with its projections and norms.
    Attention,
    /// Gated DeltaNet with its projections and norms.
    DeltaNet,
    /// Router and the choice of experts.
    Router,
    /// Waiting for bundles that are still being read.
    ReadWait,
    /// Routed experts.
    Experts,
    /// The shared expert, or a dense network.
    Shared,
    /// Final norm and head.
    Head,
}

impl Part {
    /// All parts, in the order of the forward pass.
    pub const ALL: [Part; 8] = [
        Part::Embed,
        Part::Attention,
        Part::DeltaNet,
        Part::Router,
        Part::ReadWait,
        Part::Experts,
        Part::Shared,
        Part::Head,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embed => "embed",
            Part::Attention => "attention",
            Part::DeltaNet => "delta net",
            Part::Router => "router",
            Part::ReadWait => "read wait",
            Part::Experts => "experts",
            Part::Shared => "shared",
            Part::Head => "head",
        }
    }
}

/// What decode took, and what it could have taken: sums over passes of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Passes.
    pub n_passes: u64,
    /// What they took.
    pub measured: Duration,
    /// The sum over layers of the time up to the router and the longer of reads and experts, with what is outside of layers.
    pub bound: Duration,
    /// Time with a read in flight.
    pub reads: Duration,
    /// All computing, shared by no read.
    pub compute: Duration,
}

impl Overlap {
    /// What only a perfect prefetch could reach: the longer of all reads and all computing.
    pub fn ideal(&self) -> Duration {
        self.reads.max(self.compute)
    }
}

/// Time spent in each part, summed over forward passes, and by layer.
#[derive(Clone, Debug)]
pub struct Timing {
    last: Instant,
    parts: [Duration; Part::ALL.len()],
    layers: Vec<[Duration; Part::ALL.len()]>,
    overlap: Overlap,
    /// Of the layer, or what is between layers, that is under way in a pass of one token.
    current: Option<[Duration; Part::ALL.len()]>,
}

impl Timing {
    pub(crate) fn new(n_layers: usize) -> Self {
        Timing {
            last: Instant::now(),
            parts: Default::default(),
            layers: vec![Default::default(); n_layers],
            overlap: Overlap::default(),
            current: None,
        }
    }

    /// Starts the clock for a pass of `n_rows`; what passed since the last mark belongs to nothing.
    pub(crate) fn start(&mut self, n_rows: usize) {
        self.last = Instant::now();
        self.current = (n_rows == 1).then(Default::default);
        self.overlap.n_passes += u64::from(n_rows == 1);
    }

    /// A layer, or what is outside of layers, has ended; meanwhile something was in flight for `read`.
    pub(crate) fn end_layer(&mut self, read: Duration) {
        let Some(times) = &mut self.current else { return };
        let times = std::mem::take(times);
        let of = |part: Part| times[part as usize];
        let all: Duration = times.iter().sum();
        let experts = of(Part::Experts) + of(Part::Shared);
        let before = all - experts - of(Part::ReadWait);
        self.overlap.measured += all;
        self.overlap.bound += before + experts.max(read);
        self.overlap.reads += read;
        self.overlap.compute += before + experts;
    }

    /// Charges the time since the last mark to `part` of `layer`.
    pub(crate) fn mark(&mut self, layer: Option<usize>, part: Part) {
        let now = Instant::now();
        let spent = now - self.last;
        self.last = now;
        self.parts[part as usize] += spent;
        if let Some(current) = &mut self.current {
            current[part as usize] += spent;
        }
        if let Some(layer) = layer {
            self.layers[layer][part as usize] += spent;
        }
    }

    /// Decode beside its bounds.
    pub fn overlap(&self) -> Overlap {
        self.overlap
    }

    /// Time of one part in all layers.
    pub fn total(&self, part: Part) -> Duration {
        self.parts[part as usize]
    }

    /// Time of one part in one layer.
    pub fn layer(&self, layer: usize, part: Part) -> Duration {
        self.layers[layer][part as usize]
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }
}
