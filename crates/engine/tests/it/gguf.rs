//! Just enough of GGUF to get a vocabulary out of a test file, and to change metadata.

use std::path::{Path, PathBuf};

pub(crate) struct Vocabulary {
    pub(crate) tokens: Vec<String>,
    /// "left right"
    pub(crate) merges: Vec<String>,
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Vocabulary {
    pub(crate) fn read(path: &Path) -> Vocabulary {
        let bytes = std::fs::read(path).unwrap();
        let mut reader = Reader { bytes: &bytes };
        assert_eq!(reader.take(4), b"GGUF");
        assert_eq!(reader.u32(), 3);
        let _n_tensors = reader.u64();
        let n_entries = reader.u64();
        let mut vocabulary = Vocabulary { tokens: Vec::new(), merges: Vec::new() };
        for _ in 0..n_entries {
            let key = reader.string();
            let kind = reader.u32();
            let strings = reader.value(kind);
            match key.as_str() {
                "tokenizer.ggml.tokens" => vocabulary.tokens = strings,
                "tokenizer.ggml.merges" => vocabulary.merges = strings,
                _ => {}
            }
        }
        vocabulary
    }
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> &[u8] {
        let (taken, rest) = self.bytes.split_at(n);
        self.bytes = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }

    /// The strings of a value; other values are passed over.
    fn value(&mut self, kind: u32) -> Vec<String> {
        match kind {
            8 => vec![self.string()],
            9 => {
                let inner = self.u32();
                let n = self.u64();
                (0..n).flat_map(|_| self.value(inner)).collect()
            }
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            _ => self.skip(8),
        }
    }

    fn skip(&mut self, n: usize) -> Vec<String> {
        self.take(n);
        Vec::new()
    }
}

/// The numbers of value types.
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

/// The metadata of a file, to change and write without tensors.
#[derive(Clone)]
pub(crate) struct Draft {
    /// Key, type, bytes.
    pairs: Vec<(String, u32, Vec<u8>)>,
}

impl Draft {
    pub(crate) fn of(path: &Path) -> Draft {
        let bytes = std::fs::read(path).unwrap();
        let mut reader = Reader { bytes: &bytes[16..] };
        let pairs = (0..reader.u64()).map(|_| {
            let (key, kind, start) = (reader.string(), reader.u32(), reader.bytes);
            reader.value(kind);
            (key, kind, start[..start.len() - reader.bytes.len()].to_vec())
        });
        Draft { pairs: pairs.collect() }
    }

    pub(crate) fn set(&mut self, key: &str, kind: u32, bytes: Vec<u8>) {
        self.pairs.retain(|(name, ..)| name != key);
        self.pairs.push((key.to_owned(), kind, bytes));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.pairs.retain(|(name, ..)| name != key);
    }

    /// Writes `draft.gguf`.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let path = dir.join("draft.gguf");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Length and bytes.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array of strings.
pub(crate) fn strings<T: AsRef<str>>(items: &[T]) -> Vec<u8> {
    let items: Vec<Vec<u8>> = items.iter().map(|item| string(item.as_ref())).collect();
    [&STRING.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
}

/// An array of signed numbers.
pub(crate) fn numbers(items: &[i32]) -> Vec<u8> {
    let bytes: Vec<u8> = items.iter().flat_map(|item| item.to_le_bytes()).collect();
    [&I32.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &bytes].concat()
}
