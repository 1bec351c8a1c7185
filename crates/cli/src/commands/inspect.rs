//! `flashmill inspect MODEL`: what the files hold.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::{
    Checkpoint, CheckpointError, Family, Inspection, MixerKind, ModelSpec, Recipe, human_bytes,
};
use serde_json::{Value, json};

use crate::flags::InspectOptions;
use crate::model_path::ModelPath;
use crate::terminal::{neutral, note};

/// Prints what the config and the headers say; no weight is read.
pub(crate) fn inspect(options: InspectOptions) -> Result<ExitCode> {
    let model = ModelPath::find(&options.model)?;
    let checkpoint = match Checkpoint::open(model.path()) {
        // It is shown as `pack` would write it.
        Err(error @ CheckpointError::MustBePacked { .. }) => {
            note!("warning: {error}");
            Checkpoint::open_to_pack(model.path())?
        }
        opened => opened?,
    };
    let text = if options.json {
        serde_json::to_string_pretty(&as_json(&checkpoint))?
    } else {
        as_text(&checkpoint)
    };
    writeln!(io::stdout(), "{}", text.trim_end()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(checkpoint: &Checkpoint) -> String {
    let inspection = checkpoint.inspect();
    let mut text = String::new();
    let recipe = checkpoint.recipe().into_iter().flat_map(recipe_facts);
    for (name, value) in facts(checkpoint.spec(), &inspection).into_iter().chain(recipe) {
        let _ = writeln!(text, "{name:<22}{value}");
    }
    let _ =
        writeln!(text, "\n{:<22}{:>12} {:>11} {:>6}  stored as", "weights", "parameters", "bytes", "bits");
    for role in &inspection.roles {
        let encodings: Vec<String> =
            role.encodings.iter().map(|used| format!("{} ({})", used.encoding, used.count)).collect();
        let _ = writeln!(
            text,
            "{:<22}{:>12} {:>11} {:>6.2}  {}",
            role.role.to_string(),
            human_count(role.params),
            human_bytes(role.bytes),
            bits(role.bytes, role.params),
            encodings.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "{:<22}{:>12} {:>11} {:>6.2}",
        "all",
        human_count(inspection.total_params),
        human_bytes(inspection.weight_bytes),
        inspection.bits_per_weight
    );
    if !checkpoint.notes().is_empty() {
        let _ = writeln!(text, "\nnotes");
        for note in checkpoint.notes() {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}

/// Names and values, in the order they are read.
fn facts(spec: &ModelSpec, inspection: &Inspection) -> Vec<(&'static str, String)> {
    let n_attention = spec.layers.iter().filter(|layer| layer.mixer == MixerKind::Attention).count();
    let n_delta = spec.layers.len() - n_attention;
    let layers = match n_delta {
        0 => format!("{n_attention} with attention"),
        _ => format!("{}: {n_delta} with Gated DeltaNet, {n_attention} with attention", spec.layers.len()),
    };
    let attention = &spec.attention;
    let mut facts = vec![
        ("family", family_name(spec.family).to_owned()),
        ("files", format!("{}, {}", inspection.n_files, human_bytes(inspection.file_bytes))),
        ("convention", format!("{:?}", inspection.convention)),
        ("layers", layers),
        ("hidden size", spec.hidden_size.to_string()),
        (
            "vocabulary",
            format!("{}{}", spec.vocab_size, if spec.tied_embeddings { ", tied embeddings" } else { "" }),
        ),
        ("positions", spec.max_positions.to_string()),
        (
            "attention",
            format!(
                "{} heads, {} of keys and values, {} wide, {} of it rotated{}",
                attention.n_heads,
                attention.n_kv_heads,
                attention.head_dim,
                attention.rotary_dim,
                if attention.gated { ", gated" } else { "" }
            ),
        ),
    ];
    if let Some(delta) = &spec.delta_net {
        facts.push((
            "Gated DeltaNet",
            format!(
                "{} heads of queries and keys, {} wide; {} of values, {} wide; convolution over {}",
                delta.n_key_heads, delta.key_dim, delta.n_value_heads, delta.value_dim, delta.conv_kernel
            ),
        ));
    }
    if let Some(moe) = &spec.moe {
        let shared =
            moe.shared_intermediate_size.map_or_else(String::new, |size| format!(", a shared one of {size}"));
        facts.push((
            "experts",
            format!(
                "{} a layer of {} units, {} per token{shared}",
                moe.n_experts, moe.intermediate_size, moe.top_k
            ),
        ));
    }
    facts.push((
        "parameters",
        format!(
            "{}, {} per token",
            human_count(inspection.total_params),
            human_count(inspection.active_params)
        ),
    ));
    facts.push(("bits per weight", format!("{:.2}", inspection.bits_per_weight)));
    if let Some((least, most)) = inspection.expert_bytes {
        let sizes = if least == most {
            human_bytes(least)
        } else {
            format!("{} to {}", human_bytes(least), human_bytes(most))
        };
        facts.push(("bytes of an expert", sizes));
        facts.push((
            "experts of a token",
            format!("{}, read from disk where not in memory", human_bytes(inspection.expert_bytes_per_token)),
        ));
    }
    facts
        .push(("keys and values", format!("{} per token (f16)", human_bytes(inspection.kv_bytes_per_token))));
    if inspection.delta_net_state_bytes > 0 {
        facts.push((
            "DeltaNet state",
            format!("{} per sequence", human_bytes(inspection.delta_net_state_bytes)),
        ));
    }
    facts
}

/// How a packed model was made. The words are a file's, so nothing that a terminal obeys is printed.
fn recipe_facts(recipe: &Recipe) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("packed by", recipe.written_by.clone()),
        ("packed from", format!("{} ({})", recipe.source, recipe.source_convention)),
        ("packed experts", recipe.experts.clone()),
        ("packed trunk", recipe.trunk.clone()),
    ];
    facts.extend(recipe.importance.clone().map(|importance| ("importance", importance)));
    facts.into_iter().map(|(name, value)| (name, neutral(&value).into_owned())).collect()
}

fn as_json(checkpoint: &Checkpoint) -> Value {
    let inspection = checkpoint.inspect();
    let spec = checkpoint.spec();
    let roles: Vec<Value> = inspection
        .roles
        .iter()
        .map(|role| {
            let encodings: Vec<Value> = role
                .encodings
                .iter()
                .map(|used| json!({"encoding": used.encoding.to_string(), "count": used.count, "bytes": used.bytes}))
                .collect();
            json!({"role": role.role.to_string(), "parameters": role.params, "bytes": role.bytes, "encodings": encodings})
        })
        .collect();
    let files: Vec<Value> =
        checkpoint.files().iter().map(|file| json!({"path": file.path, "bytes": file.len})).collect();
    json!({
        "family": family_name(spec.family),
        "convention": format!("{:?}", inspection.convention),
        "files": files,
        "n_layers": spec.layers.len(),
        "n_attention_layers": spec.layers.iter().filter(|layer| layer.mixer == MixerKind::Attention).count(),
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "max_positions": spec.max_positions,
        "tied_embeddings": spec.tied_embeddings,
        "n_experts": spec.moe.as_ref().map(|moe| moe.n_experts),
        "experts_per_token": spec.moe.as_ref().map(|moe| moe.top_k),
        "parameters": inspection.total_params,
        "active_parameters": inspection.active_params,
        "weight_bytes": inspection.weight_bytes,
        "bits_per_weight": inspection.bits_per_weight,
        "expert_bytes": inspection.expert_bytes.map(|(least, most)| json!({"least": least, "most": most})),
        "expert_bytes_per_token": inspection.expert_bytes_per_token,
        "kv_bytes_per_token": inspection.kv_bytes_per_token,
        "delta_net_state_bytes": inspection.delta_net_state_bytes,
        "roles": roles,
        "recipe": checkpoint.recipe().map(|recipe| json!({
            "written_by": recipe.written_by,
            "source": recipe.source,
            "source_convention": recipe.source_convention,
            "experts": recipe.experts,
            "trunk": recipe.trunk,
            "importance": recipe.importance,
        })),
        "notes": checkpoint.notes().iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Qwen35Moe => "qwen3_5_moe",
        Family::Qwen3Next => "qwen3_next",
        Family::Qwen3Moe => "qwen3_moe",
    }
}

fn bits(bytes: u64, params: u64) -> f64 {
    bytes as f64 * 8.0 / params as f64
}

/// A number of parameters for people: `35.1 B`.
fn human_count(count: u64) -> String {
    let value = count as f64;
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} K", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.1} B", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_for_people() {
        assert_eq!(human_count(9_999), "9999");
        assert_eq!(human_count(22_600_000), "22.6 M");
        assert_eq!(human_count(35_100_000_000), "35.1 B");
    }
}
