//! `/v1/completions`: prompts as they are, without a chat template.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::chat::StreamOptions;
use super::common::{Common, usage};
use crate::answer::{
    AnswerEvent, Ending, Head, Outcome, Part, Reply, TokenLogprob, TokenLogprobs, push_data,
};
use crate::error::{ApiError, Shape};
use crate::job::{Format, Input, Job, MAX_ANSWERS, PlainPrompt, ToolChoice};
use crate::read::read;

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    prompt: Prompts,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<usize>,
    stream_options: Option<StreamOptions>,
}

/// OpenAI's own default for this API.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Translates a request; the other half is what answers it.
pub fn parse(body: &[u8], head: Head) -> Result<(Job, CompletionReply), ApiError> {
    let common: Common = read(body)?;
    let request: CompletionRequest = read(body)?;
    if request.echo == Some(true) {
        return Err(ApiError::field("echo", "is not supported; leave it out"));
    }
    if request.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "is not supported; leave it out"));
    }
    if request.best_of.is_some_and(|best_of| best_of != common.n()) {
        return Err(ApiError::field("best_of", "is not supported; leave it out, or make it n"));
    }
    let Prompts(prompts) = request.prompt;
    let n_answers = prompts.len().saturating_mul(common.n());
    if n_answers > MAX_ANSWERS {
        let problem = format!("{n_answers} answers are asked for, at most {MAX_ANSWERS} can be");
        return Err(ApiError::field("prompt", problem));
    }
    let job = Job {
        input: Input::Plain(prompts),
        n: common.n(),
        sampling: common.sampling()?,
        stops: common.stops(),
        max_tokens: Some(request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
        logprobs: request.logprobs,
        format: common.format(Some(Format::Text))?,
        tool_choice: ToolChoice::Auto,
        parallel_calls: true,
        stream: common.stream(),
    };
    let job = job.check()?;
    let reply = CompletionReply {
        has_logprobs: job.logprobs.is_some(),
        has_usage: request.stream_options.unwrap_or_default().include_usage.unwrap_or(false),
        outcome: Outcome::new(n_answers),
        offsets: vec![0; n_answers],
        head,
    };
    Ok((job, reply))
}

/// A text, texts, tokens, or lists of tokens: at least one, and none of them empty.
#[derive(Debug)]
struct Prompts(Vec<PlainPrompt>);

/// An element of the list.
enum Element {
    Token(u32),
    Prompt(PlainPrompt),
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prompts, D::Error> {
        deserializer.deserialize_any(PromptsVisitor)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct PromptsVisitor;
struct ElementVisitor;

const EXPECTED: &str = "a text, texts, an array of token ids, or arrays of token ids, none of them empty";

impl<'de> Visitor<'de> for PromptsVisitor {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts(vec![PlainPrompt::Text(text.to_owned())]))
    }

    /// Ids are kept as such from the start: a body of them would take eight times its size as JSON values.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
        let (mut tokens, mut prompts) = (Vec::new(), Vec::new());
        while let Some(element) = seq.next_element()? {
            match element {
                Element::Token(id) if prompts.is_empty() => tokens.push(id),
                Element::Prompt(prompt) if tokens.is_empty() && prompts.len() < MAX_ANSWERS => {
                    prompts.push(prompt);
                }
                Element::Prompt(_) if tokens.is_empty() => {
                    return Err(Error::custom(format!("expected at most {MAX_ANSWERS} prompts")));
                }
                _ => return Err(Error::custom(format!("expected {EXPECTED}"))),
            }
        }
        if !tokens.is_empty() {
            prompts.push(PlainPrompt::Tokens(tokens));
        }
        if prompts.is_empty() {
            return Err(Error::custom(format!("expected {EXPECTED}")));
        }
        Ok(Prompts(prompts))
    }
}

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a token id, or an array of token ids that is not empty")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Prompt(PlainPrompt::Text(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id).map(Element::Token).map_err(|_| E::custom(format!("{id} is no token id")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
        let mut tokens: Vec<u32> = Vec::new();
        while let Some(id) = seq.next_element()? {
            tokens.push(id);
        }
        match tokens.is_empty() {
            true => Err(Error::custom("is empty")),
            false => Ok(Element::Prompt(PlainPrompt::Tokens(tokens))),
        }
    }
}

