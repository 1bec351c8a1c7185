use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashmill_checkpoint::packed::{self, Checksum, JOURNAL, MANIFEST, Manifest};
use flashmill_layout::{Encoding, MatrixShape};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::PackError;
use crate::extras;
use crate::importance::{Importance, ImportanceProblem, gguf_name};
use crate::journal::{Done, Journal, Settings};
use crate::output::{OutFile, Output, TrunkKind};
use crate::recipe::{Recipe, RecipeOptions, Warning};
use crate::source::{Item, Source};
use crate::target::{Target, allocated};
use crate::tasks::{Bench, Clock, PROJECTIONS, Shop, Task, tasks};

/// Bytes that may be written before they are flushed and the journal says so: what a power failure can cost.
const SYNC_BYTES: u64 = 1 << 30;

/// Room for manifest, journal and text files, beside the weights.
const EXTRA_BYTES: u64 = 64 << 20;

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
    /// Threads; two more than there are cores if not given, so that some read while others compute.
    pub threads: Option<usize>,
}

/// A decided run: what will be written.
pub struct PackPlan {
    options: PackOptions,
    source: Source,
    items: Vec<(String, Item)>,
    recipe: Recipe,
    output: Output,
    importance: Option<Importance>,
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
    let items = source.trunk();
    let mut recipe = Recipe::new(options.recipe);
    let output = Output::new(&source, &items, &mut recipe)?;
    let importance = options.importance.as_deref().map(Importance::open).transpose()?;
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

    /// What the user should know before, with the number of matrices.
    pub fn warnings(&self) -> Vec<(Warning, usize)> {
        self.recipe.warnings().collect()
    }

    /// How the model is made, as its manifest will say.
    pub fn recipe(&self) -> packed::Recipe {
        let (experts, trunk) = self.options.recipe.describe();
        packed::Recipe {
            written_by: concat!("flashmill ", env!("CARGO_PKG_VERSION")).to_owned(),
            source: self.source.name(),
            source_convention: format!("{:?}", self.source.checkpoint().convention()),
            experts,
            trunk,
            importance: self.importance.as_ref().map(|importance| {
                importance.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
            }),
        }
    }

    fn settings(&self) -> Result<Settings, PackError> {
        let recipe = self.recipe();
        let files = self.source.checkpoint().files().iter();
        Ok(Settings {
            source: format!(
                "{} ({:016x})",
                recipe.source,
                fingerprint(files.map(|file| file.path.as_path()))?
            ),
            experts: recipe.experts,
            trunk: recipe.trunk,
            importance: match &self.importance {
                Some(file) => format!(
                    "{} ({:016x})",
                    recipe.importance.unwrap_or_default(),
                    fingerprint([file.path()])?
                ),
                None => "none".to_owned(),
            },
            layout: format!("{:016x}", self.output.fingerprint()),
        })
    }
}

/// A hash of names, lengths and times of files, which must not change between two runs.
fn fingerprint<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<u64, PackError> {
    let mut text = String::new();
    for path in paths {
        let io = |source| PackError::Io { path: path.to_owned(), action: "look at", source };
        let data = fs::metadata(path).map_err(io)?;
        let modified = data.modified().map_err(io)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{name} {} {modified:?}\n", data.len()));
    }
    Ok(xxh3_64(text.as_bytes()))
}

