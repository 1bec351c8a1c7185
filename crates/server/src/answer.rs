//! What comes out of a job, in whatever API it is told.

use serde_json::{Value, json};

use crate::error::ApiError;

/// What happens while a job runs.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerEvent {
    /// A prompt is read.
    Started {
        /// Its tokens.
        prompt_tokens: usize,
        /// Those of them that were known from before.
        cached_tokens: usize,
    },
    /// A token of answer `index`, and what it made certain.
    Token {
        /// Which answer.
        index: usize,
        /// Often none or one.
        parts: Vec<Part>,
        /// If they were asked for, and the token is a part of the answer's text.
        logprobs: Option<TokenLogprobs>,
    },
    /// An answer is over.
    Finished {
        /// Which answer.
        index: usize,
        /// What had been held back.
        parts: Vec<Part>,
        /// Why.
        ending: Ending,
        /// Its tokens.
        n_tokens: usize,
        /// Those of them that were thoughts.
        n_thought_tokens: usize,
    },
    /// Nothing more will come.
    Failed(ApiError),
}

/// A piece of an answer; neighbours of a kind belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Of a thought.
    Thought(String),
    /// Of the answer itself.
    Text(String),
    /// A whole call of a tool.
    Call(Call),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// An object as JSON text.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it.
    Turn,
    /// This stop string came up.
    Stop(String),
    /// As many tokens as were allowed.
    Length,
    /// No place in the context is left.
    ContextFull,
}

/// A token of an answer and how likely it was, beside the likeliest.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The one that was chosen.
    pub chosen: TokenLogprob,
    /// The likeliest, likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its bytes; a character may have several tokens.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

impl TokenLogprob {
    /// Its text; bytes that are no characters of their own are shown as U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// `{"token", "logprob", "bytes"}`.
    pub(crate) fn json(&self) -> Value {
        json!({"token": self.text(), "logprob": self.logprob, "bytes": self.bytes})
    }
}

impl TokenLogprobs {
    /// An element of OpenAI's `logprobs.content`.
    pub(crate) fn json(&self) -> Value {
        let mut json = self.chosen.json();
        json["top_logprobs"] = self.top.iter().map(TokenLogprob::json).collect();
        json
    }
}

/// What a job has said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Those of them that were known from before.
    pub cached_tokens: usize,
    /// The answers by index.
    pub answers: Vec<Answer>,
}

/// One answer so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What was said, neighbours of a kind put together.
    pub parts: Vec<Part>,
    /// Of the tokens of the text.
    pub logprobs: Vec<TokenLogprobs>,
    /// `None`: not over yet.
    pub ending: Option<Ending>,
    /// Tokens, known at the end.
    pub n_tokens: usize,
    /// Those of them that were thoughts.
    pub n_thought_tokens: usize,
}

impl Outcome {
    /// Room for `n` answers.
    pub fn new(n: usize) -> Outcome {
        Outcome { answers: vec![Answer::default(); n], ..Outcome::default() }
    }

    /// Notes an event; one for an answer that there is not is passed over.
    pub fn add(&mut self, event: AnswerEvent) {
        match event {
            AnswerEvent::Started { prompt_tokens, cached_tokens } => {
                self.prompt_tokens += prompt_tokens;
                self.cached_tokens += cached_tokens;
            }
            AnswerEvent::Token { index, parts, logprobs } => {
                let Some(answer) = self.answers.get_mut(index) else { return };
                parts.into_iter().for_each(|part| answer.add(part));
                answer.logprobs.extend(logprobs);
            }
            AnswerEvent::Finished { index, parts, ending, n_tokens, n_thought_tokens } => {
                let Some(answer) = self.answers.get_mut(index) else { return };
                parts.into_iter().for_each(|part| answer.add(part));
                *answer =
                    Answer { ending: Some(ending), n_tokens, n_thought_tokens, ..std::mem::take(answer) };
            }
            AnswerEvent::Failed(_) => {}
        }
    }

    /// Every answer is over.
    pub fn is_over(&self) -> bool {
        self.answers.iter().all(|answer| answer.ending.is_some())
    }

    /// Tokens of all answers.
    pub fn answer_tokens(&self) -> usize {
        self.answers.iter().map(|answer| answer.n_tokens).sum()
    }

    /// Those of them that were thoughts.
    pub fn thought_tokens(&self) -> usize {
        self.answers.iter().map(|answer| answer.n_thought_tokens).sum()
    }
}

impl Answer {
    fn add(&mut self, part: Part) {
        match (self.parts.last_mut(), part) {
            (Some(Part::Text(text)), Part::Text(more)) | (Some(Part::Thought(text)), Part::Thought(more)) => {
                text.push_str(&more);
            }
            (_, part) => self.parts.push(part),
        }
    }

    /// The text without thoughts and calls.
    pub fn text(&self) -> String {
        self.parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(&**text) } else { None })
            .collect()
    }

    /// The thoughts.
    pub fn thought(&self) -> String {
        self.parts
            .iter()
            .filter_map(|part| if let Part::Thought(text) = part { Some(&**text) } else { None })
            .collect()
    }

    /// The calls.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.parts.iter().filter_map(|part| if let Part::Call(call) = part { Some(call) } else { None })
    }
}

/// One API's words for one job's answers.
pub trait Reply: Send {
    /// Appends to `out` what a stream of server-sent events says for an event.
    fn stream(&mut self, event: &AnswerEvent, out: &mut String);

    /// The whole as one object.
    fn whole(&self, outcome: &Outcome) -> Value;

    /// What keeps a silent stream open.
    fn ping(&self) -> &'static str {
        ": still at it\n\n"
    }
}

/// What an answer is told with: its own name, and those of the model and of the hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Letters and digits that no other answer has; each API puts its own prefix before them.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

/// Appends a server-sent event without a name.
pub(crate) fn push_data(out: &mut String, data: &Value) {
    use std::fmt::Write as _;
    let _ = write!(out, "data: {data}\n\n");
}

/// Appends a server-sent event.
pub(crate) fn push_event(out: &mut String, name: &str, data: &Value) {
    use std::fmt::Write as _;
    let _ = write!(out, "event: {name}\ndata: {data}\n\n");
}
