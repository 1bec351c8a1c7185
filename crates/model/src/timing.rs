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

/// Time spent in each part, summed over forward passes, and by layer.
#[derive(Clone, Debug)]
pub struct Timing {
    last: Instant,
    parts: [Duration; Part::ALL.len()],
    layers: Vec<[Duration; Part::ALL.len()]>,
}

impl Timing {
    pub(crate) fn new(n_layers: usize) -> Self {
        Timing { last: Instant::now(), parts: Default::default(), layers: vec![Default::default(); n_layers] }
    }

    /// Starts the clock; what passed since the last mark belongs to nothing.
    pub(crate) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// Charges the time since the last mark to `part` of `layer`.
    pub(crate) fn mark(&mut self, layer: Option<usize>, part: Part) {
        let now = Instant::now();
        let spent = now - self.last;
        self.last = now;
        self.parts[part as usize] += spent;
        if let Some(layer) = layer {
            self.layers[layer][part as usize] += spent;
        }
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