/// Tells a job's answers.
pub struct CompletionReply {
    head: Head,
    has_logprobs: bool,
    has_usage: bool,
    outcome: Outcome,
    /// Bytes of text that each answer of a stream has told, for `text_offset`.
    offsets: Vec<usize>,
}

impl CompletionReply {
    fn frame(&self, choices: Value) -> Value {
        json!({
            "id": format!("cmpl-{}", self.head.id),
            "object": "text_completion",
            "created": self.head.created,
            "model": self.head.model,
            "choices": choices,
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut chunk = self.frame(choices);
        if self.has_usage {
            chunk["usage"] = usage.unwrap_or_default();
        }
        chunk
    }

    fn push_text(
        &mut self,
        index: usize,
        text: &str,
        logprobs: &[TokenLogprobs],
        finish: Option<&str>,
        out: &mut String,
    ) {
        if text.is_empty() && logprobs.is_empty() && finish.is_none() {
            return;
        }
        let mut json = Value::Null;
        if !logprobs.is_empty() {
            json = logprobs_json(logprobs, &mut self.offsets[index]);
        }
        let choices = json!([{"text": text, "index": index, "logprobs": json, "finish_reason": finish}]);
        push_data(out, &self.chunk(choices, None));
    }
}

/// What a model says without a template is all text, whatever it looks like.
fn text_of(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) | Part::Thought(text) => text.clone(),
        Part::Call(call) => {
            format!("{{\"name\": {}, \"arguments\": {}}}", Value::from(call.name.as_str()), call.arguments)
        }
    };
    parts.iter().map(text).collect()
}

/// The old form, in columns. `offset` is where the first token stands in the text, and goes on to the next.
fn logprobs_json(list: &[TokenLogprobs], offset: &mut usize) -> Value {
    let top = |token: &TokenLogprobs| {
        let pair = |top: &TokenLogprob| (top.text(), json!(top.logprob));
        token.top.iter().map(pair).collect::<Map<String, Value>>()
    };
    let offsets: Vec<usize> = list
        .iter()
        .map(|token| {
            let at = *offset;
            *offset += token.chosen.text().chars().count();
            at
        })
        .collect();
    json!({
        "tokens": list.iter().map(|token| token.chosen.text()).collect::<Vec<_>>(),
        "token_logprobs": list.iter().map(|token| token.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": list.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

fn finish_reason(ending: Option<&Ending>) -> &'static str {
    match ending {
        Some(Ending::Turn | Ending::Stop(_)) => "stop",
        Some(Ending::Length | Ending::ContextFull) | None => "length",
    }
}

impl Reply for CompletionReply {
    fn stream(&mut self, event: &AnswerEvent, out: &mut String) {
        self.outcome.add(event.clone());
        match event {
            AnswerEvent::Started { .. } => {}
            AnswerEvent::Token { index, parts, logprobs } => {
                self.push_text(*index, &text_of(parts), logprobs.as_slice(), None, out);
            }
            AnswerEvent::Finished { index, parts, ending, .. } => {
                self.push_text(*index, &text_of(parts), &[], Some(finish_reason(Some(ending))), out);
                if self.outcome.is_over() {
                    if self.has_usage {
                        push_data(out, &self.chunk(json!([]), Some(usage(&self.outcome))));
                    }
                    out.push_str("data: [DONE]\n\n");
                }
            }
            AnswerEvent::Failed(error) => push_data(out, &error.body(Shape::OpenAi)),
        }
    }

    fn whole(&self, outcome: &Outcome) -> Value {
        let choices = outcome.answers.iter().enumerate().map(|(index, answer)| {
            json!({
                "text": text_of(&answer.parts),
                "index": index,
                "logprobs": self.has_logprobs.then(|| logprobs_json(&answer.logprobs, &mut 0)),
                "finish_reason": finish_reason(answer.ending.as_ref()),
            })
        });
        let mut whole = self.frame(choices.collect());
        whole["usage"] = usage(outcome);
        whole
    }
}
