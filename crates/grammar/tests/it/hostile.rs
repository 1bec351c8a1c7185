//! Forms from people who mean harm: an error in a line, or a form; never a hang, a crash or all the memory.

use flashmill_engine::sampling::Rng;
use flashmill_grammar::{GrammarError, ToolChoice};
use serde_json::{Value, json};

use crate::draw::{JSON, TAGS, TOKENIZER, has};

/// A few steps of whatever was compiled: these are bounded too, and may end in an error.
fn walk(form: Result<flashmill_grammar::Form, GrammarError>) {
    let form = match form {
        Ok(form) => form,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n') && line.len() < 400, "{line}");
            return;
        }
    };
    let mut constraint = form.start(false);
    let mut rng = Rng::new(1);
    for _ in 0..10 {
        let Ok(mask) = constraint.allowed() else { return };
        let allowed: Vec<u32> = (0..TOKENIZER.n_vocab() as u32).filter(|&id| has(mask, id)).collect();
        if allowed.is_empty() {
            return;
        }
        let token = allowed[(rng.next_f64() * allowed.len() as f64) as usize];
        if constraint.accept(token).is_err() {
            return;
        }
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({"type": "integer"}), |schema, _| json!({"type": "array", "items": schema}))
}

#[test]
fn sizes_are_bounded() {
    let too_large = |result: Result<_, _>| matches!(result, Err(GrammarError::TooLarge { .. }));
    assert!(too_large(JSON.json_schema(&nested(100))));
    assert!(too_large(JSON.json_schema(&json!({"enum": vec!["x".repeat(1000); 2000]}))));
    assert!(too_large(JSON.json_schema(&json!({"enum": (0..60_000).collect::<Vec<_>>()}))));
    assert!(too_large(JSON.json_schema(&json!({"type": "array", "minItems": 1_000_000_000}))));
    assert!(too_large(JSON.json_schema(&json!({"type": "string", "maxLength": 1e300}))));
    assert!(too_large(JSON.json_schema(&json!({"type": "string", "pattern": "a".repeat(10_000)}))));
    let keys: serde_json::Map<String, Value> = (0..2_000).map(|i| (format!("p{i}"), json!({}))).collect();
    assert!(too_large(JSON.json_schema(&json!({"type": "object", "properties": keys}))));
    let patterns = |n: usize| {
        (0..n).map(|i| json!({"type": "string", "pattern": format!("a.{{{i}}}b")})).collect::<Vec<_>>()
    };
    assert!(too_large(JSON.json_schema(&json!({"allOf": patterns(20)}))));
    assert!(too_large(JSON.json_schema(&json!({"anyOf": patterns(600)}))));
    assert!(too_large(JSON.regex(&"a".repeat(10_000))));
    assert!(too_large(JSON.lark(&"# a\n".repeat(100_000))));
    let tools = json!([{"name": "f", "parameters": nested(100)}]);
    assert!(too_large(TAGS.tool_calls(&tools, &ToolChoice::Required, true)));
}

