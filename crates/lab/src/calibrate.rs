//! What each matrix is multiplied with: the mean square of each of its inputs over some text, so that `pack` can fit scales to what
//! matters. A model larger than memory is streamed as always.
//!
//! The text is read in windows that know nothing of each other. The file that comes out is an importance file as llama.cpp's
//! `llama-imatrix` writes them; see [`Calibration::write`]. Experts count the rows that picked them.

mod file;
mod sums;
mod text;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flashmill_engine::{
    Checkpoint, Engine, EngineError, EngineOptions, ModelError, ModelSpec, Sequence, Wanted,
};

pub use sums::Calibration;

use text::Pieces;

/// How a text is read.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// How the model is opened; context and chunk are those of a window.
    pub engine: EngineOptions,
    /// Tokens that are read together. A streamed model reads most of its experts once for each window.
    pub window: usize,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        CalibrateOptions { engine: EngineOptions::default(), window: 2048 }
    }
}

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The model cannot be opened, or the text not be read as tokens.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A pass failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The text cannot be read.
    #[error("cannot read the text to calibrate with: {0}")]
    Text(io::Error),
    /// The text is no text.
    #[error("the text to calibrate with is not UTF-8 at byte {offset}; give a plain text file")]
    NotUtf8 {
        /// Where.
        offset: u64,
    },
    /// Nothing was read.
    #[error(
        "the text to calibrate with is empty; give some hundred kilobytes of what the model will be used for"
    )]
    Empty,
    /// The model does not compute numbers.
    #[error(
        "the inputs of {tensor:?} are not finite over this text; check the model with `flashmill verify`"
    )]
    NotFinite {
        /// Whose inputs.
        tensor: String,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Runs the model at `path` over a text and sums up what its matrices are multiplied with. `progress` is told the bytes of the text
/// that were read.
pub fn calibrate(
    path: &Path,
    text: &mut dyn Read,
    options: &CalibrateOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Calibration, CalibrateError> {
    let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
    let window = options.window.max(1);
    // Before the engine measures the process, so that its budget holds the sums, and room for what is looked at in a pass.
    let mut calibration = Calibration::of(checkpoint.spec(), window);
    let room = touched(observed_values(checkpoint.spec(), window));
    drop(checkpoint);
    let mut engine_options = options.engine.clone();
    engine_options.context = Some(window);
    engine_options.max_chunk = Some(window);
    let mut engine = Engine::open(path, &engine_options, &mut |_, _| ())?;
    drop(room);
    let mut pieces = Pieces::new(text);
    let mut tokens = Vec::new();
    while let Some(piece) = pieces.next()? {
        tokens.extend(engine.tokenizer().encode(piece)?);
        let n_read = pieces.n_read();
        while tokens.len() >= window {
            read_window(&mut engine, &tokens[..window], &mut calibration)?;
            tokens.drain(..window);
            progress(n_read);
        }
    }
    if !tokens.is_empty() {
        read_window(&mut engine, &tokens, &mut calibration)?;
    }
    progress(pieces.n_read());
    calibration.check()?;
    Ok(calibration)
}

/// Zeros that take memory at once: whoever measures the process sees them.
fn touched(n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    values.fill(std::hint::black_box(0.0));
    values
}

/// The most values that an observed pass of `n_rows` holds beside what any pass does: one tensor as the observer sees it, and the
/// hidden units of an expert, twice, with the matrix that gives them.
fn observed_values(spec: &ModelSpec, n_rows: usize) -> usize {
    let attention = 2 * spec.attention.n_heads * spec.attention.head_dim;
    let delta = spec.delta_net.map_or(0, |delta| delta.conv_channels() + delta.values());
    let (n_experts, units) = spec.moe.map_or((0, 0), |moe| (moe.n_experts, moe.intermediate_size));
    let shared = spec.moe.and_then(|moe| moe.shared_intermediate_size).or(spec.dense_intermediate_size);
    let widest = [spec.hidden_size, attention, delta, n_experts, shared.unwrap_or(0)].into_iter().max();
    n_rows * (widest.unwrap_or(0) + 2 * units) + units * units
}

/// One window, in as many passes as the plan's chunk makes of it.
fn read_window(
    engine: &mut Engine,
    tokens: &[u32],
    calibration: &mut Calibration,
) -> Result<(), CalibrateError> {
    let chunk = engine.plan().chunk;
    let model = engine.model_mut();
    let mut state = model.new_state()?;
    for tokens in tokens.chunks(chunk) {
        let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::None }];
        model.forward(&mut batch, None, Some(calibration))?;
    }
    calibration.end_window(tokens.len());
    Ok(())
}
