//! From a checkpoint to a model that can run, and what that takes in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashmill_checkpoint::{Checkpoint, ModelSpec};
use flashmill_kernels::Backend;
use flashmill_store::{Faults, Files, ReaderKind, Records, Stats, Store};

use crate::state::{Free, Pool};
use crate::timing::Timing;
use crate::weights::{self, Loader, Weights};
use crate::work::Work;
use crate::{ModelError, ModelOptions, Route, State, Swaps};

/// A loaded model: trunk resident, bundles behind the store.
pub struct Model {
    pub(crate) spec: ModelSpec,
    pub(crate) options: ModelOptions,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) weights: Weights,
    pub(crate) store: Store,
    pub(crate) work: Work,
    pub(crate) pool: Arc<Pool>,
    pub(crate) timing: Timing,
    pub(crate) route: Option<Box<dyn Route>>,
}

/// The weights that every token uses, read into a backend: what a model needs before the rest is planned.
pub struct ResidentTrunk {
    backend: Box<dyn Backend>,
    weights: Weights,
    files: Arc<Files>,
    n_bytes: u64,
    read_time: Duration,
}

impl ResidentTrunk {
    /// Reads the trunk, around the page cache unless the reader is [`ReaderKind::PageCache`]. `progress` is told the bytes read so
    /// far, and in all.
    pub fn read(
        checkpoint: &Checkpoint,
        mut backend: Box<dyn Backend>,
        reader: ReaderKind,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ResidentTrunk, ModelError> {
        let begun = Instant::now();
        let paths: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
        let files = Arc::new(Files::open(&paths)?);
        let n_bytes = trunk_bytes(checkpoint);
        let mut loader = Loader::new(backend.as_mut());
        let weights = loader.weights(checkpoint);
        let direct = reader != ReaderKind::PageCache;
        loader.read(&files, direct, &mut |done| progress(done.min(n_bytes), n_bytes))?;
        Ok(ResidentTrunk { backend, weights, files, n_bytes, read_time: begun.elapsed() })
    }

    /// Bytes of memory: those of [`Footprint::trunk_bytes`].
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// How long reading took.
    pub fn read_time(&self) -> Duration {
        self.read_time
    }
}

/// Bytes of the store's tables for one bundle: nine extents of 24 bytes at most, its place, its policy's counts.
const INDEX_BYTES: u64 = 320;

/// Bytes of memory by purpose, known before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights that every token uses.
    pub trunk_bytes: u64,
    /// KV pages of all sequences.
    pub kv_bytes: u64,
    /// DeltaNet states, saved ones included.
    pub state_bytes: u64,
    /// Activations of a chunk, logits, scratch of the kernels.
    pub work_bytes: u64,
    /// The index of all records.
    pub index_bytes: u64,
    /// The least that the store needs: one slot of each size.
    pub slot_floor_bytes: u64,
    /// Slots for every bundle: more is of no use.
    pub slot_ceiling_bytes: u64,
}

impl Footprint {
    /// What is resident besides the slots.
    pub fn resident_bytes(&self) -> u64 {
        self.trunk_bytes + self.kv_bytes + self.state_bytes + self.work_bytes + self.index_bytes
    }

    /// The least that the model runs in.
    pub fn floor_bytes(&self) -> u64 {
        self.resident_bytes() + self.slot_floor_bytes
    }

    /// Counts what loading with `options` would take. `backend` is a fresh one of the kind that will be used; it is used up.
    pub fn of(
        checkpoint: &Checkpoint,
        mut backend: Box<dyn Backend>,
        options: &ModelOptions,
    ) -> Result<Footprint, ModelError> {
        let spec = checkpoint.spec();
        let records = records(checkpoint);
        let n_bundles: u64 = (0..records.n_layers()).map(|layer| records.n_bundles(layer) as u64).sum();
        let work = Work::new(backend.as_mut(), spec, options, options.top_k(spec)?);
        reserve(backend.as_mut(), checkpoint, options);
        Ok(Footprint {
            trunk_bytes: trunk_bytes(checkpoint),
            kv_bytes: (options.n_pages() * options.kv_shape(spec).page_bytes()) as u64,
            state_bytes: (options.n_states * delta_state_len(spec) * 4) as u64,
            work_bytes: (backend.bytes() + work.host.bytes()) as u64,
            index_bytes: n_bundles * INDEX_BYTES,
            slot_floor_bytes: Store::floor_bytes(&records),
            slot_ceiling_bytes: Store::ceiling_bytes(&records),
        })
    }
}

