//! Fields that requests share, OpenAI's own and those that users of llama.cpp and vLLM expect.

use std::collections::BTreeMap;
use std::fmt;

use flashmill_engine::{Content, Message, ToolCall};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::answer::Outcome;
use crate::error::ApiError;
use crate::job::{Format, SamplingFields, ToolChoice, check_tool_name};
use crate::read::TextOr;

/// The fields. A body is read once as this and once as the rest of its API.
#[derive(Debug, Default, Deserialize)]
pub struct Common {
    // Any name is taken: clients have their own ideas about it, and there is one model.
    #[serde(rename = "model")]
    _model: Option<String>,
    stream: Option<bool>,
    n: Option<usize>,
    seed: Option<i64>,
    stop: Option<TextOr<Vec<String>>>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    repeat_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<Biases>,
    grammar: Option<String>,
    guided_regex: Option<String>,
    guided_grammar: Option<String>,
    guided_json: Option<Value>,
    guided_choice: Option<Vec<String>>,
    structured_outputs: Option<Structured>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// vLLM's newer name for the guided fields.
#[derive(Debug, Default, Deserialize)]
struct Structured {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
}

/// Most entries of `logit_bias`.
const MAX_BIASES: usize = 4096;
/// Most choices of `guided_choice`.
const MAX_CHOICES: usize = 1024;

impl Common {
    /// As server-sent events.
    pub(crate) fn stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Answers to each prompt.
    pub(crate) fn n(&self) -> usize {
        self.n.unwrap_or(1)
    }

    /// Texts that end an answer.
    pub(crate) fn stops(&self) -> Vec<String> {
        self.stop.clone().map(TextOr::into_list).unwrap_or_default()
    }

    /// Variables of the chat template, and what `enable_thinking` among them says.
    pub(crate) fn template(&self) -> Result<(Option<bool>, Map<String, Value>), ApiError> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        let thinking = match variables.shift_remove("enable_thinking") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(thinking)) => Some(thinking),
            Some(_) => {
                let problem = "expected true or false";
                return Err(ApiError::field("chat_template_kwargs.enable_thinking", problem));
            }
        };
        // These are the conversation itself and what the program says about it.
        for name in ["messages", "tools", "documents", "add_generation_prompt"] {
            if variables.contains_key(name) {
                let problem = "is not for requests to set; use the fields of the request itself";
                return Err(ApiError::field(format!("chat_template_kwargs.{name}"), problem));
            }
        }
        Ok((thinking, variables))
    }

    /// How tokens are chosen.
    pub(crate) fn sampling(&self) -> Result<SamplingFields, ApiError> {
        let top_k = match self.top_k {
            // vLLM writes -1 for all.
            Some(-1) => Some(0),
            Some(k) => Some(usize::try_from(k).map_err(|_| {
                ApiError::field("top_k", format!("is {k}, expected 0 or more; 0 and -1 are all"))
            })?),
            None => None,
        };
        let biases = self.logit_bias.iter().flat_map(|biases| &biases.0);
        let logit_bias = biases.map(|(&id, &bias)| (id, bias)).collect();
        Ok(SamplingFields {
            temperature: self.temperature,
            top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty.or(self.repeat_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            // Any whole number is a seed; negative ones are as good as others.
            seed: self.seed.map(i64::cast_unsigned),
            logit_bias,
        })
    }

    /// The one format that is asked for, `own` being that of the API itself.
    pub(crate) fn format(&self, own: Option<Format>) -> Result<Format, ApiError> {
        let mut found: Vec<Format> = own.into_iter().filter(|format| *format != Format::Text).collect();
        let schema = |schema: &Value| match schema {
            Value::String(text) => serde_json::from_str(text)
                .map(Format::JsonSchema)
                .map_err(|error| ApiError::field("guided_json", format!("is not JSON: {error}"))),
            schema => Ok(Format::JsonSchema(schema.clone())),
        };
        let none = Structured::default();
        let structured = self.structured_outputs.as_ref().unwrap_or(&none);
        for json in self.guided_json.iter().chain(&structured.json) {
            found.push(schema(json)?);
        }
        found.extend(structured.json_object.filter(|&wanted| wanted).map(|_| Format::JsonObject));
        found.extend(self.guided_regex.iter().chain(&structured.regex).cloned().map(Format::Regex));
        let grammars = self.grammar.iter().chain(&self.guided_grammar).chain(&structured.grammar);
        found.extend(grammars.cloned().map(Format::Lark));
        for choices in self.guided_choice.iter().chain(&structured.choice) {
            found.push(choice(choices)?);
        }
        match found.len() {
            0 => Ok(Format::Text),
            1 => Ok(found.remove(0)),
            _ => Err(ApiError::field("response_format", "more than one format is asked for; give one")),
        }
    }
}

