//! What each layer is made of.

use std::collections::HashSet;

use crate::config::MAX_LAYERS;
use crate::error::CheckpointError;
use crate::fields::Fields;
use crate::spec::{Family, FfnKind, MixerKind};

/// `layer_types` wins over `full_attention_interval`; `qwen3_moe` reads neither.
pub(crate) fn mixers(
    fields: &mut Fields<'_>,
    family: Family,
    n_layers: usize,
) -> Result<Vec<MixerKind>, CheckpointError> {
    if family == Family::Qwen3Moe {
        return Ok(vec![MixerKind::Attention; n_layers]);
    }
    let interval = fields.value("full_attention_interval");
    let Some(types) = fields.list("layer_types")? else {
        let interval = match interval {
            Some(value) => fields.bounded("full_attention_interval", value, (1, MAX_LAYERS))?,
            None => 4,
        };
        return Ok((1..=n_layers)
            .map(|nth| match nth % interval {
                0 => MixerKind::Attention,
                _ => MixerKind::DeltaNet,
            })
            .collect());
    };
    if types.len() != n_layers {
        return Err(fields.disagree(
            ("layer_types' length", types.len()),
            ("num_hidden_layers", n_layers),
            "there must be one entry a layer",
        ));
    }
    types
        .iter()
        .enumerate()
        .map(|(i, value)| match value.as_str() {
            Some("full_attention" | "attention") => Ok(MixerKind::Attention),
            Some("linear_attention" | "mamba" | "conv") => Ok(MixerKind::DeltaNet),
            _ => Err(fields.unsupported(
                &format!("layer_types[{i}]"),
                value,
                "full_attention, linear_attention",
            )),
        })
        .collect()
}

/// A layer is dense if `mlp_only_layers` lists it or its number, from 1, is no multiple of `decoder_sparse_step`.
pub(crate) fn ffns(
    fields: &mut Fields<'_>,
    family: Family,
    n_layers: usize,
    n_experts: usize,
) -> Result<Vec<FfnKind>, CheckpointError> {
    if family == Family::Qwen35Moe {
        return Ok(vec![FfnKind::Moe; n_layers]);
    }
    let step = match fields.value("decoder_sparse_step") {
        Some(value) => fields.bounded("decoder_sparse_step", value, (1, usize::MAX))?,
        None => 1,
    };
    let mut dense = HashSet::new();
    for value in fields.list("mlp_only_layers")?.unwrap_or_default() {
        dense.insert(fields.bounded("mlp_only_layers", value, (0, usize::MAX))?);
    }
    Ok((0..n_layers)
        .map(|layer| match n_experts > 0 && (layer + 1) % step == 0 && !dense.contains(&layer) {
            true => FfnKind::Moe,
            false => FfnKind::Dense,
        })
        .collect())
}
