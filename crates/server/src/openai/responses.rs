//! `/v1/responses`, stateless: nothing is stored, so nothing that is stored can be asked for.

mod reply;

use flashmill_engine::{Content, Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::reply::ResponseReply;
use super::chat::thinking_of_effort;
use super::common::{
    Common, ContentPart, FormatField, NamedTool, assistant, content_text, function_tool, push_call,
    push_system, tool_choice,
};
use crate::answer::Head;
use crate::error::ApiError;
use crate::job::{Chat, Input, Job, check_tool_name};
use crate::read::{TextOr, read};

#[derive(Debug, Deserialize)]
struct ResponsesRequest {
    input: TextOr<Vec<Item>>,
    instructions: Option<String>,
    tools: Option<Vec<ToolField>>,
    tool_choice: Option<TextOr<NamedTool>>,
    parallel_tool_calls: Option<bool>,
    max_output_tokens: Option<usize>,
    text: Option<TextField>,
    reasoning: Option<Reasoning>,
    include: Option<Vec<String>>,
    top_logprobs: Option<usize>,
    store: Option<bool>,
    previous_response_id: Option<String>,
    conversation: Option<Value>,
    background: Option<bool>,
    prompt: Option<Value>,
    metadata: Option<Map<String, Value>>,
}

/// An item of the input; which fields count depends on its type.
#[derive(Debug, Deserialize)]
struct Item {
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    content: Option<TextOr<Vec<ContentPart>>>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<TextOr<Vec<ContentPart>>>,
    summary: Option<Vec<ContentPart>>,
}

#[derive(Debug, Deserialize)]
struct ToolField {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct TextField {
    format: Option<FormatField>,
}

#[derive(Debug, Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

/// What `include` says for the log-probabilities of the text.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Translates a request; the other half is what answers it.
pub fn parse(body: &[u8], head: Head) -> Result<(Job, ResponseReply), ApiError> {
    let common: Common = read(body)?;
    let request: ResponsesRequest = read(body)?;
    request.refuse_state()?;
    let choice = tool_choice(request.tool_choice)?;
    let (tools, tools_echo) = tools(request.tools.unwrap_or_default())?;
    let (thinking, variables) = common.template()?;
    let effort = request.reasoning.and_then(|reasoning| reasoning.effort);
    let thinking = thinking.or(thinking_of_effort(effort.as_deref(), "reasoning.effort")?);
    let format = request.text.and_then(|text| text.format);
    let format = format.map(|format| format.format("text.format")).transpose()?;
    let has_logprobs = request.include.iter().flatten().any(|name| name == LOGPROBS);
    let messages = messages(request.instructions, request.input)?;
    let job = Job {
        input: Input::Chat(Chat { messages, tools, thinking, variables }),
        n: 1,
        sampling: common.sampling()?,
        stops: common.stops(),
        max_tokens: request.max_output_tokens,
        logprobs: has_logprobs.then(|| request.top_logprobs.unwrap_or(0)),
        format: common.format(format)?,
        tool_choice: choice,
        parallel_calls: request.parallel_tool_calls.unwrap_or(true),
        stream: common.stream(),
    };
    let job = job.check()?;
    let echo = reply::Echo::new(&job, tools_echo, request.metadata.unwrap_or_default());
    Ok((job, ResponseReply::new(head, echo)))
}

impl ResponsesRequest {
    fn refuse_state(&self) -> Result<(), ApiError> {
        let refused = |param: &str, problem: &str| {
            Err(ApiError::field(param, problem).with_code("unsupported_parameter"))
        };
        if self.previous_response_id.is_some() {
            return refused(
                "previous_response_id",
                "responses are not stored; send the whole conversation as input",
            );
        }
        if self.store == Some(true) {
            return refused("store", "responses are not stored; leave it out or say false");
        }
        if self.conversation.as_ref().is_some_and(|conversation| !conversation.is_null()) {
            return refused(
                "conversation",
                "conversations are not stored; send the whole conversation as input",
            );
        }
        if self.background == Some(true) {
            return refused("background", "responses are not stored; wait for the answer, or stream it");
        }
        if self.prompt.as_ref().is_some_and(|prompt| !prompt.is_null()) {
            return refused("prompt", "prompts are not stored; send instructions and input");
        }
        Ok(())
    }
}

fn messages(instructions: Option<String>, input: TextOr<Vec<Item>>) -> Result<Vec<Message>, ApiError> {
    let mut messages = Vec::new();
    if let Some(text) = instructions {
        push_system(&mut messages, text);
    }
    match input {
        TextOr::Text(text) => messages.push(Message::user(text)),
        TextOr::Other(items) if items.is_empty() => return Err(ApiError::field("input", "is empty")),
        TextOr::Other(items) => {
            for (index, item) in items.into_iter().enumerate() {
                push_item(&mut messages, item, index)?;
            }
        }
    }
    Ok(messages)
}

/// What an assistant said in one turn comes as several items, which become one message again.
fn push_item(messages: &mut Vec<Message>, item: Item, index: usize) -> Result<(), ApiError> {
    let missing = |field: &str| ApiError::field(format!("input[{index}].{field}"), "is missing");
    let content = |content: TextOr<Vec<ContentPart>>, field: &str| {
        content_text(content, || format!("input[{index}].{field}"))
    };
    match (item.kind.as_deref().unwrap_or("message"), item.role.as_deref()) {
        ("message", Some(role)) => {
            let text = content(item.content.ok_or_else(|| missing("content"))?, "content")?;
            match role {
                "system" | "developer" => push_system(messages, text),
                "user" => messages.push(Message::user(text)),
                "assistant" => {
                    // A thought belongs to the text that follows it; a text after a text or a call is a message of its own.
                    let last = assistant(messages);
                    if last.content.is_none() && last.tool_calls.is_empty() {
                        last.content = Some(Content::Text(text));
                    } else {
                        messages.push(Message::assistant(text));
                    }
                }
                other => {
                    let problem = format!("{other:?}, expected system, developer, user or assistant");
                    return Err(ApiError::field(format!("input[{index}].role"), problem));
                }
            }
        }
        ("message", None) => return Err(missing("role")),
        ("function_call", _) => {
            let arguments = item.arguments.ok_or_else(|| missing("arguments"))?;
            let arguments = match serde_json::from_str(&arguments) {
                Ok(object @ Value::Object(_)) => object,
                _ if arguments.trim().is_empty() => json!({}),
                _ => Value::String(arguments),
            };
            let id = item.call_id.ok_or_else(|| missing("call_id"))?;
            let name = item.name.ok_or_else(|| missing("name"))?;
            push_call(messages, ToolCall { id, name, arguments });
        }
        ("function_call_output", _) => {
            let id = item.call_id.ok_or_else(|| missing("call_id"))?;
            let text = content(item.output.ok_or_else(|| missing("output"))?, "output")?;
            messages.push(Message::tool(&id, text));
        }
        ("reasoning", _) => {
            let text = match (item.content, item.summary) {
                (Some(text), _) => content(text, "content")?,
                (None, Some(summary)) => content(TextOr::Other(summary), "summary")?,
                (None, None) => String::new(),
            };
            if text.is_empty() {
                return Ok(());
            }
            let last = assistant(messages);
            if last.content.is_some() || !last.tool_calls.is_empty() {
                messages.push(Message { role: "assistant".into(), ..Message::default() });
            }
            assistant(messages).reasoning_content = Some(text);
        }
        (other, _) => {
            let problem =
                format!("{other:?}, expected message, function_call, function_call_output or reasoning");
            return Err(ApiError::field(format!("input[{index}].type"), problem));
        }
    }
    Ok(())
}

/// The tools as templates know them, and as the response repeats them.
fn tools(list: Vec<ToolField>) -> Result<(Option<Value>, Value), ApiError> {
    let mut tools = Vec::with_capacity(list.len());
    let mut echo = Vec::with_capacity(list.len());
    for (index, tool) in list.into_iter().enumerate() {
        if tool.kind != "function" {
            let problem = format!("{:?} is not supported; only functions are", tool.kind);
            return Err(ApiError::field(format!("tools[{index}].type"), problem));
        }
        let param = |field: &str| format!("tools[{index}].{field}");
        let name = tool.name.ok_or_else(|| ApiError::field(param("name"), "is missing"))?;
        check_tool_name(|| param("name"), &name)?;
        let parameters = Value::from(tool.parameters.unwrap_or_default());
        echo.push(json!({
            "type": "function", "name": name, "description": tool.description,
            "parameters": parameters, "strict": tool.strict.unwrap_or(false),
        }));
        tools.push(function_tool(&name, tool.description.as_deref(), parameters));
    }
    Ok(((!tools.is_empty()).then_some(Value::Array(tools)), Value::Array(echo)))
}
