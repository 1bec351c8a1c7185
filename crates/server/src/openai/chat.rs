//! `/v1/chat/completions`.

use flashmill_engine::{Content, Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common::{
    Common, ContentPart, FormatField, NamedTool, check_tools, content_text, push_system, tool_choice, usage,
};
use crate::answer::{
    Answer, AnswerEvent, Call, Ending, Head, Outcome, Part, Reply, TokenLogprobs, push_data,
};
use crate::error::ApiError;
use crate::job::{Chat, Input, Job};
use crate::read::{TextOr, read};

#[derive(Debug, Deserialize)]
struct ChatRequest {
    messages: Vec<ChatMessage>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<TextOr<NamedTool>>,
    parallel_tool_calls: Option<bool>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    response_format: Option<FormatField>,
    reasoning_effort: Option<String>,
    stream_options: Option<StreamOptions>,
    modalities: Option<Vec<String>>,
    functions: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<TextOr<Vec<ContentPart>>>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    name: Option<String>,
}

/// Translates a request; the other half is what answers it.
pub fn parse(body: &[u8], head: Head) -> Result<(Job, ChatReply), ApiError> {
    let common: Common = read(body)?;
    let request: ChatRequest = read(body)?;
    if request.functions.is_some_and(|functions| !functions.is_null()) {
        return Err(ApiError::field("functions", "is no longer in use; give tools"));
    }
    if request.modalities.iter().flatten().any(|modality| modality != "text") {
        return Err(ApiError::field("modalities", "this server writes text only"));
    }
    let choice = tool_choice(request.tool_choice)?;
    let tools = check_tools(request.tools.unwrap_or_default())?;
    let (thinking, variables) = common.template()?;
    let thinking = thinking.or(thinking_of_effort(request.reasoning_effort.as_deref(), "reasoning_effort")?);
    let format = request.response_format.map(|format| format.format("response_format")).transpose()?;
    let job = Job {
        input: Input::Chat(Chat { messages: messages(request.messages)?, tools, thinking, variables }),
        n: common.n(),
        sampling: common.sampling()?,
        stops: common.stops(),
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        logprobs: request.logprobs.unwrap_or(false).then(|| request.top_logprobs.unwrap_or(0)),
        format: common.format(format)?,
        tool_choice: choice,
        parallel_calls: request.parallel_tool_calls.unwrap_or(true),
        stream: common.stream(),
    };
    let job = job.check()?;
    let reply = ChatReply {
        has_logprobs: job.logprobs.is_some(),
        has_usage: request.stream_options.unwrap_or_default().include_usage.unwrap_or(false),
        outcome: Outcome::new(job.n),
        n_calls: vec![0; job.n],
        head,
    };
    Ok((job, reply))
}

/// `none` and `minimal` ask the model not to think.
pub(super) fn thinking_of_effort(effort: Option<&str>, param: &str) -> Result<Option<bool>, ApiError> {
    match effort {
        None => Ok(None),
        Some("none" | "minimal") => Ok(Some(false)),
        Some("low" | "medium" | "high" | "xhigh") => Ok(Some(true)),
        Some(other) => Err(ApiError::field(
            param,
            format!("{other:?}, expected none, minimal, low, medium, high or xhigh"),
        )),
    }
}

fn messages(list: Vec<ChatMessage>) -> Result<Vec<Message>, ApiError> {
    let mut messages = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let ChatMessage { role, content, reasoning_content, tool_calls, tool_call_id, name } = message;
        let content = content
            .map(|content| content_text(content, || format!("messages[{index}].content")))
            .transpose()?;
        let has_calls = tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        if content.is_none() && !(role == "assistant" && (has_calls || reasoning_content.is_some())) {
            return Err(ApiError::field(format!("messages[{index}].content"), "is missing"));
        }
        match role.as_str() {
            "system" | "developer" => push_system(&mut messages, content.unwrap_or_default()),
            "user" | "assistant" | "tool" => messages.push(Message {
                reasoning_content: reasoning_content.filter(|_| role == "assistant"),
                tool_calls: tool_calls.filter(|_| role == "assistant").unwrap_or_default(),
                tool_call_id: tool_call_id.filter(|_| role == "tool"),
                content: content.map(Content::Text),
                role,
                name,
            }),
            _ => {
                let problem = format!("{role:?}, expected system, developer, user, assistant or tool");
                return Err(ApiError::field(format!("messages[{index}].role"), problem));
            }
        }
    }
    Ok(messages)
}

