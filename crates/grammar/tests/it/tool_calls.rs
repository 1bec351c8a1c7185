//! Tool calls: drawn at random, read by the engine, judged by a validator.

use flashmill_engine::sampling::Rng;
use flashmill_engine::tool_calls::{ParsedCall, ToolSchemas, split};
use flashmill_engine::{Constraint, Tokenizer};
use flashmill_grammar::{CallForm, GrammarError, Grammars, ToolChoice};
use serde_json::{Value, json};

use crate::draw::{ENDS, JSON, TAGS, TOKENIZER, draw, has};

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
            "required": ["city"]}}},
        {"type": "function", "function": {"name": "book.flight-2", "parameters": {"type": "object",
            "$defs": {"leg": {"type": "object", "properties": {"from": {"type": "string", "maxLength": 5}, "nonstop": {"type": "boolean"}}, "required": ["from", "nonstop"], "additionalProperties": false}},
            "properties": {"legs": {"type": "array", "items": {"$ref": "#/$defs/leg"}, "minItems": 1, "maxItems": 2}, "note": {"type": ["string", "null"]}, "price": {"anyOf": [{"type": "number"}, {"type": "null"}]}, "flag": {"type": "boolean"}, "code": {"type": "string", "pattern": "^[A-Z]{3}[0-9]$"}},
            "required": ["legs", "flag", "code"]}}},
        {"type": "function", "function": {"name": "many", "parameters": {"type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}, "d": {"type": "string", "minLength": 2, "maxLength": 3}, "e": {"type": "integer"}, "f": {"const": "x y"}, "g": {"type": "object"}},
            "required": ["b", "f"]}}},
        {"type": "function", "function": {"name": "ping"}},
        {"name": "plain \u{e9}\"", "parameters": {"type": "object", "properties": {}}}
    ])
}

/// Every call is one of `tools`, with arguments that its schema accepts.
fn judge(text: &str, tools: &Value) -> Vec<ParsedCall> {
    let (answer, calls) = split(text, &ToolSchemas::new(tools));
    assert_eq!(answer, "", "nothing but calls: {text:?}");
    for parsed in &calls {
        let call = parsed.call.as_ref().unwrap_or_else(|error| panic!("{error}: {text:?}"));
        let tool = tools.as_array().expect("an array").iter();
        let mut tool = tool
            .map(|tool| tool.get("function").unwrap_or(tool))
            .filter(|tool| tool["name"] == call.name.as_str());
        let tool = tool.next().unwrap_or_else(|| panic!("no such tool: {text:?}"));
        let mut schema = tool["parameters"].clone();
        if schema.is_null() {
            schema = json!({"type": "object"});
        }
        schema["additionalProperties"] = false.into();
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> =
            validator.iter_errors(&call.arguments).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {text:?}");
    }
    calls
}

#[test]
fn required_calls_are_calls() {
    for (grammars, form) in [(&*JSON, CallForm::Json), (&*TAGS, CallForm::Tags)] {
        assert_eq!(grammars.call_form(), form);
        let compiled = grammars.tool_calls(&tools(), &ToolChoice::Required, true).expect("a form");
        let mut names = std::collections::HashSet::new();
        for seed in 0..60 {
            let mut constraint = compiled.start(false);
            let n_free = [0, 20, 60][(seed % 3) as usize];
            let text = draw(&TOKENIZER, &mut *constraint, &mut Rng::new(seed), n_free, |text, may_end| {
                assert_eq!(may_end, text.ends_with("</tool_call>"), "seed {seed}: {text:?}");
            });
            let calls = judge(&text, &tools());
            assert!(!calls.is_empty(), "seed {seed}: {text:?}");
            names.extend(calls.iter().map(|call| call.call.as_ref().expect("a call").name.clone()));
        }
        assert_eq!(names.len(), 5, "{names:?}");
    }
}

#[test]
fn an_answer_in_json_or_calls() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
    for grammars in [&*JSON, &*TAGS] {
        let form = grammars.json_or_tool_calls(&schema, &tools(), true).expect("a form");
        let (mut n_answers, mut n_calls) = (0, 0);
        for seed in 0..80 {
            let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 20, |_, _| {});
            match serde_json::from_str::<Value>(&text) {
                Ok(answer) => {
                    assert!(answer["n"].is_number() && answer.as_object().expect("an object").len() == 1);
                    n_answers += 1;
                }
                Err(_) => n_calls += usize::from(!judge(&text, &tools()).is_empty()),
            }
        }
        assert!(n_answers > 0 && n_calls > 0 && n_answers + n_calls == 80, "{n_answers}, {n_calls}");
        let form = grammars.json_or_tool_calls(&schema, &json!([]), true).expect("a form");
        assert!(!takes(&TOKENIZER, &mut *form.start(false), "<tool_call>"), "there is nothing to call");
        let bad = json!({"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=x)"}}});
        let error = grammars.json_or_tool_calls(&bad, &tools(), true).expect_err("it looks around");
        assert!(matches!(error, GrammarError::Schema { .. }), "{error}");
    }
}