/// Packs. `progress` is told the bytes written so far, those of earlier runs included, and in all; from any thread.
///
/// A run that was interrupted at any moment is finished by an equal one; until then the directory is no model.
pub fn pack(plan: &PackPlan, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PackReport, PackError> {
    let start = Instant::now();
    let out = &plan.options.out;
    check_place(&plan.source, out)?;
    if let Some(report) = already_packed(plan)? {
        return Ok(report);
    }
    fs::create_dir_all(out).map_err(|source| PackError::Write {
        path: out.clone(),
        action: "create",
        source,
    })?;
    let (journal, done) = Journal::open(out, &plan.settings()?)?;
    let output = &plan.output;
    let tasks = tasks(output);
    let done = still_valid(out, output, &tasks, done)?;
    let resumed_bytes = done.keys().map(|&task| tasks[task].bytes(output)).sum();
    check_space(out, output)?;
    let targets: Vec<Target> =
        output.files.iter().map(|file| Target::open(out, file)).collect::<Result<_, _>>()?;

    let threads = plan.options.threads.unwrap_or_else(default_threads).max(1);
    let clock = Clock::default();
    let shop = Shop {
        source: &plan.source,
        items: &plan.items,
        output,
        importance: plan.importance.as_ref(),
        targets: &targets,
        clock: &clock,
    };
    let work = Work {
        shop,
        tasks: &tasks,
        queue: queue(output, &tasks, &done),
        next: AtomicUsize::new(0),
        journal: &journal,
        written: AtomicU64::new(resumed_bytes),
        unsynced: AtomicU64::new(0),
        is_syncing: AtomicBool::new(false),
        checksums: Mutex::new(done),
        failed: Mutex::new(None),
        must_stop: AtomicBool::new(false),
        progress,
    };
    progress(resumed_bytes, output.bytes());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work.run());
        }
    });
    let n_written = work.queue.len();
    if let Some(error) = work.failed.into_inner().expect("no thread panicked") {
        return Err(error);
    }
    let checksums = work.checksums.into_inner().expect("no thread panicked");
    finish(plan, &targets, &tasks, checksums, journal)?;
    let seconds = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed)).as_secs_f64();
    Ok(PackReport {
        bytes: output.bytes(),
        resumed_bytes,
        n_written,
        seconds: start.elapsed().as_secs_f64(),
        threads,
        shares: Shares {
            read: seconds(&clock.read),
            compute: seconds(&clock.compute),
            write: seconds(&clock.write),
        },
    })
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 2
}

/// The output may be new, empty, or begun; and it must not lie among the source's files.
fn check_place(source: &Source, out: &Path) -> Result<(), PackError> {
    let io = |source| PackError::Io { path: out.to_owned(), action: "look at", source };
    if let Some(parent) = nearest_existing(out)
        && source.path().is_dir()
        && fs::canonicalize(parent).map_err(io)?.starts_with(source.path())
    {
        let source_dir = source.path().to_owned();
        return Err(PackError::OutInSource { out: out.to_owned(), source_dir });
    }
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(PackError::OutNotADirectory { out: out.to_owned() });
        }
        Err(error) => return Err(io(error)),
    };
    let is_ours = [JOURNAL, MANIFEST].iter().any(|name| out.join(name).exists());
    match entries.count() {
        0 => Ok(()),
        _ if is_ours => Ok(()),
        _ => Err(PackError::OutNotEmpty { out: out.to_owned() }),
    }
}

fn nearest_existing(path: &Path) -> Option<&Path> {
    let here = Some(Path::new("."));
    path.ancestors()
        .map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path })
        .find(|path| path.exists())
        .or(here)
}

