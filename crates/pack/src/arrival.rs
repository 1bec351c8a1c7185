//! Packing a source whose files come one by one, are packed, and go again, so that the disk holds a few of them at a time.
//!
//! All headers are there from the start, so that every place of the output is known. A weight is packed as soon as all files that
//! hold it are here; where gate, up and down of an expert come in different files, each is written at its place in the record,
//! and the last one completes it. A file may go when everything that it holds is packed and has reached the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::PackError;
use crate::pack::{PackPlan, PackReport};
use crate::place::check_place;
use crate::run::Run;
use crate::source::Item;
use crate::tasks::{Task, n_listed};

/// Files of a source that are on the disk at a time: one that is packed, one that waits, one that arrives.
pub const SHARDS: usize = 3;

/// The longest header of a file that is asked for; a longer one is refused when it is read.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A run that packs files as they arrive.
pub struct Arrival<'a> {
    plan: &'a PackPlan,
    run: Run<'a>,
    /// Which files hold what a task reads, ascending; empty where a record's pieces are asked instead.
    files_of: Vec<Vec<u32>>,
    is_here: Vec<bool>,
    has_room: bool,
    schedule: Schedule,
}

/// The order in which files are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Schedule {
    order: Vec<usize>,
    /// The most of them that are on the disk at a time, if one arrives while the others wait for it.
    n_held: usize,
}

/// How many bytes at the start of a file of safetensors its header takes, as its first eight bytes say.
pub fn header_bytes(start: &[u8; 8]) -> u64 {
    match u64::from_le_bytes(*start) {
        len if len <= MAX_HEADER_BYTES => 8 + len,
        // What is no header is told when it is read.
        _ => 8,
    }
}

impl<'a> Arrival<'a> {
    /// Begins a run, or takes up one that was interrupted at any moment; next comes [`Arrival::take_room`]. `progress` is told the
    /// bytes written so far and in all, from any thread.
    ///
    /// # Panics
    /// If the source is no arriving one.
    pub fn begin(
        plan: &'a PackPlan,
        progress: &'a (dyn Fn(u64, u64) + Sync),
    ) -> Result<Arrival<'a>, PackError> {
        assert!(plan.source.is_arriving(), "the files of this source are here");
        check_place(&plan.source, &plan.options.out)?;
        let run = Run::begin(plan, progress)?;
        let files_of: Vec<Vec<u32>> = run.tasks.iter().map(|&task| files_of(plan, task)).collect();
        let left: BTreeSet<&[u32]> = (0..run.tasks.len())
            .filter(|&task| !files_of[task].is_empty() && !run.is_done(task))
            .map(|task| files_of[task].as_slice())
            .collect();
        let schedule = Schedule::of(&left);
        let is_here = vec![false; plan.source.checkpoint().files().len()];
        Ok(Arrival { plan, run, files_of, is_here, has_room: false, schedule })
    }

    /// Takes the room of the output. The disk has to have as much, and what the largest of the files in [`Arrival::order`] that
    /// may be there together take, of which `here_bytes` are there already.
    pub fn take_room(&mut self, here_bytes: u64) -> Result<(), PackError> {
        let mut sizes: Vec<u64> = self.order().iter().map(|&file| self.plan.file_bytes(file)).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let held: u64 = sizes.iter().take(self.n_held()).sum();
        self.run.take_room(held.saturating_sub(here_bytes))?;
        self.has_room = true;
        Ok(())
    }

    /// The files that are still needed, in the order in which they should come: places in the list of the source's files. All
    /// others that are here from an earlier run may go.
    pub fn order(&self) -> &[usize] {
        &self.schedule.order
    }

    /// How many files have to be on the disk together, the one that arrives included; never fewer than [`SHARDS`]. More only if
    /// weights are spread over more files.
    pub fn n_held(&self) -> usize {
        self.schedule.n_held.max(SHARDS)
    }

    /// A file is whole, and lies at `path`: packs all that can be packed now. Gives the files that are needed no more, everything
    /// of which has reached the disk; they are no longer open.
    ///
    /// # Panics
    /// If no room was taken.
    pub fn arrived(&mut self, file: usize, path: &Path) -> Result<Vec<usize>, PackError> {
        assert!(self.has_room, "room is taken before files arrive");
        check_header(&self.plan.source.checkpoint().files()[file].path, path)?;
        self.plan.source.set_file(file, Some(path))?;
        self.is_here[file] = true;
        self.run.work(self.ready())?;
        let mut is_needed = vec![false; self.is_here.len()];
        for (task, files) in self.files_of.iter().enumerate().filter(|(_, files)| !files.is_empty()) {
            if !self.run.is_done(task) {
                files.iter().for_each(|&file| is_needed[file as usize] = true);
            }
        }
        let gone: Vec<usize> =
            (0..is_needed.len()).filter(|&file| self.is_here[file] && !is_needed[file]).collect();
        if !gone.is_empty() {
            self.run.sync()?;
        }
        for &file in &gone {
            self.is_here[file] = false;
            self.plan.source.set_file(file, None)?;
        }
        Ok(gone)
    }

    /// Makes what is packed a model.
    ///
    /// # Panics
    /// If no room was taken, or not all files of [`Arrival::order`] have arrived.
    pub fn finish(self) -> Result<PackReport, PackError> {
        assert!(self.has_room, "room is taken before the end");
        // A record may have all its pieces from earlier runs.
        self.run.work(self.ready())?;
        self.run.finish()
    }

    /// The tasks that can be done with the files that are here: whole records where possible, pieces of them otherwise.
    fn ready(&self) -> Vec<usize> {
        let is_here = |task: usize| self.files_of[task].iter().all(|&file| self.is_here[file as usize]);
        let mut ready = Vec::new();
        for task in 0..n_listed(&self.plan.output) {
            if self.run.is_done(task) {
                continue;
            }
            match self.run.tasks[task] {
                what @ Task::Record { .. } => {
                    let missing = what.pieces(&self.plan.output).filter(|&piece| !self.run.is_done(piece));
                    match missing.clone().all(is_here) {
                        true => ready.push(task),
                        false => ready.extend(missing.filter(|&piece| is_here(piece))),
                    }
                }
                _ if is_here(task) => ready.push(task),
                _ => {}
            }
        }
        ready
    }
}

