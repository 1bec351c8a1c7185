//! What a form that comes from outside may be, before it is compiled; and the options that its JSON is compiled with.

use serde_json::{Map, Value, json};

use crate::GrammarError;

/// The most bytes of a schema, or of all tools together.
const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// The most values, and how deep they may lie.
const MAX_VALUES: usize = 50_000;
const MAX_DEPTH: usize = 64;
/// The most members of an object, and of an array: a grammar may take time that grows with their square.
const MAX_KEYS: usize = 1_000;
const MAX_ITEMS: usize = 4_000;
/// The most regular expressions: by themselves, as names of properties of one object, and where schemas are combined, since it then
/// has to be found out whether any text matches all of them.
const MAX_PATTERNS: usize = 500;
const MAX_PATTERN_PROPERTIES: usize = 16;
const MAX_COMBINED_PATTERNS: usize = 12;
/// The most that a count in a schema may be: lengths, items, properties. Each adds to the grammar.
const MAX_COUNT: u64 = 10_000;
/// The most bytes of a regular expression, and of a Lark grammar.
const MAX_REGEX_BYTES: usize = 4 << 10;
const MAX_LARK_BYTES: usize = 64 << 10;
/// The most bytes of a grammar that is made of tools.
pub(crate) const MAX_GRAMMAR_BYTES: usize = 8 << 20;

/// The most bytes of a schema when each of its references takes the definitions with it.
const MAX_REFERRED_BYTES: usize = 128 << 20;
/// About what a value takes besides its text.
const VALUE_BYTES: usize = 64;

/// Keywords whose numbers are counts.
const COUNTS: [&str; 6] =
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];

/// Looks through a schema, or through tools with schemas.
pub(crate) fn check_schema(schema: &Value) -> Result<(), GrammarError> {
    let mut n_bytes = 0usize;
    let mut n_values = 0usize;
    let mut n_patterns = 0usize;
    let mut n_references = 0usize;
    let mut is_combined = false;
    let mut left: Vec<(&Value, usize)> = vec![(schema, 0)];
    while let Some((value, depth)) = left.pop() {
        n_values += 1;
        check("the number of values in the schema", n_values, MAX_VALUES)?;
        check("the depth of the schema", depth, MAX_DEPTH)?;
        match value {
            Value::String(text) => n_bytes += text.len(),
            Value::Array(values) => {
                check("the length of an array in the schema", values.len(), MAX_ITEMS)?;
                left.extend(values.iter().map(|value| (value, depth + 1)));
            }
            Value::Object(object) => {
                check("the size of an object in the schema", object.len(), MAX_KEYS)?;
                n_bytes += object.keys().map(String::len).sum::<usize>();
                check_keywords(object)?;
                let has = |key: &str| object.contains_key(key);
                n_patterns += usize::from(has("pattern"));
                n_references += usize::from(has("$ref"));
                is_combined |=
                    has("allOf") || has("pattern") && ["$ref", "anyOf", "oneOf"].into_iter().any(has);
                left.extend(object.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
        check("the text of the schema in bytes", n_bytes, MAX_SCHEMA_BYTES)?;
    }
    let limit = if is_combined { MAX_COMBINED_PATTERNS } else { MAX_PATTERNS };
    check("the number of patterns in the schema", n_patterns, limit)?;
    let referred = n_references.saturating_mul(n_bytes + VALUE_BYTES * n_values);
    check("the bytes of the schema where its references lead", referred, MAX_REFERRED_BYTES)
}

fn check_keywords(object: &Map<String, Value>) -> Result<(), GrammarError> {
    for key in COUNTS {
        if let Some(count) = object.get(key).and_then(Value::as_f64).filter(|&count| count > MAX_COUNT as f64)
        {
            return Err(GrammarError::TooLarge {
                what: "a count in the schema",
                found: count as u64,
                limit: MAX_COUNT,
            });
        }
    }
    if let Some(pattern) = object.get("pattern").and_then(Value::as_str) {
        check_regex(pattern)?;
    }
    let patterns = object.get("patternProperties").and_then(Value::as_object);
    check("the number of patternProperties", patterns.map_or(0, Map::len), MAX_PATTERN_PROPERTIES)?;
    patterns.into_iter().flatten().try_for_each(|(key, _)| check_regex(key))
}

/// Looks at a regular expression.
pub(crate) fn check_regex(regex: &str) -> Result<(), GrammarError> {
    check("the length of the regular expression in bytes", regex.len(), MAX_REGEX_BYTES)
}

/// Looks at a Lark grammar.
pub(crate) fn check_lark(grammar: &str) -> Result<(), GrammarError> {
    check("the length of the grammar in bytes", grammar.len(), MAX_LARK_BYTES)
}

fn check(what: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
    match found > limit {
        true => Err(GrammarError::TooLarge { what, found: found as u64, limit: limit as u64 }),
        false => Ok(()),
    }
}

/// The schema as a user asks for it: held to, or an error. White space as people and models lay out JSON, but not without end.
pub(crate) fn exact(schema: &Value) -> Value {
    with_options(schema, json!({"whitespace_flexible": true, "whitespace_pattern": r"(\r?\n)?[ \t]{0,40}"}))
}

/// The schema of a tool's arguments: a keyword that cannot be held to is left to the model, so that no tool is refused for it.
pub(crate) fn lenient(schema: &Value, mut options: Value) -> Value {
    options["lenient"] = true.into();
    options["coerce_one_of"] = true.into();
    with_options(schema, options)
}

/// Whole numbers up to this, and what lies between them, are read alike everywhere.
const MAX_NUMBER: i64 = 1_000_000_000_000_000_000;

/// Words about a schema, which hold nobody to anything.
const ANNOTATIONS: [&str; 5] = ["title", "description", "default", "examples", "$comment"];

/// Numbers without bounds get some, or a model that goes on writing digits writes one that no program reads. Annotations go, so that what
/// differs only in them is compiled once.
fn simplify(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    ANNOTATIONS.iter().for_each(|key| drop(object.shift_remove(*key)));
    let is_number = |kind: &Value| kind == "number" || kind == "integer";
    if object.get("type").is_some_and(|kind| {
        is_number(kind) || kind.as_array().is_some_and(|kinds| kinds.iter().any(is_number))
    }) {
        let has = |keys: [&str; 2]| keys.iter().any(|key| object.contains_key(*key));
        let (has_least, has_most) =
            (has(["minimum", "exclusiveMinimum"]), has(["maximum", "exclusiveMaximum"]));
        if !has_least {
            object.insert("minimum".into(), (-MAX_NUMBER).into());
        }
        if !has_most {
            object.insert("maximum".into(), MAX_NUMBER.into());
        }
    }
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values_mut().for_each(simplify);
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(simplify);
            }
            ("items" | "additionalProperties", schema) => simplify(schema),
            _ => {}
        }
    }
}

/// llguidance's options stand in the schema; a client's own are overwritten.
fn with_options(schema: &Value, options: Value) -> Value {
    // `true` allows anything.
    let mut schema = if *schema == Value::Bool(true) { json!({}) } else { schema.clone() };
    simplify(&mut schema);
    if let Value::Object(object) = &mut schema {
        object.insert("x-guidance".into(), options);
    }
    schema
}

/// A regular expression of JSON Schema as it stands between the slashes of Lark.
pub(crate) fn regex_to_lark(pattern: &str) -> String {
    llguidance::regex_to_lark(pattern, "dw")
}
