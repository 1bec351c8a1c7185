//! The built-in tools of `chat`: they compute, tell the time and read below the current directory. None changes anything.

mod calculator;
mod clock;
mod files;

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use files::Sandbox;

/// The tools, with the directory that they may read.
pub(crate) struct Tools {
    sandbox: Sandbox,
}

impl Tools {
    /// Tools that read below `root`.
    pub(crate) fn new(root: &Path) -> Result<Tools> {
        Ok(Tools { sandbox: Sandbox::new(root)? })
    }

    /// Their descriptions for the model, in the form of an OpenAI `tools` array; short, since the model reads them every time.
    pub(crate) fn definitions() -> Vec<Value> {
        vec![
            definition(
                "calculator",
                "Evaluate an arithmetic expression",
                "expression",
                "Arithmetic expression",
                true,
            ),
            definition("get_time", "Get the local time", "city", "City name or time zone", false),
            definition("list_files", "List the files of a folder", "path", "Path of the folder", true),
            definition("read_file", "Get the contents of a file", "path", "Path of the file", true),
        ]
    }

    /// Whether there is a tool of this name.
    pub(crate) fn has(name: &str) -> bool {
        matches!(name, "calculator" | "get_time" | "list_files" | "read_file")
    }

    /// Runs a tool and gives its result, a JSON object. What went wrong is a result too, `{"error": ..}`, for the model to read.
    pub(crate) fn call(&self, name: &str, arguments: &Value) -> Value {
        self.try_call(name, arguments).unwrap_or_else(|error| json!({"error": format!("{error:#}")}))
    }

    fn try_call(&self, name: &str, arguments: &Value) -> Result<Value> {
        let arguments = Arguments::new(arguments)?;
        Ok(match name {
            "calculator" => json!({"result": calculator::calculate(arguments.required("expression")?)?}),
            "get_time" => clock::now(arguments.optional("city")?)?,
            "list_files" => json!({"files": self.sandbox.list(arguments.optional("path")?.unwrap_or("."))?}),
            "read_file" => json!({"content": self.sandbox.read(arguments.required("path")?)?}),
            _ => bail!("there is no tool {name:?}"),
        })
    }
}

/// JSON as Python writes it, a space after commas and colons: the form of tool results that models were trained on.
pub(crate) fn to_spaced_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    value.serialize(&mut serializer).expect("JSON values can be written to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The arguments of a call, all of which are texts.
struct Arguments<'a>(Option<&'a Map<String, Value>>);

impl<'a> Arguments<'a> {
    fn new(value: &'a Value) -> Result<Arguments<'a>> {
        match value {
            Value::Object(map) => Ok(Arguments(Some(map))),
            Value::Null => Ok(Arguments(None)),
            other => bail!("arguments must be an object, not {other}"),
        }
    }

    fn required(&self, name: &str) -> Result<&'a str> {
        self.optional(name)?.with_context(|| format!("the argument {name:?} is missing"))
    }

    fn optional(&self, name: &str) -> Result<Option<&'a str>> {
        match self.0.and_then(|map| map.get(name)) {
            None | Some(Value::Null) => Ok(None),
            // Small models put a space before a word that starts a value.
            Some(Value::String(text)) => Ok(Some(text.trim())),
            Some(other) => bail!("the argument {name:?} must be a text, not {other}"),
        }
    }
}

/// A tool with one argument, a text.
fn definition(name: &str, description: &str, argument: &str, meaning: &str, is_required: bool) -> Value {
    let mut properties = Map::new();
    properties.insert(argument.to_owned(), json!({"type": "string", "description": meaning}));
    let required = if is_required { vec![argument] } else { vec![] };
    json!({"type": "function", "function": {"name": name, "description": description,
        "parameters": {"type": "object", "properties": properties, "required": required}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_described_tool_can_be_called() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("x"), "text").expect("a file");
        let tools = Tools::new(directory.path()).expect("tools");
        let arguments = json!({"expression": "6*7", "path": "x", "city": "UTC"});
        for tool in Tools::definitions() {
            let name = tool["function"]["name"].as_str().expect("a name").to_owned();
            assert!(Tools::has(&name));
            let mut arguments = arguments.clone();
            if name == "list_files" {
                arguments["path"] = ".".into();
            }
            let result = tools.call(&name, &arguments);
            assert!(result.is_object() && result.get("error").is_none(), "{name}: {result}");
            assert!(tools.call(&name, &json!([1])).get("error").is_some(), "{name} takes an object");
        }
        assert_eq!(tools.call("calculator", &arguments), json!({"result": 42}));
        assert_eq!(tools.call("read_file", &arguments), json!({"content": "text"}));
        assert_eq!(tools.call("list_files", &json!({})), json!({"files": ["x (4 bytes)"]}));
    }

    #[test]
    fn wrong_calls_are_errors_that_help() {
        let tools = Tools::new(Path::new(".")).expect("tools");
        let message = |name: &str, arguments: Value| tools.call(name, &arguments)["error"].clone();
        assert_eq!(message("rm", json!({})), "there is no tool \"rm\"");
        assert_eq!(message("read_file", json!({})), "the argument \"path\" is missing");
        assert_eq!(message("read_file", Value::Null), "the argument \"path\" is missing");
        assert_eq!(
            message("calculator", json!({"expression": 4})),
            "the argument \"expression\" must be a text, not 4"
        );
    }

    #[test]
    fn json_with_spaces() {
        let value = json!({"a": [1, 2.5, "x, y: z"], "b": {}, "c": []});
        assert_eq!(to_spaced_json(&value), r#"{"a": [1, 2.5, "x, y: z"], "b": {}, "c": []}"#);
    }
}
