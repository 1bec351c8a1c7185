//! Who is in which slot: the table beside the slot memory.

use crate::memory::SlotMemory;
use crate::plan::{Plan, SizeClass};
use crate::policy::Policy;

/// No slot, no record, nobody.
pub(crate) const NONE: u32 = u32::MAX;

/// In the place of a pick: a fetch to come may want the slot.
pub(crate) const AHEAD: u32 = u32::MAX - 1;

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
    /// The pick of the current fetch that waits for this slot, [`AHEAD`], or [`NONE`]. Only with the last it may be a victim.
    pub(crate) want: u32,
    /// Reads under way or queued.
    pub(crate) n_reads: u32,
    /// Loaded by a sweep and not used in decode since: the first to leave.
    cold: bool,
    /// Its record was read ahead and has not been picked since.
    ahead: bool,
    /// When it was last handed over.
    used: u64,
}

impl Slot {
    /// The slot may be taken from its record under a rule, if nobody has it pinned.
    fn may_leave(&self, rule: Rule) -> bool {
        self.state == SlotState::Held && self.want == NONE && (self.cold || rule != Rule::ColdOnly)
    }
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
    next: Victims,
}

/// The slots that leave next, the first of them last. Looking through all slots for each would take longer than reading a
/// small record, so a sixteenth of them is found at once, and who was used since is passed over.
struct Victims {
    slots: Vec<u32>,
    rule: Rule,
    /// The clock when they were found.
    found_at: u64,
}

