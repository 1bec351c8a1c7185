//! Reads ahead of the fetch that picks the records: a prefetch in decode, the next layer's first experts in a sweep.

use crate::slots::{AHEAD, NONE, SlotState, Taker};
use crate::{Store, StoreError};

const _: () = assert!(AHEAD < NONE, "what is below `AHEAD` is a pick");

/// What may be read ahead, and what is. Its vectors are used again by the next fetch.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Records asked for.
    records: Vec<u32>,
    /// Place in `records` of the next.
    cursor: usize,
    /// Bytes of slots that may still be taken.
    bytes_left: u64,
    /// Slots kept until the next fetch begins.
    slots: Vec<u32>,
}

impl Store {
    /// Notes what to read when everything of the current fetch is on its way.
    pub(crate) fn ask_ahead(&mut self, layer: usize, bundles: &[u32], max_bytes: u64) {
        let ahead = &mut self.ahead;
        ahead.records.clear();
        ahead.records.extend(bundles.iter().map(|&bundle| self.plan.record(layer, bundle)));
        // How many find a slot depends on the disk's mood, so room for all is made now.
        ahead.slots.reserve(bundles.len());
        ahead.cursor = 0;
        ahead.bytes_left = max_bytes;
    }

    /// Starts reads ahead as far as slots and the depth allow.
    pub(crate) fn start_ahead(&mut self, taker: Taker) -> Result<(), StoreError> {
        while self.loads.has_room()
            && let Some(&record) = self.ahead.records.get(self.ahead.cursor)
        {
            self.ahead.cursor += 1;
            if let Some(slot) = self.slots.find(record) {
                if self.slots.get(slot).want == NONE {
                    self.slots.set_want(slot, AHEAD);
                    self.ahead.slots.push(slot);
                }
                continue;
            }
            let bytes = self.plan.classes[self.plan.class(record)].slot_bytes;
            let slot = match bytes <= self.ahead.bytes_left {
                true => self.begin_record(record, AHEAD, taker, true),
                false => None,
            };
            let Some(slot) = slot else {
                self.ahead.records.clear();
                return Ok(());
            };
            self.ahead.bytes_left -= bytes;
            self.ahead.slots.push(slot);
            self.stats.ahead += 1;
            if self.slots.get(slot).state == SlotState::Held {
                self.landed(slot);
            }
            self.loads.start()?;
        }
        Ok(())
    }

    /// A new fetch has noted its picks: what was read ahead and is not among them is nobody's.
    pub(crate) fn end_ahead(&mut self) {
        self.ahead.records.clear();
        self.ahead.cursor = 0;
        while let Some(slot) = self.ahead.slots.pop() {
            self.slots.release_ahead(slot);
        }
        self.cancel_unwanted();
    }
}
