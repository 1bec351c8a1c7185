//! One fetch: from picks to leases.

use std::collections::VecDeque;
use std::time::Instant;

use crate::lease::Lease;
use crate::loads::Landed;
use crate::slots::{AHEAD, NONE, SlotState, Taker};
use crate::{Order, Store, StoreError};

/// A fetch under way: hands its picks over one at a time.
///
/// A lease pins its slot. With as many slots as picks it does not matter when leases are dropped; with fewer, drop each before
/// asking for the next: when every slot is leased and nothing can go on, [`Fetch::next`] says so with
/// [`StoreError::AllLeased`] and may be called again once a lease was dropped.
///
/// A fetch that is dropped early costs nothing but its reads in flight, which end in slots that nobody uses before.
pub struct Fetch<'a> {
    store: &'a mut Store,
}

/// What the store remembers of the current fetch. Its vectors are used again by the next.
#[derive(Default)]
pub(crate) struct Wants {
    layer: usize,
    order: Option<Order>,
    /// `[n_picks]`
    wants: Vec<Want>,
    /// Indices into `wants` by ascending pick.
    ascending: Vec<u32>,
    /// Indices into `wants` that can be handed over, for [`Order::Arrival`].
    ready: VecDeque<u32>,
    /// Place in `ascending` of the next to be handed over, for [`Order::Ascending`].
    cursor: usize,
    /// Place in `ascending` before which no want is missing.
    first_missing: usize,
    /// Not yet handed over.
    n_left: usize,
    /// What went wrong with which want.
    errors: Vec<(u32, StoreError)>,
    landed: Vec<Landed>,
}

#[derive(Clone, Copy)]
struct Want {
    bundle: u32,
    record: u32,
    slot: u32,
    state: WantState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WantState {
    /// Has no slot yet.
    Missing,
    /// Its reads are under way.
    Loading,
    /// Its slot holds it.
    Ready,
    /// `errors` says why not.
    Failed,
    /// Handed over, as a lease or as an error.
    Done,
}

impl Wants {
    /// For reads that land up to `depth` at once.
    pub(crate) fn new(depth: usize) -> Wants {
        Wants { landed: Vec::with_capacity(depth), ..Wants::default() }
    }
}

impl<'a> Fetch<'a> {
    /// Begins a fetch: notes what is resident and starts reading the rest.
    pub(crate) fn begin(
        store: &'a mut Store,
        layer: usize,
        picks: &[u32],
        order: Order,
    ) -> Result<Self, StoreError> {
        store.abandon();
        let fetch = Fetch { store };
        fetch.store.want(layer, picks, order);
        fetch.store.end_ahead();
        fetch.store.reap(false)?;
        fetch.store.start()?;
        Ok(fetch)
    }

    /// The next pick, as its index in `picks` and its record; `None` when all were handed over. Waits if it must.
    ///
    /// # Errors
    /// If the pick cannot be read: it is then done with, the others can still be asked for. If all slots are leased (see above):
    /// nothing is lost then.
    #[allow(clippy::should_implement_trait)] // an iterator cannot end in errors that `?` takes
    pub fn next(&mut self) -> Result<Option<(usize, Lease)>, StoreError> {
        let store = &mut *self.store;
        loop {
            store.reap(false)?;
            store.start()?;
            if let Some(at) = store.next_ready() {
                return store.hand_over(at).map(Some);
            }
            if store.fetch.n_left == 0 {
                return Ok(None);
            }
            if store.loads.n_in_flight() > 0 {
                let begun = Instant::now();
                let reaped = store.reap(true);
                store.stats.wait_ns += begun.elapsed().as_nanos() as u64;
                reaped?;
            } else {
                store.unblock()?;
            }
        }
    }

    /// Also reads bundles of a layer to come, in the order given, behind everything of this fetch: up to `max_bytes` of slots.
    /// Until the next fetch begins, their slots are not given away. What was asked for before is forgotten where it was not begun.
    ///
    /// Nothing is promised: without slots to spare nothing is read, and an error is found again by the fetch that picks the bundle.
    ///
    /// # Errors
    /// If the reader as a whole fails.
    ///
    /// # Panics
    /// If a bundle does not exist.
    pub fn ahead(&mut self, layer: usize, bundles: &[u32], max_bytes: u64) -> Result<(), StoreError> {
        self.store.ask_ahead(layer, bundles, max_bytes);
        self.store.start()
    }

