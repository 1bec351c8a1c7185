use std::sync::Arc;

use crate::ahead::Ahead;
use crate::fetch::Wants;
use crate::loads::Loads;
use crate::memory::SlotMemory;
use crate::plan::{Plan, share_out, size_classes};
use crate::policy::Policy;
use crate::reader::{Choice, Faults, Faulty, choose};
use crate::slots::{SlotState, Slots};
use crate::{Fetch, Files, Order, Records, Stats, StoreError, StoreOptions};

/// Records in slots, and the reads that bring them.
pub struct Store {
    pub(crate) plan: Arc<Plan>,
    pub(crate) memory: Arc<SlotMemory>,
    pub(crate) slots: Slots,
    pub(crate) policy: Policy,
    pub(crate) loads: Loads,
    pub(crate) fetch: Wants,
    pub(crate) ahead: Ahead,
    pub(crate) stats: Stats,
    reader_name: String,
}

impl Store {
    /// The least memory for slots, in bytes: one of each size, with the aligned covers.
    pub fn floor_bytes(records: &Records) -> u64 {
        size_classes(records).iter().map(|class| class.slot_bytes).sum()
    }

    /// The memory, in bytes, of a slot for every record: more is never used.
    pub fn ceiling_bytes(records: &Records) -> u64 {
        size_classes(records).iter().map(|class| class.slot_bytes * class.n_records).sum()
    }

    /// Opens a store of `records`, whose extents lie in `files`.
    ///
    /// # Errors
    /// If an extent lies outside its file, or the memory granted is below [`Store::floor_bytes`] or cannot be had.
    pub fn open(files: Arc<Files>, records: Records, options: &StoreOptions) -> Result<Store, StoreError> {
        Store::open_faulty(files, records, options, None)
    }

    /// As [`Store::open`], with reads that misbehave: for tests of what stands above the store.
    ///
    /// # Errors
    /// As [`Store::open`].
    #[doc(hidden)]
    pub fn open_faulty(
        files: Arc<Files>,
        records: Records,
        options: &StoreOptions,
        faults: Option<Faults>,
    ) -> Result<Store, StoreError> {
        let options = StoreOptions {
            depth: options.depth.clamp(1, MAX_DEPTH),
            io_threads: options.io_threads.clamp(1, MAX_IO_THREADS),
            ..options.clone()
        };
        for layer in 0..records.n_layers() {
            for bundle in 0..records.n_bundles(layer) {
                records.extents(layer, bundle).iter().try_for_each(|&extent| files.check(extent))?;
            }
        }
        let plan = Plan::new(&records)?;
        let half_life = Policy::half_life(records.n_layers());
        drop(records);
        let floor = plan.classes.iter().map(|class| class.slot_bytes).sum();
        if options.slot_bytes < floor {
            return Err(StoreError::BelowFloor { given: options.slot_bytes, floor });
        }
        let shares = share_out(&plan.classes, options.slot_bytes);
        let slot_lens = plan
            .classes
            .iter()
            .zip(&shares)
            .flat_map(|(class, &share)| std::iter::repeat_n(class.slot_bytes as usize, share as usize));
        let memory = SlotMemory::new(slot_lens)
            .map_err(|source| StoreError::NoMemory { bytes: options.slot_bytes, source })?;
        let Choice { mut reader, direct, name } = choose(&files, &options)?;
        if let Some(faults) = faults {
            reader = Box::new(Faulty::new(reader, faults));
        }
        Ok(Store {
            slots: Slots::new(&plan, &shares),
            policy: Policy::new(options.policy, plan.n_records(), half_life),
            loads: Loads::new(reader, files, direct, options.depth),
            plan: Arc::new(plan),
            memory,
            fetch: Wants::new(options.depth),
            ahead: Ahead::default(),
            stats: Stats::default(),
            reader_name: name,
        })
    }

    /// Starts to bring the records of `picks`, which are bundles of `layer`, in the order asked for. All reads are started at
    /// once, as far as free slots and the depth allow.
    ///
    /// # Errors
    /// If the reader as a whole fails. What is wrong with one record is said when its turn comes.
    ///
    /// # Panics
    /// If a bundle does not exist or is picked twice.
    pub fn fetch(&mut self, layer: usize, picks: &[u32], order: Order) -> Result<Fetch<'_>, StoreError> {
        Fetch::begin(self, layer, picks, order)
    }

    /// What was done since the store was opened.
    pub fn stats(&self) -> Stats {
        Stats { busy_ns: self.busy_ns(), ..self.stats }
    }

    /// [`Stats::busy_ns`] alone.
    pub fn busy_ns(&self) -> u64 {
        self.stats.busy_ns + self.loads.busy_ns()
    }

    /// Number of slots.
    pub fn n_slots(&self) -> usize {
        self.slots.len()
    }

    /// Memory of all slots, in bytes. Pages that no record has reached yet are not taken from the system.
    pub fn slot_bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    /// Asks the system to drop what its page cache holds of the files.
    pub fn forget_cached(&self) {
        self.loads.files().forget_cached();
    }

    /// How bytes are read, and why not otherwise.
    pub fn reader_name(&self) -> &str {
        &self.reader_name
    }

    /// Fetches since the record was last used; `None` if it never was.
    ///
    /// # Panics
    /// If there is no such bundle.
    pub fn age(&self, layer: usize, bundle: u32) -> Option<u64> {
        self.policy.fetches_since(self.plan.record(layer, bundle))
    }

    /// The record is in a slot.
    ///
    /// # Panics
    /// If there is no such bundle.
    pub fn resident(&self, layer: usize, bundle: u32) -> bool {
        let slot = self.slots.find(self.plan.record(layer, bundle));
        slot.is_some_and(|slot| self.slots.get(slot).state == SlotState::Held)
    }
}

/// More reads in flight than this help no disk.
const MAX_DEPTH: usize = 1024;

/// More threads than this help no disk.
const MAX_IO_THREADS: usize = 64;
