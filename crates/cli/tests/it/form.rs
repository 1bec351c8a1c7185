//! Answers that have a form, of the demo model.

use std::fs;

use serde_json::Value;

use crate::support::{demo_files, run, text};

/// The demo model knows nothing of schemas: what comes out valid, the grammar made so.
#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let schema = r#"{"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["city", "days"], "additionalProperties": false}"#;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("schema.json");
    fs::write(&file, schema).expect("a file");
    let ask = |form: &[&str]| {
        let ran = run(["run", "demo", "-p", "How many days in Oslo?", "--greedy", "-n", "100", "--json"]
            .iter()
            .chain(form));
        let json = ran.json();
        assert_eq!(json["finish_reason"], "stop", "{ran:#?}");
        json["text"].as_str().expect("a text").to_owned()
    };
    for schema in [schema, text(&file)] {
        let answer: Value = serde_json::from_str(&ask(&["--json-schema", schema])).expect("JSON");
        let days = answer["days"].as_u64().expect("a number");
        assert!(
            ["Oslo", "Rome"].contains(&answer["city"].as_str().expect("a text")) && (1..10).contains(&days),
            "{answer}"
        );
    }
    let answer = ask(&["--regex", "[0-9]{3} days"]);
    assert!(answer.len() == 8 && answer.ends_with(" days"), "{answer}");
    let grammar = directory.path().join("grammar.lark");
    fs::write(&grammar, "start: \"yes\" | \"no\" \" \" /[a-z]{2}/\n").expect("a file");
    let answer = ask(&["--grammar", text(&grammar)]);
    assert!(answer == "yes" || answer.len() == 5 && answer.starts_with("no "), "{answer}");
}

#[test]
fn calls_come_out_as_before_within_their_grammar() {
    let tools = demo_files().join("tools.json");
    let ask = ["run", "demo", "-p", "What's the weather in Oslo?", "--tools", text(&tools), "--greedy"];
    let free = run(ask);
    let held = run(ask.iter().chain(&["--tool-grammar"]));
    assert_eq!(held.success(), free.success());
}

#[test]
fn forms_that_are_none_are_errors() {
    let ask = ["run", "demo", "-p", "Hello"];
    run(ask.iter().chain(&["--json-schema", "{\"type\": 5}"]))
        .fails_with(&["the JSON schema cannot be held to"]);
    run(ask.iter().chain(&["--json-schema", "/nowhere/schema.json"])).fails_with(&["/nowhere/schema.json"]);
    run(ask.iter().chain(&["--regex", "("])).fails_with(&["the regular expression is not valid"]);
    run(ask.iter().chain(&["--tool-grammar"])).fails_with(&["there are no tools", "--tools"]);
    let both = run(ask.iter().chain(&["--regex", "a", "--json-object"]));
    assert_eq!(both.code, Some(2), "{both:#?}");
}
