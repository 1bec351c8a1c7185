//! What each matrix is multiplied with: the mean square of each of its inputs over some text, so that `pack` can fit scales to what
//! matters. A model larger than memory is streamed as always.
//!
//! The text is read in windows that know nothing of each other. The file that comes out is an importance file as llama.cpp's
//! `llama-imatrix` writes them; see [`Calibration::write`]. Experts count the rows that picked them.

mod built_in;
mod file;
mod prepare;
mod sums;
mod text;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flashmill_engine::{
    Checkpoint, Engine, EngineError, EngineOptions, ModelError, ModelSpec, Observer, Picks, Sequence, Wanted,
};

pub use prepare::{CalibrationText, Event, Prepared, built_in_key, prepare};
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
    /// The file of the text, or one of the model, cannot be read.
    #[error("cannot read {what}, {}: {error}", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The model cannot be packed so.
    #[error(transparent)]
    Pack(#[from] Box<flashmill_pack::PackError>),
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
    let window = options.window.max(1);
    let (mut engine, mut calibration) = open(path, options)?;
    let mut pieces = Pieces::new(text);
    let mut tokens = Vec::new();
    while let Some(piece) = pieces.next()? {
        tokens.extend(engine.tokenizer().encode(piece)?);
        let n_read = pieces.n_read();
        while tokens.len() >= window {
            read_window(&mut engine, &tokens[..window], &mut calibration, &mut |_, _| ())?;
            tokens.drain(..window);
            progress(n_read);
        }
    }
    if !tokens.is_empty() {
        read_window(&mut engine, &tokens, &mut calibration, &mut |_, _| ())?;
    }
    progress(pieces.n_read());
    calibration.check()?;
    Ok(calibration)
}

/// The same on a built-in text of one window. `progress` is told how many tokens went through how many layers, and of how many.
pub fn calibrate_built_in(
    path: &Path,
    options: &CalibrateOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Calibration, CalibrateError> {
    let (mut engine, mut calibration) = open(path, options)?;
    let tokens = built_in::tokens(engine.text(), options.window.max(1))?;
    read_window(&mut engine, &tokens, &mut calibration, progress)?;
    calibration.check()?;
    Ok(calibration)
}

/// The model, ready for windows, and empty sums.
fn open(path: &Path, options: &CalibrateOptions) -> Result<(Engine, Calibration), CalibrateError> {
    let checkpoint = Checkpoint::open(path).map_err(EngineError::from)?;
    let window = options.window.max(1);
    // Before the engine measures the process, so that its budget holds the sums, and room for what is looked at in a pass.
    let calibration = Calibration::of(checkpoint.spec(), window);
    let room = touched(observed_values(checkpoint.spec(), window));
    drop(checkpoint);
    let engine = Engine::open(path, &options.for_windows(), &mut |_, _| ())?;
    drop(room);
    Ok((engine, calibration))
}

impl CalibrateOptions {
    /// How the model is opened to read windows.
    fn for_windows(&self) -> EngineOptions {
        let window = Some(self.window.max(1));
        EngineOptions { context: window, max_chunk: window, ..self.engine.clone() }
    }
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

/// One window, in as many passes as the plan's chunk makes of it. `progress` is told how many tokens went through how many layers, and
/// of how many.
fn read_window(
    engine: &mut Engine,
    tokens: &[u32],
    calibration: &mut Calibration,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), CalibrateError> {
    let chunk = engine.plan().chunk;
    let model = engine.model_mut();
    let n_layers = model.spec().layers.len();
    let mut state = model.new_state()?;
    for (index, part) in tokens.chunks(chunk).enumerate() {
        let before = index * chunk * n_layers;
        let mut layer_done =
            |layer: usize| progress((before + layer * part.len()) as u64, (tokens.len() * n_layers) as u64);
        let mut observer = Watched { calibration, layer_done: &mut layer_done };
        let mut batch = [Sequence { state: &mut state, tokens: part, wanted: Wanted::None }];
        model.forward(&mut batch, None, Some(&mut observer))?;
    }
    calibration.end_window(tokens.len());
    Ok(())
}

/// A calibration in a pass that is watched: of a streamed model, one takes minutes.
struct Watched<'a> {
    calibration: &'a mut Calibration,
    /// Takes the number of layers that are done.
    layer_done: &'a mut dyn FnMut(usize),
}

impl Observer for Watched<'_> {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, n_rows: usize, values: &[f32]) {
        if let (Some(layer), "attn_in") = (layer, name) {
            (self.layer_done)(layer);
        }
        self.calibration.tensor(layer, name, n_rows, values);
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        self.calibration.picks(layer, picks);
    }

    fn wants_units(&self) -> bool {
        self.calibration.wants_units()
    }

    fn units(&mut self, layer: usize, expert: u32, rows: &[u32], values: &[f32]) {
        self.calibration.units(layer, expert, rows, values);
    }
}
