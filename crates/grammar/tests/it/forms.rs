//! Objects, regular expressions, grammars; control tokens; forks.

use flashmill_engine::sampling::Rng;
use flashmill_engine::{ConstraintError, Tokenizer};
use flashmill_grammar::{GrammarError, Grammars};
use serde_json::{Value, json};

use crate::draw::{ENDS, IM_START, JSON, TOKENIZER, draw, has, tokenizer_json};

#[test]
fn an_object_is_an_object() {
    let form = JSON.json_object().expect("a form");
    for seed in 0..20 {
        let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 40, |_, _| {});
        assert!(serde_json::from_str::<Value>(&text).expect("JSON").is_object(), "seed {seed}: {text:?}");
    }
}

#[test]
fn a_regular_expression_matches_from_end_to_end() {
    let form = JSON.regex(r"\d{4}/[a-f]+|no").expect("a form");
    let mut found = std::collections::HashSet::new();
    for seed in 0..40 {
        let is_match = |text: &str| {
            let parts: Vec<&str> = text.split('/').collect();
            let is_word = |word: &str, set: fn(char) -> bool| !word.is_empty() && word.chars().all(set);
            text == "no"
                || parts.len() == 2
                    && parts[0].chars().count() == 4
                    && is_word(parts[0], char::is_numeric)
                    && is_word(parts[1], |c| ('a'..='f').contains(&c))
        };
        let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 3, |text, may_end| {
            assert_eq!(may_end, is_match(text), "seed {seed}: {text:?}");
        });
        found.insert(text);
    }
    assert!(found.len() > 5, "the draws differ: {found:?}");
}

#[test]
fn a_grammar_is_followed() {
    let form = JSON.lark("start: \"(\" start? \")\"\n").expect("a form");
    for seed in 0..10 {
        let text = draw(&TOKENIZER, &mut *form.start(false), &mut Rng::new(seed), 8, |text, may_end| {
            let depth = |c| text.matches(c).count();
            assert_eq!(may_end, depth('(') == depth(')') && !text.is_empty(), "{text:?}");
        });
        assert!(text.starts_with('(') && text.ends_with(')'));
    }
}

#[test]
fn what_is_no_form_is_one_line() {
    let errors = [
        JSON.regex("(").expect_err("no regular expression"),
        JSON.regex("(?=a)b").expect_err("looking around"),
        JSON.lark("").expect_err("an empty grammar"),
        JSON.lark("start: other\n").expect_err("a rule that is missing"),
        JSON.lark("start: \"a\n\n\n").expect_err("a string without end"),
    ];
    for error in errors {
        let line = error.to_string();
        assert!(!line.contains('\n') && line.len() < 300 && !line.is_empty(), "{line}");
    }
    let tokenizer = Tokenizer::from_json(&tokenizer_json()).expect("a tokenizer");
    let error = Grammars::new(&tokenizer, &[], None).expect_err("nothing ends an answer");
    assert!(matches!(error, GrammarError::Vocabulary { .. }));
}

#[test]
fn control_tokens_are_no_text() {
    // Anything but a quote, so that only what they are keeps them out.
    let form = JSON.regex("\"[^\"]*\"").expect("a form");
    let mut constraint = form.start(false);
    let quote = TOKENIZER.token_to_id("\"").expect("a byte");
    constraint.accept(quote).expect("a quote");
    let mask = constraint.allowed().expect("a mask").map(<[u32]>::to_vec);
    for token in TOKENIZER.added_tokens().iter() {
        assert!(!has(mask.as_deref(), token.id), "{}", token.content);
        assert!(matches!(constraint.fork().accept(token.id), Err(ConstraintError::NotAllowed { .. })));
    }
    // Spelled, they are text like any other.
    for token in TOKENIZER.encode("<|im_start|>").expect("tokens") {
        constraint.accept(token).expect("text");
    }
    constraint.accept(quote).expect("a quote");
    assert!(ENDS.iter().all(|&id| constraint.fork().accept(id).is_ok()));
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let form = JSON.json_schema(&json!({"const": "ab"})).expect("a form");
    let mut constraint = form.start(false);
    let id = |text: &str| TOKENIZER.token_to_id(text).expect("a token");
    assert!(constraint.accept(id("x")).is_err());
    assert!(constraint.accept(IM_START).is_err());
    assert!(constraint.accept(u32::MAX).is_err());
    assert!(constraint.accept(ENDS[0]).is_err(), "it is not complete");
    for text in ["\"", "a", "b", "\""] {
        constraint.accept(id(text)).expect("the text of the constant");
    }
    let mask = constraint.allowed().expect("a mask").map(<[u32]>::to_vec);
    let allowed: Vec<u32> = (0..4096).filter(|&id| has(mask.as_deref(), id)).collect();
    assert_eq!(allowed, ENDS);
    assert!(constraint.accept(id("x")).is_err());
    constraint.accept(ENDS[1]).expect("the end");
}

#[test]
fn a_fork_goes_its_own_way() {
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "integer"}}, "required": ["a", "b"], "additionalProperties": false});
    let form = JSON.json_schema(&schema).expect("a form");
    let mut constraint = form.start(false);
    for text in ["{", "\"", "a", "\"", ":", "\""] {
        constraint.accept(TOKENIZER.token_to_id(text).expect("a byte")).expect("its text");
    }
    let before = constraint.allowed().expect("a mask").map(<[u32]>::to_vec);
    let mut forks: Vec<_> = (0..4).map(|_| constraint.fork()).collect();
    let rest = |constraint: &mut dyn flashmill_engine::Constraint, seed| {
        draw(&TOKENIZER, constraint, &mut Rng::new(seed), 20, |_, _| {})
    };
    let texts: Vec<String> =
        forks.iter_mut().enumerate().map(|(i, fork)| rest(&mut **fork, i as u64)).collect();
    assert!(texts.iter().any(|text| *text != texts[0]), "{texts:?}");
    assert_eq!(
        constraint.allowed().expect("a mask").map(<[u32]>::to_vec),
        before,
        "the first stands where it stood"
    );
    // On its own, and on another thread, it says what the fork of the same seed said.
    let last = std::thread::spawn(move || rest(&mut *constraint, 3)).join().expect("a text");
    assert_eq!(last, texts[3]);
    for text in texts {
        serde_json::from_str::<Value>(&format!("{{\"a\":\"{text}")).expect("JSON");
    }
}
