use std::fs;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::packed::{self, JOURNAL, MANIFEST, Manifest};
use flashmill_checkpoint::{Checkpoint, CheckpointError};
use flashmill_layout::{Affine, Encoding, MatrixShape};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::PackError;
use crate::importance::{Importance, ImportanceProblem, gguf_name};
use crate::journal::{Journal, Settings};
use crate::output::{Output, TrunkKind};
use crate::place::check_place;
use crate::recipe::{Recipe, RecipeOptions, Rule, Warning};
use crate::run::{Run, check_space};
use crate::source::{Item, Source};
use crate::tasks::PROJECTIONS;

/// What to pack, and how.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// The source.
    pub source: PathBuf,
    /// The directory to make.
    pub out: PathBuf,
    /// Bits.
    pub recipe: RecipeOptions,
    /// An importance file that the scales are fitted to.
    pub importance: Option<PathBuf>,
    /// What the manifest calls that file; its name if not given.
    pub importance_name: Option<String>,
    /// Threads; two more than there are cores if not given, so that some read while others compute.
    pub threads: Option<usize>,
}

/// A decided run: what will be written.
pub struct PackPlan {
    pub(crate) options: PackOptions,
    pub(crate) source: Source,
    pub(crate) items: Vec<(String, Item)>,
    recipe: Recipe,
    pub(crate) output: Output,
    pub(crate) importance: Option<Importance>,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PackReport {
    /// Bytes of the packed model's weights.
    pub bytes: u64,
    /// Bytes that earlier runs had written.
    pub resumed_bytes: u64,
    /// Records and weights of the trunk that this run wrote.
    pub n_written: usize,
    /// Wall-clock time.
    pub seconds: f64,
    /// Threads that worked.
    pub threads: usize,
    /// What they did.
    pub shares: Shares,
}

/// Seconds of all threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Shares {
    pub read: f64,
    pub compute: f64,
    pub write: f64,
}

/// Opens the source and decides what goes where; writes nothing.
pub fn plan(options: PackOptions) -> Result<PackPlan, PackError> {
    let source = Source::open(&options.source)?;
    plan_of(source, options)
}

/// The same for a source whose files hold their headers and are as long as they will be: an [`Arrival`](crate::Arrival) packs
/// them as they come.
pub fn plan_arriving(options: PackOptions) -> Result<PackPlan, PackError> {
    let source = Source::open_arriving(&options.source)?;
    plan_of(source, options)
}

fn plan_of(source: Source, options: PackOptions) -> Result<PackPlan, PackError> {
    let items = source.trunk();
    let mut recipe = Recipe::new(options.recipe);
    let output = Output::new(&source, &items, &mut recipe)?;
    let importance = options.importance.as_deref().map(Importance::open).transpose()?;
    if importance.is_some() && options.recipe.rule == Some(Rule::Range) {
        return Err(PackError::ImportanceUnused);
    }
    if let Some(importance) = &importance {
        check_importance(importance, &source, &items, &output, &mut recipe)?;
    }
    Ok(PackPlan { options, source, items, recipe, output, importance })
}

/// The file belongs to the model; warns of quantised matrices that it says nothing of.
fn check_importance(
    importance: &Importance,
    source: &Source,
    items: &[(String, Item)],
    output: &Output,
    recipe: &mut Recipe,
) -> Result<(), PackError> {
    let (mut n_found, mut n_missing) = (0, 0);
    let mut count = |name: &str, from: MatrixShape, to: MatrixShape, n: usize| {
        if from.encoding != to.encoding && matches!(to.encoding, Encoding::Affine(_)) {
            match gguf_name(name).map(|name| importance.has(&name, n, to.cols)).transpose()? {
                Some(true) => n_found += n,
                Some(false) | None => n_missing += n,
            }
        }
        Ok::<(), PackError>(())
    };
    for ((name, item), place) in items.iter().zip(&output.trunk) {
        if let (Item::Matrix(matrix), TrunkKind::Matrix(to)) = (item, place.kind) {
            count(name, matrix.shape, to, 1)?;
        }
    }
    for place in &output.layers {
        let from = source.expert_shapes(place.layer).expect("a layer of experts");
        for (i, name) in PROJECTIONS.into_iter().enumerate() {
            count(
                &format!("layers.{}.experts.{name}", place.layer),
                from[i],
                place.shapes[i],
                place.n_experts,
            )?;
        }
    }
    if n_found == 0 {
        return Err(importance.problem(ImportanceProblem::Nothing));
    }
    if n_missing > 0 {
        recipe.warn(Warning::NoImportance, n_missing);
    }
    Ok(())
}

