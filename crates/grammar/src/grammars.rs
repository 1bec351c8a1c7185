//! The forms of one model.

use std::sync::{Arc, Mutex, PoisonError};

use flashmill_engine::{ChatTemplate, Constraint, Tokenizer};
use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use crate::compile::compile;
use crate::follow::{Calls, Whole};
use crate::tools::{CallForm, Tool, call_grammar, calls_grammar, tools_of};
use crate::vocabulary::Vocabulary;
use crate::{GrammarError, limits};

/// What a model's answers can be held to. Cheap to clone; made once a model, which takes a second or so for 250 thousand tokens.
#[derive(Clone)]
pub struct Grammars {
    vocabulary: Arc<Vocabulary>,
    call_form: CallForm,
}

/// Whether, and which, tools are to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides; what it begins as a call is a valid one.
    Auto,
    /// No call can begin.
    None,
    /// At least one call, and nothing else.
    Required,
    /// Calls of this tool, and nothing else.
    Named(String),
}

/// A compiled form. Cheap to clone, and used for as many answers as there are.
#[derive(Clone)]
pub struct Form {
    vocabulary: Arc<Vocabulary>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// The whole answer.
    Whole(Arc<Mutex<Matcher>>),
    /// The calls in it.
    Calls { call: Option<Arc<Mutex<Matcher>>>, is_parallel: bool },
}

impl Grammars {
    /// Grammars in the tokens of `tokenizer`, of which `eos_ids` end an answer. The template tells in which form the model writes
    /// its tool calls; without one that is JSON.
    pub fn new(
        tokenizer: &Tokenizer,
        eos_ids: &[u32],
        template: Option<&ChatTemplate>,
    ) -> Result<Grammars, GrammarError> {
        let call_form =
            template.map_or(CallForm::Json, |template| CallForm::of_template(template, tokenizer));
        Ok(Grammars { vocabulary: Arc::new(Vocabulary::new(tokenizer, eos_ids)?), call_form })
    }

    /// The form in which the model writes its tool calls.
    pub fn call_form(&self) -> CallForm {
        self.call_form
    }

    /// JSON of a schema. A keyword that cannot be held to is an error. Properties come in the order of the schema.
    pub fn json_schema(&self, schema: &Value) -> Result<Form, GrammarError> {
        limits::check_schema(schema)?;
        if !schema.is_object() && *schema != Value::Bool(true) {
            return Err(GrammarError::Schema { reason: "it is no object; give {\"type\": ..}".into() });
        }
        self.whole(TopLevelGrammar::from_json_schema(limits::exact(schema)))
            .map_err(|reason| GrammarError::Schema { reason })
    }

    /// Any JSON object.
    pub fn json_object(&self) -> Result<Form, GrammarError> {
        self.json_schema(&json!({"type": "object"}))
    }

    /// Text that a regular expression matches from end to end, in the syntax of Rust's `regex`, without anchors and looking around;
    /// `\d`, `\w` and `\s` are ASCII, as the Unicode classes are some hundred times as costly to follow.
    pub fn regex(&self, regex: &str) -> Result<Form, GrammarError> {
        limits::check_regex(regex)?;
        let grammar =
            TopLevelGrammar::from_lark(format!("start: /{}/", llguidance::regex_to_lark(regex, "dws")));
        self.whole(grammar).map_err(|reason| GrammarError::Regex { reason })
    }

    /// Text of a grammar in Lark's syntax, as llguidance reads it.
    pub fn lark(&self, grammar: &str) -> Result<Form, GrammarError> {
        limits::check_lark(grammar)?;
        self.whole(TopLevelGrammar::from_lark(grammar.to_owned()))
            .map_err(|reason| GrammarError::Lark { reason })
    }

