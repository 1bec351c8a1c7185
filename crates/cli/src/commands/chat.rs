//! `flashmill chat MODEL`: a conversation, with tools that the model may ask for and the user allows.

mod command;
mod input;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flashmill_engine::{EngineError, Message, ParsedCall, Piece, Prompt, Sampler, Session, ToolCall};
use flashmill_grammar::Form;
use serde_json::{Value, json};

use crate::answer::{Answer, AnswerView, End, Question, answer};
use crate::commands::run::context_full;
use crate::flags::{ChatOptions, TalkOptions};
use crate::form::FormFlag;
use crate::interrupt::Interrupt;
use crate::load;
use crate::model_path::ModelPath;
use crate::report::{Report, timing_table};
use crate::terminal::{TextOut, dim_stderr, neutral, note};
use crate::tools::{Tools, to_spaced_json};
use command::{Command, HELP};
use input::{Input, Typed};

/// The model may call tools this many times in a row before the user has to say something.
const MAX_ROUNDS: usize = 8;

/// A tool's result is shown up to this many characters; the model gets all of it.
const SHOWN_RESULT_CHARS: usize = 300;

/// Opens the model and talks until the user leaves.
pub(crate) fn chat(options: ChatOptions) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let tools = Tools::new(&directory)?;
    let form = options.talk.form.as_ref().map(FormFlag::read).transpose()?;
    let definitions = Value::Array(Tools::definitions());
    let model = ModelPath::find(&options.model)?;
    let mut engine = load::open_engine(model.path(), &options.engine, &options.tuned)?;
    if engine.template().is_none() {
        return Err(EngineError::NoChatTemplate { dir: engine.dir().to_owned() }.into());
    }
    let sampling = options.talk.sampling(&engine.defaults().sampling);
    let sampler = Sampler::new(sampling, engine.tokenizer().n_vocab())?;
    let form = form.map(|form| form.compile(&engine, Some(&definitions))).transpose()?;
    let mut chat = Chat {
        session: engine.session()?,
        sampler,
        talk: options.talk,
        interrupt,
        input: Input::open()?,
        out: TextOut::new(),
        messages: Vec::new(),
        offer_tools: options.offer_tools,
        definitions,
        form,
        tools,
        always: Vec::new(),
    };
    if chat.input.is_terminal() {
        let name = options.model.to_string_lossy();
        let greeting = format!("{}: /help lists the commands, Ctrl-D leaves", neutral(&name));
        note!("{}", dim_stderr(&greeting));
    }
    chat.start_again();
    chat.run()?;
    if chat.talk.timing {
        note!("{}", timing_table(&chat.session));
    }
    note!("{}", dim_stderr(&Report::of(&chat.session).line()));
    Ok(ExitCode::SUCCESS)
}

struct Chat<'a> {
    session: Session<'a>,
    sampler: Sampler,
    talk: TalkOptions,
    interrupt: Interrupt,
    input: Input,
    out: TextOut,
    /// The system message first, if there is one.
    messages: Vec<Message>,
    tools: Tools,
    offer_tools: bool,
    definitions: Value,
    /// What answers have to be.
    form: Option<Form>,
    /// Tools that run without a question.
    always: Vec<String>,
}

