//! Where a prompt's state is worth keeping.

use flashmill_engine::{Message, Prompt, TemplateOptions};
use serde_json::json;

use crate::support;

fn starts_with_all(prompt: &Prompt, ends: &[usize], other: &Prompt) -> Vec<bool> {
    ends.iter().map(|&end| other.tokens.starts_with(&prompt.tokens[..end])).collect()
}

#[test]
fn conversations_share_their_preamble_and_their_history() {
    let text = support::demo_text();
    let tools = json!([{"type": "function", "function": {"name": "get_time", "description": "the time in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]);
    let prompt = |messages: &[Message]| {
        Prompt::of_messages(&text, messages, Some(&tools), &TemplateOptions::default()).unwrap()
    };
    let system = Message::system("You are a careful assistant.");
    let first = prompt(&[system.clone(), Message::user("What time is it in Oslo?")]);
    let [preamble, history] = first.keep[..] else { panic!("two places to keep: {:?}", first.keep) };
    assert!(0 < preamble && preamble < history && history < first.tokens.len());

    // Another question has the preamble in common, however it starts.
    for question in ["0 is a number?", "Z?", "", "\n\nWhat"] {
        let other = prompt(&[system.clone(), Message::user(question)]);
        assert_eq!(starts_with_all(&first, &[preamble], &other), [true], "{question:?}");
        assert_eq!(starts_with_all(&first, &[history], &other), [false]);
    }
    // The next turn has all of this one in common.
    let next = prompt(&[
        system,
        Message::user("What time is it in Oslo?"),
        Message::assistant("Noon."),
        Message::user("And in Rome?"),
    ]);
    assert_eq!(starts_with_all(&first, &[preamble, history], &next), [true, true]);
    assert_eq!(next.keep[0], preamble);
}

#[test]
fn a_question_alone_has_no_preamble() {
    let text = support::demo_text();
    let plain =
        Prompt::of_messages(&text, &[Message::user("Hi")], None, &TemplateOptions::default()).unwrap();
    assert_eq!(plain.keep.len(), 1, "the history alone: {:?}", plain.keep);
    assert!(Prompt::of_text(&text, "Hi").unwrap().keep.is_empty());
}
