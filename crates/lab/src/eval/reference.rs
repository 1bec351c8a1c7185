//! Logits of a run in a file, to compare other runs with: what `flashmill logits` writes.
//!
//! Safetensors with `logits` (F32, positions x vocabulary) and `tokens` (I32, positions). Positions begin again every `window` tokens, if
//! the metadata have that number; otherwise all tokens are one sequence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::EvalError;

/// The longest header that is read, in bytes. A file with the traces of a hundred layers has 40 KB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// What is wrong with a file of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceProblem {
    /// No safetensors header.
    #[error("its header is no safetensors header")]
    Header,
    /// A tensor is not there, or of another type or shape.
    #[error("it has no tensor {0:?} of the type and shape that `flashmill logits` writes")]
    Tensor(&'static str),
    /// The file ends before its tensors do.
    #[error("it is shorter than its header says")]
    Short,
    /// The metadata name a window of nothing.
    #[error("its window is no number of tokens")]
    Window,
    /// A token that the logits have no column for.
    #[error("a token is outside the vocabulary of its logits")]
    Token,
}

/// A file of logits, opened.
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    file: File,
    tokens: Vec<u32>,
    window: usize,
    vocab_size: usize,
    /// The first byte of the logits.
    logits_at: u64,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Reference {
    /// Reads the header and the tokens.
    pub fn open(path: &Path) -> Result<Reference, EvalError> {
        let cannot = |error| EvalError::Read { path: path.to_owned(), error };
        let wrong = |problem| EvalError::Reference { path: path.to_owned(), problem };
        let mut file = File::open(path).map_err(cannot)?;
        let n_bytes = file.metadata().map_err(cannot)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| wrong(ReferenceProblem::Header))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES.min(n_bytes) {
            return Err(wrong(ReferenceProblem::Header));
        }
        let mut text = Vec::new();
        (&mut file).take(header_bytes).read_to_end(&mut text).map_err(cannot)?;
        let header: BTreeMap<String, Value> =
            serde_json::from_slice(&text).map_err(|_| wrong(ReferenceProblem::Header))?;
        let data_bytes = n_bytes.saturating_sub(8 + header_bytes);
        let find = |name: &'static str, dtype| {
            let entry = header.get(name).and_then(|entry| Entry::deserialize(entry).ok());
            let entry = entry.filter(|entry| entry.dtype == dtype).ok_or(ReferenceProblem::Tensor(name))?;
            let [begin, end] = entry.data_offsets;
            let n = entry.shape.iter().try_fold(4_u64, |n, &size| n.checked_mul(size));
            if end.checked_sub(begin) != n || entry.shape.is_empty() {
                return Err(ReferenceProblem::Tensor(name));
            }
            if end > data_bytes { Err(ReferenceProblem::Short) } else { Ok((entry.shape, begin)) }
        };
        let (shape, logits_at) = find("logits", "F32").map_err(wrong)?;
        let &[n_tokens, vocab_size] = &shape[..] else {
            return Err(wrong(ReferenceProblem::Tensor("logits")));
        };
        let (shape, tokens_at) = find("tokens", "I32").map_err(wrong)?;
        if shape.iter().product::<u64>() != n_tokens || n_tokens == 0 || vocab_size == 0 {
            return Err(wrong(ReferenceProblem::Tensor("tokens")));
        }
        let data_at = 8 + header_bytes;
        file.seek(SeekFrom::Start(data_at + tokens_at)).map_err(cannot)?;
        // As many as the file has room for: `find` has looked.
        let mut bytes = vec![0; 4 * n_tokens as usize];
        file.read_exact(&mut bytes).map_err(cannot)?;
        let ids = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let tokens: Vec<u32> = ids.collect();
        if tokens.iter().any(|&token| u64::from(token) >= vocab_size) {
            return Err(wrong(ReferenceProblem::Token));
        }
        let window = match header.get("__metadata__").and_then(|metadata| metadata.get("window")) {
            None => tokens.len(),
            Some(window) => {
                let window = window.as_str().and_then(|text| text.parse().ok()).filter(|&n: &usize| n > 0);
                window.ok_or(wrong(ReferenceProblem::Window))?
            }
        };
        let (vocab_size, logits_at) = (vocab_size as usize, data_at + logits_at);
        Ok(Reference { path: path.to_owned(), file, tokens, window, vocab_size, logits_at })
    }

    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// After so many tokens the sequence began anew.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Values of a row.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Reads the logits after token `at`: `[vocab_size]`.
    pub(super) fn row(&mut self, at: usize, row: &mut Vec<f32>) -> Result<(), EvalError> {
        assert!(at < self.tokens.len(), "a token of the file");
        let n_bytes = 4 * self.vocab_size;
        let mut bytes = vec![0; n_bytes];
        self.file
            .seek(SeekFrom::Start(self.logits_at + (at * n_bytes) as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| EvalError::Read { path: self.path.clone(), error })?;
        row.clear();
        row.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }
}