impl Chat<'_> {
    fn run(&mut self) -> Result<()> {
        let mut was_interrupted = false;
        loop {
            match self.input.message()? {
                Typed::End => return Ok(()),
                Typed::Interrupted if was_interrupted => return Ok(()),
                Typed::Interrupted => {
                    note!("{}", dim_stderr("Ctrl-C once more, or Ctrl-D, leaves"));
                    was_interrupted = true;
                    continue;
                }
                Typed::Text(text) if text.trim().is_empty() => {}
                Typed::Text(text) => match Command::parse(&text) {
                    Some(Ok(Command::Quit)) => return Ok(()),
                    Some(Ok(command)) => self.command(command)?,
                    Some(Err(mistake)) => note!("{mistake}"),
                    None => self.turn(text)?,
                },
            }
            was_interrupted = false;
        }
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Help => note!("{HELP}"),
            Command::Quit => {}
            Command::Reset => {
                self.start_again();
                note!("the conversation is forgotten");
            }
            Command::Stats => {
                note!("{}", Report::of(&self.session).line());
                if self.talk.timing {
                    note!("{}", timing_table(&self.session));
                }
            }
            Command::Tools(Some(offer)) => self.offer_tools = offer,
            Command::Tools(None) => self.list_tools(),
            Command::Think(Some(think)) => self.talk.thinking = Some(think),
            Command::Think(None) => note!(
                "{}",
                match self.talk.thinking {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "as the model's template decides",
                }
            ),
            Command::System(None) => match &self.talk.system {
                Some(text) => note!("{}", neutral(text)),
                None => note!("there is no system message"),
            },
            Command::System(Some(text)) => {
                self.talk.system = (text != "-").then_some(text);
                self.start_again();
                note!("a new conversation starts");
            }
        }
        Ok(())
    }

    fn start_again(&mut self) {
        self.messages = self.talk.system.iter().map(Message::system).collect();
    }

    fn list_tools(&self) {
        for tool in self.definitions.as_array().into_iter().flatten() {
            let function = &tool["function"];
            let text = |field: &str| function[field].as_str().unwrap_or_default().to_owned();
            note!("{:<12} {}", text("name"), text("description"));
        }
        if !self.offer_tools {
            note!("they are not offered to the model now; /tools on changes that");
        }
    }

    /// The user's message, the model's answer, and as many tool calls and further answers as it takes.
    fn turn(&mut self, text: String) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(Message::user(text));
        for _ in 0..MAX_ROUNDS {
            let answer = match self.answer() {
                Ok(answer) => answer,
                Err(error) if self.input.is_terminal() && is_too_long(&error) => {
                    self.messages.truncate(before);
                    note!("error: {error:#}; /reset starts again");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if answer.n_tokens == 0 && answer.end == End::Interrupted {
                self.messages.truncate(before);
                note!("{}", dim_stderr("(interrupted before the answer; your message is forgotten)"));
                return Ok(());
            }
            let end = answer.end;
            let calls = self.keep(answer);
            match end {
                End::ContextFull => {
                    note!("warning: {}; /reset starts again", context_full(&self.session))
                }
                End::Interrupted => note!("{}", dim_stderr("(interrupted)")),
                End::Turn | End::Stop | End::MaxTokens => {}
            }
            if calls.is_empty() {
                return Ok(());
            }
            for call in calls {
                let result = self.carry_out(&call)?;
                self.messages.push(Message::tool(&call.id, to_spaced_json(&result)));
            }
        }
        note!("the model called tools {MAX_ROUNDS} times in a row; say something to go on");
        Ok(())
    }

    fn answer(&mut self) -> Result<Answer> {
        let tools = self.offer_tools.then_some(&self.definitions);
        let options = self.talk.template();
        let prompt = Prompt::of_messages(self.session.engine().text(), &self.messages, tools, &options)?;
        let question = Question { prompt, form: self.form.as_ref() };
        let mut view = AnswerView::new(&mut self.out);
        let show = &mut |piece: &Piece| view.show(piece);
        let answer =
            answer(&mut self.session, &mut self.sampler, question, &self.talk, &self.interrupt, show)?;
        view.end()?;
        Ok(answer)
    }

    /// Adds an answer to the conversation; gives the calls to carry out. A call that cannot be read, or that an interrupt cut off,
    /// is kept as the text that it is.
    fn keep(&mut self, answer: Answer) -> Vec<ToolCall> {
        let is_whole = answer.end == End::Turn;
        let mut text = answer.text;
        let mut calls = Vec::new();
        for ParsedCall { raw, call } in answer.calls {
            match call {
                Ok(call) if is_whole && self.offer_tools => calls.push(call),
                other => {
                    if let Err(error) = other {
                        note!("{}", neutral(&error.to_string()));
                    }
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(&raw);
                }
            }
        }
        self.messages.push(Message {
            reasoning_content: (!answer.thought.is_empty()).then_some(answer.thought),
            tool_calls: calls.clone(),
            ..Message::assistant(text)
        });
        calls
    }

    /// Runs a call if the user allows it. The result is data for the model, whatever it says.
    fn carry_out(&mut self, call: &ToolCall) -> Result<Value> {
        let result = if !Tools::has(&call.name) || self.is_allowed(call)? {
            self.tools.call(&call.name, &call.arguments)
        } else {
            json!({"error": "the user did not allow this call"})
        };
        let shown = to_spaced_json(&result);
        let mut short: String = shown.chars().take(SHOWN_RESULT_CHARS).collect();
        if short.len() < shown.len() {
            short.push_str(" ...");
        }
        note!("{}", dim_stderr(&neutral(&short)));
        Ok(result)
    }

    fn is_allowed(&mut self, call: &ToolCall) -> Result<bool> {
        if self.always.contains(&call.name) {
            return Ok(true);
        }
        let arguments = to_spaced_json(&call.arguments);
        let question =
            format!("run {} {}? [y]es, [n]o, [a]lways: ", neutral(&call.name), neutral(&arguments));
        loop {
            let Some(word) = self.input.answer(&question, |word| Consent::parse(word).is_some())? else {
                return Ok(false);
            };
            match Consent::parse(&word) {
                Some(Consent::Yes) => return Ok(true),
                Some(Consent::No) => return Ok(false),
                Some(Consent::Always) => {
                    self.always.push(call.name.clone());
                    return Ok(true);
                }
                None => note!("y, n or a"),
            }
        }
    }
}

/// The answer to whether a tool may run.
enum Consent {
    Yes,
    No,
    Always,
}

impl Consent {
    fn parse(word: &str) -> Option<Consent> {
        match word.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Some(Consent::Yes),
            "n" | "no" => Some(Consent::No),
            "a" | "always" => Some(Consent::Always),
            _ => None,
        }
    }
}

/// The conversation does not fit; the user can do something about it.
fn is_too_long(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EngineError::PromptTooLong { .. }))
}
