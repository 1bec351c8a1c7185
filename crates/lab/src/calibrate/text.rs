use std::io::Read;

use super::CalibrateError;

/// Bytes that are made tokens at a time: a large text never lies in memory.
const PIECE_BYTES: usize = 64 << 10;

/// A text in pieces that end with a line where there is one, and never inside a character.
pub(super) struct Pieces<'a> {
    from: &'a mut dyn Read,
    bytes: Vec<u8>,
    /// Bytes at the front that were given out.
    used: usize,
    n_read: u64,
    is_over: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(from: &'a mut dyn Read) -> Pieces<'a> {
        Pieces { from, bytes: Vec::new(), used: 0, n_read: 0, is_over: false }
    }

    /// Bytes that were given out.
    pub(super) fn n_read(&self) -> u64 {
        self.n_read
    }

    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<&str>, CalibrateError> {
        self.bytes.drain(..self.used);
        self.used = 0;
        if !self.is_over {
            let missing = (PIECE_BYTES - self.bytes.len()) as u64;
            let read = self.from.take(missing).read_to_end(&mut self.bytes).map_err(CalibrateError::Text)?;
            self.is_over = (read as u64) < missing;
        }
        let line_end = self.bytes.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        let wanted = if self.is_over { self.bytes.len() } else { line_end.unwrap_or(self.bytes.len()) };
        let text = match std::str::from_utf8(&self.bytes[..wanted]) {
            Ok(text) => text,
            // A character that the piece cut in two comes with the next.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 && !self.is_over => {
                std::str::from_utf8(&self.bytes[..error.valid_up_to()]).expect("valid up to there")
            }
            Err(error) => {
                return Err(CalibrateError::NotUtf8 { offset: self.n_read + error.valid_up_to() as u64 });
            }
        };
        self.used = text.len();
        self.n_read += text.len() as u64;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut bytes: &[u8]) -> Result<Vec<String>, CalibrateError> {
        let mut pieces = Pieces::new(&mut bytes);
        let mut all = Vec::new();
        while let Some(piece) = pieces.next()? {
            all.push(piece.to_owned());
        }
        Ok(all)
    }

    #[test]
    fn pieces_are_the_text_and_end_with_lines() {
        let line = "a line of some length, with \u{e9}\n";
        let text = line.repeat(10_000);
        let found = pieces(text.as_bytes()).unwrap();
        assert!(found.len() > 4 && found.concat() == text);
        assert!(found.iter().all(|piece| piece.ends_with('\n') && piece.len() <= PIECE_BYTES));
        // One character of three bytes over and over: some border cuts it.
        let text = "\u{20ac}".repeat(50_000);
        assert_eq!(pieces(text.as_bytes()).unwrap().concat(), text);
        assert!(pieces(b"").unwrap().is_empty());
        assert_eq!(pieces(b"no line end").unwrap(), ["no line end"]);
    }

    #[test]
    fn what_is_no_text_is_refused_at_its_place() {
        let mut bytes = "fine\n".repeat(20_000).into_bytes();
        bytes[70_000] = 0xff;
        let error = pieces(&bytes).unwrap_err();
        assert!(matches!(error, CalibrateError::NotUtf8 { offset: 70_000 }), "{error}");
        assert!(matches!(pieces(b"cut \xe2\x82"), Err(CalibrateError::NotUtf8 { offset: 4 })));
    }
}
