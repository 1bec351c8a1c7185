//! Bundles as bytes: slots under a budget, who keeps one, and the reads that fill them.
//!
//! ```text
//! files ──checkpoint──▶ Extent                       ┌──▶ kernels
//!                          │                         │
//! SSD ──readers──▶ slots ──┴──Store::fetch──▶ Lease ─┘
//! ```
//!
//! `checkpoint` says where each bundle's bytes lie, as extents; `model` says which bundles a token picked. This crate brings
//! the bytes and knows nothing of what they mean: it has no floats, no tensors, no layers but as numbers.
//!
//! | module | what it holds |
//! |---|---|
//! | `files` | the open files of a checkpoint, each through the page cache and around it |
//! | `bulk` | many extents at once into memory of the caller's |
//! | `records`, `plan` | which extents make a record; from them its reads, its place in a slot, the sizes of slots |
//! | `memory` | the slots' memory; who may read or write which bytes (unsafe) |
//! | `slots`, `policy` | who is in which slot, and who leaves |
//! | `reader` | io_uring (unsafe), a pool of positional reads, the choice between them, a faulty one for tests |
//! | `loads` | reads in flight and their continuation |
//! | `fetch`, `ahead`, `lease`, `store` | the surface; what is read before it is picked |
//! | `budget`, `stats`, `options`, `error` | the ledger of RAM, what was done, how, and what went wrong |
//!
//! Invariants, and what holds each:
//!
//! - *A leased slot is never written.* A slot's word counts its pins and its loans, and there is never one of each: `memory`
//!   refuses, whatever is above it.
//! - *A failed read never yields bytes.* A record is handed over only when every read of it has brought every wanted byte; a
//!   slot with a failed read becomes empty. The tests run on a reader that overwrites what it does not vouch for.
//! - *The memory for slots is a ceiling.* One allocation, made once; reads go straight into it.
//! - *A wait ends.* When nothing is in flight and every slot is leased, that is an error and not a wait.
//! - *No heap allocation in the steady state of a fetch* (tests/no_alloc.rs).

mod ahead;
mod budget;
mod bulk;
mod error;
mod fetch;
mod files;
mod lease;
mod loads;
mod memory;
mod options;
mod plan;
mod platform;
mod policy;
mod reader;
mod records;
mod slots;
mod stats;
mod store;

pub use budget::{Budget, BudgetEntry, BudgetError};
pub use bulk::Wanted;
pub use error::StoreError;
pub use fetch::Fetch;
pub use files::Files;
pub use lease::Lease;
pub use options::{Order, ReaderKind, StoreOptions, UnknownName};
pub use policy::{Policy, PolicyKind};
#[doc(hidden)]
pub use reader::Faults;
pub use records::Records;
pub use stats::{Latency, Stats};
pub use store::Store;
