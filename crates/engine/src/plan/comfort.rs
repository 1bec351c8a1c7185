//! What a budget is spent on besides slots: long contexts and chunks, saved prefixes.

use flashmill_model::{Footprint, MAX_SEQUENCES};

use crate::EngineOptions;

/// States of sequences, the running one included: the others are saved prefixes.
const DEFAULT_STATES: usize = 4;

/// The activations of a longer chunk than the shortest take at most this part of what slots, KV cache and activations share.
const ACTIVATION_PART: u64 = 8;

/// How generous context, chunk and saved prefixes are; tried from the best down.
pub(super) struct Comfort {
    /// Of the context and the chunk.
    pub(super) divisor: usize,
    /// States of sequences.
    pub(super) n_states: usize,
}

pub(super) const COMFORTS: [Comfort; 6] = [
    Comfort { divisor: 1, n_states: DEFAULT_STATES },
    Comfort { divisor: 2, n_states: DEFAULT_STATES },
    Comfort { divisor: 4, n_states: 3 },
    Comfort { divisor: 8, n_states: 2 },
    Comfort { divisor: 16, n_states: 1 },
    Comfort { divisor: 64, n_states: 1 },
];

impl Comfort {
    fn is_least(&self) -> bool {
        self.divisor == COMFORTS[COMFORTS.len() - 1].divisor
    }

    /// Answers at once: fewer where memory is scarce.
    pub(super) fn sessions(&self, options: &EngineOptions) -> usize {
        (options.sessions.unwrap_or(1) / self.divisor).clamp(1, MAX_SEQUENCES)
    }

    /// Whether enough of `room`, which is the budget without process and trunk, is left to slots: unless all bundles fit anyway, comfort
    /// may take a quarter, and the activations of a chunk that could be shorter a part of it.
    pub(super) fn is_affordable(&self, footprint: &Footprint, room: u64, shortest_chunk: bool) -> bool {
        let extra = footprint.resident_bytes() - footprint.trunk_bytes;
        let chunk = shortest_chunk || footprint.work_bytes <= room / ACTIVATION_PART;
        fits_whole(footprint, room) || chunk && (self.is_least() || extra <= room / 4)
    }
}

fn fits_whole(footprint: &Footprint, room: u64) -> bool {
    footprint.resident_bytes() - footprint.trunk_bytes + footprint.slot_ceiling_bytes <= room
}