    /// Tool calls. `tools` is OpenAI's array; `is_parallel`: there may be several calls.
    ///
    /// A call is of a tool that there is and has all required arguments and no unknown ones, each as its schema asks. What of a schema
    /// llguidance cannot hold to, such as `not`, is left to the model.
    pub fn tool_calls(
        &self,
        tools: &Value,
        choice: &ToolChoice,
        is_parallel: bool,
    ) -> Result<Form, GrammarError> {
        if *choice == ToolChoice::None {
            return Ok(self.calls(None, is_parallel));
        }
        limits::check_schema(tools)?;
        let mut tools = tools_of(tools)?;
        match choice {
            ToolChoice::Auto if tools.is_empty() => return Ok(self.calls(None, is_parallel)),
            ToolChoice::Auto => {
                let grammar = call_grammar(&tools, self.call_form, &self.vocabulary)?;
                let matcher = compile(&self.vocabulary, TopLevelGrammar::from_lark(grammar))
                    .map_err(|reason| self.blame(&tools, reason))?;
                return Ok(self.calls(Some(matcher), is_parallel));
            }
            ToolChoice::None | ToolChoice::Required => {}
            ToolChoice::Named(name) => {
                let known: Vec<String> = tools.iter().map(|tool| format!("{:?}", tool.name)).collect();
                tools.retain(|tool| tool.name == *name);
                if tools.is_empty() && !known.is_empty() {
                    return Err(GrammarError::UnknownTool { name: name.clone(), known: known.join(", ") });
                }
            }
        }
        if tools.is_empty() {
            return Err(GrammarError::NoTools);
        }
        let grammar = calls_grammar(None, &tools, self.call_form, is_parallel, &self.vocabulary)?;
        self.whole(TopLevelGrammar::from_lark(grammar)).map_err(|reason| self.blame(&tools, reason))
    }

    /// Either JSON of a schema or tool calls: the model decides which, and each is held to as where it is alone.
    pub fn json_or_tool_calls(
        &self,
        schema: &Value,
        tools: &Value,
        is_parallel: bool,
    ) -> Result<Form, GrammarError> {
        limits::check_schema(schema)?;
        limits::check_schema(tools)?;
        let tools = tools_of(tools)?;
        if tools.is_empty() {
            return self.json_schema(schema);
        }
        let answer = limits::exact(schema);
        let grammar = calls_grammar(Some(&answer), &tools, self.call_form, is_parallel, &self.vocabulary)?;
        self.whole(TopLevelGrammar::from_lark(grammar)).map_err(|reason| match self.json_schema(schema) {
            Ok(_) => self.blame(&tools, reason),
            Err(error) => error,
        })
    }

    fn whole(&self, grammar: TopLevelGrammar) -> Result<Form, String> {
        let matcher = compile(&self.vocabulary, grammar)?;
        Ok(Form { vocabulary: self.vocabulary.clone(), kind: Kind::Whole(Arc::new(Mutex::new(matcher))) })
    }

    fn calls(&self, call: Option<Matcher>, is_parallel: bool) -> Form {
        let call = call.map(|matcher| Arc::new(Mutex::new(matcher)));
        Form { vocabulary: self.vocabulary.clone(), kind: Kind::Calls { call, is_parallel } }
    }

    /// Finds the tool that is at fault when the grammar of all of them is refused.
    fn blame(&self, tools: &[Tool], reason: String) -> GrammarError {
        let fails = |tool: &&Tool| {
            let grammar = call_grammar(std::slice::from_ref(tool), self.call_form, &self.vocabulary);
            grammar
                .is_ok_and(|grammar| compile(&self.vocabulary, TopLevelGrammar::from_lark(grammar)).is_err())
        };
        match tools.iter().find(fails) {
            Some(tool) => GrammarError::Tool { name: tool.name.clone(), reason },
            None => GrammarError::Schema { reason },
        }
    }
}

impl Form {
    /// Follows a new answer; `in_thought`: the prompt has opened a thought.
    pub fn start(&self, in_thought: bool) -> Box<dyn Constraint> {
        let vocabulary = self.vocabulary.clone();
        match &self.kind {
            Kind::Whole(matcher) => {
                let matcher = matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
                Box::new(Whole::new(vocabulary, matcher, in_thought))
            }
            Kind::Calls { call, is_parallel } => {
                Box::new(Calls::new(vocabulary, call.clone(), *is_parallel, in_thought))
            }
        }
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("call_form", &self.call_form).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Form").finish_non_exhaustive()
    }
}
