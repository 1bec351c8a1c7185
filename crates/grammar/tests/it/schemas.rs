//! JSON schemas: what ends is what the validator accepts.

use flashmill_engine::sampling::Rng;
use serde_json::{Value, json};

use crate::draw::{JSON, TOKENIZER, draw};

/// Draws `n` answers under `schema`; the validator accepts each of them wherever it may end.
fn check(schema: &Value, n: u64) {
    let validator = jsonschema::validator_for(schema).expect("a schema");
    let allows_anything =
        *schema == json!(true) || schema["type"] == "object" && schema.get("additionalProperties").is_none();
    let form = JSON.json_schema(schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
    for seed in 0..n {
        let mut constraint = form.start(false);
        let n_free = [0, 5, 30, 100][(seed % 4) as usize];
        let text = draw(&TOKENIZER, &mut *constraint, &mut Rng::new(seed), n_free, |text, may_end| {
            if may_end {
                let value: Value = match serde_json::from_str(text) {
                    Ok(value) => value,
                    // JSON has numbers that no double holds; where a schema allows anything, these too.
                    Err(error) if error.to_string().contains("number out of range") && allows_anything => {
                        return;
                    }
                    Err(error) => panic!("seed {seed}, {schema}: {error}: {text:?}"),
                };
                let errors: Vec<String> =
                    validator.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "seed {seed}, {schema}: {errors:?}: {text:?}");
            }
        });
        assert!(!text.is_empty());
    }
}

#[test]
fn what_ends_is_valid() {
    let schemas = [
        json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}),
        json!({"type": "object"}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, "minItems": 2, "maxItems": 4}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": false}),
        json!({"enum": ["red", "gr\u{fc}n", "\u{9752}", 7, null, {"a": [1]}, "with \"quotes\" and \\"]}),
        json!({"const": {"k": [1, 2.5, "x"]}}),
        json!({"anyOf": [{"type": "integer", "minimum": -5, "maximum": 120}, {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": false}, {"type": "null"}]}),
        json!({"type": "number", "minimum": -1.5, "exclusiveMaximum": 20}),
        json!({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000}),
        json!({"type": ["string", "null"], "minLength": 2, "maxLength": 6}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}),
        json!({"type": "string", "pattern": "^(\u{e9}+|[a-z]x)$"}),
        json!({"type": "object", "properties": {"\u{f6}l \"q\"": {"type": "string", "maxLength": 4}, "n\nl": {"type": "boolean"}}, "required": ["\u{f6}l \"q\"", "n\nl"], "additionalProperties": false}),
        json!({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"type": "object", "properties": {"who": {"type": "object", "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}}, "required": ["name", "tags"], "additionalProperties": false}, "when": {"type": "string", "format": "date"}}, "required": ["who", "when"], "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": false}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        json!({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]}),
        json!(true),
    ];
    for schema in schemas {
        check(&schema, 16);
    }
}

#[test]
fn what_cannot_be_held_to_is_refused_by_name() {
    let refused = [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"type": "string"}}), "not"),
        (json!({"$ref": "https://example.com/schema.json"}), "example.com"),
        (json!({"$ref": "#/$defs/nowhere"}), "nowhere"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), ""),
        (json!({"type": "whatever"}), "whatever"),
        (json!(false), ""),
        (json!([]), ""),
        (json!("string"), ""),
    ];
    for (schema, name) in refused {
        let error = JSON.json_schema(&schema).expect_err(&schema.to_string()).to_string();
        assert!(error.contains(name) && !error.contains('\n') && error.len() < 300, "{schema}: {error}");
    }
}

/// A client's own options for the compiler do not count.
#[test]
fn options_in_a_schema_are_overwritten() {
    let schema = json!({"type": "object", "x-guidance": {"item_separator": "nonsense", "lenient": true}, "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["a", "b"], "additionalProperties": false});
    let form = JSON.json_schema(&schema).expect("a form");
    let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(1), 0, |_, _| {});
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json!({"a": 1, "b": 2}));
}