/// Writes such a file, row by row.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// Bytes that [`Writer::create`] and all rows will take, headers apart.
    pub(super) fn n_bytes(n_tokens: usize, vocab_size: usize) -> u64 {
        4 * n_tokens as u64 * (vocab_size as u64 + 1)
    }

    /// Begins a file for the logits after each of `tokens`.
    pub(super) fn create(
        path: &Path,
        tokens: &[u32],
        window: usize,
        vocab_size: usize,
    ) -> Result<Writer, EvalError> {
        let n = tokens.len() as u64;
        let (tokens_end, end) = (4 * n, Writer::n_bytes(tokens.len(), vocab_size));
        let mut header = json!({
            "__metadata__": {"window": window.to_string()},
            "tokens": {"dtype": "I32", "shape": [n], "data_offsets": [0, tokens_end]},
            "logits": {"dtype": "F32", "shape": [n, vocab_size], "data_offsets": [tokens_end, end]},
        })
        .to_string()
        .into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let write = || -> io::Result<BufWriter<File>> {
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            tokens.iter().try_for_each(|token| file.write_all(&token.to_le_bytes()))?;
            Ok(file)
        };
        let file = write().map_err(|error| EvalError::Work { path: path.to_owned(), error })?;
        Ok(Writer { path: path.to_owned(), file })
    }

    /// The next row.
    pub(super) fn row(&mut self, logits: &[f32]) -> Result<(), EvalError> {
        let written = logits.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()));
        written.map_err(|error| EvalError::Work { path: self.path.clone(), error })
    }

    /// Ends the file.
    pub(super) fn finish(self) -> Result<(), EvalError> {
        let Writer { path, file } = self;
        file.into_inner().map_err(|error| EvalError::Work { path, error: error.into_error() })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let mut writer = Writer::create(&path, &[2, 0, 1], 2, 4).unwrap();
        for row in 0..3 {
            writer.row(&[row as f32, 1.0, 2.0, 3.5]).unwrap();
        }
        writer.finish().unwrap();
        let mut reference = Reference::open(&path).unwrap();
        assert_eq!((reference.tokens(), reference.window(), reference.vocab_size()), (&[2, 0, 1][..], 2, 4));
        let mut row = Vec::new();
        reference.row(2, &mut row).unwrap();
        assert_eq!(row, [2.0, 1.0, 2.0, 3.5]);
    }

    #[test]
    fn damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let open = |header: &str, n_data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.resize(bytes.len() + n_data, 0);
            std::fs::write(&path, bytes).unwrap();
            match Reference::open(&path) {
                Err(EvalError::Reference { problem, .. }) => Some(problem),
                Err(error) => panic!("{error}"),
                Ok(_) => None,
            }
        };
        let header = |window: &str, dtype: &str, n: u64, end: u64| {
            format!(
                "{{\"__metadata__\": {{\"window\": {window}}}, \
                 \"logits\": {{\"dtype\": \"{dtype}\", \"shape\": [{n}, 3], \"data_offsets\": [8, {end}]}}, \
                 \"tokens\": {{\"dtype\": \"I32\", \"shape\": [2, 1], \"data_offsets\": [0, 8]}}}}"
            )
        };
        assert_eq!(open(&header("\"2\"", "F32", 2, 32), 32), None);
        assert_eq!(open(&header("\"2\"", "F32", 2, 32), 31), Some(ReferenceProblem::Short));
        assert_eq!(open(&header("\"0\"", "F32", 2, 32), 32), Some(ReferenceProblem::Window));
        assert_eq!(open(&header("2", "F32", 2, 32), 32), Some(ReferenceProblem::Window));
        assert_eq!(open(&header("\"2\"", "BF16", 2, 32), 32), Some(ReferenceProblem::Tensor("logits")));
        assert_eq!(open(&header("\"2\"", "F32", 3, 44), 44), Some(ReferenceProblem::Tensor("tokens")));
        let huge = header("\"2\"", "F32", u64::MAX / 2, 32);
        assert_eq!(open(&huge, 32), Some(ReferenceProblem::Tensor("logits")));
        assert_eq!(open("{}", 0), Some(ReferenceProblem::Tensor("logits")));
        assert_eq!(open("x", 0), Some(ReferenceProblem::Header));
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            Reference::open(&path),
            Err(EvalError::Reference { problem: ReferenceProblem::Header, .. })
        ));
    }
}
