//! One answer of the model: from a conversation to tokens, from tokens to what is shown.

use std::sync::Arc;

use anyhow::Result;
use flashmill_engine::{EndReason, OutputOptions, OutputStream, ParsedCall, Piece, Prompt, Sampler, Session};
use flashmill_grammar::Form;

use crate::flags::TalkOptions;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::terminal::TextOut;

/// What the model is asked.
pub(crate) struct Question<'a> {
    pub(crate) prompt: Prompt,
    /// What the answer has to be.
    pub(crate) form: Option<&'a Form>,
}

/// What the model said.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) thought: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<ParsedCall>,
    pub(crate) n_prompt_tokens: usize,
    pub(crate) n_tokens: usize,
    pub(crate) end: End,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// The model ended it.
    #[default]
    Turn,
    /// A stop string came up.
    Stop,
    /// `--max-tokens` were there.
    MaxTokens,
    /// No position is left.
    ContextFull,
    /// The user pressed Ctrl-C.
    Interrupted,
}

impl End {
    /// The word of OpenAI's API.
    pub(crate) fn reason(self, has_calls: bool) -> &'static str {
        match self {
            End::Turn if has_calls => "tool_calls",
            End::Turn | End::Stop => "stop",
            End::MaxTokens | End::ContextFull => "length",
            End::Interrupted => "interrupted",
        }
    }
}

/// Lets the model answer; `show` gets every piece as soon as it is certain.
pub(crate) fn answer(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    question: Question<'_>,
    talk: &TalkOptions,
    interrupt: &Interrupt,
    show: &mut dyn FnMut(&Piece) -> Result<()>,
) -> Result<Answer> {
    let mut answer = Answer { n_prompt_tokens: question.prompt.tokens.len(), ..Answer::default() };
    interrupt.during(|| {
        if read_prompt(session, &question.prompt, interrupt)? {
            write_answer(session, sampler, question, talk, interrupt, &mut answer, show)?;
        } else {
            answer.end = End::Interrupted;
        }
        Ok(answer)
    })
}

/// `false` if the user interrupted it.
fn read_prompt(session: &mut Session<'_>, prompt: &Prompt, interrupt: &Interrupt) -> Result<bool> {
    let mut bar = Progress::of_tokens("reading the prompt");
    session.set_stop(interrupt.stop());
    let result =
        session.sync(&prompt.tokens, &prompt.keep, &mut |done, total| bar.set(done as u64, total as u64));
    match result {
        Ok(()) => Ok(true),
        Err(_) if interrupt.is_stopped() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn write_answer(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    question: Question<'_>,
    talk: &TalkOptions,
    interrupt: &Interrupt,
    answer: &mut Answer,
    show: &mut dyn FnMut(&Piece) -> Result<()>,
) -> Result<()> {
    // From here on Ctrl-C is looked at between tokens: a pass that stops half-way would lose the session's state.
    session.set_stop(Arc::default());
    let Question { prompt, form } = question;
    let mut constraint = form.map(|form| form.start(prompt.in_thought));
    let context = session.engine().plan().context;
    let mut stream = OutputStream::new(OutputOptions {
        eos_ids: session.engine().defaults().eos_ids.clone(),
        stops: talk.stops.clone(),
        in_thought: prompt.in_thought,
        schemas: prompt.schemas,
    });
    sampler.start(&prompt.tokens);
    let mut pieces = Vec::new();
    answer.end = loop {
        if interrupt.is_stopped() {
            break End::Interrupted;
        }
        if talk.max_tokens.is_some_and(|most| answer.n_tokens >= most) {
            break End::MaxTokens;
        }
        // The token sampled last has to be read before the next one can be sampled.
        if prompt.tokens.len() + answer.n_tokens > context {
            break End::ContextFull;
        }
        let token = session.next_within(sampler, constraint.as_deref_mut())?;
        answer.n_tokens += 1;
        let end = stream.push(session.engine().tokenizer(), token, &mut pieces);
        take(&mut pieces, answer, show)?;
        match end {
            Some(EndReason::EndToken(_)) => break End::Turn,
            Some(EndReason::StopString(_)) => break End::Stop,
            None => {}
        }
    };
    stream.finish(&mut pieces);
    take(&mut pieces, answer, show)
}

fn take(
    pieces: &mut Vec<Piece>,
    answer: &mut Answer,
    show: &mut dyn FnMut(&Piece) -> Result<()>,
) -> Result<()> {
    for piece in pieces.drain(..) {
        show(&piece)?;
        match piece {
            Piece::Thought(text) => answer.thought.push_str(&text),
            Piece::Answer(text) => answer.text.push_str(&text),
            Piece::ToolCall(call) => answer.calls.push(call),
        }
    }
    Ok(())
}

/// Writes the pieces of an answer: thoughts dimmed, or between markers where nothing can be dimmed; tool calls as the model
/// wrote them, on lines of their own.
pub(crate) struct AnswerView<'a> {
    out: &'a mut TextOut,
    last: Last,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Thought,
    Answer,
    Call,
}

impl<'a> AnswerView<'a> {
    /// At the start of an answer.
    pub(crate) fn new(out: &'a mut TextOut) -> AnswerView<'a> {
        AnswerView { out, last: Last::Nothing }
    }

    /// Shows the next piece.
    pub(crate) fn show(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Thought(text) => {
                if self.last != Last::Thought {
                    self.out.end_line()?;
                    if self.out.can_dim() { self.out.set_dim(true)? } else { self.out.text("<think>\n")? }
                }
                self.out.text(text)?;
                self.last = Last::Thought;
            }
            Piece::Answer(text) => {
                self.end_thought()?;
                if self.last == Last::Call {
                    self.out.end_line()?;
                }
                self.out.text(text)?;
                self.last = Last::Answer;
            }
            Piece::ToolCall(call) => {
                self.end_thought()?;
                self.out.end_line()?;
                self.out.text(&call.raw)?;
                self.last = Last::Call;
            }
        }
        Ok(())
    }

    /// The answer is over.
    pub(crate) fn end(mut self) -> Result<()> {
        self.end_thought()?;
        self.out.end_line()?;
        Ok(())
    }

    fn end_thought(&mut self) -> Result<()> {
        if self.last == Last::Thought {
            self.out.end_line()?;
            self.out.text(if self.out.can_dim() { "\n" } else { "</think>\n\n" })?;
            self.last = Last::Nothing;
        }
        Ok(())
    }
}
