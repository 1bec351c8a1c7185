//! Thoughts are free; the form begins after them.

use flashmill_engine::{Constraint, Tokenizer};
use flashmill_grammar::Grammars;
use serde_json::{Value, json};

use crate::draw::{ENDS, JSON, TOKENIZER, has, tokenizer_json};

fn id(text: &str) -> u32 {
    TOKENIZER.token_to_id(text).expect("a token")
}

fn accept_all(constraint: &mut dyn Constraint, text: &str) {
    for token in TOKENIZER.encode(text).expect("tokens") {
        assert!(has(constraint.allowed().expect("a mask"), token), "{text:?}");
        constraint.accept(token).expect("an allowed token");
    }
}

#[test]
fn a_thought_is_free_and_the_answer_is_not() {
    let form = JSON.json_schema(&json!({"const": [1]})).expect("a form");
    // Opened by the prompt, or by the model.
    for in_thought in [true, false] {
        let mut constraint = form.start(in_thought);
        if !in_thought {
            assert!(!has(constraint.allowed().expect("a mask"), id("x")));
            assert!(has(constraint.allowed().expect("a mask"), id("<think>")));
            constraint.accept(id("<think>")).expect("a thought");
        }
        accept_all(&mut *constraint, "Let me see: {\"a\": </thin\n\n<tool_call>");
        let mask = constraint.allowed().expect("a mask");
        assert!(ENDS.iter().all(|&end| !has(mask, end)), "an answer is still to come");
        constraint.accept(id("</think>")).expect("the end of the thought");
        let mask = constraint.allowed().expect("a mask");
        assert!(has(mask, id("\n")) && has(mask, id("[")) && !has(mask, id("x")) && !has(mask, ENDS[0]));
        constraint.accept(id("\n")).expect("a line end");
        constraint.accept(id("\n")).expect("a second one");
        assert!(!has(constraint.allowed().expect("a mask"), id("\n")), "and no third");
        accept_all(&mut *constraint, "[1]");
        constraint.accept(ENDS[1]).expect("the end");
    }
}

#[test]
fn after_the_first_token_no_thought_opens() {
    let mut constraint = JSON.json_schema(&json!({"type": "string"})).expect("a form").start(false);
    constraint.accept(id("\"")).expect("a string");
    assert!(!has(constraint.allowed().expect("a mask"), id("<think>")));
    assert!(constraint.accept(id("<think>")).is_err());
}

/// A vocabulary without the markers as tokens: they are spelled, and no token runs over their end.
#[test]
fn spelled_markers_are_seen() {
    let mut json: Value = serde_json::from_str(&tokenizer_json()).expect("JSON");
    let added = json["added_tokens"].as_array_mut().expect("an array");
    added.truncate(3);
    let tokenizer = Tokenizer::from_json(&json.to_string()).expect("a tokenizer");
    let grammars = Grammars::new(&tokenizer, &ENDS, None).expect("grammars");
    let mut constraint = grammars.json_schema(&json!({"const": [1]})).expect("a form").start(true);
    let mut accept_all = |text: &str| {
        for byte in text.chars() {
            let token = tokenizer.token_to_id(&byte.to_string()).expect("a byte");
            assert!(has(constraint.allowed().expect("a mask"), token), "{byte:?} of {text:?}");
            constraint.accept(token).expect("an allowed token");
        }
        let mask = constraint.allowed().expect("a mask").map(<[u32]>::to_vec);
        (0..4096).filter(|&id| has(mask.as_deref(), id)).collect::<Vec<u32>>()
    };
    let all = accept_all("thinking </think");
    // Every token that begins with '>' and goes on would begin the answer unseen.
    for &token in &all {
        let bytes = tokenizer.token_bytes(token).expect("a token");
        assert!(bytes == b">" || !bytes.starts_with(b">"), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert!(all.len() > 3_000);
    let after = accept_all(">\n\n");
    assert!(
        after.iter().all(|&token| tokenizer.token_bytes(token).expect("a token").starts_with(b"[")),
        "{after:?}"
    );
}
