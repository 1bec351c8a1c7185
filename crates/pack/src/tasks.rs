//! One task is one record, a piece of one, or one weight of the trunk: read, converted, written, summed up in checksums.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashmill_checkpoint::packed::Checksum;
use flashmill_layout::{Encoding, MatrixShape};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::convert::{Scales, convert};
use crate::error::PackError;
use crate::importance::{Importance, gguf_name};
use crate::output::{LayerPlace, Output, TrunkKind, TrunkPlace};
use crate::recipe::{RecipeOptions, Rule};
use crate::source::{Item, Source, SourceMatrix};
use crate::target::{AlignedBuffer, Target};

/// Bytes of the trunk that a thread holds at a time, as stored in the source.
const BLOCK_BYTES: usize = 8 << 20;

/// Blocks of rows start at multiples of this, the tallest tile whose rows share a scale.
const BLOCK_ROWS: usize = 128;

/// The matrices of an expert, in the order of a record.
pub(crate) const PROJECTIONS: [&str; 3] = ["gate", "up", "down"];

/// A piece of work, by its place in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A weight of the trunk.
    Trunk(usize),
    /// An expert of an entry of [`Output::layers`].
    Record { place: usize, expert: usize },
    /// Its gate, up or down alone, where the files of the others are not here.
    Piece { place: usize, expert: usize, projection: usize },
}

/// All tasks: first those that the manifest lists, in its order; then the three pieces of each record.
pub(crate) fn tasks(output: &Output) -> Vec<Task> {
    let mut tasks: Vec<Task> = (0..output.trunk.len()).map(Task::Trunk).collect();
    let experts = |place: usize| (0..output.layers[place].n_experts).map(move |expert| (place, expert));
    let records = || (0..output.layers.len()).flat_map(experts);
    tasks.extend(records().map(|(place, expert)| Task::Record { place, expert }));
    tasks.extend(records().flat_map(|(place, expert)| {
        (0..PROJECTIONS.len()).map(move |projection| Task::Piece { place, expert, projection })
    }));
    tasks
}

/// The number of tasks that the manifest lists.
pub(crate) fn n_listed(output: &Output) -> usize {
    record_task(output, output.layers.len(), 0)
}

/// The task of a record.
fn record_task(output: &Output, place: usize, expert: usize) -> usize {
    output.trunk.len() + output.layers[..place].iter().map(|layer| layer.n_experts).sum::<usize>() + expert
}

impl Task {
    /// Bytes that it writes.
    pub(crate) fn bytes(self, output: &Output) -> u64 {
        match self {
            Task::Trunk(i) => output.trunk[i].part_bytes().iter().sum(),
            Task::Record { place, .. } => output.layers[place].stride,
            Task::Piece { place, projection, .. } => output.layers[place].shapes[projection].bytes() as u64,
        }
    }

    /// The file that it writes to.
    pub(crate) fn file(self, output: &Output) -> usize {
        match self {
            Task::Trunk(_) => 0,
            Task::Record { place, .. } | Task::Piece { place, .. } => output.layers[place].file,
        }
    }

    /// How many checksums it has.
    pub(crate) fn n_checksums(self, output: &Output) -> usize {
        match self {
            Task::Trunk(i) => output.trunk[i].offsets.len(),
            Task::Record { .. } | Task::Piece { .. } => 1,
        }
    }

    /// The bytes that its checksums are of: offset and length in the file.
    pub(crate) fn extents(self, output: &Output) -> Vec<(u64, u64)> {
        match self {
            Task::Trunk(i) => {
                let place = &output.trunk[i];
                place.offsets.iter().copied().zip(place.part_bytes()).collect()
            }
            Task::Record { place, expert } => {
                let place = &output.layers[place];
                vec![(place.offset(expert), place.record_bytes)]
            }
            Task::Piece { place, expert, projection } => {
                let place = &output.layers[place];
                let range = place.range(projection);
                vec![(place.offset(expert) + range.start as u64, range.len() as u64)]
            }
        }
    }

    /// The tasks of a record's pieces; none of any other task.
    pub(crate) fn pieces(self, output: &Output) -> std::ops::Range<usize> {
        match self {
            Task::Record { place, expert } => {
                let (n, listed) = (PROJECTIONS.len(), n_listed(output));
                let first = listed + n * (record_task(output, place, expert) - output.trunk.len());
                first..first + n
            }
            Task::Trunk(_) | Task::Piece { .. } => 0..0,
        }
    }

    /// The record's task of a piece; `None` of any other task.
    pub(crate) fn record(self, output: &Output) -> Option<usize> {
        match self {
            Task::Piece { place, expert, .. } => Some(record_task(output, place, expert)),
            Task::Trunk(_) | Task::Record { .. } => None,
        }
    }
}

/// Time that all threads together spent, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    pub(crate) read: AtomicU64,
    pub(crate) compute: AtomicU64,
    pub(crate) write: AtomicU64,
}

