use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schemas() -> ToolSchemas {
    ToolSchemas::new(&json!([
        {"type": "function", "function": {"name": "f", "parameters": {
            "type": "object",
            "$defs": {"point": {"type": "object"}},
            "properties": {
                "text": {"type": "string"},
                "int": {"type": "integer"},
                "num": {"type": "number"},
                "flag": {"type": "boolean"},
                "list": {"type": "array"},
                "map": {"$ref": "#/$defs/point"},
                "maybe": {"type": ["string", "null"]},
                "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "choice": {"enum": ["1", "2"]},
                "any": {}
            }
        }}}
    ]))
}

fn parsed(inside: &str) -> Result<(String, Value), String> {
    let call = parse(inside, "call_0".into(), &schemas()).map_err(|error| error.to_string())?;
    assert_eq!(call.id, "call_0");
    Ok((call.name, call.arguments))
}

fn tagged(argument: &str, value: &str) -> Result<Value, String> {
    let text = format!("<function=f>\n<parameter={argument}>\n{value}\n</parameter>\n</function>");
    parsed(&text).map(|(_, arguments)| arguments[argument].clone())
}

#[test]
fn calls_in_json() {
    let ok = |name: &str, arguments| Ok((name.to_owned(), arguments));
    assert_eq!(
        parsed("\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"x\"}}\n"),
        ok("f", json!({"b": 1, "a": "x"}))
    );
    assert_eq!(parsed("{\"name\": \"f\"}"), ok("f", json!({})));
    assert_eq!(parsed("{\"name\": \"f\", \"arguments\": null}"), ok("f", json!({})));
    assert_eq!(parsed("{\"name\": \"f\", \"parameters\": {\"a\": 1}}"), ok("f", json!({"a": 1})));
    assert_eq!(parsed("{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}"), ok("f", json!({"a": 1})));
}

#[test]
fn values_have_the_types_of_their_schema() {
    let cases = [
        ("text", "7", json!("7")),
        ("text", "True", json!("True")),
        ("text", "a \"b\" <c>", json!("a \"b\" <c>")),
        ("text", "", json!("")),
        ("text", "\n indented\n", json!("\n indented\n")),
        ("text", "multi\nline", json!("multi\nline")),
        ("int", "7", json!(7)),
        ("int", " 7 ", json!(7)),
        ("num", "0.5", json!(0.5)),
        ("num", "-3", json!(-3)),
        ("flag", "True", json!(true)),
        ("flag", "false", json!(false)),
        ("list", "[1, \"a\"]", json!([1, "a"])),
        ("map", "{\"x\": null}", json!({"x": null})),
        ("maybe", "None", Value::Null),
        ("maybe", "x", json!("x")),
        ("either", "5", json!(5)),
        ("either", "five", json!("five")),
        ("choice", "1", json!("1")),
        ("any", "1", json!(1)),
        ("any", "words", json!("words")),
        ("unknown", "\"quoted\"", json!("\"quoted\"")),
    ];
    for (argument, text, expected) in cases {
        assert_eq!(tagged(argument, text), Ok(expected), "{argument} from {text:?}");
    }
}

/// A schema that refers to itself ten times over is looked at a bounded number of times.
#[test]
fn schemas_may_go_round_in_circles() {
    let itself = json!({"$ref": "#/$defs/x"});
    let options: Vec<&Value> = vec![&itself; 10];
    let tools = json!([{"name": "f", "parameters": {
        "$defs": {"x": {"anyOf": options, "type": "integer"}},
        "properties": {"a": itself}
    }}]);
    let call =
        parse("<function=f><parameter=a>5</parameter></function>", String::new(), &ToolSchemas::new(&tools));
    assert_eq!(call.unwrap().arguments, json!({"a": 5}));
}

#[test]
fn values_may_hold_tags() {
    let value = "<parameter=x>1</parameter> and </parameter> and </function>";
    assert_eq!(tagged("text", value), Ok(json!(value)));
    let two = "<function=f><parameter=text>a</parameter><parameter=int>2</parameter></function>";
    assert_eq!(parsed(two), Ok(("f".into(), json!({"text": "a", "int": 2}))));
    assert_eq!(parsed("<function=g></function>"), Ok(("g".into(), json!({}))));
}

