//! From the model's tokens to what is shown: the one path that every front end uses.

use crate::stops::StopMatcher;
use crate::thinking::{self, Splitter};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use crate::tool_calls::{self, ParsedCall, ToolSchemas};

/// A piece of a model's output. Neighbouring pieces of a kind belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Part of a thought.
    Thought(String),
    /// Part of the answer.
    Answer(String),
    /// A whole tool call.
    ToolCall(ParsedCall),
}

/// Why the output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended its turn, with this token.
    EndToken(u32),
    /// A stop string came up; the index says which.
    StopString(usize),
}

/// What an [`OutputStream`] needs to know.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// Tokens that end the output.
    pub eos_ids: Vec<u32>,
    /// Texts that end the output; they are searched in all of it, thoughts included.
    pub stops: Vec<String>,
    /// The prompt has opened a thought.
    pub in_thought: bool,
    /// The tools that were offered.
    pub schemas: ToolSchemas,
}

/// Tokens in, pieces out: end tokens, whole characters, stop strings, thoughts and tool calls.
///
/// Control tokens other than the markers of thoughts and tool calls are not shown. The same tokens give the same output,
/// however they are cut.
#[derive(Clone, Debug)]
pub struct OutputStream {
    eos_ids: Vec<u32>,
    decoder: StreamDecoder,
    stops: StopMatcher,
    splitter: Splitter,
    end: Option<EndReason>,
    /// Scratch: text that no stop string holds back.
    text: String,
}

impl OutputStream {
    /// A stream at the start of an answer.
    pub fn new(options: OutputOptions) -> OutputStream {
        OutputStream {
            eos_ids: options.eos_ids,
            decoder: StreamDecoder::new(),
            stops: StopMatcher::new(options.stops),
            splitter: Splitter::new(options.in_thought, options.schemas),
            end: None,
            text: String::new(),
        }
    }

    /// Adds a token; appends the pieces that it makes certain. Gives why the output ended, once it has; tokens
    /// after that are dropped.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, out: &mut Vec<Piece>) -> Option<EndReason> {
        if self.end.is_some() {
            return self.end;
        }
        if self.eos_ids.contains(&token) {
            self.end = Some(EndReason::EndToken(token));
            return self.end;
        }
        if !is_shown(tokenizer, token) {
            return None;
        }
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        let text = self.decoder.push(bytes);
        self.text.clear();
        self.end = self.stops.push(text, &mut self.text).map(EndReason::StopString);
        self.splitter.push(&self.text, out);
        self.end
    }

    /// The end of the output: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.text.clear();
        let text = self.decoder.finish();
        // What was found before stays found; a last broken character may even complete a stop string.
        let found = self.stops.push(text, &mut self.text).map(EndReason::StopString);
        self.end = self.end.or(found);
        self.stops.finish(&mut self.text);
        self.splitter.push(&self.text, out);
        self.splitter.finish(out);
    }

    /// Why the output ended, if it has.
    pub fn end(&self) -> Option<EndReason> {
        self.end
    }

    /// Inside of a thought at present.
    pub fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }
}

/// Control tokens are for the engine's eyes, but some models flag their markers as such.
fn is_shown(tokenizer: &Tokenizer, token: u32) -> bool {
    let markers = [thinking::THINK, thinking::END_THINK, tool_calls::OPEN, tool_calls::CLOSE];
    match tokenizer.added_tokens().get(token) {
        Some(added) => !added.special || markers.contains(&added.content.as_str()),
        None => true,
    }
}