/// What is added to the logits of tokens. Bounded while it is read.
#[derive(Debug)]
struct Biases(BTreeMap<u32, f32>);

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Biases, D::Error> {
        deserializer.deserialize_map(BiasesVisitor)
    }
}

struct BiasesVisitor;

impl<'de> Visitor<'de> for BiasesVisitor {
    type Value = Biases;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbers by token id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
        let mut biases = BTreeMap::new();
        while let Some((id, bias)) = map.next_entry::<String, f32>()? {
            let number = id.parse().ok().filter(|_| bias.is_finite());
            let number = number.ok_or_else(|| {
                Error::custom(format!("{id:?}: {bias} is not a token's number and what is added"))
            })?;
            biases.insert(number, bias);
            if biases.len() > MAX_BIASES {
                return Err(Error::custom(format!("expected at most {MAX_BIASES} entries")));
            }
        }
        Ok(Biases(biases))
    }
}

/// One of some texts, as a grammar.
fn choice(choices: &[String]) -> Result<Format, ApiError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES || choices.iter().any(String::is_empty) {
        let problem = format!("expected 1 to {MAX_CHOICES} texts, none of them empty");
        return Err(ApiError::field("guided_choice", problem));
    }
    // Lark's strings are written like those of JSON.
    let texts: Vec<String> = choices.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    Ok(Format::Lark(format!("start: {}", texts.join(" | "))))
}

