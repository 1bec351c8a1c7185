//! Thoughts, answer and tool calls apart, while the text comes in.

use crate::stops::overlap;
use crate::stream::Piece;
use crate::tool_calls::{self, ParsedCall, ToolSchemas};

/// Opens a thought.
pub const THINK: &str = "<think>";
/// Ends a thought.
pub const END_THINK: &str = "</think>";

/// Cuts a model's text into pieces of [`Piece`]. How the text is cut when it comes in does not change what comes out,
/// once neighbouring pieces of a kind are put together.
///
/// A thought starts where the prompt has opened one, or with `<think>` before anything else; it ends with `</think>`.
/// Line ends next to the markers and to tool calls are not part of any piece.
#[derive(Clone, Debug)]
pub struct Splitter {
    schemas: ToolSchemas,
    state: State,
    /// Text that is not decided yet; of a tool call, all of it.
    held: String,
    /// Bytes of a tool call in `held` that have been searched for its end.
    n_searched: usize,
    n_calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a thought; `is_fresh` until its first character that is no line end.
    Thought { is_fresh: bool },
    /// At the start of an answer, where `<think>` may still come.
    Start,
    /// In an answer; `is_fresh` after a thought or a call, until the first character that is no line end.
    Answer { is_fresh: bool },
    /// After `<tool_call>`, which `held` starts with.
    ToolCall,
}

impl Splitter {
    /// `in_thought`: the prompt has opened a thought.
    pub fn new(in_thought: bool, schemas: ToolSchemas) -> Splitter {
        let state = if in_thought { State::Thought { is_fresh: true } } else { State::Start };
        Splitter { schemas, state, held: String::new(), n_searched: 0, n_calls: 0 }
    }

