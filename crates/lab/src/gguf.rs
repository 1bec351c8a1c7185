//! Pieces of GGUF files that are written here. Format: docs/gguf.md of github.com/ggml-org/ggml, version 3.

/// Tensors start at multiples of this.
pub(crate) const ALIGNMENT: u64 = 32;

/// `ggml_type` of ggml.h.
pub(crate) const TYPE_F32: u32 = 0;

/// Keys and values of a file's metadata.
#[derive(Default)]
pub(crate) struct Pairs {
    pub(crate) n: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Pairs {
    pub(crate) fn key(&mut self, key: &str, kind: u32) {
        self.n += 1;
        put_string(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        put_string(&mut self.bytes, value);
    }

    pub(crate) fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    pub(crate) fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, 5, values.len());
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    pub(crate) fn strings(&mut self, key: &str, values: &[String]) {
        self.array(key, 8, values.len());
        values.iter().for_each(|value| put_string(&mut self.bytes, value));
    }
}

pub(crate) fn put_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}
