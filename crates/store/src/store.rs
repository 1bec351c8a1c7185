use std::sync::Arc;

use crate::{Files, Order, Records, Stats, StoreError, StoreOptions};

/// Placeholder of the surface: reads each pick when it is asked for.
pub struct Store {
    files: Arc<Files>,
    records: Records,
    stats: Stats,
}

/// A fetch under way.
pub struct Fetch<'a> {
    store: &'a mut Store,
    layer: usize,
    picks: Vec<(u32, usize)>,
    at: usize,
}

/// A record in memory.
pub struct Lease {
    bytes: Arc<Vec<Vec<u8>>>,
}

impl Store {
    /// Least bytes of slots.
    pub fn floor_bytes(records: &Records) -> u64 {
        (0..records.n_layers()).map(|layer| records.record_bytes(layer)).max().unwrap_or(0)
    }
    /// Opens.
    pub fn open(files: Arc<Files>, records: Records, _options: &StoreOptions) -> Result<Store, StoreError> {
        Ok(Store { files, records, stats: Stats::default() })
    }
    /// Fetches.
    pub fn fetch(&mut self, layer: usize, picks: &[u32], order: Order) -> Result<Fetch<'_>, StoreError> {
        let mut picks: Vec<(u32, usize)> = picks.iter().enumerate().map(|(at, &pick)| (pick, at)).collect();
        if order == Order::Ascending {
            picks.sort_unstable();
        }
        Ok(Fetch { store: self, layer, picks, at: 0 })
    }
    /// Statistics.
    pub fn stats(&self) -> Stats {
        self.stats
    }
    /// Slots.
    pub fn n_slots(&self) -> usize {
        0
    }
    /// Reader.
    pub fn reader_name(&self) -> &str {
        "placeholder"
    }
    /// Resident.
    pub fn resident(&self, _layer: usize, _bundle: u32) -> bool {
        false
    }
    /// Bytes of slots.
    pub fn slot_bytes(&self) -> u64 {
        0
    }
    /// Waste.
    pub fn wasted_bytes(&self) -> u64 {
        0
    }
}

impl Fetch<'_> {
    /// The next record.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(usize, Lease)>, StoreError> {
        let Some(&(pick, at)) = self.picks.get(self.at) else { return Ok(None) };
        self.at += 1;
        self.store.stats.misses += 1;
        let mut parts = Vec::new();
        for &extent in self.store.records.extents(self.layer, pick as usize) {
            let mut part = vec![0; extent.len as usize];
            self.store.files.read_exact(extent, &mut part)?;
            self.store.stats.bytes_read += extent.len;
            parts.push(part);
        }
        Ok(Some((at, Lease { bytes: Arc::new(parts) })))
    }
}

impl Lease {
    /// Part `i`.
    pub fn part(&self, i: usize) -> &[u8] {
        &self.bytes[i]
    }
    /// Parts.
    pub fn n_parts(&self) -> usize {
        self.bytes.len()
    }
}
