//! The form that answers shall have: what `--json-schema` and its like mean.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flashmill_engine::Engine;
use flashmill_grammar::{Form, Grammars, ToolChoice};
use serde_json::Value;

use crate::prompt::read_file;

/// The form as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FormFlag {
    /// A file with a JSON schema, or the schema itself.
    JsonSchema(String),
    /// Any JSON object.
    JsonObject,
    /// A regular expression for the whole answer.
    Regex(String),
    /// A file with a Lark grammar.
    Grammar(PathBuf),
    /// Tool calls that cannot be malformed.
    ToolGrammar,
}

/// The form with what its files say.
pub(crate) enum FormText {
    JsonSchema(Value),
    JsonObject,
    Regex(String),
    Lark(String),
    ToolCalls,
}

impl FormFlag {
    /// Reads the files, before the model is opened.
    pub(crate) fn read(&self) -> Result<FormText> {
        Ok(match self {
            FormFlag::JsonSchema(text) => FormText::JsonSchema(read_schema(text)?),
            FormFlag::JsonObject => FormText::JsonObject,
            FormFlag::Regex(regex) => FormText::Regex(regex.clone()),
            FormFlag::Grammar(path) => FormText::Lark(read_file(path)?),
            FormFlag::ToolGrammar => FormText::ToolCalls,
        })
    }
}

fn read_schema(text: &str) -> Result<Value> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("--json-schema is not valid JSON");
    }
    let schema = read_file(Path::new(text))?;
    serde_json::from_str(&schema).with_context(|| format!("{text} is not valid JSON"))
}

impl FormText {
    /// Compiles the form in the words of the model; `tools` are those that it is offered.
    pub(crate) fn compile(&self, engine: &Engine, tools: Option<&Value>) -> Result<Form> {
        let grammars = Grammars::new(engine.tokenizer(), &engine.defaults().eos_ids, engine.template())?;
        Ok(match self {
            FormText::JsonSchema(schema) => grammars.json_schema(schema)?,
            FormText::JsonObject => grammars.json_object()?,
            FormText::Regex(regex) => grammars.regex(regex)?,
            FormText::Lark(grammar) => grammars.lark(grammar)?,
            FormText::ToolCalls => {
                let Some(tools) = tools else {
                    bail!("--tool-grammar: there are no tools; give some with --tools")
                };
                grammars.tool_calls(tools, &ToolChoice::Auto, true)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_a_file_or_itself() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("schema.json");
        std::fs::write(&path, r#"{"type": "integer"}"#).expect("a file");
        let text = path.to_str().expect("a UTF-8 path");
        assert_eq!(read_schema(text).expect("a schema"), json!({"type": "integer"}));
        assert_eq!(read_schema(" {}").expect("a schema"), json!({}));
        assert!(format!("{:#}", read_schema("{").expect_err("no JSON")).contains("--json-schema"));
        std::fs::write(&path, "{").expect("a file");
        assert!(format!("{:#}", read_schema(text).expect_err("no JSON")).contains("schema.json"));
    }
}
