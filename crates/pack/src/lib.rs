//! Any readable checkpoint in, the packed form of docs/FORMAT.md out; and the check of what files hold. It moves and encodes
//! weights and never runs a model.
//!
//! ```text
//! SOURCE ──source──▶ matrices ──convert──▶ records, trunk ──write──▶ OUT
//!                                                  └──journal──▶ what need not be done again
//! ```
//!
//! The files of a source may also come one by one and be removed when they are packed ([`Arrival`]).
//!
//! Each thread holds one record, or one block of rows of the trunk, whatever the model's size.

mod affine;
mod arrival;
mod convert;
mod error;
mod extras;
mod fit;
mod importance;
mod journal;
mod output;
mod pack;
mod place;
mod recipe;
mod run;
mod source;
mod target;
mod tasks;
mod verify;

pub use arrival::{Arrival, SHARDS, header_bytes};
pub use error::PackError;
pub use importance::{Importance, ImportanceProblem};
pub use pack::{PackOptions, PackPlan, PackReport, Shares, pack, plan, plan_arriving};
pub use place::check_out;
pub use recipe::{Bits, RecipeOptions, Rule, Warning};
pub use source::{Item, Source, SourceMatrix};
pub use verify::{Failure, VerifyReport, verify};