    /// Picks not yet handed over.
    pub fn n_left(&self) -> usize {
        self.store.fetch.n_left
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.store.abandon();
    }
}

impl Store {
    /// Notes the picks of a new fetch and who of them is resident.
    fn want(&mut self, layer: usize, picks: &[u32], order: Order) {
        let fetch = &mut self.fetch;
        fetch.layer = layer;
        fetch.order = Some(order);
        fetch.n_left = picks.len();
        (fetch.cursor, fetch.first_missing) = (0, 0);
        // How many are ready at once depends on the disk's mood, so room for all is made now.
        fetch.ready.reserve(picks.len());
        fetch.ascending.extend(0..picks.len() as u32);
        fetch.ascending.sort_unstable_by_key(|&at| picks[at as usize]);
        for pair in fetch.ascending.windows(2) {
            let pick = picks[pair[0] as usize];
            assert!(pick != picks[pair[1] as usize], "bundle {pick} of layer {layer} is picked twice");
        }
        self.policy.tick();
        for &bundle in picks {
            let record = self.plan.record(layer, bundle);
            fetch.wants.push(Want { bundle, record, slot: NONE, state: WantState::Missing });
            if order == Order::Arrival {
                self.policy.touch(record);
            }
        }
        for &at in &fetch.ascending {
            let want = &mut fetch.wants[at as usize];
            let Some(slot) = self.slots.find(want.record) else {
                self.stats.misses += 1;
                continue;
            };
            self.stats.hits += 1;
            self.stats.ahead_used += u64::from(self.slots.picked(slot));
            self.slots.set_want(slot, at);
            if order == Order::Arrival {
                self.slots.warm(slot);
            }
            want.slot = slot;
            want.state = WantState::Loading;
            if self.slots.get(slot).state == SlotState::Held {
                want.state = WantState::Ready;
                fetch.ready.push_back(at);
            }
        }
    }

    /// Forgets the current fetch. Reads in flight go on; their slots hold their records in the end.
    pub(crate) fn abandon(&mut self) {
        for want in self.fetch.wants.drain(..) {
            if matches!(want.state, WantState::Loading | WantState::Ready) {
                self.slots.set_want(want.slot, NONE);
            }
        }
        self.cancel_unwanted();
        self.fetch.ascending.clear();
        self.fetch.ready.clear();
        self.fetch.errors.clear();
        self.fetch.n_left = 0;
        self.fetch.first_missing = 0;
    }

    /// Gives up queued reads of slots that nobody wants.
    pub(crate) fn cancel_unwanted(&mut self) {
        while let Some(slot) = self.loads.cancel_queued(|slot| self.slots.get(slot).want != NONE) {
            self.slots.read_lost(slot);
        }
    }

    /// Gives slots to missing wants, and reads to the reader, as far as both go.
    fn start(&mut self) -> Result<(), StoreError> {
        self.loads.start()?;
        let taker = if self.fetch.order == Some(Order::Ascending) { Taker::Sweep } else { Taker::Decode };
        // A class that has no slot now has none for the next want either.
        let mut full_class = None;
        let mut all_before = true;
        for place in self.fetch.first_missing..self.fetch.ascending.len() {
            if !self.loads.has_room() {
                break;
            }
            let at = self.fetch.ascending[place];
            let want = self.fetch.wants[at as usize];
            if want.state == WantState::Missing {
                let class = self.plan.class(want.record);
                if full_class == Some(class) || !self.load(at, taker)? {
                    full_class = Some(class);
                    all_before = false;
                    // A sweep reads in its order: a later record must not take the slot that an earlier one waits for.
                    if taker == Taker::Sweep {
                        break;
                    }
                    continue;
                }
            }
            if all_before {
                self.fetch.first_missing = place + 1;
            }
        }
        if self.fetch.first_missing == self.fetch.ascending.len() {
            self.start_ahead(taker)?;
        }
        Ok(())
    }

    /// Starts to read a missing want, if there is a slot for it.
    fn load(&mut self, at: u32, taker: Taker) -> Result<bool, StoreError> {
        let record = self.fetch.wants[at as usize].record;
        let Some(slot) = self.begin_record(record, at, taker, taker != Taker::Decode) else {
            return Ok(false);
        };
        let want = &mut self.fetch.wants[at as usize];
        want.slot = slot;
        want.state = WantState::Loading;
        if self.slots.get(slot).state == SlotState::Held {
            self.landed(slot);
        }
        self.loads.start()?;
        Ok(true)
    }

