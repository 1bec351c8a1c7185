//! One snapshot's file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flashmill_kernels::PAGE_TOKENS;
use flashmill_model::{Model, Restoring};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Saved, Shape, SnapshotError};

const MAGIC: [u8; 8] = *b"FMSTATE1";

/// Magic, identity, four numbers.
const FIXED_BYTES: usize = 8 + 16 + 4 * 8;

const CHECKSUM_BYTES: usize = 8;

/// Values of the recurrent part that share a checksum.
const BLOCK: usize = 1 << 18;

/// More tokens than any context has.
const MAX_TOKENS: usize = 1 << 24;

impl Shape {
    /// Pages that the file itself holds.
    pub(super) fn pages(&self) -> Range<usize> {
        self.parent_tokens / PAGE_TOKENS..self.n_tokens.div_ceil(PAGE_TOKENS)
    }

    fn n_blocks(&self) -> usize {
        self.delta_len.div_ceil(BLOCK)
    }

    fn block(&self, index: usize) -> Range<usize> {
        index * BLOCK..((index + 1) * BLOCK).min(self.delta_len)
    }

    fn header_bytes(&self) -> u64 {
        (FIXED_BYTES + 4 * self.n_tokens + CHECKSUM_BYTES) as u64
    }

    fn page_offset(&self, index: usize) -> u64 {
        let before = (index - self.pages().start) as u64;
        self.header_bytes() + before * (self.page_bytes + CHECKSUM_BYTES) as u64
    }

    fn delta_offset(&self) -> u64 {
        self.page_offset(self.pages().end)
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.delta_offset() + (4 * self.delta_len + self.n_blocks() * CHECKSUM_BYTES) as u64
    }
}

/// A file whose header was right.
pub(super) struct Opened {
    file: File,
    pub(super) shape: Shape,
    pub(super) tokens: Vec<u32>,
}

impl Opened {
    /// Opens a file of this identity, whose length must be what its header says.
    pub(super) fn open(path: &Path, identity: u128) -> Result<Opened, SnapshotError> {
        let mut file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let mut header = vec![0; FIXED_BYTES];
        file.read_exact(&mut header).map_err(|_| SnapshotError::Damaged)?;
        if header[..8] != MAGIC || header[8..24] != identity.to_le_bytes() {
            return Err(SnapshotError::Damaged);
        }
        let numbers = header[24..].as_chunks::<8>().0;
        let number = |at: usize| usize::try_from(u64::from_le_bytes(numbers[at])).unwrap_or(usize::MAX);
        let shape = Shape {
            n_tokens: number(0),
            parent_tokens: number(1),
            page_bytes: number(2),
            delta_len: number(3),
        };
        // Nothing is multiplied or allocated before these bounds; the file is as long as a page and the recurrent part.
        let fits = |n: usize| n as u64 <= file_bytes;
        let sane = shape.n_tokens <= MAX_TOKENS
            && shape.parent_tokens < shape.n_tokens
            && fits(shape.page_bytes)
            && fits(shape.delta_len)
            && fits(shape.n_tokens);
        if !sane || shape.file_bytes() != file_bytes {
            return Err(SnapshotError::Damaged);
        }
        let mut rest = vec![0; shape.header_bytes() as usize - FIXED_BYTES];
        file.read_exact(&mut rest).map_err(|_| SnapshotError::Damaged)?;
        header.extend_from_slice(&rest);
        let (header, checksum) = header.split_at(header.len() - CHECKSUM_BYTES);
        if xxh3_64(header).to_le_bytes() != *checksum {
            return Err(SnapshotError::Damaged);
        }
        let tokens =
            header[FIXED_BYTES..].as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        Ok(Opened { file, shape, tokens })
    }

    /// Reads the pages `range`, all of which the file must hold, into a state.
    pub(super) fn pages(
        &mut self,
        range: Range<usize>,
        model: &mut Model,
        restoring: &mut Restoring,
    ) -> Result<(), SnapshotError> {
        let own = self.shape.pages();
        if range.start < own.start || range.end > own.end || self.shape.page_bytes != model.page_bytes() {
            return Err(SnapshotError::Damaged);
        }
        self.file.seek(SeekFrom::Start(self.shape.page_offset(range.start)))?;
        let mut page = vec![0; self.shape.page_bytes];
        for index in range {
            self.checked(&mut page, index as u64)?;
            model.write_page(restoring, index, &page);
        }
        Ok(())
    }

