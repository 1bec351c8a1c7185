//! Bundles as bytes: slots under a budget, who keeps one, and the reads that fill them.

mod budget;
mod error;
mod files;
mod options;
mod platform;
mod policy;
mod records;
mod stats;
mod store;

pub use budget::{Budget, BudgetEntry, BudgetError};
pub use error::StoreError;
pub use files::Files;
pub use options::{Order, ReaderKind, StoreOptions, UnknownName};
pub use policy::PolicyKind;
pub use records::Records;
pub use stats::{Latency, Stats};
pub use store::{Fetch, Lease, Store};
