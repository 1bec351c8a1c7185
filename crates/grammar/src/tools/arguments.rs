//! The arguments of a tool, from its JSON schema.

use serde_json::{Map, Value, json};

/// What arguments a tool takes.
pub(crate) struct Arguments {
    /// The whole schema, an object.
    pub(super) schema: Value,
    /// Its properties, in its order; a name that is only required has the schema that allows anything.
    pub(super) properties: Vec<Argument>,
    /// The properties are all that the schema says, so that each can be written on its own.
    pub(super) is_plain: bool,
}

/// One argument.
pub(super) struct Argument {
    pub(super) name: String,
    /// With the definitions that it refers to.
    pub(super) schema: Value,
    pub(super) is_required: bool,
}

/// More properties than this come in the order of the schema: the rules for any order double with each.
pub(super) const MAX_ANY_ORDER: usize = 5;

/// Keywords of a schema whose properties are all that it says.
const PLAIN: [&str; 14] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "strict",
];

impl Arguments {
    /// `schema`: `parameters` of the tool. Without any, it takes no argument.
    pub(super) fn new(schema: &Value) -> Arguments {
        let empty = Map::new();
        let root = schema;
        let object = schema.as_object().unwrap_or(&empty);
        let listed = object.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required: Vec<&str> = object
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut properties: Vec<Argument> = listed
            .iter()
            .map(|(name, schema)| Argument {
                name: name.clone(),
                schema: with_definitions(schema, root),
                is_required: required.contains(&name.as_str()),
            })
            .collect();
        for &name in required.iter().filter(|&&name| !listed.contains_key(name)) {
            if !properties.iter().any(|argument| argument.name == name) {
                properties.push(Argument { name: name.to_owned(), schema: json!({}), is_required: true });
            }
        }
        let is_open = matches!(object.get("additionalProperties"), Some(more) if *more != Value::Bool(false));
        let is_object = object.get("type").is_none_or(|kind| kind == "object");
        let is_plain = is_object
            && !is_open
            && object.keys().all(|key| PLAIN.contains(&key.as_str()))
            && listed.values().all(refers_to_definitions);
        Arguments { schema: closed(object, is_open), properties, is_plain }
    }

    /// The required ones, a bit each; for at most 32.
    pub(super) fn required_bits(&self) -> u32 {
        let bits = self
            .properties
            .iter()
            .enumerate()
            .map(|(index, argument)| u32::from(argument.is_required) << index);
        bits.fold(0, |all, bit| all | bit)
    }
}

/// The schema of an object that takes no argument that it does not name, unless it says so.
fn closed(object: &Map<String, Value>, is_open: bool) -> Value {
    let mut object = object.clone();
    // Within these, other parts of the schema may name arguments.
    let is_composed =
        ["$ref", "anyOf", "oneOf", "allOf", "patternProperties"].iter().any(|key| object.contains_key(*key));
    if !is_composed {
        object.insert("type".into(), "object".into());
        if !is_open {
            object.insert("additionalProperties".into(), false.into());
        }
    }
    Value::Object(object)
}

/// A part of a schema with the definitions of the whole, if it refers to any.
pub(super) fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        // `true`, and what is no schema at all.
        _ => return json!({}),
    };
    if refers(&Value::Object(schema.clone()), &|_| true) {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                schema.entry(key).or_insert_with(|| definitions.clone());
            }
        }
    }
    Value::Object(schema)
}

/// Nothing in it refers to another place than the definitions.
fn refers_to_definitions(schema: &Value) -> bool {
    !refers(schema, &|path| !path.starts_with("#/$defs/") && !path.starts_with("#/definitions/"))
}

/// Whether it has a reference for which `is_it` holds.
fn refers(schema: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match schema {
        Value::Object(object) => {
            object.get("$ref").and_then(Value::as_str).is_some_and(is_it)
                || object.values().any(|value| refers(value, is_it))
        }
        Value::Array(values) => values.iter().any(|value| refers(value, is_it)),
        _ => false,
    }
}
