//! The suite `tools`: requests with tools at hand, and the calls that answer them.
//!
//! A case is a line of JSON: `{"category": "simple", "tools": [..], "messages": [..], "calls": [{"name": "f", "arguments": {..}}]}`, with
//! tools and messages as in OpenAI's API. It is right if the model calls exactly these functions, in this order, and every argument
//! equals the reference as JSON; no call at all where `calls` is empty. Files of the Berkeley Function-Calling Leaderboard are read too.
//!
//! The built-in cases: dialogues that `models/demo/make_quality.py` draws with names that the demo model was never trained on, and some
//! written by hand, with strings and numbers that are easily got wrong.

use std::path::Path;

use flashmill_engine::{Message, ParsedCall};
use serde::Deserialize;
use serde_json::Value;

use super::answers::Asker;
use super::arguments::is_taken;
use super::bfcl::{self, PossibleCall};
use super::suite::Judged;
use super::{EvalError, parse_cases, read_cases};

/// Drawn cases.
const DRAWN: &str = include_str!("drawn.jsonl");
/// Cases that were written by hand.
const WRITTEN: &str = include_str!("written.jsonl");

/// One request.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// What it is about.
    pub category: String,
    /// OpenAI's array of tools; may be empty.
    pub tools: Value,
    /// The conversation up to the answer.
    pub messages: Vec<Message>,
    /// The calls that are right.
    #[serde(rename = "calls")]
    pub expected: Expected,
}

/// A call, as it should be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

/// Which calls are right.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Vec<Call>")]
pub enum Expected {
    /// These, in this order.
    Calls(Vec<Call>),
    /// In any order, with one of several values for each argument.
    Possible(Vec<PossibleCall>),
}

impl From<Vec<Call>> for Expected {
    fn from(calls: Vec<Call>) -> Expected {
        Expected::Calls(calls)
    }
}

/// The built-in cases.
pub fn built_in() -> Vec<Case> {
    [(DRAWN, "drawn.jsonl"), (WRITTEN, "written.jsonl")]
        .into_iter()
        .flat_map(|(text, name)| parse_cases(Path::new(name), text.as_bytes()).expect("tested"))
        .collect()
}

/// Reads cases, of this form or of the leaderboard's.
pub fn read(path: &Path) -> Result<Vec<Case>, EvalError> {
    let lines: Vec<Value> = read_cases(path)?;
    if lines.iter().all(bfcl::is_question) {
        return bfcl::read(path);
    }
    read_cases(path)
}

/// Asks the model one case, with calls held to the grammar of the tools or not.
pub(super) fn score(asker: &mut Asker<'_>, case: &Case, is_held: bool) -> Result<Judged, EvalError> {
    let answer = asker.ask(&case.messages, &case.tools, is_held)?;
    Ok(judge(case, &answer.calls, answer.is_cut))
}

fn judge(case: &Case, calls: &[ParsedCall], is_cut: bool) -> Judged {
    let read: Vec<Call> = calls
        .iter()
        .filter_map(|call| call.call.as_ref().ok())
        .map(|call| Call { name: call.name.clone(), arguments: call.arguments.clone() })
        .collect();
    let is_answer = match &case.expected {
        Expected::Calls(expected) => is_same(&read, expected),
        Expected::Possible(possible) => bfcl::is_answered(&read, possible),
    };
    Judged {
        category: case.category.clone(),
        is_right: read.len() == calls.len() && is_answer && !is_cut,
        n_calls: calls.len(),
        n_valid: read.iter().filter(|call| is_taken(&case.tools, &call.name, &call.arguments)).count(),
        is_cut,
    }
}

/// Equal as JSON: the order of arguments does not matter, and 3 is 3.0.
fn is_same(calls: &[Call], expected: &[Call]) -> bool {
    let pairs = || calls.iter().zip(expected);
    calls.len() == expected.len()
        && pairs().all(|(a, b)| a.name == b.name && is_equal(&a.arguments, &b.arguments))
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // Whole numbers exactly: beyond 2^53 a float cannot tell them apart.
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_equal(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use flashmill_engine::tool_calls::{ToolSchemas, split};
    use serde_json::json;

    use super::*;

    fn case() -> Case {
        serde_json::from_value(json!({"category": "simple",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}}}],
            "messages": [{"role": "user", "content": "do"}],
            "calls": [{"name": "f", "arguments": {"a": 3, "b": "x"}}]}))
        .unwrap()
    }

    #[test]
    fn numbers_are_compared_as_they_are() {
        let equal =
            |a: &str, b: &str| is_equal(&serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap());
        assert!(equal("3", "3.0") && equal("[1e2]", "[100]") && equal("-0.5", "-5e-1"));
        assert!(!equal("9007199254740993", "9007199254740992"));
        assert!(!equal("18446744073709551615", "18446744073709551614"));
    }

    #[test]
    fn answers_are_judged_exactly() {
        let call = |arguments: &str| {
            format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {arguments}}}\n</tool_call>")
        };
        let good = call("{\"b\": \"x\", \"a\": 3.0}");
        // Right, calls, valid ones.
        let cases = [
            (good.clone(), (true, 1, 1)),
            (call("{\"a\": 3, \"b\": \"y\"}"), (false, 1, 1)),
            (call("{\"a\": 3}"), (false, 1, 1)),
            (call("{\"a\": \"3\", \"b\": \"x\"}"), (false, 1, 0)),
            (call("{\"b\": \"x\"}"), (false, 1, 0)),
            (call("{\"a\": 3, \"b\": \"x\", \"c\": 1}"), (false, 1, 0)),
            ("<tool_call>{oops</tool_call>".into(), (false, 1, 0)),
            (format!("{good}\n{good}"), (false, 2, 2)),
            (format!("{good}\n<tool_call>oops</tool_call>"), (false, 2, 1)),
            ("I cannot.".into(), (false, 0, 0)),
        ];
        for (text, (is_right, n_calls, n_valid)) in cases {
            let (_, calls) = split(&text, &ToolSchemas::new(&case().tools));
            let category = "simple".to_owned();
            let expected = Judged { category, is_right, n_calls, n_valid, is_cut: false };
            assert_eq!(judge(&case(), &calls, false), expected, "{text}");
            assert!(!judge(&case(), &calls, true).is_right, "cut off is never right");
        }
        let no_call = Case { expected: Expected::Calls(Vec::new()), ..case() };
        assert!(judge(&no_call, &[], false).is_right);
    }

    /// The files are read, the names are known, and the reference calls are such as the tools take.
    #[test]
    fn the_built_in_cases_are_sound() {
        let cases = built_in();
        assert!(cases.len() >= 300, "{}", cases.len());
        for case in &cases {
            let Expected::Calls(calls) = &case.expected else { panic!("exact calls") };
            for call in calls {
                assert!(is_taken(&case.tools, &call.name, &call.arguments), "{call:?}");
            }
            assert!(!case.messages.is_empty() && case.messages.last().unwrap().role != "assistant");
        }
        for category in [
            "simple",
            "multiple",
            "parallel",
            "irrelevant",
            "missing",
            "chat",
            "nested",
            "multi-turn",
            "strings",
            "numbers",
        ] {
            let n = cases.iter().filter(|case| case.category == category).count();
            assert!(n >= 6, "{category}: {n}");
        }
    }
}
