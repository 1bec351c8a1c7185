//! The bytes of every token, and text out of them.

use std::collections::HashMap;

/// The bytes of token `id`, for all ids up to the highest.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenBytes {
    blob: Vec<u8>,
    /// Token `id` is `blob[ends[id - 1]..ends[id]]`.
    ends: Vec<u32>,
    /// Ids without a token are holes; they have no bytes.
    known: Vec<bool>,
}

impl TokenBytes {
    /// `tokens[id]` is a token's bytes, `None` a hole.
    pub(crate) fn new(tokens: &[Option<Vec<u8>>]) -> TokenBytes {
        let mut bytes = TokenBytes::default();
        for token in tokens {
            bytes.blob.extend_from_slice(token.as_deref().unwrap_or_default());
            let end = u32::try_from(bytes.blob.len()).expect("a vocabulary file is far smaller than 4 GiB");
            bytes.ends.push(end);
            bytes.known.push(token.is_some());
        }
        bytes
    }

    pub(crate) fn n_ids(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        if !*self.known.get(id)? {
            return None;
        }
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Some(&self.blob[start..self.ends[id] as usize])
    }
}

/// The byte that each character of GPT-2's alphabet stands for.
///
/// Printable Latin-1 stands for itself; the 68 other bytes, in order, for U+0100 and up.
pub(crate) fn gpt2_alphabet() -> HashMap<char, u8> {
    let is_itself = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 0x100..;
    (0..=255u8)
        .map(|byte| {
            let code = if is_itself(byte) { byte as u32 } else { others.next().unwrap_or(0x100) };
            (char::from_u32(code).unwrap_or(' '), byte)
        })
        .collect()
}

/// Turns the bytes of tokens into text as they come, never cutting a character.
///
/// Bytes that are not UTF-8 become U+FFFD, as Python's `errors="replace"` has it.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The start of a character that is not whole yet: at most 3 bytes between calls.
    pending: Vec<u8>,
    text: String,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Adds bytes; gives the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.text.clear();
        self.pending.extend_from_slice(bytes);
        let mut start = 0;
        loop {
            match std::str::from_utf8(&self.pending[start..]) {
                Ok(text) => {
                    self.text.push_str(text);
                    start = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = start + error.valid_up_to();
                    self.text.push_str(std::str::from_utf8(&self.pending[start..valid]).unwrap_or_default());
                    start = valid;
                    match error.error_len() {
                        Some(len) => {
                            self.text.push(char::REPLACEMENT_CHARACTER);
                            start += len;
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..start);
        &self.text
    }

    /// The end: a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let alphabet = gpt2_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet[&'A'], b'A');
        assert_eq!(alphabet[&'\u{120}'], b' ');
        assert_eq!(alphabet[&'\u{10a}'], b'\n');
        assert_eq!(alphabet[&'\u{143}'], 173);
    }

    #[test]
    fn holes_have_no_bytes() {
        let bytes = TokenBytes::new(&[Some(b"a".to_vec()), None, Some(b"".to_vec()), Some(b"bc".to_vec())]);
        assert_eq!(bytes.n_ids(), 4);
        assert_eq!(bytes.get(0), Some(&b"a"[..]));
        assert_eq!(bytes.get(1), None);
        assert_eq!(bytes.get(2), Some(&b""[..]));
        assert_eq!(bytes.get(3), Some(&b"bc"[..]));
        assert_eq!(bytes.get(4), None);
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let text = "\\PC{0,6}".prop_map(|text: String| text.into_bytes());
        let bytes = proptest::collection::vec(any::<u8>(), 0..5);
        proptest::collection::vec(prop_oneof![text, bytes], 0..8)
    }

    proptest! {
        #[test]
        fn a_stream_gives_what_the_whole_gives(pieces in pieces(), cut in 1usize..4) {
            let all = pieces.concat();
            let mut decoder = StreamDecoder::new();
            let mut text = String::new();
            for piece in all.chunks(cut) {
                text.push_str(decoder.push(piece));
            }
            text.push_str(decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&all).into_owned());
        }
    }
}
