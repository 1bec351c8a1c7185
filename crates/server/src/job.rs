//! What a request asks for, in whatever API it came.

use flashmill_engine::{Message, SamplingOptions};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// A request, translated.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What the model reads.
    pub input: Input,
    /// Answers to each prompt.
    pub n: usize,
    /// How tokens are chosen, as far as the client says.
    pub sampling: SamplingFields,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// Log-probabilities, and of so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// What the answer must look like.
    pub format: Format,
    /// Whether and what must be called.
    pub tool_choice: ToolChoice,
    /// More than one call in an answer.
    pub parallel_calls: bool,
    /// As server-sent events.
    pub stream: bool,
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation.
    Chat(Chat),
    /// Prompts as they are, each with answers of its own.
    Plain(Vec<PlainPrompt>),
}

/// A conversation and what the chat template is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages.
    pub messages: Vec<Message>,
    /// OpenAI's array of tools; not empty.
    pub tools: Option<Value>,
    /// Shall the model think; the template decides if not given.
    pub thinking: Option<bool>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// Text or tokens without a template.
#[derive(Clone, Debug, PartialEq)]
pub enum PlainPrompt {
    /// Text.
    Text(String),
    /// Ids of tokens.
    Tokens(Vec<u32>),
}

/// Sampling as far as the client asked for it.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields of SamplingOptions")]
pub struct SamplingFields {
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub seed: Option<u64>,
    pub logit_bias: Vec<(u32, f32)>,
}

/// What an answer must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema(Value),
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// A text of a grammar in Lark's language.
    Lark(String),
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The model hears of them and cannot call them.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Most answers to one request.
pub const MAX_ANSWERS: usize = 32;
/// Most log-probabilities of one token.
pub const MAX_LOGPROBS: usize = 20;
/// Most stop strings, and most bytes of each: all of them are looked for with each token.
pub const MAX_STOPS: usize = 16;
/// See [`MAX_STOPS`].
pub const MAX_STOP_BYTES: usize = 256;

impl SamplingFields {
    /// The model's own settings, with what the client asked for in their place.
    pub fn over(&self, defaults: &SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.or(defaults.seed),
        }
    }
}

impl Job {
    /// What no model can do, by name of the fields that all APIs share.
    pub(crate) fn check(self) -> Result<Job, ApiError> {
        if !(1..=MAX_ANSWERS).contains(&self.n) {
            return Err(ApiError::field("n", format!("is {}, expected 1 to {MAX_ANSWERS}", self.n)));
        }
        if self.max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", "is 0, expected at least 1"));
        }
        let is_stop = |text: &String| (1..=MAX_STOP_BYTES).contains(&text.len());
        if self.stops.len() > MAX_STOPS || !self.stops.iter().all(is_stop) {
            return Err(ApiError::field(
                "stop",
                format!("expected at most {MAX_STOPS} texts of 1 to {MAX_STOP_BYTES} bytes"),
            ));
        }
        if self.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
            return Err(ApiError::field("top_logprobs", format!("expected at most {MAX_LOGPROBS}")));
        }
        let sampling = self.sampling.over(&SamplingOptions::plain());
        sampling.check().map_err(|error| {
            let message = error.to_string();
            match &error {
                flashmill_engine::EngineError::SamplingOption { name, .. } => {
                    ApiError { param: Some((*name).to_owned()), ..ApiError::field(*name, message) }
                }
                _ => ApiError::field("sampling", message),
            }
        })?;
        let Input::Chat(chat) = &self.input else { return Ok(self) };
        if chat.messages.is_empty() {
            return Err(ApiError::field("messages", "is empty, expected at least one"));
        }
        match (&self.tool_choice, &chat.tools) {
            (ToolChoice::Auto | ToolChoice::None, _) | (ToolChoice::Required, Some(_)) => {}
            (_, None) => {
                return Err(ApiError::field("tool_choice", "asks for a call, but there are no tools"));
            }
            (ToolChoice::Named(name), Some(tools)) => {
                if !tool_names(tools).any(|tool| tool == name) {
                    return Err(ApiError::field("tool_choice", format!("there is no tool {name:?}")));
                }
            }
        }
        let must_call = matches!(self.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        if must_call && self.format != Format::Text {
            return Err(ApiError::field(
                "tool_choice",
                "asks for a call and the format for something else; give one of them",
            ));
        }
        Ok(self)
    }
}

/// The names in OpenAI's array of tools.
pub(crate) fn tool_names(tools: &Value) -> impl Iterator<Item = &str> {
    tools.as_array().into_iter().flatten().filter_map(|tool| tool["function"]["name"].as_str())
}

/// A tool's name stands in control tokens of some models' calls (`<function=NAME>`).
pub(crate) fn check_tool_name(param: impl FnOnce() -> String, name: &str) -> Result<(), ApiError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    if !(1..=128).contains(&name.len()) || !name.chars().all(is_good) {
        let problem = format!("{name:?}, expected 1 to 128 letters, digits or any of _ - . : /");
        return Err(ApiError::field(param(), problem));
    }
    Ok(())
}
