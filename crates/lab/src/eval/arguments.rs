//! Whether a call is one that its tool takes.

use serde_json::{Map, Value};

/// Whether `tools` (OpenAI's array) has a tool of this name that takes the arguments: all that it requires, none that it does not
/// know, each of its type and, where it lists values, one of them.
pub(super) fn is_taken(tools: &Value, name: &str, arguments: &Value) -> bool {
    let functions = tools.as_array().into_iter().flatten().map(|tool| tool.get("function").unwrap_or(tool));
    let mut named = functions.filter(|function| function["name"] == name);
    let Some(function) = named.next() else { return false };
    let empty = Map::new();
    let Some(arguments) = arguments.as_object() else { return false };
    let known = function["parameters"]["properties"].as_object().unwrap_or(&empty);
    let required = function["parameters"]["required"].as_array().into_iter().flatten();
    required.filter_map(Value::as_str).all(|name| arguments.contains_key(name))
        && arguments.iter().all(|(name, value)| known.get(name).is_some_and(|schema| fits(schema, value)))
}

fn fits(schema: &Value, value: &Value) -> bool {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_kind = |kind: &&str| match *kind {
        "string" => value.is_string(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    };
    let is_listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let items = || value.as_array().into_iter().flatten();
    (kinds.is_empty() || kinds.iter().any(is_kind))
        && is_listed
        && (schema["items"].is_null() || items().all(|item| fits(&schema["items"], item)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_tool_takes() {
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
            "a": {"type": "string"}, "n": {"type": "integer"}, "c": {"enum": ["x", "y"]}, "l": {"type": "array", "items": {"type": "number"}}}, "required": ["a"]}}}]);
        let taken = |name, arguments| is_taken(&tools, name, &arguments);
        assert!(taken("f", json!({"a": ""})));
        assert!(taken("f", json!({"a": "", "n": 3.0, "c": "y", "l": [1, 2.5]})));
        for wrong in [
            json!({}),
            json!({"a": 1}),
            json!({"a": "", "b": 1}),
            json!({"a": "", "n": 1.5}),
            json!({"a": "", "c": "z"}),
            json!({"a": "", "l": ["x"]}),
            json!([]),
        ] {
            assert!(!taken("f", wrong.clone()), "{wrong}");
        }
        assert!(!taken("g", json!({"a": ""})));
    }
}