/// The header that was there first came without a hash: it has to be that of the whole file, whose hash was right.
fn check_header(planned: &Path, path: &Path) -> Result<(), PackError> {
    let header = |path: &Path| -> Result<(u64, Vec<u8>), PackError> {
        let io = |source| PackError::Io { path: path.to_owned(), action: "read the header of", source };
        let mut file = File::open(path).map_err(io)?;
        let mut start = [0; 8];
        file.read_exact(&mut start).map_err(io)?;
        let mut header = start.to_vec();
        file.take(header_bytes(&start) - 8).read_to_end(&mut header).map_err(io)?;
        Ok((std::fs::metadata(path).map_err(io)?.len(), header))
    };
    match header(planned)? == header(path)? {
        true => Ok(()),
        false => Err(PackError::OtherHeader { path: path.to_owned(), planned: planned.to_owned() }),
    }
}

/// The files that hold what a task reads.
fn files_of(plan: &PackPlan, task: Task) -> Vec<u32> {
    let parts = |matrix: &flashmill_checkpoint::MatrixRef| {
        let mut files: Vec<u32> = matrix.parts.iter().flatten().map(|run| run.file.0).collect();
        files.sort_unstable();
        files.dedup();
        files
    };
    match task {
        Task::Trunk(i) => match &plan.items[i].1 {
            Item::Matrix(matrix) => parts(matrix),
            Item::Vector(vector) => vec![vector.extent.file.0],
        },
        Task::Record { .. } => Vec::new(),
        Task::Piece { place, expert, projection } => {
            parts(&plan.source.expert(plan.output.layers[place].layer, expert)[projection])
        }
    }
}

impl Schedule {
    /// Of what is left, each thing by the files that hold it. Files come in ascending order, but for those that something waits for
    /// whose other files are here.
    fn of(left: &BTreeSet<&[u32]>) -> Schedule {
        let mut left: Vec<&[u32]> = left.iter().copied().collect();
        let (mut order, mut held) = (Vec::new(), BTreeSet::new());
        let mut n_held = 0;
        while !left.is_empty() {
            let missing = |files: &[u32]| files.iter().copied().find(|file| !held.contains(file));
            let is_begun = |files: &&&[u32]| files.iter().any(|file| held.contains(file));
            let next = left.iter().find(is_begun).or_else(|| left.iter().min_by_key(|files| files[0]));
            let next = next.and_then(|files| missing(files)).expect("what has all its files is done");
            held.insert(next);
            order.push(next as usize);
            n_held = n_held.max(held.len());
            left.retain(|files| !files.iter().all(|file| held.contains(file)));
            held.retain(|file| left.iter().any(|files| files.contains(file)));
        }
        Schedule { order, n_held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(left: &[&[u32]]) -> (Vec<usize>, usize) {
        let Schedule { order, n_held } = Schedule::of(&left.iter().copied().collect());
        (order, n_held)
    }

    #[test]
    fn files_come_in_order_and_few_are_held() {
        assert_eq!(schedule(&[]), (vec![], 0));
        assert_eq!(schedule(&[&[0], &[1], &[2]]), (vec![0, 1, 2], 1));
        // Weights across each border: one file waits while the next arrives.
        assert_eq!(schedule(&[&[0], &[0, 1], &[1], &[1, 2], &[2, 3]]), (vec![0, 1, 2, 3], 2));
        // What waits for a far file gets it next.
        assert_eq!(schedule(&[&[0, 5], &[1], &[2], &[5]]), (vec![0, 5, 1, 2], 2));
        // All scales in the last file: it stays.
        assert_eq!(schedule(&[&[0, 9], &[1, 9], &[2, 9]]), (vec![0, 9, 1, 2], 2));
        // Everything hangs on everything.
        assert_eq!(schedule(&[&[0, 1, 2, 3]]), (vec![0, 1, 2, 3], 4));
    }

    #[test]
    fn the_length_of_a_header() {
        assert_eq!(header_bytes(&300u64.to_le_bytes()), 308);
        assert_eq!(header_bytes(&u64::MAX.to_le_bytes()), 8);
    }
}
