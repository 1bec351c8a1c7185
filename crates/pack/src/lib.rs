//! Any readable checkpoint in, the packed form of docs/FORMAT.md out; and the check of what files hold. It moves and encodes
//! weights and never runs a model.
//!
//! ```text
//! SOURCE ──source──▶ matrices ──convert──▶ records, trunk ──write──▶ OUT
//!                                                  └──journal──▶ what need not be done again
//! ```
//!
//! Each thread holds one record, or one block of rows of the trunk, whatever the model's size.

mod affine;
mod convert;
mod error;
mod extras;
mod importance;
mod journal;
mod output;
mod pack;
mod recipe;
mod source;
mod target;
mod tasks;
mod verify;

pub use error::PackError;
pub use importance::{Importance, ImportanceProblem};
pub use pack::{PackOptions, PackPlan, PackReport, Shares, pack, plan};
pub use recipe::{Bits, RecipeOptions, Warning};
pub use source::{Item, Source, SourceMatrix, SourceVector};
pub use verify::{Failure, VerifyReport, verify};