/// `response_format` of chat, and `text.format` of responses, whose schema stands beside the type.
#[derive(Debug, Deserialize)]
pub(crate) struct FormatField {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
    schema: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

impl FormatField {
    pub(crate) fn format(self, param: &str) -> Result<Format, ApiError> {
        let schema = self.json_schema.and_then(|named| named.schema).or(self.schema);
        match (self.kind.as_str(), schema) {
            ("text", _) => Ok(Format::Text),
            ("json_object", None) => Ok(Format::JsonObject),
            // llama.cpp takes a schema here too.
            ("json_object" | "json_schema", Some(schema)) => Ok(Format::JsonSchema(schema)),
            // OpenAI takes a schema without `schema` as any object.
            ("json_schema", None) => Ok(Format::JsonObject),
            (kind, _) => {
                let problem = format!("{kind:?}, expected text, json_object or json_schema");
                Err(ApiError::field(format!("{param}.type"), problem))
            }
        }
    }
}

/// `tool_choice`: a word, or the function that must be called. The second is the name in responses, where it stands bare.
#[derive(Debug, Deserialize)]
pub(crate) struct NamedTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Option<FunctionName>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FunctionName {
    name: String,
}

/// Whether and what must be called.
pub(crate) fn tool_choice(choice: Option<TextOr<NamedTool>>) -> Result<ToolChoice, ApiError> {
    let wrong = |problem: String| Err(ApiError::field("tool_choice", problem));
    match choice {
        None => Ok(ToolChoice::Auto),
        Some(TextOr::Text(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => wrong(format!("{word:?}, expected auto, none, required or a function")),
        },
        Some(TextOr::Other(tool)) => {
            let name = tool.function.map(|function| function.name).or(tool.name);
            match (tool.kind.as_deref(), name) {
                (Some("function") | None, Some(name)) => Ok(ToolChoice::Named(name)),
                (Some("function") | None, None) => wrong("has no name of a function".into()),
                (Some(kind), _) => wrong(format!("type {kind:?} is not supported; only functions are")),
            }
        }
    }
}

/// A part of a message's content.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ContentPart {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) text: Option<String>,
    refusal: Option<String>,
}

/// The text of a content, parts on lines of their own. Templates print what is no plain text as they please.
pub(crate) fn content_text(
    content: TextOr<Vec<ContentPart>>,
    param: impl Fn() -> String,
) -> Result<String, ApiError> {
    let parts = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::Other(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let param = || format!("{}[{index}]", param());
        let text = match part.kind.as_deref() {
            None | Some("text" | "input_text" | "output_text" | "reasoning_text" | "summary_text") => {
                part.text
            }
            Some("refusal") => part.refusal,
            Some(kind @ ("image_url" | "input_image" | "image" | "input_audio" | "file" | "input_file")) => {
                let problem = format!("{kind} is not supported; this server reads text only");
                return Err(ApiError::field(param(), problem).with_code("unsupported_content"));
            }
            Some(kind) => {
                return Err(ApiError::field(format!("{}.type", param()), format!("{kind:?}, expected text")));
            }
        };
        texts.push(text.ok_or_else(|| ApiError::field(format!("{}.text", param()), "is missing"))?);
    }
    Ok(texts.join("\n"))
}

/// Adds a system message. Those before the conversation become one: templates know one place for them.
pub(crate) fn push_system(messages: &mut Vec<Message>, text: String) {
    if let [first] = &mut messages[..]
        && first.role == "system"
    {
        let before = first.content.take().map(|content| content.text()).unwrap_or_default();
        first.content = Some(Content::Text(format!("{before}\n\n{text}")));
        return;
    }
    messages.push(Message::system(text));
}

/// Adds an assistant's call to its message, which may be the last one already.
pub(crate) fn push_call(messages: &mut Vec<Message>, call: ToolCall) {
    assistant(messages).tool_calls.push(call);
}

/// The assistant's message at the end, a new one if another speaks last.
pub(crate) fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        messages.push(Message { role: "assistant".into(), ..Message::default() });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// OpenAI's array of tools after a check of what we need of it; `None` if it is empty.
pub(crate) fn check_tools(tools: Vec<Value>) -> Result<Option<Value>, ApiError> {
    for (index, tool) in tools.iter().enumerate() {
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function");
        if kind != "function" {
            let problem = format!("{kind:?} is not supported; only functions are");
            return Err(ApiError::field(format!("tools[{index}].type"), problem));
        }
        let function = &tool["function"];
        let Some(name) = function["name"].as_str() else {
            return Err(ApiError::field(format!("tools[{index}].function.name"), "is missing or no string"));
        };
        check_tool_name(|| format!("tools[{index}].function.name"), name)?;
        let (parameters, description) = (&function["parameters"], &function["description"]);
        if !(parameters.is_object() || parameters.is_null()) {
            let problem = "expected a JSON schema, which is an object";
            return Err(ApiError::field(format!("tools[{index}].function.parameters"), problem));
        }
        if !(description.is_string() || description.is_null()) {
            return Err(ApiError::field(format!("tools[{index}].function.description"), "expected a string"));
        }
    }
    Ok((!tools.is_empty()).then_some(Value::Array(tools)))
}

/// A tool in the form that templates know.
pub(crate) fn function_tool(name: &str, description: Option<&str>, parameters: Value) -> Value {
    match description {
        Some(description) => {
            json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
        }
        None => json!({"type": "function", "function": {"name": name, "parameters": parameters}}),
    }
}

/// `usage` of chat and completions.
pub(crate) fn usage(outcome: &Outcome) -> Value {
    let answer = outcome.answer_tokens();
    json!({
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": answer,
        "total_tokens": outcome.prompt_tokens + answer,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": outcome.thought_tokens()},
    })
}
