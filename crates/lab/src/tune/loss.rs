//! What settings lose: how far their predictions are from those of the model as it is.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use flashmill_engine::{Engine, EngineError, EngineOptions, Model, Sequence, Swaps, Wanted};

use crate::eval::divergence;
use crate::statistics::{Interval, mean};

/// Tokens of a window. Each window is a case, since the tokens of one text are not independent.
const WINDOW: usize = 32;

/// The fewest tokens whose loss has bounds: two windows.
pub const MIN_LOSS_TOKENS: usize = 2 * WINDOW;

/// The confidence of the bounds.
const CONFIDENCE: f64 = 0.95;

/// Why a loss cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// The model cannot be opened, or a pass failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file in which the reference's logits wait.
    #[error("cannot write or read the reference's logits: {0}; free some space for temporary files")]
    Waiting(#[from] io::Error),
}

/// What settings lose, and what they save.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// In nats a token.
    pub divergence: Interval,
    /// Share of the picks of the model as it is that were in a slot.
    pub reference_hit_rate: f64,
    /// The same with the settings.
    pub hit_rate: f64,
    /// What cache-aware routing did.
    pub swaps: Swaps,
}

/// The mean Kullback-Leibler divergence in nats of the next token's distribution with `options` from that with `reference`, over
/// `tokens` in windows of 32. Each token is read in a pass of its own, as in decoding. The bounds are Student's, of the windows' means; those
/// of fewer than two windows are infinite.
///
/// The reference's logits wait in `waiting`, four bytes for each token and word of the vocabulary.
pub fn loss(
    path: &Path,
    reference: &EngineOptions,
    options: &EngineOptions,
    tokens: &[u32],
    mut waiting: File,
) -> Result<Loss, LossError> {
    let mut writer = BufWriter::new(&mut waiting);
    let own = read(path, reference, tokens, &mut |logits| {
        logits.iter().try_for_each(|logit| writer.write_all(&logit.to_le_bytes()))
    })?;
    writer.flush()?;
    drop(writer);
    waiting.rewind()?;
    let mut reader = BufReader::new(&mut waiting);
    let (mut bytes, mut expected, mut divergences) = (Vec::new(), Vec::new(), Vec::new());
    let model = read(path, options, tokens, &mut |logits| {
        bytes.resize(4 * logits.len(), 0);
        reader.read_exact(&mut bytes)?;
        expected.clear();
        expected.extend(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)));
        divergences.push(divergence(&expected, logits));
        Ok(())
    })?;
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let windows: Vec<f64> = divergences.chunks(WINDOW).map(average).collect();
    let unsure = Interval { estimate: average(&divergences), low: f64::NEG_INFINITY, high: f64::INFINITY };
    Ok(Loss {
        divergence: mean(&windows, CONFIDENCE).unwrap_or(unsure),
        reference_hit_rate: own.0,
        hit_rate: model.0,
        swaps: model.1,
    })
}

/// Decodes `tokens` in windows, each from an empty state, and gives `see` the logits after each; then the share of the picks that hit, and what
/// cache-aware routing did.
fn read(
    path: &Path,
    options: &EngineOptions,
    tokens: &[u32],
    see: &mut dyn FnMut(&[f32]) -> io::Result<()>,
) -> Result<(f64, Swaps), LossError> {
    let options =
        EngineOptions { context: Some(options.context.unwrap_or(0).max(WINDOW)), ..options.clone() };
    let (_, mut model) = Engine::open_model(path, &options, &mut |_, _| ())?;
    for window in tokens.chunks(WINDOW) {
        let mut state = model.new_state().map_err(EngineError::from)?;
        for token in window {
            let tokens = std::slice::from_ref(token);
            let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
            model.forward(&mut batch, None, None).map_err(EngineError::from)?;
            see(model.logits(0))?;
        }
    }
    Ok((hit_rate(&model), model.swaps()))
}

fn hit_rate(model: &Model) -> f64 {
    let stats = model.store_stats();
    stats.hits as f64 / (stats.hits + stats.misses).max(1) as f64
}