#[test]
fn schemas_that_grow_when_compiled() {
    let refs = |n: usize| {
        // Each definition has two of the next: 2^n ways through.
        let mut defs = serde_json::Map::new();
        for i in 0..n {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            defs.insert(
                format!("d{i}"),
                json!({"type": "object", "properties": {"a": next, "b": next}, "required": ["a", "b"]}),
            );
        }
        defs.insert(format!("d{n}"), json!({"type": "integer"}));
        json!({"$defs": defs, "$ref": "#/$defs/d0"})
    };
    let any_of = |depth: usize| {
        (0..depth).fold(
            json!({"type": "integer"}),
            |schema, _| json!({"anyOf": [schema, schema], "allOf": [schema]}),
        )
    };
    let properties = |n: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties})
    };
    let schemas = [
        refs(30),
        any_of(6),
        properties(900),
        nested(60),
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
        json!({"type": "array", "minItems": 10_000, "items": {"type": "array", "minItems": 10_000}}),
        json!({"type": "array", "maxItems": 10_000, "items": {"type": "array", "maxItems": 10_000}}),
        json!({"type": "string", "minLength": 9_000, "maxLength": 10_000}),
        json!({"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}),
        json!({"type": "string", "pattern": "^(a|a)*(a|a)*(a|aa)*b(.*x){100}$"}),
        json!({"type": "string", "pattern": "(.*a.{20}b)|(.*c.{20}d)"}),
        json!({"allOf": (0..12).map(|i| json!({"type": "string", "pattern": format!("a.{{{i}}}b")})).collect::<Vec<_>>()}),
        json!({"type": "integer", "multipleOf": 999_999_937, "minimum": 3, "maximum": 1e18}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "object", "patternProperties": {"(a+)+$": {}, "(.*){50}": {"type": "string"}}}),
        json!({"type": "object", "properties": {"a": {}}, "minProperties": 10_000}),
        json!({"enum": (0..4_000).map(|i| format!("value {i}")).collect::<Vec<_>>()}),
    ];
    for schema in schemas {
        walk(JSON.json_schema(&schema));
        for grammars in [&*JSON, &*TAGS] {
            let tools = json!([{"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}, {"name": "g", "parameters": schema}]);
            walk(grammars.tool_calls(&tools, &ToolChoice::Required, true));
        }
    }
}

/// Alternatives within alternatives multiply, and each reference takes the definitions with it.
#[test]
fn schemas_that_refer_to_themselves_often() {
    let tool = |parameters: Value| json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
    let itself = json!({"anyOf": vec![json!({"$ref": "#"}); 200]});
    let nested = (0..6).fold(json!({"type": "string"}), |schema, _| json!({"anyOf": vec![schema; 6]}));
    for schema in [itself, nested] {
        let tools = tool(json!({"type": "object", "properties": {"a": schema}, "required": ["a"]}));
        walk(TAGS.tool_calls(&tools, &ToolChoice::Required, true));
    }
    let definitions: serde_json::Map<String, Value> =
        (0..900).map(|i| (format!("d{i}"), json!({"enum": (0..50).collect::<Vec<_>>()}))).collect();
    let properties: serde_json::Map<String, Value> =
        (0..900).map(|i| (format!("p{i}"), json!({"$ref": format!("#/$defs/d{i}")}))).collect();
    let tools = tool(json!({"type": "object", "properties": properties, "$defs": definitions}));
    for grammars in [&*JSON, &*TAGS] {
        let refused = grammars.tool_calls(&tools, &ToolChoice::Required, true);
        assert!(matches!(refused, Err(GrammarError::TooLarge { .. })));
    }
    assert!(TAGS.tool_calls(&tools, &ToolChoice::None, true).is_ok(), "nothing of them is needed");
}

#[test]
fn regular_expressions_and_grammars_that_grow() {
    let regexes = [
        "((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}".to_owned(),
        "a{1000000000}".to_owned(),
        "(a*)*".repeat(300),
        "(".repeat(1_500) + &")".repeat(1_500),
        "(?:a|b|ab)*".repeat(200),
        "(.*a){200}".to_owned(),
        "[\u{0}-\u{10ffff}]{0,5000}x".to_owned(),
        "(?i)".to_owned() + &"\u{e9}".repeat(1_000),
    ];
    for regex in regexes {
        walk(JSON.regex(&regex));
    }
    let chain: String = (0..3_000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let lark = [
        "start: ".to_owned() + &"(".repeat(20_000) + "\"a\"" + &")".repeat(20_000),
        format!("start: r0\n{chain}r3000: \"a\"\n"),
        "start: start start | \"a\"\n".to_owned(),
        "start: start\n".to_owned(),
        "start: A\nA: A \"b\"\n".to_owned(),
        "start: \"a\"~1000000000\n".to_owned(),
        "start: \"a\"~0..60000 \"a\"~0..60000\n".to_owned(),
        "start: %json {\"type\": \"array\", \"minItems\": 1000000000}\n".to_owned(),
        "start: %json {\"type\": \"string\", \"minLength\": 1000000000}\n".to_owned(),
        "%import common.WORD\nstart: WORD\n".to_owned(),
        "start: @other\n".to_owned(),
        "start: <[0-4000000000]>\n".to_owned(),
        "start: %regex {\"substring_chars\": \"".to_owned() + &"ab".repeat(20_000) + "\"}\n",
    ];
    for grammar in lark {
        walk(JSON.lark(&grammar));
    }
}
