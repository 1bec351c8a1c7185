//! The suite `facts`: questions, each with one right answer.
//!
//! A case is a line of JSON: `{"question": "..", "answer": ".."}`, or `"messages": [..]` in place of the question, as in OpenAI's API;
//! or `"contains": ["..", ..]` in place of the answer, of which one is enough. A `"category"` groups cases in reports.

use std::path::Path;

use flashmill_engine::{Content, Message};
use serde::Deserialize;

use super::answers::Asker;
use super::suite::Judged;
use super::{EvalError, read_cases};

/// One question.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Line")]
pub struct Fact {
    /// What it is about.
    pub category: String,
    /// The conversation up to the answer.
    pub messages: Vec<Message>,
    /// What is right.
    pub right: Right,
}

/// Which answers are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// This one to the letter, space around it apart.
    Is(String),
    /// Those that contain one of these, in any case of letters.
    Contains(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default = "default_category")]
    category: String,
    question: Option<String>,
    messages: Option<Vec<Message>>,
    answer: Option<String>,
    contains: Option<Vec<String>>,
}

fn default_category() -> String {
    "facts".to_owned()
}

impl TryFrom<Line> for Fact {
    type Error = &'static str;

    fn try_from(line: Line) -> Result<Fact, &'static str> {
        let messages = match (line.question, line.messages) {
            (Some(question), None) => vec![Message {
                role: "user".into(),
                content: Some(Content::Text(question)),
                ..Message::default()
            }],
            (None, Some(messages)) => messages,
            _ => return Err("give either question or messages"),
        };
        let right = match (line.answer, line.contains) {
            (Some(answer), None) => Right::Is(answer),
            (None, Some(parts)) if parts.iter().any(|part| !part.is_empty()) => Right::Contains(parts),
            _ => return Err("give either answer or contains"),
        };
        Ok(Fact { category: line.category, messages, right })
    }
}

/// Reads cases.
pub fn read(path: &Path) -> Result<Vec<Fact>, EvalError> {
    read_cases(path)
}

/// Asks one question.
pub(super) fn score(asker: &mut Asker<'_>, fact: &Fact) -> Result<Judged, EvalError> {
    let answer = asker.ask(&fact.messages, &serde_json::Value::Null, false)?;
    Ok(Judged {
        category: fact.category.clone(),
        is_right: is_right(&fact.right, &answer.text) && answer.calls.is_empty() && !answer.is_cut,
        n_calls: 0,
        n_valid: 0,
        is_cut: answer.is_cut,
    })
}

fn is_right(right: &Right, text: &str) -> bool {
    match right {
        Right::Is(answer) => text.trim() == answer.trim(),
        Right::Contains(parts) => {
            let text = text.to_lowercase();
            parts.iter().any(|part| !part.is_empty() && text.contains(&part.to_lowercase()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_what_is_right() {
        let fact = |line: &str| serde_json::from_str::<Fact>(line);
        let exact = fact(r#"{"question": "Who?", "answer": "Edis."}"#).unwrap();
        assert_eq!((exact.category.as_str(), exact.messages[0].role.as_str()), ("facts", "user"));
        assert!(is_right(&exact.right, " Edis.\n") && !is_right(&exact.right, "It is Edis."));
        let loose = fact(
            r#"{"category": "c", "messages": [{"role": "user", "content": "x"}], "contains": ["", "Paris"]}"#,
        );
        let loose = loose.unwrap();
        assert!(is_right(&loose.right, "It is PARIS.") && !is_right(&loose.right, "Lyon"));
        for wrong in [
            r#"{"question": "Who?"}"#,
            r#"{"answer": "Edis."}"#,
            r#"{"question": "Who?", "messages": [], "answer": "x"}"#,
            r#"{"question": "Who?", "answer": "x", "contains": ["y"]}"#,
            r#"{"question": "Who?", "contains": [""]}"#,
            r#"{"question": "Who?", "answers": "x"}"#,
        ] {
            assert!(fact(wrong).is_err(), "{wrong}");
        }
    }
}