/// In which order slots leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Cold ones, then hot ones, both by the policy.
    ColdFirst,
    /// Hot ones by the policy, then cold ones.
    HotFirst,
    /// Cold ones only. What was used last leaves first, so that what a sweep loaded first is there for the next sweep.
    ColdOnly,
    /// Cold ones likewise, then hot ones by the policy.
    Any,
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
            // Two at least, so that one is read while the other is used.
            let sweep_slots = (SWEEP_BYTES.div_ceil(slot_bytes) as u32).min(n_slots / 2).max(2);
            // The last is taken first, so that memory is touched from the start.
            let empty = (first..first + n_slots).rev().collect();
            let next =
                Victims { slots: Vec::with_capacity(n_slots as usize), rule: Rule::ColdFirst, found_at: 0 };
            classes.push(Class { first, n_slots, empty, n_cold: 0, sweep_slots, next });
            first += n_slots;
        }
        let empty = Slot {
            state: SlotState::Empty,
            record: NONE,
            want: NONE,
            n_reads: 0,
            cold: false,
            ahead: false,
            used: 0,
        };
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
    fn victim(&mut self, at: usize, taker: Taker, policy: &Policy, memory: &SlotMemory) -> Option<u32> {
        let class = &mut self.classes[at];
        let rule = match taker {
            Taker::Decode => Rule::ColdFirst,
            Taker::Sweep if class.n_cold < class.sweep_slots => Rule::HotFirst,
            Taker::Sweep => Rule::ColdOnly,
            Taker::StuckSweep => Rule::Any,
        };
        if class.next.rule == rule {
            while let Some(slot) = class.next.slots.pop() {
                let unused = self.slots[slot as usize].used <= class.next.found_at;
                if unused && self.slots[slot as usize].may_leave(rule) && !memory.is_pinned(slot) {
                    return Some(slot);
                }
            }
        }
        class.next.rule = rule;
        class.next.found_at = self.clock;
        self.find_victims(at, policy, memory);
        self.classes[at].next.slots.pop()
    }

    /// Looks through all slots of a class for the next to leave.
    fn find_victims(&mut self, at: usize, policy: &Policy, memory: &SlotMemory) {
        let slots = &self.slots;
        let class = &mut self.classes[at];
        let Victims { slots: next, rule, .. } = &mut class.next;
        let rule = *rule;
        next.clear();
        next.extend(
            (class.first..class.first + class.n_slots)
                .filter(|&slot| slots[slot as usize].may_leave(rule) && !memory.is_pinned(slot)),
        );
        let order = |a: &u32, b: &u32| {
            let (a, b) = (&slots[*a as usize], &slots[*b as usize]);
            let hot_order = || policy.order(a.record, b.record);
            match (rule, a.cold, b.cold) {
                (Rule::ColdFirst, a_cold, b_cold) => b_cold.cmp(&a_cold).then_with(hot_order),
                (_, true, true) => b.used.cmp(&a.used),
                (_, false, false) => hot_order(),
                (Rule::HotFirst, a_cold, b_cold) => a_cold.cmp(&b_cold),
                (_, a_cold, b_cold) => b_cold.cmp(&a_cold),
            }
        };
        let n = (class.n_slots as usize / 16).max(1);
        if n < next.len() {
            next.select_nth_unstable_by(n, order);
            next.truncate(n);
        }
        next.sort_unstable_by(|a, b| order(b, a));
    }

    /// The record starts loading into an empty slot that was taken for it; without reads it is there already.
    pub(crate) fn begin(&mut self, slot: u32, record: u32, want: u32, n_reads: u32, cold: bool) {
        debug_assert_eq!(self.get(slot).state, SlotState::Empty);
        let state = if n_reads == 0 { SlotState::Held } else { SlotState::Loading };
        let ahead = want == AHEAD;
        self.slots[slot as usize] = Slot { state, record, want, n_reads, cold, ahead, used: 0 };
        self.slot_of[record as usize] = slot;
        let class = self.class_of(slot);
        class.n_cold += u32::from(cold);
        if cold && !ahead && class.next.rule == Rule::ColdFirst {
            // It leaves before those that were found before it came.
            class.next.slots.clear();
        }
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

    /// The record in the slot is picked. True if it was read ahead, the first time.
    pub(crate) fn picked(&mut self, slot: u32) -> bool {
        std::mem::take(&mut self.slots[slot as usize].ahead)
    }

    /// The slot is no longer kept for a fetch to come. If it was not picked, it is the first to leave.
    pub(crate) fn release_ahead(&mut self, slot: u32) {
        let at = &mut self.slots[slot as usize];
        if at.want != AHEAD {
            return;
        }
        at.want = NONE;
        if at.state == SlotState::Held && at.cold {
            let next = &mut self.class_of(slot).next;
            if next.rule == Rule::ColdFirst && next.slots.len() < next.slots.capacity() {
                next.slots.push(slot);
            }
        }
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
        at.ahead = false;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flashmill_layout::{Extent, FileId};

    use super::*;
    use crate::policy::PolicyKind;
    use crate::{Records, files::ALIGN};

    const N_RECORDS: u32 = 512;

    /// A table of `n_slots` slots for records of one page, without any reads.
    struct Table {
        slots: Slots,
        policy: Policy,
        memory: Arc<SlotMemory>,
        n_hits: usize,
    }

    impl Table {
        fn new(n_slots: u64, kind: PolicyKind) -> Table {
            let mut records = Records::new();
            let extents = (0..N_RECORDS).map(|at| Extent {
                file: FileId(0),
                offset: u64::from(at) * ALIGN,
                len: ALIGN,
            });
            records.push_layer(1, extents.collect());
            let plan = Plan::new(&records).unwrap();
            Table {
                slots: Slots::new(&plan, &[n_slots]),
                policy: Policy::new(kind, N_RECORDS as usize, 100),
                memory: SlotMemory::new((0..n_slots).map(|_| ALIGN as usize)).unwrap(),
                n_hits: 0,
            }
        }

        /// One pick: found or loaded, and handed over.
        fn pick(&mut self, record: u32, taker: Taker) {
            if taker == Taker::Decode {
                self.policy.tick();
                self.policy.touch(record);
            }
            let slot = match self.slots.find(record) {
                Some(slot) => {
                    self.n_hits += 1;
                    if taker == Taker::Decode {
                        self.slots.warm(slot);
                    }
                    slot
                }
                None => {
                    let (slot, _) =
                        self.slots.take(0, taker, &self.policy, &self.memory).expect("none is pinned");
                    self.slots.begin(slot, record, 0, 1, taker != Taker::Decode);
                    assert!(self.slots.read_done(slot));
                    slot
                }
            };
            self.slots.hand_over(slot);
        }
    }

    /// Picks of 512 records, the low ones more often.
    fn skewed(seed: u64, n: usize) -> Vec<u32> {
        let mut state = seed;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        (0..n).map(|_| (0..3).map(|_| random(N_RECORDS.into()) as u32).min().expect("three")).collect()
    }

    #[test]
    fn finding_victims_ahead_costs_hardly_a_hit() {
        for kind in PolicyKind::ALL {
            for n_slots in [5, 20, 100, 300] {
                let trace = skewed(n_slots, 8000);
                let mut table = Table::new(n_slots, kind);
                let mut exact = Policy::new(kind, N_RECORDS as usize, 100);
                let (mut held, mut n_hits) = (Vec::new(), 0);
                for &record in &trace {
                    table.pick(record, Taker::Decode);
                    exact.tick();
                    exact.touch(record);
                    if held.contains(&record) {
                        n_hits += 1;
                        continue;
                    }
                    if held.len() as u64 == n_slots {
                        let victim = exact.victim(held.iter().copied());
                        held.retain(|&record| Some(record) != victim);
                    }
                    held.push(record);
                }
                let found = table.n_hits;
                assert!(
                    found.abs_diff(n_hits) <= n_hits / 50,
                    "{kind}, {n_slots} slots: {found}, exact {n_hits}"
                );
                // So few are found one at a time.
                assert!(n_slots >= 32 || found == n_hits, "{kind}, {n_slots} slots: {found}, exact {n_hits}");
            }
        }
    }

    #[test]
    fn pinned_and_awaited_slots_never_leave() {
        let mut table = Table::new(4, PolicyKind::Lru);
        for record in 0..4 {
            table.pick(record, Taker::Decode);
        }
        let pins: Vec<_> = [0, 2].map(|record| table.memory.pin(table.slots.find(record).unwrap())).into();
        let awaited = table.slots.find(1).unwrap();
        table.slots.set_want(awaited, 7);
        for record in 10..20 {
            table.pick(record, Taker::Decode);
        }
        assert!([0, 1, 2].iter().all(|&record| table.slots.find(record).is_some()));
        table.slots.set_want(table.slots.find(19).unwrap(), 7);
        let taken = table.slots.take(0, Taker::StuckSweep, &table.policy, &table.memory);
        assert!(taken.is_none(), "all four are in use");
        drop(pins);
        assert!(table.slots.take(0, Taker::Decode, &table.policy, &table.memory).is_some());
    }

    #[test]
    fn who_was_found_ahead_and_is_used_since_stays() {
        let mut table = Table::new(64, PolicyKind::Lru);
        for record in 0..65 {
            table.pick(record, Taker::Decode);
        }
        // Record 0 has left, and 1, 2, 3 were found with it.
        assert!(table.slots.find(0).is_none() && table.slots.find(1).is_some());
        let _pin = table.memory.pin(table.slots.find(1).unwrap());
        table.slots.set_want(table.slots.find(2).unwrap(), 7);
        table.pick(3, Taker::Decode);
        for record in 100..110 {
            table.pick(record, Taker::Decode);
        }
        assert!([1, 2, 3].iter().all(|&record| table.slots.find(record).is_some()));
        assert!(table.slots.find(4).is_none());
    }

    #[test]
    fn a_sweep_keeps_to_its_share_and_to_its_end() {
        let mut table = Table::new(100, PolicyKind::Lfru);
        for record in 0..100 {
            table.pick(record, Taker::Decode);
        }
        // 64 MiB are more than half of these slots: the sweep has 50.
        for record in 100..400 {
            table.pick(record, Taker::Sweep);
        }
        let hot = (0..100).filter(|&record| table.slots.find(record).is_some()).count();
        assert_eq!(hot, 50);
        // What the sweep used last left first, a sixteenth of the slots at a time.
        let early = (100..144).filter(|&record| table.slots.find(record).is_some()).count();
        assert!(early >= 40, "{early}");
        for record in 400..450 {
            table.pick(record, Taker::Decode);
        }
        let hot_now = (0..100).filter(|&record| table.slots.find(record).is_some()).count();
        assert_eq!(hot_now, 50, "the sweep's leavings went first");
    }
}
