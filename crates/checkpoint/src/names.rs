//! How files name the parts of a model: the prefixes of each convention, and the tensors that the text model leaves out.

use crate::note::SkippedGroup;

/// Where the text model's tensors lie, the longest first: Qwen3.5 as published; MLX; everything else.
pub(crate) const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

/// Where the head lies.
pub(crate) const HEADS: [&str; 3] = ["lm_head", "language_model.lm_head", "model.lm_head"];

/// A module's path without its model's prefix: `layers.0.mlp.gate`, `embed_tokens`, `lm_head`.
pub(crate) fn below_prefix(path: &str) -> &str {
    if HEADS.contains(&path) {
        return "lm_head";
    }
    PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)).unwrap_or(path)
}

/// Which part of the whole model a tensor belongs to that the text model does not use.
pub(crate) fn skipped_group(name: &str) -> SkippedGroup {
    const VISION: [&str; 5] =
        ["model.visual.", "visual.", "vision_tower.", "model.vision_tower.", "vision_model."];
    const MTP: [&str; 5] = [
        "mtp.",
        "model.mtp.",
        "language_model.mtp.",
        "model.language_model.mtp.",
        "language_model.model.mtp.",
    ];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&VISION) {
        SkippedGroup::Vision
    } else if starts(&MTP) {
        SkippedGroup::MultiTokenPrediction
    } else {
        SkippedGroup::Other
    }
}

/// Whether a tensor lies in one of the text model's layers, so that leaving it out would change the results. The table of
/// rotary frequencies, which old files store, follows from the config.
pub(crate) fn in_a_layer(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("layers.")))
        && !name.ends_with(".rotary_emb.inv_freq")
}
