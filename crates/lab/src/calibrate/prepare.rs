//! What `pack` does before it packs: the model is run on a text, and the plan gets the importance file that comes out of it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flashmill_engine::{Engine, EngineError, EngineOptions};
use flashmill_pack::{PackError, PackOptions, PackPlan, PackReport};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{CalibrateError, CalibrateOptions, Calibration, built_in, calibrate, calibrate_built_in};

/// What a model is run on before it is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalibrationText {
    /// The text of this program.
    BuiltIn,
    /// This one.
    File(PathBuf),
}

/// What happens before anything is packed.
pub enum Event<'a> {
    /// So many parts of so many are done: bytes of a file, tokens through layers of the built-in text.
    Calibrating {
        /// Done.
        done: u64,
        /// In all.
        total: u64,
    },
    /// An earlier run has left this importance file, which is used.
    Found(&'a Path),
    /// This importance file was made.
    Made(&'a Path, &'a Calibration),
    /// The model does not run as it is, and is packed without importance.
    CannotRun(&'a EngineError),
}

/// A plan, ready to be packed.
pub struct Prepared {
    /// With an importance file, if there is one.
    pub plan: PackPlan,
    /// The report of a run that has nothing left to do.
    done: Option<PackReport>,
    /// An importance file that nobody asked for, to be removed when it has served.
    to_remove: Option<PathBuf>,
}

/// Decides what goes where, and runs the model on the text first, if an equal run has not done so before: its importance file lies beside
/// the output, as `OUT.imatrix-12345678.gguf`, until the model is packed, or longer if the text was a file.
///
/// A model that does not run, because it has no tokenizer or needs more memory than there is, is packed without importance if the text is
/// the built-in one; nobody asked for that.
pub fn prepare(
    options: PackOptions,
    text: &CalibrationText,
    engine: &EngineOptions,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Prepared, CalibrateError> {
    let is_built_in = *text == CalibrationText::BuiltIn;
    // The file is a step on the way, and its name says nothing.
    let importance_name = is_built_in.then(|| name(text));
    let options = PackOptions { importance_name, ..options };
    let plan = flashmill_pack::plan(options.clone()).map_err(Box::new)?;
    let importance = importance_path(&plan, &options.out, text)?;
    let to_remove = is_built_in.then(|| importance.clone());
    if importance.exists() {
        tell(Event::Found(&importance));
    } else {
        let calibrate_options = CalibrateOptions { engine: engine.clone(), ..CalibrateOptions::default() };
        if is_built_in && let Err(error) = can_run(&options.source, &calibrate_options) {
            tell(Event::CannotRun(&error));
            return Ok(Prepared { plan, done: None, to_remove: None });
        }
        // The cheap checks first: the text may take hours.
        let done = plan.check_to_calibrate(&importance).map_err(Box::new)?;
        if done.is_some() {
            return Ok(Prepared { plan, done, to_remove });
        }
        let calibration = run(&options.source, text, &calibrate_options, tell)?;
        calibration.write(&importance, &name(text))?;
        tell(Event::Made(&importance, &calibration));
    }
    let plan = flashmill_pack::plan(PackOptions { importance: Some(importance), ..options });
    Ok(Prepared { plan: plan.map_err(Box::new)?, done: None, to_remove })
}

impl Prepared {
    /// Packs what is left to do; as [`flashmill_pack::pack`].
    pub fn pack(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PackReport, PackError> {
        let report = match self.done {
            Some(report) => report,
            None => flashmill_pack::pack(&self.plan, progress)?,
        };
        if let Some(path) = &self.to_remove {
            // It may have been removed before.
            let _ = fs::remove_file(path);
        }
        Ok(report)
    }
}

/// The text of this program as a number, which changes with it.
pub fn built_in_key() -> u64 {
    xxh3_64(&built_in::bytes())
}

/// Whether there are a tokenizer and room; what else a model lacks, its files say when they are opened.
fn can_run(model: &Path, options: &CalibrateOptions) -> Result<(), EngineError> {
    Engine::text_of(model)?;
    Engine::plan_for(model, &options.for_windows()).map(|_| ())
}

fn run(
    model: &Path,
    text: &CalibrationText,
    options: &CalibrateOptions,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Calibration, CalibrateError> {
    match text {
        CalibrationText::BuiltIn => {
            calibrate_built_in(model, options, &mut |done, total| tell(Event::Calibrating { done, total }))
        }
        CalibrationText::File(path) => {
            let cannot = cannot_read("the text to calibrate with", path);
            let mut file = File::open(path).map_err(&cannot)?;
            let total = file.metadata().map_err(&cannot)?.len();
            calibrate(model, &mut file, options, &mut |done| tell(Event::Calibrating { done, total }))
        }
    }
}

fn name(text: &CalibrationText) -> String {
    match text {
        CalibrationText::BuiltIn => "built-in text".to_owned(),
        CalibrationText::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

fn cannot_read(what: &'static str, path: &Path) -> impl Fn(io::Error) -> CalibrateError {
    let path = path.to_owned();
    move |error| CalibrateError::Read { what, path: path.clone(), error }
}

/// The importance file beside the output. Its name tells texts apart, and models with the lengths and times of their weights, so that a
/// run that goes on after an interruption finds what an earlier one made, and no other.
fn importance_path(plan: &PackPlan, out: &Path, text: &CalibrationText) -> Result<PathBuf, CalibrateError> {
    let mut hash = Xxh3Default::new();
    for path in plan.files() {
        let mut add = || -> io::Result<()> {
            let data = fs::metadata(path)?;
            hash.update(fs::canonicalize(path)?.as_os_str().as_encoded_bytes());
            hash.update(format!("\0{} {:?}\0", data.len(), data.modified()?).as_bytes());
            Ok(())
        };
        add().map_err(cannot_read("a file of the model", path))?;
    }
    match text {
        CalibrationText::BuiltIn => hash.update(&built_in::bytes()),
        CalibrationText::File(path) => {
            let mut add = || -> io::Result<()> {
                let mut file = File::open(path)?;
                let mut piece = vec![0; 64 << 10];
                loop {
                    match file.read(&mut piece)? {
                        0 => return Ok(()),
                        n => hash.update(&piece[..n]),
                    }
                }
            };
            add().map_err(cannot_read("the text to calibrate with", path))?;
        }
    }
    let kind = if *text == CalibrationText::BuiltIn { "built-in-" } else { "" };
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".imatrix-{kind}{:08x}.gguf", hash.digest() as u32));
    Ok(out.with_file_name(name))
}
