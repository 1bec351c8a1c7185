//! Who is in which slot: the table beside the slot memory.

use crate::memory::SlotMemory;
use crate::plan::{Plan, SizeClass};
use crate::policy::Policy;

/// No slot, no record, nobody.
pub(crate) const NONE: u32 = u32::MAX;

/// While the slots hold hot records, a sweep keeps to about this many bytes of them: room to read ahead, and no more.
const SWEEP_BYTES: u64 = 64 << 20;

/// The slots of all classes, class by class.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    classes: Vec<Class>,
    /// `[n_records]`: the slot that holds or awaits the record, or [`NONE`].
    slot_of: Vec<u32>,
    /// Counts hand-overs.
    clock: u64,
}

/// One slot.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) state: SlotState,
    pub(crate) record: u32,
    /// The pick of the current fetch that waits for this slot, or [`NONE`]. Such a slot is no victim.
    pub(crate) want: u32,
    /// Reads under way or queued.
    pub(crate) n_reads: u32,
    /// Loaded by a sweep and not used in decode since: the first to leave.
    cold: bool,
    /// When it was last handed over.
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Nothing.
    Empty,
    /// Reads are under way.
    Loading,
    /// A read failed or was given up, others are under way: it becomes empty.
    Failing,
    /// The record's bytes.
    Held,
}

struct Class {
    first: u32,
    n_slots: u32,
    empty: Vec<u32>,
    n_cold: u32,
    /// Cold slots that a sweep may have while others are hot.
    sweep_slots: u32,
}

/// Whose slot may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker {
    /// Decode: a cold record leaves first, then by the policy.
    Decode,
    /// A sweep: its own leavings first.
    Sweep,
    /// A sweep that cannot go on otherwise.
    StuckSweep,
}

