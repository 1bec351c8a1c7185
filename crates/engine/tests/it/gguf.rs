//! Just enough of GGUF to get a vocabulary out of a test file.

use std::path::Path;

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