impl Model {
    /// Reads the trunk and opens the store. `progress` is told the bytes of the trunk read so far, and in all.
    pub fn load(
        checkpoint: &Checkpoint,
        backend: Box<dyn Backend>,
        options: ModelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Model, ModelError> {
        options.top_k(checkpoint.spec())?;
        options.check_cache_aware()?;
        let trunk = ResidentTrunk::read(checkpoint, backend, options.store.reader, progress)?;
        Model::new(checkpoint, trunk, options)
    }

    /// Makes the rest around the trunk of the same checkpoint: buffers, caches, and the store.
    pub fn new(
        checkpoint: &Checkpoint,
        trunk: ResidentTrunk,
        options: ModelOptions,
    ) -> Result<Model, ModelError> {
        Model::new_faulty(checkpoint, trunk, options, None)
    }

    /// As [`Model::new`], on a disk that misbehaves: for tests.
    #[doc(hidden)]
    pub fn new_faulty(
        checkpoint: &Checkpoint,
        trunk: ResidentTrunk,
        options: ModelOptions,
        faults: Option<Faults>,
    ) -> Result<Model, ModelError> {
        let ResidentTrunk { mut backend, weights, files, .. } = trunk;
        let spec = checkpoint.spec().clone();
        let top_k = options.top_k(&spec)?;
        options.check_cache_aware()?;
        let work = Work::new(backend.as_mut(), &spec, &options, top_k);
        reserve(backend.as_mut(), checkpoint, &options);
        backend.kv_cache(options.kv_shape(&spec), options.n_pages());
        let deltas = (0..options.n_states).map(|_| backend.buffer(delta_state_len(&spec))).collect();
        let store = Store::open_faulty(files, records(checkpoint), &options.store, faults)?;
        Ok(Model {
            timing: Timing::new(spec.layers.len()),
            pool: Pool::new(options.n_pages(), deltas, options.context),
            spec,
            options,
            backend,
            weights,
            store,
            work,
            route: None,
        })
    }

    /// The model's description.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What it was loaded with.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// Experts that each token uses.
    pub fn experts_per_token(&self) -> usize {
        self.work.host.picks.top_k
    }

    /// Reads, hits and waits since loading.
    pub fn store_stats(&self) -> Stats {
        self.store.stats()
    }

    /// What cache-aware routing has done since loading; nothing where it is off.
    pub fn swaps(&self) -> Swaps {
        self.work.host.near.as_ref().map_or_else(Swaps::default, |near| near.swaps)
    }

    /// Picks experts in the routers' place from now on.
    pub fn set_route(&mut self, route: Box<dyn Route>) {
        self.route = Some(route);
    }

    /// The store behind the model.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Time spent in each part since loading.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Pages that at least one of the states uses: what could not be had without them.
    pub fn pages_of<'a>(&self, states: impl Iterator<Item = &'a State>) -> usize {
        let pages: std::collections::BTreeSet<u32> =
            states.flat_map(|state| &state.pages).map(|page| page.0).collect();
        pages.len()
    }

    /// Pages in all.
    pub fn n_all_pages(&self) -> usize {
        self.options.n_pages()
    }

    /// States and pages that nobody uses.
    pub fn free(&self) -> Free {
        self.pool.free()
    }

    /// The state before the first token.
    pub fn new_state(&mut self) -> Result<State, ModelError> {
        let state = self.pool.take()?;
        self.backend.zero(state.delta, delta_state_len(&self.spec));
        Ok(state)
    }

    /// A second, independent state at the same position.
    pub fn fork(&mut self, state: &State) -> Result<State, ModelError> {
        let fork = self.pool.fork(state)?;
        self.backend.copy(state.delta, fork.state.delta);
        if let Some((from, to)) = fork.page {
            self.backend.kv_copy(from, to);
        }
        Ok(fork.state)
    }

    /// The recurrent part of a state, of all DeltaNet layers: for each layer the last `conv_kernel - 1` columns before the convolution,
    /// oldest first, then `[n_value_heads][key_dim][value_dim]`.
    pub fn delta_state(&mut self, state: &State) -> Vec<f32> {
        let mut values = vec![0.0; delta_state_len(&self.spec)];
        self.backend.read(state.delta, 0, &mut values);
        values
    }
}

/// Bytes of memory of the weights that every token uses.
fn trunk_bytes(checkpoint: &Checkpoint) -> u64 {
    let matrices = weights::trunk_matrices(checkpoint.trunk()).into_iter().map(|m| m.shape.bytes() as u64);
    let vectors = weights::trunk_vectors(checkpoint.trunk()).into_iter().map(|v| 4 * v.len as u64);
    matrices.sum::<u64>() + vectors.sum::<u64>()
}

/// Values of a sequence's DeltaNet state, all layers.
pub(crate) fn delta_state_len(spec: &ModelSpec) -> usize {
    spec.delta_net
        .as_ref()
        .map_or(0, |delta| weights::n_delta_layers(spec) * weights::delta_shape(delta).state_len())
}

/// Where every bundle lies, for the store.
fn records(checkpoint: &Checkpoint) -> Records {
    let mut records = Records::new();
    for layer in 0..checkpoint.spec().layers.len() {
        match checkpoint.bundle_shapes(layer) {
            Some(shapes) => {
                let n_parts = shapes.iter().map(|shape| shape.encoding.n_parts()).sum();
                records.push_layer(n_parts, checkpoint.bundle_extents(layer));
            }
            None => records.push_layer(0, Vec::new()),
        }
    }
    records
}

fn reserve(backend: &mut dyn Backend, checkpoint: &Checkpoint, options: &ModelOptions) {
    let trunk = weights::trunk_matrices(checkpoint.trunk()).into_iter().map(|matrix| matrix.shape.cols);
    let bundles = (0..checkpoint.spec().layers.len())
        .filter_map(|layer| checkpoint.bundle_shapes(layer))
        .flat_map(|shapes| shapes.map(|shape| shape.cols));
    let max_cols = trunk.chain(bundles).max().unwrap_or(0);
    backend.reserve(
        options.max_rows.max(options.max_logit_rows),
        max_cols,
        checkpoint.spec().attention.n_heads,
    );
}
