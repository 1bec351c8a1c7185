use flashmill_layout::Extent;

/// Which extents make each record, layer by layer. Bundle `b` of a layer is its record `b`.
#[derive(Clone, Debug, Default)]
pub struct Records {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    n_parts: usize,
    /// `[n_bundles][n_parts]`
    extents: Vec<Extent>,
}

impl Records {
    /// No layers.
    pub fn new() -> Records {
        Records::default()
    }

    /// Adds a layer whose bundle `b` has the extents `extents[b * n_parts..][..n_parts]`. A layer without bundles has no parts.
    ///
    /// # Panics
    /// If the extents are not a whole number of bundles.
    pub fn push_layer(&mut self, n_parts: usize, extents: Vec<Extent>) {
        let whole = if n_parts == 0 { extents.is_empty() } else { extents.len().is_multiple_of(n_parts) };
        assert!(whole, "{} extents are not a whole number of bundles of {n_parts} parts", extents.len());
        self.layers.push(Layer { n_parts, extents });
    }

    /// Number of layers, those without bundles included.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Bundles of a layer.
    pub fn n_bundles(&self, layer: usize) -> usize {
        let layer = &self.layers[layer];
        layer.extents.len().checked_div(layer.n_parts).unwrap_or(0)
    }

    /// Bytes of the largest record of a layer, without what alignment adds; 0 without bundles.
    pub fn record_bytes(&self, layer: usize) -> u64 {
        (0..self.n_bundles(layer))
            .map(|bundle| self.extents(layer, bundle).iter().map(|extent| extent.len).sum())
            .max()
            .unwrap_or(0)
    }

    /// Bytes of all records of all layers.
    pub fn total_bytes(&self) -> u64 {
        self.layers.iter().flat_map(|layer| &layer.extents).map(|extent| extent.len).sum()
    }

    /// The parts of a record.
    pub fn extents(&self, layer: usize, bundle: usize) -> &[Extent] {
        let layer = &self.layers[layer];
        &layer.extents[bundle * layer.n_parts..][..layer.n_parts]
    }

    pub(crate) fn n_parts(&self, layer: usize) -> usize {
        self.layers[layer].n_parts
    }
}