#[test]
fn one_call_and_a_named_tool() {
    for grammars in [&*JSON, &*TAGS] {
        let choice = ToolChoice::Named("many".into());
        let form = grammars.tool_calls(&tools(), &choice, false).expect("a form");
        for seed in 0..20 {
            let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 40, |_, _| {});
            let calls = judge(&text, &tools());
            assert_eq!(calls.len(), 1, "{text:?}");
            assert_eq!(calls[0].call.as_ref().expect("a call").name, "many");
        }
    }
}

/// Takes a text token by token, the markers as their tokens; `false` where a token is not allowed.
fn takes(tokenizer: &Tokenizer, constraint: &mut dyn Constraint, text: &str) -> bool {
    let part = flashmill_engine::TextPart::Template(text.into());
    tokenizer.encode_parts(&[part]).expect("tokens").into_iter().all(|token| {
        let is_allowed = has(constraint.allowed().expect("a mask"), token);
        assert_eq!(
            constraint.accept(token).is_ok(),
            is_allowed,
            "the mask and the matcher agree on {text:?}"
        );
        is_allowed
    })
}

#[test]
fn what_models_write_is_allowed() {
    let texts = [
        (
            &*JSON,
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>",
        ),
        // Any order, and without spaces.
        (
            &*JSON,
            "<tool_call>\n{\"name\":\"get_weather\",\"arguments\":{\"days\":3,\"unit\":\"celsius\",\"city\":\"Oslo \u{e5}\\n\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"ping\", \"arguments\": {}}\n</tool_call>",
        ),
        (
            &*TAGS,
            "<tool_call>\n<function=get_weather>\n<parameter=days>\n3\n</parameter>\n<parameter=city>\nNew\n\"York\" <b>\n</parameter>\n</function>\n</tool_call>",
        ),
        (
            &*TAGS,
            "<tool_call>\n<function=book.flight-2>\n<parameter=legs>\n[{\"from\": \"a\", \"nonstop\": true}]\n</parameter>\n<parameter=flag>\nTrue\n</parameter>\n<parameter=code>\nABC1\n</parameter>\n<parameter=price>\n12.5\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=ping>\n</function>\n</tool_call>",
        ),
    ];
    for (grammars, text) in texts {
        let mut constraint =
            grammars.tool_calls(&tools(), &ToolChoice::Required, true).expect("a form").start(false);
        assert!(takes(&TOKENIZER, &mut *constraint, text), "{text}");
        assert!(has(constraint.allowed().expect("a mask"), ENDS[1]), "{text}");
        judge(text, &tools());
    }
}

