//! Tool calls as grammars, in the form that a model's chat template teaches.

mod arguments;
mod json;
mod lark;
mod tags;

use flashmill_engine::template::ChatTemplate;
use flashmill_engine::{Message, TemplateOptions, Tokenizer, ToolCall};
use serde_json::{Value, json};

use self::arguments::Arguments;
use self::lark::{Lark, quote};
use crate::GrammarError;
use crate::marker::Marker;
use crate::vocabulary::Vocabulary;

/// How a model writes what stands between `<tool_call>` and `</tool_call>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallForm {
    /// `{"name": "f", "arguments": {"a": 1}}`
    Json,
    /// `<function=f><parameter=a>1</parameter></function>`, with line ends between the tags
    Tags,
}

impl CallForm {
    /// The form in which a template shows the model its own calls; JSON where it shows none.
    pub fn of_template(template: &ChatTemplate, tokenizer: &Tokenizer) -> CallForm {
        let call = ToolCall { id: "call_0".into(), name: "probe".into(), arguments: json!({"x": "y"}) };
        let messages = [
            Message::user("x"),
            Message { tool_calls: vec![call], ..Message::assistant("") },
            Message::user("x"),
        ];
        let tools = json!([{"type": "function", "function": {"name": "probe", "description": "x",
            "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}]);
        let rendered = template.render(tokenizer, &messages, Some(&tools), &TemplateOptions::default());
        match rendered {
            Ok(rendered) if rendered.text.contains("<function=probe>") => CallForm::Tags,
            _ => CallForm::Json,
        }
    }
}

/// A tool that may be called.
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) arguments: Arguments,
}

/// The tools of an OpenAI array; plain function objects are taken too.
pub(crate) fn tools_of(tools: &Value) -> Result<Vec<Tool>, GrammarError> {
    let found = match tools {
        Value::Null => return Ok(Vec::new()),
        Value::Array(tools) => return tools.iter().map(tool_of).collect(),
        Value::Object(_) => "an object",
        _ => "no array",
    };
    Err(GrammarError::Tools { found })
}

fn tool_of(tool: &Value) -> Result<Tool, GrammarError> {
    let function = tool.get("function").unwrap_or(tool);
    let name = function["name"].as_str().filter(|name| !name.is_empty());
    let name = name.ok_or(GrammarError::Tools { found: "an array with something that has no name" })?;
    Ok(Tool { name: name.to_owned(), arguments: Arguments::new(&function["parameters"]) })
}

/// What follows `<tool_call>`: one call and `</tool_call>`.
pub(crate) fn call_grammar(
    tools: &[Tool],
    form: CallForm,
    vocabulary: &Vocabulary,
) -> Result<String, GrammarError> {
    let mut lark = Lark::default();
    lark.rule(
        "start",
        &[format!("call {}", marker(&vocabulary.end_call, flashmill_engine::tool_calls::CLOSE))],
    );
    write_calls(&mut lark, tools, form)?;
    lark.finish()
}

/// One call or, if `is_parallel`, several, and nothing else; or a JSON value of `answer`, a schema with its options, where there is one.
pub(crate) fn calls_grammar(
    answer: Option<&Value>,
    tools: &[Tool],
    form: CallForm,
    is_parallel: bool,
    vocabulary: &Vocabulary,
) -> Result<String, GrammarError> {
    let mut lark = Lark::default();
    let answer = answer.map(|answer| lark.json_value(answer));
    lark.rule("start", &answer.into_iter().chain(["calls".to_owned()]).collect::<Vec<_>>());
    let open = marker(&vocabulary.call, flashmill_engine::tool_calls::OPEN);
    let close = marker(&vocabulary.end_call, flashmill_engine::tool_calls::CLOSE);
    let more = if is_parallel { format!(" ({} block)*", quote("\n")) } else { String::new() };
    lark.rule("calls", &[format!("block{more}")]);
    lark.rule("block", &[format!("{open} call {close}")]);
    write_calls(&mut lark, tools, form)?;
    lark.finish()
}

/// The rule `call`: a line end, a call of one of the tools, a line end.
fn write_calls(lark: &mut Lark, tools: &[Tool], form: CallForm) -> Result<(), GrammarError> {
    let line_end = quote("\n");
    let names = (0..tools.len()).map(|index| format!("{line_end} call_{index} {line_end}"));
    lark.rule("call", &names.collect::<Vec<_>>());
    for (index, tool) in tools.iter().enumerate() {
        match form {
            CallForm::Json => json::write(lark, index, tool),
            CallForm::Tags => tags::write(lark, index, tool)?,
        }
    }
    Ok(())
}

/// A marker as its token, which no string can hold; spelled where the vocabulary has none.
fn marker(marker: &Marker, text: &str) -> String {
    marker.token.map_or_else(|| quote(text), |id| format!("<[{id}]>"))
}
