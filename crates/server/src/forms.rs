//! The form that an answer must have, as the sampler follows it.

use std::sync::OnceLock;

use flashmill_engine::TextSide;
use flashmill_grammar::{self as grammar, Form, GrammarError, Grammars};
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorKind};
use crate::job::{Format, Input, Job, ToolChoice};

/// Makes forms. The vocabulary is taken in when the first one is asked for.
#[derive(Debug)]
pub(crate) struct Forms {
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    /// Calls that the model begins of its own accord are held to their tool's schema too.
    holds_all_calls: bool,
}

impl Forms {
    pub(crate) fn new(holds_all_calls: bool) -> Forms {
        Forms { grammars: OnceLock::new(), holds_all_calls }
    }

    /// The form of a job's answers; `None` if they are free.
    pub(crate) fn of_job(&self, text: &TextSide, job: &Job) -> Result<Option<Form>, ApiError> {
        let tools = match &job.input {
            Input::Chat(chat) => chat.tools.as_ref(),
            Input::Plain(_) => None,
        };
        let choice = match &job.tool_choice {
            ToolChoice::Required => Some(grammar::ToolChoice::Required),
            ToolChoice::Named(name) => Some(grammar::ToolChoice::Named(name.clone())),
            ToolChoice::None => Some(grammar::ToolChoice::None),
            ToolChoice::Auto => self.holds_all_calls.then_some(grammar::ToolChoice::Auto),
        };
        self.of_format(text, job, choice, tools).map_err(|error| refused(&error))
    }

    fn of_format(
        &self,
        text: &TextSide,
        job: &Job,
        choice: Option<grammar::ToolChoice>,
        tools: Option<&Value>,
    ) -> Result<Option<Form>, GrammarError> {
        let form = match (&job.format, choice, tools) {
            (Format::Text, Some(choice), Some(tools)) => {
                self.grammars(text)?.tool_calls(tools, &choice, job.parallel_calls)
            }
            (Format::Text, ..) => return Ok(None),
            (Format::JsonObject, ..) => self.json(text, job, tools, &json!({"type": "object"})),
            (Format::JsonSchema(schema), ..) => self.json(text, job, tools, schema),
            (Format::Regex(regex), ..) => self.grammars(text)?.regex(regex),
            (Format::Lark(grammar), ..) => self.grammars(text)?.lark(grammar),
        };
        form.map(Some)
    }

    /// JSON of a schema or, where the model may call tools, that or calls.
    fn json(
        &self,
        text: &TextSide,
        job: &Job,
        tools: Option<&Value>,
        schema: &Value,
    ) -> Result<Form, GrammarError> {
        let grammars = self.grammars(text)?;
        match (&job.tool_choice, tools) {
            (ToolChoice::Auto, Some(tools)) => grammars.json_or_tool_calls(schema, tools, job.parallel_calls),
            _ => grammars.json_schema(schema),
        }
    }

    fn grammars(&self, text: &TextSide) -> Result<&Grammars, GrammarError> {
        let make = || Grammars::new(text.tokenizer(), &text.defaults().eos_ids, text.template());
        self.grammars.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

fn refused(error: &GrammarError) -> ApiError {
    let param = match error {
        GrammarError::Tool { .. } | GrammarError::Tools { .. } => Some("tools"),
        GrammarError::NoTools | GrammarError::UnknownTool { .. } => Some("tool_choice"),
        GrammarError::Schema { .. } => Some("response_format"),
        _ => None,
    };
    ApiError { param: param.map(str::to_owned), ..ApiError::new(ErrorKind::Invalid, error.to_string()) }
}
