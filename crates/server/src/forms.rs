//! The form that an answer must have, as the sampler follows it.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};

use flashmill_engine::TextSide;
use flashmill_grammar::{self as grammar, Form, GrammarError, Grammars};
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorKind};
use crate::job::{Format, Input, Job, ToolChoice};

/// Forms that are kept: an agent asks for the same tools in every turn, and forty of them take a tenth of a second to compile.
const MAX_KEPT: usize = 4;

/// Makes forms. The vocabulary is taken in when the first one is asked for.
#[derive(Debug)]
pub(crate) struct Forms {
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    /// Calls that the model begins of its own accord are held to their tool's schema too.
    holds_all_calls: bool,
    /// The last ones that were used, the latest first.
    kept: Mutex<VecDeque<(String, Form)>>,
}

impl Forms {
    pub(crate) fn new(holds_all_calls: bool) -> Forms {
        Forms { grammars: OnceLock::new(), holds_all_calls, kept: Mutex::default() }
    }

    /// The form of a job's answers; `None` if they are free.
    pub(crate) fn of_job(&self, text: &TextSide, job: &Job) -> Result<Option<Form>, ApiError> {
        let tools = match &job.input {
            Input::Chat(chat) => chat.tools.as_ref(),
            Input::Plain(_) => None,
        };
        let wanted = key(&job.format, &job.tool_choice, tools, job.parallel_calls);
        if let Some(form) = self.recall(&wanted) {
            return Ok(Some(form));
        }
        let form = self.compile(text, job, tools).map_err(|error| refused(&error))?;
        if let Some(form) = &form {
            self.keep(wanted, form.clone());
        }
        Ok(form)
    }

    /// A form that was made for the same before.
    fn recall(&self, wanted: &str) -> Option<Form> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(of, _)| of == wanted)?;
        let found = kept.remove(at)?;
        let form = found.1.clone();
        kept.push_front(found);
        Some(form)
    }

    fn keep(&self, wanted: String, form: Form) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(MAX_KEPT - 1);
        kept.push_front((wanted, form));
    }

    fn compile(
        &self,
        text: &TextSide,
        job: &Job,
        tools: Option<&Value>,
    ) -> Result<Option<Form>, GrammarError> {
        let choice = match &job.tool_choice {
            ToolChoice::Required => Some(grammar::ToolChoice::Required),
            ToolChoice::Named(name) => Some(grammar::ToolChoice::Named(name.clone())),
            ToolChoice::None => Some(grammar::ToolChoice::None),
            ToolChoice::Auto => self.holds_all_calls.then_some(grammar::ToolChoice::Auto),
        };
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

/// All that a form follows from, as text: in a schema the order of the properties counts, and `==` of JSON objects does not mind it.
fn key(format: &Format, choice: &ToolChoice, tools: Option<&Value>, parallel_calls: bool) -> String {
    format!("{format:?} {choice:?} {tools:?} {parallel_calls}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_were_used_last_are_kept() {
        let tokenizer = flashmill_engine::Tokenizer::open(std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/demo"
        )))
        .unwrap();
        let grammars = Grammars::new(&tokenizer, &[0], None).unwrap();
        let forms = Forms::new(false);
        let keep = |at: usize| forms.keep(at.to_string(), grammars.regex("a").unwrap());
        let is_kept = |at: usize| forms.recall(&at.to_string()).is_some();
        (0..MAX_KEPT).for_each(keep);
        assert!(is_kept(0), "used again, so it is not the next to go");
        keep(MAX_KEPT);
        let kept: Vec<bool> = (0..=MAX_KEPT).map(is_kept).collect();
        assert_eq!(kept, [true, false, true, true, true]);
    }

    #[test]
    fn another_order_of_properties_is_another_form() {
        let of = |schema: &str| {
            let format = Format::JsonSchema(serde_json::from_str(schema).unwrap());
            key(&format, &ToolChoice::Auto, None, true)
        };
        let (ab, ba) = (r#"{"properties": {"a": {}, "b": {}}}"#, r#"{"properties": {"b": {}, "a": {}}}"#);
        assert_eq!(of(ab), of(ab));
        assert_ne!(of(ab), of(ba));
    }
}
