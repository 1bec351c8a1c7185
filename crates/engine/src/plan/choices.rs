//! The plans that a user can choose between.

use flashmill_checkpoint::Checkpoint;
use flashmill_store::ReaderKind;
use serde::Serialize;

use super::Plan;
use crate::{EngineError, EngineOptions};

/// A plan that a user can choose.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// `floor`, `budget` or `ceiling`.
    pub name: &'static str,
    /// How experts are read.
    #[serde(serialize_with = "as_text")]
    pub reader: ReaderKind,
    /// What it takes and does.
    pub plan: Plan,
}

fn as_text<S: serde::Serializer>(reader: &ReaderKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reader)
}

impl Plan {
    /// The same plan with the predictions of a profile that was measured since, in a process that measuring may have made larger.
    pub(crate) fn again(
        &self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
    ) -> Result<Plan, EngineError> {
        Plan::make(checkpoint, options, self.process_bytes)
    }

    /// The plans at the floor, within the budget, and with every expert resident, with each reader that was measured: what a user can
    /// choose between.
    pub(crate) fn choices(
        &self,
        checkpoint: &Checkpoint,
        options: &EngineOptions,
    ) -> Result<Vec<Choice>, EngineError> {
        let with = |ram_bytes: u64, reader: ReaderKind| {
            let options = EngineOptions { ram_bytes: Some(ram_bytes), reader, ..options.clone() };
            Plan::make(checkpoint, &options, self.process_bytes)
        };
        // More than any machine has, less than any sum of sizes overflows with.
        let ceiling = with(1 << 56, options.reader)?.used_bytes();
        let measured = |reader: &ReaderKind| {
            options.profile.as_ref().is_some_and(|profile| profile.disk.contains_key(&reader.to_string()))
        };
        let mut readers: Vec<ReaderKind> = ReaderKind::ALL.into_iter().filter(measured).collect();
        if readers.is_empty() {
            readers.push(options.reader);
        }
        let mut choices = Vec::new();
        for (name, ram_bytes) in [("floor", self.floor_bytes), ("budget", self.ram_bytes)] {
            for &reader in &readers {
                choices.push(Choice { name, reader, plan: with(ram_bytes, reader)? });
            }
        }
        choices.push(Choice {
            name: "ceiling",
            reader: options.reader,
            plan: with(ceiling, options.reader)?,
        });
        Ok(choices)
    }
}