    /// Inside of a thought at present.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thought { .. })
    }

    /// Adds text; appends the pieces that are certain.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// The same for text that is all answer: `<think>` has no meaning in it.
    pub(crate) fn push_answer(&mut self, text: &str, out: &mut Vec<Piece>) {
        if self.state == State::Start {
            self.state = State::Answer { is_fresh: false };
        }
        self.push(text, out);
    }

    /// The end of the text.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        loop {
            while self.step(out) {}
            match self.state {
                State::ToolCall => self.close_unfinished_call(out),
                State::Thought { .. } => {
                    self.emit(self.held.len(), out);
                    return;
                }
                State::Start | State::Answer { .. } => {
                    self.emit(self.held.len(), out);
                    return;
                }
            }
        }
    }

    /// Does one thing with the held text; `false` if more text is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Thought { is_fresh: true } | State::Answer { is_fresh: true } => self.skip_line_ends(),
            State::Thought { is_fresh: false } => self.step_to(END_THINK, out),
            State::Start => self.step_start(),
            State::Answer { is_fresh: false } => self.step_to(tool_calls::OPEN, out),
            State::ToolCall => self.step_call(out),
        }
    }

    fn skip_line_ends(&mut self) -> bool {
        let n = self.held.len() - self.held.trim_start_matches(is_line_end).len();
        self.held.drain(..n);
        if self.held.is_empty() {
            return false;
        }
        self.state = match self.state {
            State::Thought { .. } => State::Thought { is_fresh: false },
            _ => State::Answer { is_fresh: false },
        };
        true
    }

    /// Before the first character of an answer that is no white space, `<think>` opens a thought.
    fn step_start(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.starts_with(THINK) {
            let n = self.held.len() - text.len() + THINK.len();
            self.held.drain(..n);
            self.state = State::Thought { is_fresh: true };
            return true;
        }
        if THINK.starts_with(text) {
            return false;
        }
        self.state = State::Answer { is_fresh: false };
        true
    }

    /// Emits text up to `marker`, and goes on to what follows it.
    fn step_to(&mut self, marker: &'static str, out: &mut Vec<Piece>) -> bool {
        let Some(at) = self.held.find(marker) else {
            // The marker may have begun, and line ends may turn out to stand before it.
            let certain = self.held.len() - overlap(self.held.as_bytes(), marker.as_bytes());
            let certain = self.held[..certain].trim_end_matches(is_line_end).len();
            self.emit(certain, out);
            return false;
        };
        let text = self.held[..at].trim_end_matches(is_line_end).len();
        self.emit(text, out);
        self.held.drain(..at - text);
        if marker == END_THINK {
            self.held.drain(..END_THINK.len());
            self.state = State::Answer { is_fresh: true };
        } else {
            self.n_searched = marker.len();
            self.state = State::ToolCall;
        }
        true
    }

    /// Looks for the end of a call that is not inside of one of its strings.
    fn step_call(&mut self, out: &mut Vec<Piece>) -> bool {
        while let Some(at) =
            self.held[self.n_searched..].find(tool_calls::CLOSE).map(|at| at + self.n_searched)
        {
            if tool_calls::is_complete(&self.held[tool_calls::OPEN.len()..at]) {
                self.emit_call(at, at + tool_calls::CLOSE.len(), out);
                return true;
            }
            self.n_searched = at + tool_calls::CLOSE.len();
        }
        let n_begun = overlap(self.held.as_bytes(), tool_calls::CLOSE.as_bytes());
        self.n_searched = self.n_searched.max(self.held.len() - n_begun);
        false
    }

    /// No marker ends the call properly: the first one does, or the end of the text.
    fn close_unfinished_call(&mut self, out: &mut Vec<Piece>) {
        match self.held.find(tool_calls::CLOSE) {
            Some(at) => self.emit_call(at, at + tool_calls::CLOSE.len(), out),
            None => self.emit_call(self.held.len(), self.held.len(), out),
        }
    }

    /// Emits the call in `held[..end]`, whose inside ends at `inside_end`.
    fn emit_call(&mut self, inside_end: usize, end: usize, out: &mut Vec<Piece>) {
        let id = format!("call_{}", self.n_calls);
        let inside = &self.held[tool_calls::OPEN.len()..inside_end];
        let call = tool_calls::parse(inside, id, &self.schemas);
        let raw = self.held[..end].to_owned();
        out.push(Piece::ToolCall(ParsedCall { raw, call }));
        self.n_calls += 1;
        self.held.drain(..end);
        self.state = State::Answer { is_fresh: true };
    }

    /// Emits the first `n` bytes of the held text.
    fn emit(&mut self, n: usize, out: &mut Vec<Piece>) {
        if n == 0 {
            return;
        }
        let text: String = self.held.drain(..n).collect();
        let is_thought = self.is_thinking();
        match out.last_mut() {
            Some(Piece::Thought(last)) if is_thought => last.push_str(&text),
            Some(Piece::Answer(last)) if !is_thought => last.push_str(&text),
            _ => out.push(if is_thought { Piece::Thought(text) } else { Piece::Answer(text) }),
        }
    }
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(in_thought: bool, pieces: &[&str]) -> Vec<Piece> {
        let mut splitter = Splitter::new(in_thought, ToolSchemas::default());
        let mut out = Vec::new();
        for piece in pieces {
            splitter.push(piece, &mut out);
        }
        splitter.finish(&mut out);
        out
    }

    fn thought(text: &str) -> Piece {
        Piece::Thought(text.into())
    }

    fn answer(text: &str) -> Piece {
        Piece::Answer(text.into())
    }

    #[test]
    fn thoughts_come_apart() {
        assert_eq!(
            run(true, &["Hm.\n\nYes.\n</think>\n\nHello.\n"]),
            [thought("Hm.\n\nYes."), answer("Hello.\n")]
        );
        assert_eq!(run(true, &["cut off\n"]), [thought("cut off\n")]);
        assert_eq!(run(true, &["</think>ok"]), [answer("ok")]);
        assert_eq!(run(false, &["\n<think>\na</think>b"]), [thought("a"), answer("b")]);
        assert_eq!(run(false, &[" <thin"]), [answer(" <thin")]);
        assert_eq!(run(false, &["a <think> b </think>"]), [answer("a <think> b </think>")]);
        assert_eq!(run(true, &["a<tool_call>b"]), [thought("a<tool_call>b")]);
        assert_eq!(run(false, &[]), []);
    }

    #[test]
    fn text_is_shown_as_soon_as_it_is_certain() {
        let mut splitter = Splitter::new(true, ToolSchemas::default());
        let mut out = Vec::new();
        splitter.push("one two</thi", &mut out);
        assert_eq!(out, [thought("one two")]);
        splitter.push("s\n", &mut out);
        assert_eq!(out, [thought("one two</this")]);
        splitter.push("\n</think>", &mut out);
        splitter.push("\n\nHello", &mut out);
        assert_eq!(out, [thought("one two</this"), answer("Hello")]);
    }

    #[test]
    fn unfinished_calls_are_kept() {
        let raw = |piece: &Piece| match piece {
            Piece::ToolCall(call) => (call.raw.clone(), call.call.is_ok()),
            _ => panic!("not a call"),
        };
        // The end of the turn came instead of the closing marker.
        let out = run(false, &["<tool_call>{\"name\": \"f\"}"]);
        assert_eq!(raw(&out[0]), ("<tool_call>{\"name\": \"f\"}".into(), true));
        let out = run(false, &["<tool_call>{\"name\": \"f"]);
        assert_eq!(raw(&out[0]), ("<tool_call>{\"name\": \"f".into(), false));
        // A string that never ends takes what follows with it only up to the first closing marker.
        let out = run(false, &["<tool_call>{\"name\": \"f}</tool_call> and text"]);
        assert_eq!(raw(&out[0]), ("<tool_call>{\"name\": \"f}</tool_call>".into(), false));
        assert_eq!(out[1..], [answer(" and text")]);
    }

    proptest! {
        #[test]
        fn how_the_text_is_cut_does_not_matter(
            in_thought in any::<bool>(),
            text in "(<think>|</think>|<tool_call>|</tool_call>|\\{\"name\": \"f\"\\}|[<a\\n\"/\u{e9}]){0,12}",
            cuts in proptest::collection::vec(1usize..6, 100),
        ) {
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            for n in cuts {
                let end = rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
                pieces.push(&rest[..end]);
                rest = &rest[end..];
            }
            pieces.push(rest);
            prop_assert_eq!(run(in_thought, &pieces), run(in_thought, &[&text]));
        }
    }
}
