use std::sync::Arc;

use crate::memory::Pin;
use crate::plan::Plan;

/// A record in memory, until dropped: its slot is neither given away nor written meanwhile.
///
/// It may be sent to other threads and may outlive the fetch and the store.
pub struct Lease {
    pin: Pin,
    plan: Arc<Plan>,
    first_part: usize,
    n_parts: usize,
}

impl Lease {
    pub(crate) fn new(pin: Pin, plan: &Arc<Plan>, layer: usize, bundle: u32) -> Lease {
        let parts = plan.parts(layer, bundle);
        Lease { pin, plan: Arc::clone(plan), first_part: parts.start, n_parts: parts.len() }
    }

    /// Number of parts.
    pub fn n_parts(&self) -> usize {
        self.n_parts
    }

    /// The bytes of part `i`, at any alignment.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn part(&self, i: usize) -> &[u8] {
        assert!(i < self.n_parts, "part {i} of a record with {}", self.n_parts);
        &self.pin.bytes()[self.plan.part(self.first_part + i)]
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("n_parts", &self.n_parts).finish_non_exhaustive()
    }
}
