//! `/v1/messages` and `/v1/messages/count_tokens`: requests.

use flashmill_engine::{Content, Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};

pub use super::reply::MessageReply;
use crate::answer::Head;
use crate::error::ApiError;
use crate::job::{Chat, Format, Input, Job, ToolChoice, check_tool_name};
use crate::openai::Common;
use crate::openai::common::{assistant, function_tool, push_call, push_system};
use crate::read::{TextOr, read};

#[derive(Debug, Deserialize)]
struct MessagesRequest {
    messages: Vec<InputMessage>,
    system: Option<TextOr<Vec<Block>>>,
    max_tokens: Option<usize>,
    stop_sequences: Option<Vec<String>>,
    tools: Option<Vec<ToolField>>,
    tool_choice: Option<ChoiceField>,
    thinking: Option<ThinkingField>,
    output_format: Option<OutputFormat>,
    output_config: Option<OutputConfig>,
}

#[derive(Debug, Deserialize)]
struct InputMessage {
    role: String,
    content: TextOr<Vec<Block>>,
}

/// A block of content; which fields count depends on its type.
#[derive(Debug, Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Value>,
    tool_use_id: Option<String>,
    content: Option<TextOr<Vec<InnerBlock>>>,
}

/// A block inside of a tool's result.
#[derive(Debug, Deserialize)]
struct InnerBlock {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToolField {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    description: Option<String>,
    input_schema: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct ChoiceField {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ThinkingField {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct OutputConfig {
    format: Option<OutputFormat>,
}

#[derive(Debug, Deserialize)]
struct OutputFormat {
    #[serde(rename = "type")]
    kind: String,
    schema: Option<Value>,
}

/// Translates a request; the other half is what answers it.
pub fn parse(body: &[u8], head: Head) -> Result<(Job, MessageReply), ApiError> {
    let common: Common = read(body)?;
    let request: MessagesRequest = read(body)?;
    let max_tokens = request
        .max_tokens
        .ok_or_else(|| ApiError::field("max_tokens", "is missing; give the most tokens of the answer"))?;
    let stops = request.stop_sequences.clone().unwrap_or_default();
    let format = request.format()?;
    let (tool_choice, parallel_calls) = request.choice()?;
    let job = Job {
        input: Input::Chat(request.chat(&common)?),
        n: 1,
        sampling: common.sampling()?,
        stops,
        max_tokens: Some(max_tokens),
        logprobs: None,
        format: common.format(Some(format))?,
        tool_choice,
        parallel_calls,
        stream: common.stream(),
    };
    Ok((job.check()?, MessageReply::new(head)))
}

/// The conversation whose tokens are to be counted.
pub fn parse_count(body: &[u8]) -> Result<Chat, ApiError> {
    let common: Common = read(body)?;
    let request: MessagesRequest = read(body)?;
    request.format()?;
    request.choice()?;
    request.chat(&common)
}

impl MessagesRequest {
    fn chat(self, common: &Common) -> Result<Chat, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "is empty, expected at least one"));
        }
        if self.messages.last().is_some_and(|last| last.role == "assistant") {
            let problem = "the last one is the assistant's, and answers that are begun are not supported; end with the user's";
            return Err(ApiError::field("messages", problem));
        }
        let (thinking, variables) = common.template()?;
        let thinking = match self.thinking.as_ref().map(|thinking| thinking.kind.as_str()) {
            None => thinking,
            Some("disabled") => Some(false),
            Some("enabled") => Some(true),
            Some("adaptive") => thinking,
            Some(other) => {
                let problem = format!("{other:?}, expected enabled, adaptive or disabled");
                return Err(ApiError::field("thinking.type", problem));
            }
        };
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            let text = match system {
                TextOr::Text(text) => text,
                TextOr::Other(blocks) => system_text(blocks)?,
            };
            if !text.is_empty() {
                push_system(&mut messages, text);
            }
        }
        for (index, message) in self.messages.into_iter().enumerate() {
            push_message(&mut messages, message, index)?;
        }
        let tools = tools(self.tools.unwrap_or_default())?;
        Ok(Chat { messages, tools, thinking, variables })
    }

    fn choice(&self) -> Result<(ToolChoice, bool), ApiError> {
        let Some(choice) = &self.tool_choice else { return Ok((ToolChoice::Auto, true)) };
        let parallel = !choice.disable_parallel_tool_use.unwrap_or(false);
        let choice = match (choice.kind.as_str(), &choice.name) {
            ("auto", _) => ToolChoice::Auto,
            ("none", _) => ToolChoice::None,
            ("any", _) => ToolChoice::Required,
            ("tool", Some(name)) => ToolChoice::Named(name.clone()),
            ("tool", None) => return Err(ApiError::field("tool_choice.name", "is missing")),
            (other, _) => {
                let problem = format!("{other:?}, expected auto, any, tool or none");
                return Err(ApiError::field("tool_choice.type", problem));
            }
        };
        Ok((choice, parallel))
    }

    fn format(&self) -> Result<Format, ApiError> {
        let in_config = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        match self.output_format.as_ref().or(in_config) {
            None => Ok(Format::Text),
            Some(OutputFormat { kind, schema: Some(schema) }) if kind == "json_schema" => {
                Ok(Format::JsonSchema(schema.clone()))
            }
            Some(_) => Err(ApiError::field("output_format", "expected the type json_schema and a schema")),
        }
    }
}

