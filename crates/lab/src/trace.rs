//! Routing traces: which experts each token picked, as JSON lines that any tool reads.
//!
//! ```text
//! {"flashmill_trace":1,"model":"demo","top_k":6,"n_experts":[48,48,..]}     one entry a layer, 0 where it is dense
//! {"prompt":true,"picks":[[3,17,..],..],"guess":[[],[4,17,..],..]}          one line a token, one list a layer
//! ```
//!
//! `picks` are in the order of the router, best first. `guess`, which may be left out, is what the layer's router said of the
//! hidden state one layer earlier, best first; a first layer has none.

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize};

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The model it was recorded on.
    pub header: TraceHeader,
    /// In the order in which they were read.
    pub tokens: Vec<TracedToken>,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHeader {
    /// The version of the format, [`VERSION`].
    #[serde(rename = "flashmill_trace")]
    pub version: u32,
    /// The model's name.
    pub model: String,
    /// Experts of a token.
    pub top_k: usize,
    /// Experts of each layer, 0 where it is dense.
    pub n_experts: Vec<usize>,
}

/// What one token picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedToken {
    /// It belongs to a prompt and was not generated.
    pub prompt: bool,
    /// `[n_layers][top_k]`, empty where a layer is dense.
    pub picks: Vec<Vec<u32>>,
    /// `[n_layers][any number]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guess: Vec<Vec<u32>>,
}

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// A longer line is not a line of a trace.
const MAX_LINE: u64 = 4 << 20;

/// Why a trace could not be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file could not be read.
    #[error("line {line}: {error}")]
    Read {
        /// Which line.
        line: usize,
        /// Why.
        error: io::Error,
    },
    /// A line is not the JSON that it should be.
    #[error("line {line} is not a line of a routing trace: {error}")]
    Json {
        /// Which line.
        line: usize,
        /// Why.
        error: serde_json::Error,
    },
    /// A line that goes on and on.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    LongLine {
        /// Which line.
        line: usize,
    },
    /// A trace of another version.
    #[error("the trace has version {version}; this program reads version {VERSION}")]
    Version {
        /// What it says.
        version: u32,
    },
    /// A token with another number of layers than the header.
    #[error("line {line} has {found} layers of {what}, the header {expected}")]
    Layers {
        /// Which line.
        line: usize,
        /// `picks` or `guess`.
        what: &'static str,
        /// How many it has.
        found: usize,
        /// How many the header has.
        expected: usize,
    },
    /// An expert that does not exist or is listed twice.
    #[error(
        "line {line}: layer {layer} lists expert {expert}, which is not one of {n_experts} or is there twice"
    )]
    Expert {
        /// Which line.
        line: usize,
        /// Which layer.
        layer: usize,
        /// What it says.
        expert: u32,
        /// How many experts the layer has.
        n_experts: usize,
    },
    /// There is no token.
    #[error("the trace has no tokens")]
    Empty,
}

impl Trace {
    /// Reads and checks a trace.
    pub fn read(from: impl BufRead) -> Result<Trace, TraceError> {
        let mut lines = Lines { from, line: 0, text: Vec::new() };
        let header: TraceHeader = lines.next()?.ok_or(TraceError::Empty)?;
        if header.version != VERSION {
            return Err(TraceError::Version { version: header.version });
        }
        let mut tokens = Vec::new();
        while let Some(token) = lines.next()? {
            check(&header, &token, lines.line)?;
            tokens.push(token);
        }
        if tokens.is_empty() { Err(TraceError::Empty) } else { Ok(Trace { header, tokens }) }
    }

    /// Experts of all layers.
    pub fn n_records(&self) -> usize {
        self.header.n_experts.iter().sum()
    }
}

impl TraceHeader {
    /// Writes the header.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        write_line(to, self)
    }
}

impl TracedToken {
    /// Writes the token.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        write_line(to, self)
    }
}

fn write_line(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut to, value)?;
    to.write_all(b"\n")
}

struct Lines<R> {
    from: R,
    line: usize,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line that is not blank.
    fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, TraceError> {
        loop {
            self.line += 1;
            let line = self.line;
            self.text.clear();
            let read = self.from.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut self.text);
            match read.map_err(|error| TraceError::Read { line, error })? {
                0 => return Ok(None),
                n if n as u64 > MAX_LINE => return Err(TraceError::LongLine { line }),
                _ if self.text.trim_ascii().is_empty() => {}
                _ => {
                    let value = serde_json::from_slice(&self.text);
                    return value.map(Some).map_err(|error| TraceError::Json { line, error });
                }
            }
        }
    }
}

fn check(header: &TraceHeader, token: &TracedToken, line: usize) -> Result<(), TraceError> {
    let expected = header.n_experts.len();
    for (what, lists) in [("picks", &token.picks), ("guess", &token.guess)] {
        let absent = what == "guess" && lists.is_empty();
        if lists.len() != expected && !absent {
            return Err(TraceError::Layers { line, what, found: lists.len(), expected });
        }
        for (layer, (list, &n_experts)) in lists.iter().zip(&header.n_experts).enumerate() {
            for (at, &expert) in list.iter().enumerate() {
                if expert as usize >= n_experts || list[..at].contains(&expert) {
                    return Err(TraceError::Expert { line, layer, expert, n_experts });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let header = TraceHeader { version: VERSION, model: "m".into(), top_k: 2, n_experts: vec![4, 0, 3] };
        let token =
            |prompt, guess| TracedToken { prompt, picks: vec![vec![3, 0], vec![], vec![1, 2]], guess };
        let tokens = vec![token(true, vec![]), token(false, vec![vec![], vec![], vec![2, 0, 1]])];
        Trace { header, tokens }
    }

    fn text(trace: &Trace) -> Vec<u8> {
        let mut text = Vec::new();
        trace.header.write(&mut text).expect("written");
        trace.tokens.iter().for_each(|token| token.write(&mut text).expect("written"));
        text
    }

    #[test]
    fn a_trace_comes_back() {
        let trace = trace();
        assert_eq!(Trace::read(&text(&trace)[..]).expect("read"), trace);
        assert_eq!(trace.n_records(), 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = String::from_utf8(text(&trace())).expect("ASCII");
        for (from, to, message) in [
            ("\"flashmill_trace\":1", "\"flashmill_trace\":9", "the trace has version 9"),
            ("[3,0]", "[3,4]", "line 2: layer 0 lists expert 4"),
            ("[1,2]", "[1,1]", "line 2: layer 2 lists expert 1"),
            ("[3,0],[],", "[3,0],", "line 2 has 2 layers of picks, the header 3"),
            ("[],[],[2,0,1]", "[2]", "line 3 has 1 layers of guess, the header 3"),
            ("{\"prompt\":false", "\"", "line 3 is not a line of a routing trace"),
            ("[3,0]", "[-1]", "line 2 is not a line of a routing trace"),
        ] {
            let error = Trace::read(text.replacen(from, to, 1).as_bytes()).expect_err(message).to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let header = text.lines().next().expect("a header");
        assert!(matches!(Trace::read(header.as_bytes()), Err(TraceError::Empty)));
        let long = vec![b' '; MAX_LINE as usize + 2];
        assert!(matches!(Trace::read(&long[..]), Err(TraceError::LongLine { line: 1 })));
    }
}
