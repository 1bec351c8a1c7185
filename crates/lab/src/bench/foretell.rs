//! What the plan's formula says of the rows of a bench, with the machine as measured in the same run.

use flashmill_engine::cost::{self, MachineProfile, Setting, Workload};
use flashmill_engine::{Checkpoint, Plan};

use super::{BenchOptions, Peaks, Row};
use crate::profile::{self, ProfileError};
use crate::routing::drawn_hit_rate;

/// Measures the machine and fills in the predictions of `rows`.
pub(super) fn foretell(
    checkpoint: &Checkpoint,
    plan: &Plan,
    options: &BenchOptions,
    rows: &mut [Row],
) -> Result<Peaks, ProfileError> {
    let workload = Workload::of(checkpoint, plan.experts_per_token);
    let mut profile = MachineProfile::default();
    profile::complete(&mut profile, &workload, &options.engine)?;
    profile::measure_disk(&mut profile, checkpoint, &[options.engine.reader])?;
    let reader = options.engine.reader.to_string();
    let warm = expected_hit_rate(checkpoint, plan, options);
    for row in rows {
        let mut setting = Setting::of(plan, &reader, warm);
        if row.cold {
            // The prompt finds empty slots, and what is decoded after it finds them filled.
            setting.resident_share = 0.0;
        }
        row.predicted = workload.predict(&profile, &setting, row.context, row.prompt_tokens);
    }
    if profile.memory_gb_per_s == 0.0 {
        // The reference, for which there are no predictions.
        profile.memory_gb_per_s = profile::memory_gb_per_s(options.engine.n_threads());
    }
    Ok(Peaks {
        memory_gb_per_s: profile.memory_gb_per_s,
        disk_gb_per_s: profile.disk_gb_per_s(&reader, 4 << 20, 16),
    })
}

/// Hits to be expected while decoding: of drawn picks those of the same draws replayed, else those of trained models.
fn expected_hit_rate(checkpoint: &Checkpoint, plan: &Plan, options: &BenchOptions) -> f64 {
    match (options.routing, checkpoint.spec().moe) {
        (Some(drawn), Some(moe)) => {
            drawn_hit_rate(drawn, moe.n_experts, plan.experts_per_token, plan.resident_share)
        }
        _ => cost::expected_hit_rate(plan.resident_share),
    }
}