/// Tells a job's answers.
pub struct ChatReply {
    head: Head,
    has_logprobs: bool,
    /// A last chunk with `usage` was asked for.
    has_usage: bool,
    outcome: Outcome,
    /// Calls that each answer of a stream has told.
    n_calls: Vec<usize>,
}

impl ChatReply {
    fn chunk(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut chunk = self.frame("chat.completion.chunk", choices);
        if self.has_usage {
            chunk["usage"] = usage.unwrap_or_default();
        }
        chunk
    }

    fn frame(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.head.id),
            "object": object,
            "created": self.head.created,
            "model": self.head.model,
            "choices": choices,
        })
    }

    fn push_delta(
        &self,
        index: usize,
        delta: Value,
        logprobs: Option<&TokenLogprobs>,
        finish: Option<&str>,
        out: &mut String,
    ) {
        let logprobs = logprobs.map(|logprobs| json!({"content": [logprobs.json()]}));
        let choices =
            json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        push_data(out, &self.chunk(choices, None));
    }

    fn push_parts(
        &mut self,
        index: usize,
        parts: &[Part],
        mut logprobs: Option<&TokenLogprobs>,
        out: &mut String,
    ) {
        for part in parts {
            let delta = match part {
                Part::Thought(text) => json!({"reasoning_content": text}),
                Part::Text(text) => json!({"content": text}),
                Part::Call(call) => {
                    let n = self.n_calls[index];
                    self.n_calls[index] += 1;
                    let mut call = self.call(index, n, call);
                    call["index"] = n.into();
                    json!({"tool_calls": [call]})
                }
            };
            self.push_delta(index, delta, logprobs.take(), None, out);
        }
        if logprobs.is_some() {
            self.push_delta(index, json!({}), logprobs, None, out);
        }
    }

    fn call(&self, index: usize, n: usize, call: &Call) -> Value {
        json!({
            "id": format!("call_{}{index:02}{n:02}", self.head.id),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        })
    }

    fn message(&self, index: usize, answer: &Answer) -> Value {
        let (text, thought) = (answer.text(), answer.thought());
        let calls: Vec<Value> =
            answer.calls().enumerate().map(|(n, call)| self.call(index, n, call)).collect();
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert(
            "content".into(),
            if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() },
        );
        message.insert("refusal".into(), Value::Null);
        if !thought.is_empty() {
            message.insert("reasoning_content".into(), thought.into());
        }
        if !calls.is_empty() {
            message.insert("tool_calls".into(), calls.into());
        }
        message.into()
    }
}

/// OpenAI's word for the end of an answer.
fn finish_reason(ending: Option<&Ending>, has_calls: bool) -> &'static str {
    match ending {
        Some(Ending::Length | Ending::ContextFull) | None => "length",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

impl Reply for ChatReply {
    fn stream(&mut self, event: &AnswerEvent, out: &mut String) {
        self.outcome.add(event.clone());
        match event {
            AnswerEvent::Started { .. } => {
                for index in 0..self.n_calls.len() {
                    self.push_delta(index, json!({"role": "assistant", "content": ""}), None, None, out);
                }
            }
            AnswerEvent::Token { index, parts, logprobs } => {
                self.push_parts(*index, parts, logprobs.as_ref(), out);
            }
            AnswerEvent::Finished { index, parts, ending, .. } => {
                self.push_parts(*index, parts, None, out);
                let finish = finish_reason(Some(ending), self.n_calls[*index] > 0);
                self.push_delta(*index, json!({}), None, Some(finish), out);
                if self.outcome.is_over() {
                    if self.has_usage {
                        push_data(out, &self.chunk(json!([]), Some(usage(&self.outcome))));
                    }
                    out.push_str("data: [DONE]\n\n");
                }
            }
            AnswerEvent::Failed(error) => push_data(out, &error.body(crate::error::Shape::OpenAi)),
        }
    }

    fn whole(&self, outcome: &Outcome) -> Value {
        let choices = outcome.answers.iter().enumerate().map(|(index, answer)| {
            let content: Vec<Value> = answer.logprobs.iter().map(TokenLogprobs::json).collect();
            json!({
                "index": index,
                "message": self.message(index, answer),
                "logprobs": self.has_logprobs.then(|| json!({"content": content, "refusal": null})),
                "finish_reason": finish_reason(answer.ending.as_ref(), answer.calls().next().is_some()),
            })
        });
        let mut whole = self.frame("chat.completion", choices.collect());
        whole["usage"] = usage(outcome);
        whole
    }
}