fn system_text(blocks: Vec<Block>) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.kind.as_str(), block.text) {
            ("text", Some(text)) => texts.push(text),
            _ => return Err(ApiError::field(format!("system[{index}]"), "expected a text block")),
        }
    }
    Ok(texts.join("\n"))
}

/// One of Anthropic's messages may become several: each result of a tool is one of its own.
fn push_message(messages: &mut Vec<Message>, message: InputMessage, index: usize) -> Result<(), ApiError> {
    let InputMessage { role, content } = message;
    if !matches!(role.as_str(), "user" | "assistant" | "system") {
        let problem = format!("{role:?}, expected user or assistant");
        return Err(ApiError::field(format!("messages[{index}].role"), problem));
    }
    let blocks = match content {
        TextOr::Text(text) => {
            messages.push(Message::new(&role, text));
            return Ok(());
        }
        TextOr::Other(blocks) => blocks,
    };
    if blocks.is_empty() {
        return Err(ApiError::field(format!("messages[{index}].content"), "is empty"));
    }
    let n_before = messages.len();
    let mut texts: Vec<String> = Vec::new();
    for (at, block) in blocks.into_iter().enumerate() {
        let param = |field: &str| format!("messages[{index}].content[{at}]{field}");
        let missing = |field: &str| ApiError::field(param(field), "is missing");
        match (role.as_str(), block.kind.as_str()) {
            (_, "text") => texts.push(block.text.ok_or_else(|| missing(".text"))?),
            ("user", "tool_result") => {
                let id = block.tool_use_id.ok_or_else(|| missing(".tool_use_id"))?;
                let text =
                    block.content.map(|content| result_text(content, || param(".content"))).transpose()?;
                messages.push(Message::tool(&id, text.unwrap_or_default()));
            }
            ("assistant", "thinking") => {
                let thought = block.thinking.ok_or_else(|| missing(".thinking"))?;
                own(messages, n_before).reasoning_content.get_or_insert_default().push_str(&thought);
            }
            // What nobody can read says nothing.
            ("assistant", "redacted_thinking") => {}
            ("assistant", "tool_use") => {
                own(messages, n_before);
                let call = ToolCall {
                    id: block.id.unwrap_or_default(),
                    name: block.name.ok_or_else(|| missing(".name"))?,
                    arguments: block.input.unwrap_or_else(|| Value::Object(Map::new())),
                };
                push_call(messages, call);
            }
            (_, kind @ ("image" | "document" | "search_result")) => {
                let problem = format!("{kind} is not supported; this server reads text only");
                return Err(ApiError::field(param(""), problem));
            }
            (_, kind) => {
                return Err(ApiError::field(
                    param(".type"),
                    format!("{kind:?} is not supported in a message of the {role}"),
                ));
            }
        }
    }
    let text = (!texts.is_empty()).then(|| Content::Text(texts.join("\n")));
    match role.as_str() {
        "assistant" => own(messages, n_before).content = text,
        _ if text.is_some() => messages.push(Message { role, content: text, ..Message::default() }),
        _ => {}
    }
    Ok(())
}

/// The assistant's message that has begun at `n_before`; two of them in a row stay two.
fn own(messages: &mut Vec<Message>, n_before: usize) -> &mut Message {
    if messages.len() == n_before {
        messages.push(Message { role: "assistant".into(), ..Message::default() });
    }
    assistant(messages)
}

fn result_text(content: TextOr<Vec<InnerBlock>>, param: impl Fn() -> String) -> Result<String, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::Other(blocks) => blocks,
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.kind.as_str(), block.text) {
            ("text", Some(text)) => texts.push(text),
            (kind, _) => {
                let problem = format!("{kind} is not supported; this server reads text only");
                return Err(ApiError::field(format!("{}[{index}]", param()), problem));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// Tools in the form that templates know; `None` if there are none.
fn tools(list: Vec<ToolField>) -> Result<Option<Value>, ApiError> {
    let mut tools = Vec::with_capacity(list.len());
    for (index, tool) in list.into_iter().enumerate() {
        if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
            let problem = format!(
                "{kind:?} runs at Anthropic; this server knows only tools of your own, with an input_schema"
            );
            return Err(ApiError::field(format!("tools[{index}].type"), problem));
        }
        check_tool_name(|| format!("tools[{index}].name"), &tool.name)?;
        let schema = tool
            .input_schema
            .ok_or_else(|| ApiError::field(format!("tools[{index}].input_schema"), "is missing"))?;
        tools.push(function_tool(&tool.name, tool.description.as_deref(), schema.into()));
    }
    Ok((!tools.is_empty()).then_some(Value::Array(tools)))
}
