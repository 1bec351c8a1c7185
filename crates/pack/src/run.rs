//! A run of `pack`: the journal's word on what is done, the threads that do the rest, and the end that makes it a model.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashmill_checkpoint::packed::{Checksum, MANIFEST};

use crate::error::PackError;
use crate::extras;
use crate::journal::{Done, Journal};
use crate::output::{OutFile, Output};
use crate::pack::{PackPlan, PackReport, Shares};
use crate::place::nearest_existing;
use crate::target::{Target, allocated};
use crate::tasks::{Bench, Clock, Shop, Task, n_listed, tasks};

/// Bytes that may be written before they are flushed and the journal says so: what a power failure can cost.
const SYNC_BYTES: u64 = 1 << 30;

/// Room for manifest, journal and text files, beside the weights.
const EXTRA_BYTES: u64 = 64 << 20;

/// A run that has begun, and what its threads share.
pub(crate) struct Run<'a> {
    plan: &'a PackPlan,
    pub(crate) tasks: Vec<Task>,
    journal: Journal,
    /// Empty until room is taken.
    targets: Vec<Target>,
    /// Of finished tasks. The matrices of an expert are there only until its record is.
    checksums: Mutex<HashMap<usize, Vec<Checksum>>>,
    start: Instant,
    threads: usize,
    clock: Clock,
    resumed_bytes: u64,
    n_written: AtomicUsize,
    written: AtomicU64,
    unsynced: AtomicU64,
    is_syncing: AtomicBool,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl<'a> Run<'a> {
    /// Opens or begins the journal of the output.
    pub(crate) fn begin(
        plan: &'a PackPlan,
        progress: &'a (dyn Fn(u64, u64) + Sync),
    ) -> Result<Run<'a>, PackError> {
        let start = Instant::now();
        let out = &plan.options.out;
        fs::create_dir_all(out).map_err(|source| PackError::Write {
            path: out.clone(),
            action: "create",
            source,
        })?;
        let (journal, done) = Journal::open(out, &plan.settings()?)?;
        let output = &plan.output;
        let tasks = tasks(output);
        let noted: BTreeSet<usize> = done.iter().map(|done| done.task).collect();
        let mut done = still_valid(out, output, &tasks, done)?;
        // The next flush vouches for all lines before it.
        noted.iter().filter(|task| !done.contains_key(task)).try_for_each(|&task| journal.void(task))?;
        for (task, what) in tasks.iter().enumerate() {
            if done.contains_key(&task) {
                what.pieces(output).for_each(|piece| drop(done.remove(&piece)));
            }
        }
        let resumed_bytes = done.keys().map(|&task| tasks[task].bytes(output)).sum();
        Ok(Run {
            plan,
            tasks,
            journal,
            targets: Vec::new(),
            checksums: Mutex::new(done),
            start,
            threads: plan.options.threads.unwrap_or_else(default_threads).max(1),
            clock: Clock::default(),
            resumed_bytes,
            n_written: AtomicUsize::new(0),
            written: AtomicU64::new(resumed_bytes),
            unsynced: AtomicU64::new(0),
            is_syncing: AtomicBool::new(false),
            progress,
        })
    }

    /// Takes the room of all files, if there is as much and `beside` bytes more. Their names are on the disk afterwards, and the
    /// journal's: a flush of a file alone may leave it without one.
    pub(crate) fn take_room(&mut self, beside: u64) -> Result<(), PackError> {
        let (out, output) = (&self.plan.options.out, &self.plan.output);
        check_space(out, output, beside)?;
        self.targets = output.files.iter().map(|file| Target::open(out, file)).collect::<Result<_, _>>()?;
        sync_dir(out)?;
        match sync_dir(&out.join("..")) {
            // One may write below a directory that one may not read.
            Err(PackError::Write { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
        (self.progress)(self.resumed_bytes, output.bytes());
        Ok(())
    }

    /// Whether a task is done: itself, or the record that it is a piece of.
    pub(crate) fn is_done(&self, task: usize) -> bool {
        let checksums = self.lock();
        let record = self.tasks[task].record(&self.plan.output);
        checksums.contains_key(&task) || record.is_some_and(|record| checksums.contains_key(&record))
    }

    /// What is left to do: the trunk first, its largest weights first, so that no thread is left alone with one at the end; then
    /// the records in the order of the disk.
    pub(crate) fn queue(&self) -> Vec<usize> {
        let output = &self.plan.output;
        let mut queue: Vec<usize> = (0..n_listed(output)).filter(|&task| !self.is_done(task)).collect();
        queue.sort_by_key(|&task| match self.tasks[task] {
            trunk @ Task::Trunk(_) => (0, u64::MAX - trunk.bytes(output)),
            Task::Record { .. } | Task::Piece { .. } => (1, 0),
        });
        queue
    }

    /// Does the tasks of a queue, in its order, on all threads.
    pub(crate) fn work(&self, queue: Vec<usize>) -> Result<(), PackError> {
        let (next, must_stop, failed) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let worker = || {
            let mut bench = Bench::default();
            while !must_stop.load(Ordering::Relaxed) {
                let Some(&task) = queue.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                if let Err(error) = self.task(task, &mut bench) {
                    must_stop.store(true, Ordering::Relaxed);
                    failed.lock().expect("no thread panics here").get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(queue.len()) {
                scope.spawn(worker);
            }
        });
        failed.into_inner().expect("no thread panicked").map_or(Ok(()), Err)
    }

    fn task(&self, task: usize, bench: &mut Bench) -> Result<(), PackError> {
        let PackPlan { options, source, items, output, importance, .. } = self.plan;
        let (targets, clock) = (&self.targets, &self.clock);
        let (recipe, importance) = (options.recipe, importance.as_ref());
        let shop = Shop { source, items, output, recipe, importance, targets, clock };
        let what = self.tasks[task];
        let pieces: Vec<Option<Checksum>> = {
            let checksums = self.lock();
            what.pieces(output).map(|piece| checksums.get(&piece).map(|sums| sums[0])).collect()
        };
        let checksums = shop.run(what, &pieces, bench, &mut |bytes| {
            let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
            (self.progress)(written, output.bytes());
        })?;
        self.journal.done(task, &checksums)?;
        self.n_written.fetch_add(1, Ordering::Relaxed);
        {
            let mut all = self.lock();
            what.pieces(output).for_each(|piece| drop(all.remove(&piece)));
            all.insert(task, checksums);
        }
        let bytes = what.bytes(output);
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
    pub(crate) fn sync(&self) -> Result<(), PackError> {
        let n_done = self.journal.n_done();
        self.targets.iter().try_for_each(Target::sync)?;
        self.journal.synced(n_done)
    }

    /// Everything to the disk, then the manifest under its name, in one step.
    pub(crate) fn finish(self) -> Result<PackReport, PackError> {
        let (plan, out, output) = (self.plan, &self.plan.options.out, &self.plan.output);
        self.targets.iter().try_for_each(Target::sync)?;
        extras::write(&plan.source, out)?;
        let mut checksums = self.checksums.into_inner().expect("no thread panicked");
        let in_order = (0..n_listed(output)).map(|task| checksums.remove(&task).expect("every task is done"));
        let manifest = output.manifest(plan.recipe(), &plan.source, in_order);
        let (path, unnamed) = (out.join(MANIFEST), out.join("flashmill.json.new"));
        extras::write_file(&unnamed, &manifest.to_json())?;
        sync_dir(out)?;
        fs::rename(&unnamed, &path).map_err(|source| PackError::Write { path, action: "name", source })?;
        sync_dir(out)?;
        self.journal.remove()?;
        let seconds =
            |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed)).as_secs_f64();
        Ok(PackReport {
            bytes: output.bytes(),
            resumed_bytes: self.resumed_bytes,
            n_written: self.n_written.into_inner(),
            seconds: self.start.elapsed().as_secs_f64(),
            threads: self.threads,
            shares: Shares {
                read: seconds(&self.clock.read),
                compute: seconds(&self.clock.compute),
                write: seconds(&self.clock.write),
            },
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<Checksum>>> {
        self.checksums.lock().expect("no thread panics while it holds the checksums")
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 2
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

/// The disk can hold what is not there yet, and `beside` bytes more.
pub(crate) fn check_space(out: &Path, output: &Output, beside: u64) -> Result<(), PackError> {
    let missing = |file: &OutFile| file.len - allocated(&out.join(&file.name)).min(file.len);
    let bytes: u64 = output.files.iter().map(missing).sum();
    let io = |source| PackError::Io { path: out.to_owned(), action: "ask for the free space of", source };
    let free = fs4::available_space(nearest_existing(out)).map_err(io)?;
    // A small model needs no such room for its texts.
    let needed = bytes + EXTRA_BYTES.min(bytes / 8) + beside;
    match needed <= free {
        true => Ok(()),
        false => Err(PackError::NoSpace { out: out.to_owned(), needed, free }),
    }
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