#[test]
fn what_no_tool_takes_is_not_allowed() {
    let texts = [
        (&*JSON, "Sure"),
        (&*JSON, "<tool_call>\n{\"name\": \"get_wether\""),
        (&*JSON, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}"),
        (&*JSON, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"town\""),
        (&*JSON, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 5"),
        (&*JSON, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a\", \"city\""),
        (
            &*JSON,
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a\", \"unit\": \"kelvin\"",
        ),
        (&*JSON, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a</tool_call>"),
        (&*TAGS, "<tool_call>\n<function=get_weather>\n</function>"),
        (&*TAGS, "<tool_call>\n<function=get_weather>\n<parameter=town>"),
        (&*TAGS, "<tool_call>\n<function=get_weather>\n<parameter=days>\n15\n"),
        (&*TAGS, "<tool_call>\n<function=get_weather>\n<parameter=city>\na</parameter>\n<parameter"),
        (&*TAGS, "<tool_call>\n<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=city>"),
        (&*TAGS, "<tool_call>\n<function=book.flight-2>\n<parameter=code>\nABCD"),
    ];
    for (grammars, text) in texts {
        let mut constraint =
            grammars.tool_calls(&tools(), &ToolChoice::Required, true).expect("a form").start(false);
        assert!(!takes(&TOKENIZER, &mut *constraint, text), "{text}");
    }
}

#[test]
fn text_is_free_until_a_call_begins() {
    let good = "\n{\"name\": \"ping\", \"arguments\": {}}\n</tool_call>";
    let start =
        |is_parallel| JSON.tool_calls(&tools(), &ToolChoice::Auto, is_parallel).expect("a form").start(false);
    let mut constraint = start(true);
    assert!(takes(&TOKENIZER, &mut *constraint, "Any <b>text</b> {\"name\": 5}"));
    assert!(constraint.allowed().expect("a mask").is_none(), "free text costs nothing");
    assert!(takes(&TOKENIZER, &mut *constraint, &format!("<tool_call>{good} and text\n<tool_call>{good}")));
    assert!(takes(&TOKENIZER, &mut *constraint, "<|im_end|>"));
    // Inside of a call nothing else goes, nor an end.
    let mut constraint = start(true);
    assert!(takes(&TOKENIZER, &mut *constraint, "Text<tool_call>\n{\"name\": \"ping\""));
    assert!(!takes(&TOKENIZER, &mut *constraint.fork(), "<|im_end|>"));
    assert!(!takes(&TOKENIZER, &mut *constraint, "oops"));
    // After the only call there is only the end.
    let mut constraint = start(false);
    assert!(takes(&TOKENIZER, &mut *constraint, &format!("<tool_call>{good}")));
    assert!(!takes(&TOKENIZER, &mut *constraint.fork(), "text"));
    assert!(takes(&TOKENIZER, &mut *constraint, "<|im_end|>"));
    // What a thought says is no call.
    let mut constraint = start(true);
    assert!(takes(
        &TOKENIZER,
        &mut *constraint,
        "\n<think>maybe <tool_call>{oops</tool_call> </think>\n\nYes"
    ));
    let mut constraint = JSON.tool_calls(&tools(), &ToolChoice::Auto, true).expect("a form").start(true);
    assert!(takes(&TOKENIZER, &mut *constraint, "<tool_call>oops</think><tool_call>\n{\"name\": \"ping\""));
}

/// The marker's characters one by one begin a call as its token does.
#[test]
fn spelled_calls_are_calls() {
    let form = JSON.tool_calls(&tools(), &ToolChoice::Auto, true).expect("a form");
    let mut constraint = form.start(false);
    let mut accept = |text: &str| {
        text.chars().all(|c| {
            let token = TOKENIZER.token_to_id(&c.to_string()).expect("a byte");
            has(constraint.allowed().expect("a mask"), token) && constraint.accept(token).is_ok()
        })
    };
    assert!(accept("see <tool_call>\n{"));
    assert!(!accept("oops"));
    let none = JSON.tool_calls(&tools(), &ToolChoice::None, true).expect("a form");
    let mut constraint = none.start(false);
    assert!(takes(&TOKENIZER, &mut *constraint, "a < b and <tool_cal"));
    let mask = constraint.allowed().expect("a mask");
    let token = |text: &str| TOKENIZER.token_to_id(text).expect("a token");
    assert!(!has(mask, token("<tool_call>")) && has(mask, token("l")) && has(mask, ENDS[0]));
    assert!(takes(&TOKENIZER, &mut *constraint, "l"));
    assert!(!has(constraint.allowed().expect("a mask"), token(">")));
}

#[test]
fn no_call_can_begin() {
    let form = JSON.tool_calls(&tools(), &ToolChoice::None, true).expect("a form");
    for seed in 0..10 {
        let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 300, |_, may_end| {
            assert!(may_end)
        });
        assert!(split(&text, &ToolSchemas::default()).1.is_empty(), "{text:?}");
    }
    // With no tools, `auto` is the same.
    let form = JSON.tool_calls(&Value::Null, &ToolChoice::Auto, true).expect("a form");
    let call = TOKENIZER.token_to_id("<tool_call>").expect("a token");
    assert!(!has(form.start(false).allowed().expect("a mask"), call));
}

/// Keywords that cannot be held to do not keep a tool from being called.
#[test]
fn unusual_schemas_are_held_to_as_far_as_possible() {
    let tools = json!([{"name": "f", "parameters": {"type": "object", "properties": {
        "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true},
        "b": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        "c": {"type": "string", "format": "something-own"}}, "required": ["a", "b", "c"]}},
        {"name": "g", "parameters": {"anyOf": [{"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}]}}]);
    for grammars in [&*JSON, &*TAGS] {
        let form = grammars.tool_calls(&tools, &ToolChoice::Required, false).expect("a form");
        for seed in 0..10 {
            let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 10, |_, _| {});
            let (_, calls) = split(&text, &ToolSchemas::new(&tools));
            assert!(calls[0].call.is_ok(), "{text:?}");
        }
    }
}

#[test]
fn what_cannot_be_called_is_an_error() {
    let error = |grammars: &Grammars, tools: Value, choice: ToolChoice| {
        grammars.tool_calls(&tools, &choice, true).expect_err("an error").to_string()
    };
    assert!(matches!(JSON.tool_calls(&json!([]), &ToolChoice::Required, true), Err(GrammarError::NoTools)));
    assert_eq!(
        error(&JSON, tools(), ToolChoice::Named("ping2".into())).split(';').next(),
        Some("there is no tool \"ping2\" among the tools given")
    );
    assert!(error(&JSON, json!({"name": "f"}), ToolChoice::Auto).starts_with("tools are an object"));
    assert!(error(&JSON, json!([{"type": "function"}]), ToolChoice::Auto).contains("no name"));
    assert!(error(&TAGS, json!([{"name": "a<b"}]), ToolChoice::Auto).starts_with("tool \"a<b\": its name"));
    let bad = json!([{"name": "fine"}, {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}]);
    assert!(
        error(&JSON, bad, ToolChoice::Required).starts_with("tool \"f\": "),
        "the tool at fault is named"
    );
}