impl Slots {
    pub(crate) fn new(plan: &Plan, shares: &[u64]) -> Slots {
        let mut classes = Vec::with_capacity(shares.len());
        let mut first = 0;
        for (&SizeClass { slot_bytes, .. }, &n_slots) in plan.classes.iter().zip(shares) {
            let n_slots = n_slots as u32;
            let sweep_slots = (SWEEP_BYTES.div_ceil(slot_bytes).max(2) as u32).min(n_slots / 2).max(1);
            // The last is taken first, so that memory is touched from the start.
            let empty = (first..first + n_slots).rev().collect();
            classes.push(Class { first, n_slots, empty, n_cold: 0, sweep_slots });
            first += n_slots;
        }
        let empty =
            Slot { state: SlotState::Empty, record: NONE, want: NONE, n_reads: 0, cold: false, used: 0 };
        Slots { slots: vec![empty; first as usize], classes, slot_of: vec![NONE; plan.n_records()], clock: 0 }
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots of a class.
    pub(crate) fn n_slots(&self, class: usize) -> usize {
        self.classes[class].n_slots as usize
    }

    /// The slot that holds or awaits a record.
    pub(crate) fn find(&self, record: u32) -> Option<u32> {
        Some(self.slot_of[record as usize]).filter(|&slot| slot != NONE)
    }

    pub(crate) fn get(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    /// The pick that waits for a slot, or [`NONE`].
    pub(crate) fn set_want(&mut self, slot: u32, want: u32) {
        self.slots[slot as usize].want = want;
    }

    /// A slot for a record of `class`, empty or made so. The second value says that a record left.
    pub(crate) fn take(
        &mut self,
        class: usize,
        taker: Taker,
        policy: &Policy,
        memory: &SlotMemory,
    ) -> Option<(u32, bool)> {
        if let Some(slot) = self.classes[class].empty.pop() {
            return Some((slot, false));
        }
        let slot = self.victim(class, taker, policy, memory)?;
        self.forget(slot);
        self.slots[slot as usize].state = SlotState::Empty;
        Some((slot, true))
    }

    /// The slot that is given up next: held, not pinned, not waited for.
    fn victim(&self, class: usize, taker: Taker, policy: &Policy, memory: &SlotMemory) -> Option<u32> {
        let class = &self.classes[class];
        let may_take_hot = taker != Taker::Sweep || class.n_cold < class.sweep_slots;
        let prefers_cold = taker == Taker::Decode || class.n_cold >= class.sweep_slots;
        let leaves_before = |a: &Slot, b: &Slot| match (a.cold, b.cold) {
            (true, false) => prefers_cold,
            (false, true) => !prefers_cold,
            // A sweep takes what it used last: what it loaded first is then still there for the next sweep.
            (true, true) if taker != Taker::Decode => a.used > b.used,
            _ => policy.leaves_before(a.record, b.record),
        };
        let mut best: Option<u32> = None;
        for at in class.first..class.first + class.n_slots {
            let slot = self.get(at);
            let free = slot.state == SlotState::Held && slot.want == NONE && (slot.cold || may_take_hot);
            if free && best.is_none_or(|best| leaves_before(slot, self.get(best))) && !memory.is_pinned(at) {
                best = Some(at);
            }
        }
        best
    }

    /// The record starts loading into an empty slot that was taken for it; without reads it is there already.
    pub(crate) fn begin(&mut self, slot: u32, record: u32, want: u32, n_reads: u32, cold: bool) {
        debug_assert_eq!(self.get(slot).state, SlotState::Empty);
        let state = if n_reads == 0 { SlotState::Held } else { SlotState::Loading };
        self.slots[slot as usize] = Slot { state, record, want, n_reads, cold, used: 0 };
        self.slot_of[record as usize] = slot;
        self.class_of(slot).n_cold += u32::from(cold);
    }

    /// A read of the slot has ended well. True when that was the last one and the slot holds its record.
    pub(crate) fn read_done(&mut self, slot: u32) -> bool {
        let at = &mut self.slots[slot as usize];
        at.n_reads -= 1;
        match (at.n_reads, at.state) {
            (0, SlotState::Loading) => {
                at.state = SlotState::Held;
                true
            }
            (0, _) => {
                self.set_empty(slot);
                false
            }
            _ => false,
        }
    }

    /// A read of the slot has failed or was given up: its bytes are never handed over. Returns who waited for them.
    pub(crate) fn read_lost(&mut self, slot: u32) -> Option<u32> {
        let want = self.get(slot).want;
        if self.get(slot).state == SlotState::Loading {
            self.forget(slot);
            self.slots[slot as usize].state = SlotState::Failing;
        }
        self.read_done(slot);
        Some(want).filter(|&want| want != NONE)
    }

    /// A record is handed over.
    pub(crate) fn hand_over(&mut self, slot: u32) {
        self.clock += 1;
        self.slots[slot as usize].want = NONE;
        self.slots[slot as usize].used = self.clock;
    }

    /// The record in the slot is used in decode.
    pub(crate) fn warm(&mut self, slot: u32) {
        if std::mem::take(&mut self.slots[slot as usize].cold) {
            self.class_of(slot).n_cold -= 1;
        }
    }

    /// A held record leaves although somebody waits for it; it must be read again.
    pub(crate) fn revoke(&mut self, slot: u32) {
        debug_assert_eq!(self.get(slot).state, SlotState::Held);
        self.forget(slot);
        self.set_empty(slot);
    }

    /// The slot is no longer the record's.
    fn forget(&mut self, slot: u32) {
        self.warm(slot);
        let at = &mut self.slots[slot as usize];
        self.slot_of[at.record as usize] = NONE;
        at.record = NONE;
        at.want = NONE;
    }

    fn set_empty(&mut self, slot: u32) {
        self.slots[slot as usize].state = SlotState::Empty;
        self.class_of(slot).empty.push(slot);
    }

    fn class_of(&mut self, slot: u32) -> &mut Class {
        let class = self.classes.iter_mut().rev().find(|class| class.first <= slot);
        class.expect("the first class starts at slot 0")
    }
}
