//! Markers in text that comes in tokens: where `</think>` or `<tool_call>` ends, and which tokens would run over the end.

/// A marker, which a vocabulary may have as one token and which a model may also spell.
#[derive(Debug)]
pub(crate) struct Marker {
    text: &'static [u8],
    /// The token that is the marker.
    pub(crate) token: Option<u32>,
    /// By the number of the marker's bytes that stand at the end of the text: tokens that complete it and go on.
    overshoot: Vec<Vec<u32>>,
    /// The same: tokens that complete it.
    completing: Vec<Vec<u32>>,
}

impl Marker {
    /// `tokens`: the texts of all tokens that are shown. The marker's first byte may occur in it only once.
    pub(crate) fn new<'a>(
        text: &'static str,
        token: Option<u32>,
        tokens: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Marker {
        let text = text.as_bytes();
        assert!(!text[1..].contains(&text[0]), "a marker starts nowhere inside of itself");
        let mut marker = Marker {
            text,
            token,
            overshoot: vec![Vec::new(); text.len()],
            completing: vec![Vec::new(); text.len()],
        };
        let last = text[text.len() - 1];
        for (id, bytes) in tokens.filter(|(_, bytes)| bytes.contains(&last)) {
            for n_before in 0..text.len() {
                let mut n_matched = n_before;
                if let Some(end) = marker.find_end(&mut n_matched, bytes) {
                    marker.completing[n_before].push(id);
                    if end < bytes.len() {
                        marker.overshoot[n_before].push(id);
                    }
                }
            }
        }
        marker
    }

    /// Bytes of the marker at the end of the text, one byte later. The marker's length when it is complete.
    pub(crate) fn step(&self, n_matched: usize, byte: u8) -> usize {
        if self.text[n_matched] == byte { n_matched + 1 } else { usize::from(self.text[0] == byte) }
    }

    /// Whether `n_matched` bytes are all of it.
    pub(crate) fn is_complete(&self, n_matched: usize) -> bool {
        n_matched == self.text.len()
    }

    /// Goes through `bytes`; gives where the marker ends in them, if it does. `n_matched` is then 0.
    pub(crate) fn find_end(&self, n_matched: &mut usize, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            *n_matched = self.step(*n_matched, byte);
            if self.is_complete(*n_matched) {
                *n_matched = 0;
                return Some(at + 1);
            }
        }
        None
    }

    /// Tokens that complete the marker and go on, after `n_matched` bytes of it.
    pub(crate) fn overshoot(&self, n_matched: usize) -> &[u32] {
        &self.overshoot[n_matched]
    }

    /// Tokens that complete the marker, after `n_matched` bytes of it.
    pub(crate) fn completing(&self, n_matched: usize) -> &[u32] {
        &self.completing[n_matched]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_text_is_cut() {
        let marker = Marker::new("</think>", None, std::iter::empty());
        let text = b"a < b <</think </think></think>x";
        let whole = String::from_utf8_lossy(text).find("</think>").expect("it is there") + 8;
        for cut in 0..=whole {
            let mut n_matched = 0;
            let first = marker.find_end(&mut n_matched, &text[..cut]);
            let end = first.or_else(|| marker.find_end(&mut n_matched, &text[cut..]).map(|end| cut + end));
            assert_eq!(end, Some(whole), "cut at {cut}");
        }
    }

    #[test]
    fn tokens_that_run_over_the_end_are_known() {
        let tokens: [(u32, &[u8]); 5] =
            [(0, b"call>\n"), (1, b"call>"), (2, b"<tool_call>{"), (3, b">"), (4, b">>")];
        let marker = Marker::new("<tool_call>", Some(9), tokens.into_iter());
        assert_eq!((marker.overshoot(0), marker.completing(0)), (&[2][..], &[2][..]));
        assert_eq!((marker.overshoot(6), marker.completing(6)), (&[0, 2][..], &[0, 1, 2][..]));
        assert_eq!((marker.overshoot(10), marker.completing(10)), (&[2, 4][..], &[2, 3, 4][..]));
    }
}