impl PackPlan {
    /// Bytes of the weights that will be written.
    pub fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// The files of the source's weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.source.checkpoint().files().iter().map(|file| file.path.as_path())
    }

    pub(crate) fn file_bytes(&self, file: usize) -> u64 {
        self.source.checkpoint().files()[file].len
    }

    /// What the user should know before, with the number of matrices.
    pub fn warnings(&self) -> Vec<(Warning, usize)> {
        self.recipe.warnings().collect()
    }

    /// Whether weights get 2 or 3 bits with scales that are searched for: those lose half as much where importance is known.
    pub fn gains_by_importance(&self) -> bool {
        let is_few = |from: MatrixShape, to: MatrixShape| {
            from.encoding != to.encoding
                && matches!(to.encoding, Encoding::Affine(Affine { bits: 2 | 3, .. }))
        };
        let trunk = self.items.iter().zip(&self.output.trunk).any(|((_, item), place)| {
            matches!((item, place.kind), (Item::Matrix(matrix), TrunkKind::Matrix(to)) if is_few(matrix.shape, to))
        });
        let experts = self.output.layers.iter().any(|place| {
            let from = self.source.expert_shapes(place.layer).expect("a layer of experts");
            from.into_iter().zip(place.shapes).any(|(from, to)| is_few(from, to))
        });
        self.options.recipe.rule != Some(Rule::Range) && (trunk || experts)
    }

    /// How the model is made, as its manifest will say.
    pub fn recipe(&self) -> packed::Recipe {
        self.recipe_with(self.importance.as_ref().map(|file| self.importance_name(file.path())))
    }

    fn importance_name(&self, path: &Path) -> String {
        let of_path = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.options.importance_name.clone().unwrap_or_else(of_path)
    }

    fn recipe_with(&self, importance: Option<String>) -> packed::Recipe {
        let (experts, trunk) = self.options.recipe.describe(importance.is_some());
        packed::Recipe {
            written_by: concat!("flashmill ", env!("CARGO_PKG_VERSION")).to_owned(),
            source: self.source.name(),
            source_convention: format!("{:?}", self.source.checkpoint().convention()),
            experts,
            trunk,
            importance,
        }
    }

    /// The report of a run that has nothing left to do; `None` if there is something.
    ///
    /// # Errors
    /// If the model there was made in another way.
    pub fn already_packed(&self) -> Result<Option<PackReport>, PackError> {
        self.already_packed_by(&self.recipe())
    }

    /// Of the plan without an importance file, before one is made at `importance`, which may take hours: refuses what packing with
    /// it would refuse. Gives a report if there is nothing left to do.
    ///
    /// # Errors
    /// Those of [`pack`], and if the source cannot run before it is packed.
    pub fn check_to_calibrate(&self, importance: &Path) -> Result<Option<PackReport>, PackError> {
        let (out, source) = (&self.options.out, &self.source);
        if let Err(CheckpointError::MustBePacked { method, .. }) = Checkpoint::open(source.path()) {
            return Err(PackError::CannotCalibrate { path: source.path().to_owned(), method });
        }
        check_place(source, out)?;
        let name = self.importance_name(importance);
        let recipe = self.recipe_with(Some(name.clone()));
        let report = self.already_packed_by(&recipe)?;
        let settings = Settings {
            importance: format!("{name} (still to be made)"),
            experts: recipe.experts,
            trunk: recipe.trunk,
            ..self.settings()?
        };
        if report.is_none() {
            Journal::check(out, &settings)?;
            check_space(out, &self.output, 0)?;
        }
        Ok(report)
    }

    fn already_packed_by(&self, recipe: &packed::Recipe) -> Result<Option<PackReport>, PackError> {
        let out = &self.options.out;
        if !out.join(MANIFEST).exists() {
            return Ok(None);
        }
        if Manifest::read(out)?.recipe != *recipe {
            return Err(PackError::AlreadyPacked { out: out.clone() });
        }
        // Killed between the last two steps.
        let journal = out.join(JOURNAL);
        if journal.exists() {
            fs::remove_file(&journal).map_err(|source| PackError::Write {
                path: journal.clone(),
                action: "remove",
                source,
            })?;
        }
        let bytes = self.output.bytes();
        Ok(Some(PackReport { bytes, resumed_bytes: bytes, ..PackReport::default() }))
    }

    pub(crate) fn settings(&self) -> Result<Settings, PackError> {
        let recipe = self.recipe();
        let files = self.source.checkpoint().files().iter();
        let has_times = !self.source.is_arriving();
        Ok(Settings {
            source: format!(
                "{} ({:016x})",
                recipe.source,
                fingerprint(files.map(|file| file.path.as_path()), has_times)?
            ),
            experts: recipe.experts,
            trunk: recipe.trunk,
            importance: match &self.importance {
                Some(file) => format!(
                    "{} ({:016x})",
                    recipe.importance.unwrap_or_default(),
                    fingerprint([file.path()], true)?
                ),
                None => "none".to_owned(),
            },
            layout: format!("{:016x}", self.output.fingerprint()),
        })
    }
}

/// A hash of names, lengths and times of files, which must not change between two runs.
fn fingerprint<'a>(paths: impl IntoIterator<Item = &'a Path>, has_times: bool) -> Result<u64, PackError> {
    let mut text = String::new();
    for path in paths {
        let io = |source| PackError::Io { path: path.to_owned(), action: "look at", source };
        let data = fs::metadata(path).map_err(io)?;
        let modified = data.modified().map_err(io)?;
        let modified = has_times.then_some(modified);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{name} {} {modified:?}\n", data.len()));
    }
    Ok(xxh3_64(text.as_bytes()))
}

/// Packs. `progress` is told the bytes written so far, those of earlier runs included, and in all; from any thread.
///
/// A run that was interrupted at any moment is finished by an equal one; until then the directory is no model.
///
/// # Panics
/// If the plan is of a source that is still to arrive.
pub fn pack(plan: &PackPlan, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PackReport, PackError> {
    assert!(!plan.source.is_arriving(), "the files of this source come through an Arrival");
    check_place(&plan.source, &plan.options.out)?;
    if let Some(report) = plan.already_packed()? {
        return Ok(report);
    }
    let mut run = Run::begin(plan, progress)?;
    run.take_room(0)?;
    run.work(run.queue())?;
    run.finish()
}
