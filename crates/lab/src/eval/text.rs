//! Passes over a text, whose logits say how well the model expects it (`ppl`) or how far it is from another run (`kld`).
//!
//! Perplexity is strided, as transformers documents it: a window of `context` tokens moves by `stride`, and of each window only the
//! tokens count that no window before it has counted. So every token but the first counts once, with at least `context - stride`
//! tokens before it where the text has so many.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use flashmill_engine::{Checkpoint, Engine, EngineError, EngineOptions, Model, Plan, Sequence, Wanted};

use super::EvalError;

/// Memory for the logits of one pass, in bytes, and with it the length of a pass.
const LOGIT_BYTES: usize = 256 << 20;

/// The tokens of one window, and of those the first that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first token that is read.
    pub begin: usize,
    /// The first token that counts.
    pub first: usize,
    /// The end of both.
    pub end: usize,
}

/// The windows of a text of `n_tokens`.
///
/// # Panics
/// If `stride` is 0 or more than `context`.
pub fn windows(n_tokens: usize, context: usize, stride: usize) -> Vec<Window> {
    assert!((1..=context).contains(&stride), "every token is in a window");
    let mut windows: Vec<Window> = Vec::new();
    for begin in (0..n_tokens).step_by(stride) {
        let counted = windows.last().map_or(0, |window| window.end);
        // The first token of a window has nothing before it that would expect it.
        let window =
            Window { begin, first: counted.max(begin + 1), end: n_tokens.min(begin.saturating_add(context)) };
        if window.first < window.end {
            windows.push(window);
        }
        if window.end == n_tokens {
            break;
        }
    }
    windows
}

/// Opens the weights for passes over `window` tokens whose logits are all wanted.
pub(super) fn open(path: &Path, engine: &EngineOptions, window: usize) -> Result<(Plan, Model), EvalError> {
    let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
    // Cache-aware routing acts on tokens that are read one at a time, as decoded ones are.
    let most = if engine.cache_aware > 0.0 { 1 } else { window };
    let rows = (LOGIT_BYTES / 4 / checkpoint.spec().vocab_size.max(1)).clamp(1, most);
    let options = EngineOptions {
        context: Some(window),
        max_chunk: Some(rows),
        max_logit_rows: Some(rows),
        ..engine.clone()
    };
    Ok(Engine::open_model(path, &options, &mut |_, _| ())?)
}

/// Takes the number of a token, and the logits after it.
pub(super) type See<'a> = dyn FnMut(usize, &[f32]) -> Result<(), EvalError> + 'a;

/// Reads `tokens` as a fresh sequence, and gives `see` each logit row from that of token `first` on, with the token's number.
pub(super) fn read(
    model: &mut Model,
    tokens: &[u32],
    first: usize,
    stop: &AtomicBool,
    see: &mut See<'_>,
) -> Result<(), EvalError> {
    let chunk = model.options().max_rows.min(model.options().max_logit_rows);
    let mut state = model.new_state().map_err(EngineError::from)?;
    for (index, part) in tokens.chunks(chunk).enumerate() {
        let begin = index * chunk;
        let is_wanted = first < begin + part.len();
        let wanted = if is_wanted { Wanted::All } else { Wanted::None };
        let mut batch = [Sequence { state: &mut state, tokens: part, wanted }];
        model.forward(&mut batch, Some(stop), None).map_err(EngineError::from)?;
        if is_wanted {
            for row in first.saturating_sub(begin)..part.len() {
                see(begin + row, model.logits(row))?;
            }
        }
    }
    Ok(())
}

/// The negative log-likelihoods, in nats, of the tokens of `window` that count.
pub(super) fn nlls(
    model: &mut Model,
    tokens: &[u32],
    window: Window,
    stop: &AtomicBool,
) -> Result<Vec<f32>, EvalError> {
    let Window { begin, first, end } = window;
    let mut nlls = Vec::with_capacity(end - first);
    // What comes after the last token is not asked.
    read(model, &tokens[begin..end - 1], first - 1 - begin, stop, &mut |at, logits| {
        let next = tokens[begin + at + 1];
        let nll = log_sum_exp(logits) - f64::from(logits[next as usize]);
        if !nll.is_finite() {
            return Err(EvalError::NotFinite { position: begin + at });
        }
        nlls.push(nll as f32);
        Ok(())
    })?;
    Ok(nlls)
}

/// The logarithm of the softmax's denominator.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loop of transformers' page on perplexity, which masks the labels that were counted before, and the shift of labels.
    fn as_documented(n: usize, context: usize, stride: usize) -> Vec<(usize, Vec<usize>)> {
        let (mut previous, mut begin, mut all) = (0, 0, Vec::new());
        loop {
            let end = (begin + context).min(n);
            let target_len = end - previous;
            let labels = (begin..end).skip(end - begin - target_len);
            all.push((begin, labels.filter(|&token| token > begin).collect()));
            previous = end;
            if end == n {
                return all;
            }
            begin += stride;
        }
    }

    #[test]
    fn windows_are_those_of_transformers() {
        for (n, context, stride) in [
            (100, 32, 16),
            (100, 32, 32),
            (100, 100, 50),
            (10, 100, 50),
            (97, 32, 5),
            (96, 32, 1),
            (65, 32, 32),
            (2, 2, 1),
        ] {
            let found: Vec<_> = windows(n, context, stride)
                .into_iter()
                .map(|window| (window.begin, (window.first..window.end).collect::<Vec<_>>()))
                .collect();
            let mut expected = as_documented(n, context, stride);
            expected.retain(|(_, tokens)| !tokens.is_empty());
            assert_eq!(found, expected, "{n} {context} {stride}");
        }
        assert!(windows(1, 8, 4).is_empty() && windows(0, 8, 4).is_empty());
    }

    #[test]
    fn a_sum_that_does_not_overflow() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2_f64.ln())).abs() < 1e-9);
        assert!((log_sum_exp(&[0.0, -1e30]) - 0.0).abs() < 1e-12);
    }
}
