//! Tokens in, logits out. The fifth station of the corridor: it knows the formulas of each family, asks `store` for the bundles
//! that the router picks and a `kernels` backend to compute with them. It never sees text or paths.
//!
//! [`Model::forward`] takes rows of several sequences: a prompt's chunk, one decode step and a batch are the same call, and a
//! row's result never depends on the others, to the bit.

mod ahead;
mod error;
mod forward;
mod load;
mod near;
mod observe;
mod options;
mod snapshot;
mod state;
mod timing;
mod weights;
mod work;

pub use error::ModelError;
pub use forward::{MAX_SEQUENCES, Sequence, Wanted};
pub use load::{Footprint, Model, ResidentTrunk};
pub use near::Swaps;
pub use observe::{Observer, Route};
pub use options::{ModelOptions, Prefetch};
pub use snapshot::Restoring;
pub use state::{Free, State};
pub use timing::{Overlap, Part, Timing};