#[test]
fn malformed_calls_say_what_is_wrong() {
    let cases = [
        ("", "a tool call starts with neither '{' nor '<function=': \"\""),
        ("f(1)", "a tool call starts with neither '{' nor '<function=': \"f(1)\""),
        ("{\"name\": 1}", "a tool call has no name"),
        ("{\"arguments\": {}}", "a tool call has no name"),
        (
            "{\"name\": \"f\", \"arguments\": [1]}",
            "the arguments of the tool call \"f\" are not a JSON object",
        ),
        ("<function=>", "a tool call has no name"),
        ("<function=f", "a tool call has no name"),
        ("<function=f>", "</function> is missing in the tool call \"f\""),
        ("<function=f><parameter=a>1", "</parameter> is missing in the tool call \"f\""),
        ("<function=f>x</function>", "unexpected text in the tool call \"f\": \"x</function>\""),
        ("<function=f></function>x", "unexpected text in the tool call \"f\": \"x\""),
    ];
    for (text, message) in cases {
        assert_eq!(parsed(text), Err(message.into()), "{text:?}");
    }
    assert!(parsed("{\"name\": \"f\"").unwrap_err().starts_with("a tool call is not valid JSON: EOF"));
    let error = tagged("int", "two").unwrap_err();
    assert_eq!(error, "argument \"int\" of the tool call \"f\" is not of type integer: \"two\"");
}

#[test]
fn an_answer_is_split() {
    let text = "Let me look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>oops</tool_call>";
    let (answer, calls) = split(text, &schemas());
    assert_eq!(answer, "Let me look.");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].raw, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>");
    assert_eq!(calls[0].call.as_ref().unwrap().id, "call_0");
    assert_eq!(calls[1].raw, "<tool_call>oops</tool_call>");
    assert!(calls[1].call.is_err());
}

#[test]
fn markers_inside_of_strings_do_not_end_a_call() {
    let json = "<tool_call>{\"name\": \"f\", \"arguments\": {\"text\": \"</tool_call>\"}}</tool_call>";
    let tags = "<tool_call><function=f><parameter=text></tool_call></parameter></function></tool_call>";
    for text in [json, tags] {
        let (answer, calls) = split(text, &schemas());
        assert_eq!((answer.as_str(), calls.len()), ("", 1));
        assert_eq!(calls[0].call.as_ref().unwrap().arguments, json!({"text": "</tool_call>"}));
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(<tool_call>|</tool_call>|<function=f>|</function>|<parameter=int>|</parameter>|[{}\":a1\\\\\n\u{e9}]){0,20}") {
        let _ = parse(&text, String::new(), &schemas());
        let (answer, calls) = split(&text, &schemas());
        // Nothing is lost but line ends around calls.
        let kept: usize = answer.len() + calls.iter().map(|call| call.raw.len()).sum::<usize>();
        let n_line_ends = text.matches('\n').count();
        prop_assert!(kept <= text.len() && kept + n_line_ends >= text.len());
    }

    #[test]
    fn arguments_survive_both_forms(text in "[a-z <>/=\"\\\\\u{e9}\n]{0,30}", int in any::<i64>(), flag in any::<bool>()) {
        let arguments = json!({"text": text, "int": int, "flag": flag});
        let call = json!({"name": "f", "arguments": arguments}).to_string();
        prop_assert_eq!(parsed(&call), Ok(("f".into(), arguments.clone())));
        let python = if flag { "True" } else { "False" };
        let call = format!(
            "<function=f>\n<parameter=text>\n{text}\n</parameter>\n<parameter=int>\n{int}\n</parameter>\n<parameter=flag>\n{python}\n</parameter>\n</function>"
        );
        prop_assert_eq!(parsed(&call), Ok(("f".into(), arguments)));
    }
}
