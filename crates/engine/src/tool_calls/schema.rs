//! The types of a tool's arguments, and values out of plain text.

use std::collections::HashMap;

use serde_json::Value;

/// What the schemas of the offered tools say about their arguments.
#[derive(Clone, Debug, Default)]
pub struct ToolSchemas {
    /// Tool to argument to its types; no types means any.
    tools: HashMap<String, HashMap<String, Vec<String>>>,
}

impl ToolSchemas {
    /// From OpenAI's array of tools: `[{"type": "function", "function": {"name": .., "parameters": {..}}}]`.
    ///
    /// Plain function objects are taken too; anything else is passed over, as a model may still call it.
    pub fn new(tools: &Value) -> ToolSchemas {
        let mut schemas = ToolSchemas::default();
        for tool in tools.as_array().into_iter().flatten() {
            let function = tool.get("function").unwrap_or(tool);
            let Some(name) = function["name"].as_str() else { continue };
            let root = &function["parameters"];
            let arguments = root["properties"].as_object().into_iter().flatten();
            let types = arguments.map(|(argument, schema)| (argument.clone(), types_of(schema, root)));
            schemas.tools.insert(name.to_owned(), types.collect());
        }
        schemas
    }

    /// The types that an argument may have; `None` if the schema does not say.
    pub(super) fn types(&self, tool: &str, argument: &str) -> Option<&[String]> {
        let types = self.tools.get(tool)?.get(argument)?;
        (!types.is_empty()).then_some(types)
    }
}

/// Schemas within schemas that are looked at for one argument; references can go round in circles.
const MAX_SCHEMAS: usize = 64;

/// The types that a schema allows, through `anyOf`, `oneOf`, `allOf`, `enum`, `const` and references within the tool.
fn types_of(schema: &Value, root: &Value) -> Vec<String> {
    let mut types = Vec::new();
    let mut schemas = vec![schema];
    let mut n_seen = 0;
    while let Some(&schema) = schemas.get(n_seen).filter(|_| n_seen < MAX_SCHEMAS) {
        n_seen += 1;
        let n_types = types.len();
        match &schema["type"] {
            Value::String(one) => types.push(one.clone()),
            Value::Array(many) => types.extend(many.iter().filter_map(Value::as_str).map(str::to_owned)),
            _ => {}
        }
        if types.len() == n_types {
            let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
            types.extend(values.map(|value| type_name(value).to_owned()));
        }
        let options = ["anyOf", "oneOf", "allOf"].map(|key| schema[key].as_array());
        schemas.extend(options.into_iter().flatten().flatten().take(MAX_SCHEMAS));
        schemas.extend(schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?)));
    }
    types.sort();
    types.dedup();
    types
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The value that `text` stands for. A string stays as it is; anything else is JSON, or `True`, `False` and `None`.
///
/// Without types, what is JSON and no string is taken as such. `None` if the text has none of the types.
pub(super) fn value_of(text: &str, types: Option<&[String]>) -> Option<Value> {
    let raw = || Value::String(text.to_owned());
    let parsed = parse(text.trim());
    let Some(types) = types else {
        return Some(parsed.filter(|value| !value.is_string()).unwrap_or_else(raw));
    };
    let allows = |name: &str| types.iter().any(|allowed| allowed == name);
    match parsed.filter(|value| !value.is_string() && types.iter().any(|name| has_type(value, name))) {
        Some(value) => Some(value),
        None => allows("string").then(raw),
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        _ => type_name(value) == name,
    }
}

fn parse(text: &str) -> Option<Value> {
    match text {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        _ => serde_json::from_str(text).ok(),
    }
}

/// For messages: the types that were expected.
pub(super) fn describe(types: Option<&[String]>) -> String {
    types.map_or_else(|| "any".into(), |types| types.join(" or "))
}