    /// Takes a slot for a record and queues its reads. `want` is who waits for it.
    pub(crate) fn begin_record(&mut self, record: u32, want: u32, taker: Taker, cold: bool) -> Option<u32> {
        let class = self.plan.class(record);
        let (slot, evicted) = self.slots.take(class, taker, &self.policy, &self.memory)?;
        self.stats.evictions += u64::from(evicted);
        let loan = self.memory.lend(slot);
        let n_reads = self.loads.push(slot, loan, self.plan.reads(record));
        self.slots.begin(slot, record, want, n_reads, cold);
        Some(slot)
    }

    /// Takes note of reads that have ended.
    fn reap(&mut self, wait: bool) -> Result<(), StoreError> {
        let mut landed = std::mem::take(&mut self.fetch.landed);
        let reaped = self.loads.reap(wait, &mut self.stats, &mut landed);
        for Landed { slot, result } in landed.drain(..) {
            match result {
                Ok(()) if self.slots.read_done(slot) => self.landed(slot),
                Ok(()) => {}
                Err(error) => self.lost(slot, error),
            }
        }
        self.fetch.landed = landed;
        reaped
    }

    /// A slot holds its record.
    pub(crate) fn landed(&mut self, slot: u32) {
        let slot = self.slots.get(slot);
        self.stats.bytes_read += self.plan.record_bytes(slot.record);
        if slot.want < AHEAD {
            self.fetch.wants[slot.want as usize].state = WantState::Ready;
            self.fetch.ready.push_back(slot.want);
        }
    }

    /// A read of a slot failed: whoever waits for the record gets the error, once.
    fn lost(&mut self, slot: u32, error: StoreError) {
        self.stats.failures += u64::from(self.slots.get(slot).state == SlotState::Loading);
        if let Some(at) = self.slots.read_lost(slot).filter(|&at| at < AHEAD) {
            self.fetch.wants[at as usize].state = WantState::Failed;
            self.fetch.errors.push((at, error));
            self.fetch.ready.push_back(at);
        }
    }

    /// The want that is handed over next, if that can be now.
    fn next_ready(&mut self) -> Option<u32> {
        match self.fetch.order? {
            Order::Arrival => self.fetch.ready.pop_front(),
            Order::Ascending => {
                let at = *self.fetch.ascending.get(self.fetch.cursor)?;
                let state = self.fetch.wants[at as usize].state;
                let ready = matches!(state, WantState::Ready | WantState::Failed);
                self.fetch.cursor += usize::from(ready);
                ready.then_some(at)
            }
        }
    }

    fn hand_over(&mut self, at: u32) -> Result<(usize, Lease), StoreError> {
        let want = &mut self.fetch.wants[at as usize];
        let state = std::mem::replace(&mut want.state, WantState::Done);
        self.fetch.n_left -= 1;
        if state == WantState::Failed {
            let place = self.fetch.errors.iter().position(|(of, _)| *of == at);
            return Err(self.fetch.errors.swap_remove(place.expect("a failed want has an error")).1);
        }
        let pin = self.memory.pin(want.slot);
        self.slots.hand_over(want.slot);
        Ok((at as usize, Lease::new(pin, &self.plan, self.fetch.layer, want.bundle)))
    }

    /// Nothing is ready and nothing on its way: takes a slot that a sweep would rather keep, or says who holds them all.
    fn unblock(&mut self) -> Result<(), StoreError> {
        let missing = |at: &&u32| self.fetch.wants[**at as usize].state == WantState::Missing;
        let at =
            *self.fetch.ascending.iter().find(missing).expect("what is not missing is ready or in flight");
        let want = self.fetch.wants[at as usize];
        let class = self.plan.class(want.record);
        if self.fetch.order == Some(Order::Ascending) {
            if self.load(at, Taker::StuckSweep)? {
                return Ok(());
            }
            // The resident pick that is wanted last is given up, and read again when its turn comes. It comes after the missing
            // one, so `first_missing` is right.
            let waiting = |at: &&u32| {
                let want = &self.fetch.wants[**at as usize];
                want.state == WantState::Ready
                    && self.plan.class(want.record) == class
                    && !self.memory.is_pinned(want.slot)
            };
            if let Some(&last) = self.fetch.ascending.iter().rev().find(waiting) {
                let given_up = &mut self.fetch.wants[last as usize];
                self.slots.revoke(given_up.slot);
                given_up.slot = NONE;
                given_up.state = WantState::Missing;
                self.stats.evictions += 1;
                return Ok(());
            }
        }
        Err(StoreError::AllLeased {
            layer: self.fetch.layer,
            bundle: want.bundle,
            n_slots: self.slots.n_slots(class),
            slot_bytes: self.plan.classes[class].slot_bytes,
        })
    }
}