/// The report of a run that has nothing left to do; an error if the model there was made in another way.
fn already_packed(plan: &PackPlan) -> Result<Option<PackReport>, PackError> {
    let out = &plan.options.out;
    if !out.join(MANIFEST).exists() {
        return Ok(None);
    }
    if Manifest::read(out)?.recipe != plan.recipe() {
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
    let bytes = plan.output.bytes();
    Ok(Some(PackReport { bytes, resumed_bytes: bytes, ..PackReport::default() }))
}

/// The finished tasks of a journal whose bytes are there: those of files that are whole, read again where no flush vouches.
fn still_valid(
    out: &Path,
    output: &Output,
    tasks: &[Task],
    done: Vec<Done>,
) -> Result<HashMap<usize, Vec<Checksum>>, PackError> {
    let files: Vec<Option<File>> = output
        .files
        .iter()
        .map(|file| {
            let open = File::open(out.join(&file.name)).ok()?;
            (open.metadata().ok()?.len() == file.len).then_some(open)
        })
        .collect();
    let mut valid = HashMap::new();
    let mut bytes = Vec::new();
    for Done { task, checksums, is_synced } in done {
        let Some(&what) = tasks.get(task) else { continue };
        let Some(file) = &files[what.file(output)] else { continue };
        if checksums.len() != what.n_checksums(output) {
            continue;
        }
        let is_valid = is_synced || {
            let pairs = what.extents(output).into_iter().zip(&checksums);
            let mut all = pairs.map(|((offset, len), sum)| {
                hash_file(file, offset, len, &mut bytes).is_ok_and(|found| found == *sum)
            });
            all.all(|is_equal| is_equal)
        };
        if is_valid {
            valid.insert(task, checksums);
        }
    }
    Ok(valid)
}

/// The checksum of a run of bytes of a file, read piece by piece.
pub(crate) fn hash_file(
    file: &File,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Checksum> {
    use std::io::{Read, Seek, SeekFrom};
    const PIECE_BYTES: u64 = 4 << 20;
    let mut file = file;
    file.seek(SeekFrom::Start(offset))?;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut left = len;
    while left > 0 {
        let n = left.min(PIECE_BYTES);
        buffer.resize(n as usize, 0);
        file.read_exact(buffer)?;
        hash.update(buffer);
        left -= n;
    }
    Ok(Checksum(hash.digest()))
}

fn check_space(out: &Path, output: &Output) -> Result<(), PackError> {
    let missing = |file: &OutFile| file.len - allocated(&out.join(&file.name)).min(file.len);
    let bytes: u64 = output.files.iter().map(missing).sum();
    let io = |source| PackError::Io { path: out.to_owned(), action: "ask for the free space of", source };
    let free = fs4::available_space(out).map_err(io)?;
    // A small model needs no such room for its texts.
    let needed = bytes + EXTRA_BYTES.min(bytes / 8);
    match needed <= free {
        true => Ok(()),
        false => Err(PackError::NoSpace { out: out.to_owned(), needed, free }),
    }
}

/// What is left to do: the trunk first, its largest weights first, so that no thread is left alone with one at the end; then the
/// records in the order of the disk.
fn queue(output: &Output, tasks: &[Task], done: &HashMap<usize, Vec<Checksum>>) -> Vec<usize> {
    let mut queue: Vec<usize> = (0..tasks.len()).filter(|task| !done.contains_key(task)).collect();
    queue.sort_by_key(|&task| match tasks[task] {
        trunk @ Task::Trunk(_) => (0, u64::MAX - trunk.bytes(output)),
        Task::Record { .. } => (1, 0),
    });
    queue
}

/// What the threads share.
struct Work<'a> {
    shop: Shop<'a>,
    tasks: &'a [Task],
    queue: Vec<usize>,
    next: AtomicUsize,
    journal: &'a Journal,
    written: AtomicU64,
    unsynced: AtomicU64,
    is_syncing: AtomicBool,
    checksums: Mutex<HashMap<usize, Vec<Checksum>>>,
    failed: Mutex<Option<PackError>>,
    must_stop: AtomicBool,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Work<'_> {
    fn run(&self) {
        let mut bench = Bench::default();
        while !self.must_stop.load(Ordering::Relaxed) {
            let Some(&task) = self.queue.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.task(task, &mut bench) {
                self.must_stop.store(true, Ordering::Relaxed);
                self.failed.lock().expect("no thread panics here").get_or_insert(error);
            }
        }
    }

    fn task(&self, task: usize, bench: &mut Bench) -> Result<(), PackError> {
        let total = self.shop.output.bytes();
        let checksums = self.shop.run(self.tasks[task], bench, &mut |bytes| {
            let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
            (self.progress)(written, total);
        })?;
        self.journal.done(task, &checksums)?;
        self.checksums.lock().expect("no thread panics here").insert(task, checksums);
        let bytes = self.tasks[task].bytes(self.shop.output);
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= SYNC_BYTES
            && !self.is_syncing.swap(true, Ordering::Acquire)
        {
            self.unsynced.store(0, Ordering::Relaxed);
            let result = self.sync();
            self.is_syncing.store(false, Ordering::Release);
            result?;
        }
        Ok(())
    }

    /// What was done before this is on the disk afterwards, and the journal says so.
    fn sync(&self) -> Result<(), PackError> {
        let n_done = self.journal.n_done();
        self.shop.targets.iter().try_for_each(Target::sync)?;
        self.journal.synced(n_done)
    }
}

/// Everything to the disk, then the manifest under its name, in one step.
fn finish(
    plan: &PackPlan,
    targets: &[Target],
    tasks: &[Task],
    mut checksums: HashMap<usize, Vec<Checksum>>,
    journal: Journal,
) -> Result<(), PackError> {
    let out = &plan.options.out;
    targets.iter().try_for_each(Target::sync)?;
    extras::write(&plan.source, out)?;
    let in_order = (0..tasks.len()).map(|task| checksums.remove(&task).expect("every task is done"));
    let manifest = plan.output.manifest(plan.recipe(), &plan.source, in_order);
    let (path, unnamed) = (out.join(MANIFEST), out.join("flashmill.json.new"));
    extras::write_file(&unnamed, &manifest.to_json())?;
    sync_dir(out)?;
    fs::rename(&unnamed, &path).map_err(|source| PackError::Write { path, action: "name", source })?;
    sync_dir(out)?;
    journal.remove()
}

/// Names reach the disk with their directory.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<(), PackError> {
    let failed = |source| PackError::Write { path: dir.to_owned(), action: "flush", source };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> Result<(), PackError> {
    Ok(())
}