    /// Reads the recurrent part into a state.
    pub(super) fn delta(
        &mut self,
        model: &mut Model,
        restoring: &mut Restoring,
    ) -> Result<(), SnapshotError> {
        if self.shape.delta_len != model.delta_len() {
            return Err(SnapshotError::Damaged);
        }
        self.file.seek(SeekFrom::Start(self.shape.delta_offset()))?;
        let mut values = Vec::new();
        for index in 0..self.shape.n_blocks() {
            let range = self.shape.block(index);
            let mut bytes = vec![0; 4 * range.len()];
            self.checked(&mut bytes, index as u64)?;
            values.clear();
            values.extend(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)));
            model.write_delta(restoring, range.start, &values);
        }
        Ok(())
    }

    fn checked(&mut self, bytes: &mut [u8], seed: u64) -> Result<(), SnapshotError> {
        let mut checksum = [0; CHECKSUM_BYTES];
        self.file.read_exact(bytes)?;
        self.file.read_exact(&mut checksum)?;
        if xxh3_64_with_seed(bytes, seed).to_le_bytes() == checksum {
            Ok(())
        } else {
            Err(SnapshotError::Damaged)
        }
    }
}

/// A snapshot on its way to the disk, under another name. If it does not get there, nothing of it stays.
pub(crate) struct Writing {
    saved: Rc<Saved>,
    shape: Shape,
    file: File,
    temporary: PathBuf,
    /// Whole, and under its name.
    ended: bool,
    next_page: usize,
    next_block: usize,
    bytes: Vec<u8>,
}

impl Writing {
    pub(super) fn begin(path: &Path, identity: u128, saved: Rc<Saved>, shape: Shape) -> io::Result<Writing> {
        let temporary = path.with_extension(format!("part-{}", std::process::id()));
        let mut header = Vec::with_capacity(shape.header_bytes() as usize);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&identity.to_le_bytes());
        for number in [shape.n_tokens, shape.parent_tokens, shape.page_bytes, shape.delta_len] {
            header.extend_from_slice(&(number as u64).to_le_bytes());
        }
        header.extend(saved.tokens.iter().flat_map(|id| id.to_le_bytes()));
        let checksum = xxh3_64(&header);
        header.extend_from_slice(&checksum.to_le_bytes());
        let file = File::create(&temporary)?;
        let next_page = shape.pages().start;
        let mut writing =
            Writing { saved, shape, file, temporary, ended: false, next_page, next_block: 0, bytes: header };
        writing.file.write_all(&writing.bytes)?;
        Ok(writing)
    }

    /// It is this state that is written.
    pub(crate) fn is_of(&self, saved: &Rc<Saved>) -> bool {
        Rc::ptr_eq(&self.saved, saved)
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.saved.tokens
    }

    /// Writes at least one part, and parts of at least `n_bytes`, if there are so many. `true` once all is written.
    pub(crate) fn advance(&mut self, model: &mut Model, n_bytes: usize) -> io::Result<bool> {
        let mut written = 0;
        while written < n_bytes {
            if !self.part(model)? {
                return Ok(true);
            }
            written += self.bytes.len();
        }
        Ok(false)
    }

    /// Writes the next part; `false` if there is none.
    fn part(&mut self, model: &mut Model) -> io::Result<bool> {
        let seed = if self.next_page < self.shape.pages().end {
            self.bytes.resize(self.shape.page_bytes, 0);
            model.read_page(&self.saved.state, self.next_page, &mut self.bytes);
            self.next_page += 1;
            self.next_page - 1
        } else if self.next_block < self.shape.n_blocks() {
            let range = self.shape.block(self.next_block);
            let mut values = vec![0.0f32; range.len()];
            model.read_delta(&self.saved.state, range.start, &mut values);
            self.bytes.clear();
            self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            self.next_block += 1;
            self.next_block - 1
        } else {
            return Ok(false);
        };
        let checksum = xxh3_64_with_seed(&self.bytes, seed as u64);
        self.file.write_all(&self.bytes)?;
        self.file.write_all(&checksum.to_le_bytes())?;
        Ok(true)
    }

    /// Gives the file its name.
    pub(super) fn end(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.temporary, path)?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.ended {
            // If even this fails, the next start removes it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
