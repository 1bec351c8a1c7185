//! A greedy answer to a conversation, as the suites judge it.

use flashmill_engine::{
    Engine, Message, OutputOptions, OutputStream, ParsedCall, Piece, Prompt, Sampler, SamplingOptions,
    Session, TemplateOptions,
};
use flashmill_grammar::{Grammars, ToolChoice};
use serde_json::Value;

use super::EvalError;

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskOptions {
    /// Most tokens of an answer, its thoughts included.
    pub max_tokens: usize,
    /// Whether it may think, where its template asks; the template decides if not given.
    pub thinking: Option<bool>,
}

/// What a model answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// Without thoughts and calls.
    pub(super) text: String,
    pub(super) calls: Vec<ParsedCall>,
    /// Cut off by the most tokens, or the context.
    pub(super) is_cut: bool,
}

/// Someone who asks one model. What two questions in a row begin with is read once.
pub(super) struct Asker<'a> {
    session: Session<'a>,
    grammars: Grammars,
    options: AskOptions,
}

impl<'a> Asker<'a> {
    /// Refuses a model without a chat template.
    pub(super) fn new(engine: &'a mut Engine, options: AskOptions) -> Result<Asker<'a>, EvalError> {
        if engine.template().is_none() {
            return Err(EvalError::NoTemplate { dir: engine.dir().to_owned() });
        }
        let grammars = Grammars::new(engine.tokenizer(), &engine.defaults().eos_ids, engine.template())?;
        Ok(Asker { session: engine.session()?, grammars, options })
    }

    /// The answer to a conversation; `tools` is OpenAI's array, to whose grammar calls are held if `is_held`.
    pub(super) fn ask(
        &mut self,
        messages: &[Message],
        tools: &Value,
        is_held: bool,
    ) -> Result<Answer, EvalError> {
        let tools = tools.as_array().is_some_and(|tools| !tools.is_empty()).then_some(tools);
        let session = &mut self.session;
        let text = session.engine().text().clone();
        let template =
            TemplateOptions { enable_thinking: self.options.thinking, ..TemplateOptions::default() };
        let prompt = Prompt::of_messages(&text, messages, tools, &template)?;
        let form = match tools.filter(|_| is_held) {
            Some(tools) => Some(self.grammars.tool_calls(tools, &ToolChoice::Auto, true)?),
            None => None,
        };
        let mut constraint = form.map(|form| form.start(prompt.in_thought));
        let mut sampler = Sampler::new(SamplingOptions::greedy(), text.tokenizer().n_vocab())?;
        let mut stream = OutputStream::new(OutputOptions {
            eos_ids: text.defaults().eos_ids.clone(),
            in_thought: prompt.in_thought,
            schemas: prompt.schemas,
            ..OutputOptions::default()
        });
        session.sync(&prompt.tokens, &prompt.keep, &mut |_, _| ())?;
        let room = (session.engine().plan().context + 1).saturating_sub(prompt.tokens.len());
        let mut pieces = Vec::new();
        let mut answer = Answer { is_cut: true, ..Answer::default() };
        for _ in 0..self.options.max_tokens.min(room) {
            let token = session.next_within(&mut sampler, constraint.as_deref_mut())?;
            if stream.push(text.tokenizer(), token, &mut pieces).is_some() {
                answer.is_cut = false;
                break;
            }
        }
        stream.finish(&mut pieces);
        for piece in pieces {
            match piece {
                Piece::ToolCall(call) => answer.calls.push(call),
                Piece::Answer(text) => answer.text.push_str(&text),
                Piece::Thought(_) => {}
            }
        }
        Ok(answer)
    }
}