/// Adds the time that `work` takes to a counter.
fn timed<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    counter.fetch_add(nanos(start.elapsed()), Ordering::Relaxed);
    result
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the threads share.
pub(crate) struct Shop<'a> {
    pub(crate) source: &'a Source,
    pub(crate) items: &'a [(String, Item)],
    pub(crate) output: &'a Output,
    pub(crate) recipe: RecipeOptions,
    pub(crate) importance: Option<&'a Importance>,
    pub(crate) targets: &'a [Target],
    pub(crate) clock: &'a Clock,
}

/// What a thread keeps from one task to the next.
#[derive(Default)]
pub(crate) struct Bench {
    raw: Vec<u8>,
    out: Vec<u8>,
    record: AlignedBuffer,
    row: Vec<f32>,
}

impl Shop<'_> {
    /// Does a task and gives its checksums. Of a record's pieces, those with a checksum are written already. Tells `progress` the
    /// bytes written, as they are.
    pub(crate) fn run(
        &self,
        task: Task,
        pieces: &[Option<Checksum>],
        bench: &mut Bench,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<Checksum>, PackError> {
        match task {
            Task::Trunk(i) => self.trunk(&self.output.trunk[i], &self.items[i].1, bench, progress),
            Task::Record { place, expert } => {
                let place = &self.output.layers[place];
                let checksum = self.record(place, expert, pieces, bench)?;
                let before = (0..pieces.len()).filter(|&i| pieces[i].is_some()).map(|i| place.range(i).len());
                progress(place.stride - before.sum::<usize>() as u64);
                Ok(vec![checksum])
            }
            Task::Piece { place, expert, projection } => {
                let place = &self.output.layers[place];
                let mut out = vec![0; place.range(projection).len()];
                self.projection(place, expert, projection, &mut out, bench)?;
                let at = place.offset(expert) + place.range(projection).start as u64;
                timed(&self.clock.write, || self.targets[place.file].write(&out, at))?;
                progress(out.len() as u64);
                Ok(vec![Checksum(xxh3_64(&out))])
            }
        }
    }

    fn record(
        &self,
        place: &LayerPlace,
        expert: usize,
        pieces: &[Option<Checksum>],
        bench: &mut Bench,
    ) -> Result<Checksum, PackError> {
        let mut buffer = std::mem::take(&mut bench.record);
        let out = buffer.zeroed(place.stride as usize);
        let (target, offset) = (&self.targets[place.file], place.offset(expert));
        for (projection, written) in pieces.iter().enumerate() {
            let range = place.range(projection);
            let whole = &mut out[range.clone()];
            let Some(checksum) = written else {
                self.projection(place, expert, projection, whole, bench)?;
                continue;
            };
            timed(&self.clock.read, || target.read(whole, offset + range.start as u64))?;
            if Checksum(xxh3_64(whole)) != *checksum {
                return Err(PackError::Changed {
                    path: target.path.clone(),
                    offset: offset + range.start as u64,
                });
            }
        }
        let checksum = timed(&self.clock.compute, || Checksum(xxh3_64(&out[..place.record_bytes as usize])));
        timed(&self.clock.write, || {
            if pieces.iter().all(Option::is_none) {
                return target.write_pages(out, offset);
            }
            let missing = (0..pieces.len()).filter(|&i| pieces[i].is_none()).map(|i| place.range(i));
            missing
                .into_iter()
                .try_for_each(|range| target.write(&out[range.clone()], offset + range.start as u64))
        })?;
        bench.record = buffer;
        Ok(checksum)
    }

    /// Gate, up or down of an expert, all parts.
    fn projection(
        &self,
        place: &LayerPlace,
        expert: usize,
        projection: usize,
        out: &mut [u8],
        bench: &mut Bench,
    ) -> Result<(), PackError> {
        let [gate, up, down] = self.source.expert(place.layer, expert);
        let matrix = [gate, up, down].into_iter().nth(projection).expect("one of three");
        let matrix = timed(&self.clock.read, || self.source.matrix(matrix))?;
        let to = place.shapes[projection];
        let name = format!("layers.{}.experts.{}", place.layer, PROJECTIONS[projection]);
        let weights = self.weights(&name, expert, place.n_experts, matrix.shape(), to)?;
        let scales = scales(self.recipe.experts_rule(weights.is_some()), weights.as_deref());
        self.block(matrix.as_ref(), 0, to, scales, out, bench)
    }

    fn trunk(
        &self,
        place: &TrunkPlace,
        item: &Item,
        bench: &mut Bench,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<Checksum>, PackError> {
        match (item, place.kind) {
            (Item::Vector(vector), _) => {
                let bytes = timed(&self.clock.read, || self.source.vector(vector))?;
                timed(&self.clock.write, || self.targets[0].write(&bytes, place.offsets[0]))?;
                progress(bytes.len() as u64);
                Ok(vec![Checksum(xxh3_64(&bytes))])
            }
            (Item::Matrix(matrix), TrunkKind::Matrix(to)) => {
                let matrix = timed(&self.clock.read, || self.source.matrix(matrix.clone()))?;
                self.trunk_matrix(place, matrix.as_ref(), to, bench, progress)
            }
            (Item::Matrix(_), TrunkKind::Vector(_)) => unreachable!("places are made from the items"),
        }
    }

    fn trunk_matrix(
        &self,
        place: &TrunkPlace,
        matrix: &dyn SourceMatrix,
        to: MatrixShape,
        bench: &mut Bench,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<Checksum>, PackError> {
        let weights = self.weights(&place.name, 0, 1, matrix.shape(), to)?;
        let bits = match to.encoding {
            Encoding::Affine(affine) => affine.bits,
            _ => 16,
        };
        let scales = scales(self.recipe.trunk_rule(bits, weights.is_some()), weights.as_deref());
        let mut hashes: Vec<Xxh3> = place.offsets.iter().map(|_| Xxh3::new()).collect();
        let row_bytes = matrix.shape().encoding.row_bytes(to.cols).max(1);
        let block_rows = (BLOCK_BYTES / row_bytes).max(1).next_multiple_of(BLOCK_ROWS);
        let mut first = 0;
        while first < to.rows {
            let block = MatrixShape { rows: block_rows.min(to.rows - first), ..to };
            let mut out = std::mem::take(&mut bench.out);
            out.clear();
            out.resize(block.bytes(), 0);
            self.block(matrix, first, block, scales, &mut out, bench)?;
            let mut at = 0;
            for (part, hash) in hashes.iter_mut().enumerate() {
                let bytes = &out[at..at + block.part_bytes(part)];
                at += bytes.len();
                timed(&self.clock.compute, || hash.update(bytes));
                let before = MatrixShape { rows: first, ..to }.part_bytes(part) as u64;
                timed(&self.clock.write, || self.targets[0].write(bytes, place.offsets[part] + before))?;
            }
            progress(out.len() as u64);
            bench.out = out;
            first += block.rows;
        }
        Ok(hashes.iter().map(|hash| Checksum(hash.digest())).collect())
    }

    /// The importance of each input of matrix `index` of the `n` of a name, if it is quantised here.
    fn weights(
        &self,
        name: &str,
        index: usize,
        n: usize,
        from: MatrixShape,
        to: MatrixShape,
    ) -> Result<Option<Vec<f32>>, PackError> {
        match (self.importance, gguf_name(name)) {
            (Some(importance), Some(name)) if from.encoding != to.encoding => {
                timed(&self.clock.read, || importance.weights(&name, index, n, to.cols))
            }
            _ => Ok(None),
        }
    }

    /// Rows `first..first + to.rows` of a matrix in the encoding of `to`, part after part.
    fn block(
        &self,
        matrix: &dyn SourceMatrix,
        first: usize,
        to: MatrixShape,
        scales: Scales<'_>,
        out: &mut [u8],
        bench: &mut Bench,
    ) -> Result<(), PackError> {
        let from = MatrixShape { rows: to.rows, ..matrix.shape() };
        if from.encoding == to.encoding {
            return timed(&self.clock.read, || read_parts(matrix, first, from, out));
        }
        bench.raw.resize(from.bytes(), 0);
        timed(&self.clock.read, || read_parts(matrix, first, from, &mut bench.raw))?;
        timed(&self.clock.compute, || {
            let source = split(&bench.raw, from);
            let mut parts = split_mut(out, to);
            convert(from, &source, to.encoding, scales, &mut bench.row, &mut parts)
                .map_err(|row| PackError::NotFinite { tensor: matrix.name().to_owned(), row: first + row })
        })
    }
}

fn scales(rule: Rule, importance: Option<&[f32]>) -> Scales<'_> {
    match rule {
        Rule::Range => Scales::Range,
        Rule::Fit => Scales::Fit(importance),
    }
}

/// The parts of rows `first..` of a matrix, one after the other.
fn read_parts(
    matrix: &dyn SourceMatrix,
    first: usize,
    shape: MatrixShape,
    out: &mut [u8],
) -> Result<(), PackError> {
    for (part, bytes) in split_mut(out, shape).into_iter().enumerate() {
        let offset = MatrixShape { rows: first, ..shape }.part_bytes(part) as u64;
        matrix.read_part(part, offset, bytes)?;
    }
    Ok(())
}

fn parts(encoding: Encoding) -> std::ops::Range<usize> {
    0..encoding.n_parts()
}

fn split(mut bytes: &[u8], shape: MatrixShape) -> Vec<&[u8]> {
    let mut next = |part| bytes.split_off(..shape.part_bytes(part)).expect("the bytes of all parts");
    parts(shape.encoding).map(&mut next).collect()
}

fn split_mut(mut bytes: &mut [u8], shape: MatrixShape) -> Vec<&mut [u8]> {
    let mut next = |part| bytes.split_off_mut(..shape.part_bytes(part)).expect("the bytes of all parts");
    parts(shape.encoding).map(&mut next).collect()
}
