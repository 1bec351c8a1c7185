//! The files of the Berkeley Function-Calling Leaderboard, for those who have them.
//!
//! A file of questions is JSON lines, `{"id", "question": [[messages]], "function": [..]}`, with types named as in Python; the answers
//! lie in `possible_answer/` beside it under the same name, `{"id", "ground_truth": [{function: {parameter: [accepted values]}}]}`, where
//! an accepted `""` means that the parameter may be left out. Files of irrelevance have none: no call is right. As the leaderboard
//! does, strings are compared without case, spaces and `,./-_*^`, and the order of several calls does not matter.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tools::{Call, Case, Expected};
use super::{EvalError, read_cases};

/// Each parameter with the values that are accepted.
type Accepted = Map<String, Value>;

/// A function, and what its parameters may be.
#[derive(Clone, Debug, PartialEq)]
pub struct PossibleCall {
    /// The function.
    pub name: String,
    /// Each parameter with the list of values that are accepted.
    pub accepted: Map<String, Value>,
}

#[derive(Deserialize)]
struct Question {
    id: String,
    question: Vec<Vec<flashmill_engine::Message>>,
    function: Functions,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Functions {
    Many(Vec<Value>),
    One(Value),
}

#[derive(Deserialize)]
struct Truth {
    id: String,
    ground_truth: Vec<HashMap<String, Accepted>>,
}

/// Whether a line is a question of the leaderboard.
pub(super) fn is_question(line: &Value) -> bool {
    line.get("question").is_some() && line.get("function").is_some()
}

/// Reads a file of questions and its answers.
pub(super) fn read(path: &Path) -> Result<Vec<Case>, EvalError> {
    let questions: Vec<Question> = read_cases(path)?;
    let name = path.file_name().unwrap_or_default();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let answers = path.with_file_name("possible_answer").join(name);
    let mut truths: HashMap<String, Vec<HashMap<String, Accepted>>> = HashMap::new();
    let has_answers = !stem.contains("irrelevance");
    if has_answers {
        truths.extend(read_cases::<Truth>(&answers)?.into_iter().map(|truth| (truth.id, truth.ground_truth)));
    }
    questions
        .into_iter()
        .map(|question| {
            let wrong = |what| EvalError::Bfcl { path: path.to_owned(), id: question.id.clone(), what };
            let [messages] = &question.question[..] else { return Err(wrong("it has more turns than one")) };
            let truth = match has_answers {
                true => truths.remove(&question.id).ok_or_else(|| wrong("it has no answer"))?,
                false => Vec::new(),
            };
            let calls = truth.into_iter().flatten();
            let calls = calls.map(|(name, accepted)| PossibleCall { name: plain_name(&name), accepted });
            let functions = match question.function {
                Functions::Many(functions) => functions,
                Functions::One(function) => vec![function],
            };
            Ok(Case {
                category: question
                    .id
                    .trim_end_matches(|c: char| c.is_ascii_digit() || "-_".contains(c))
                    .to_owned(),
                tools: functions.iter().map(tool).collect(),
                messages: messages.clone(),
                expected: Expected::Possible(calls.collect()),
            })
        })
        .collect()
}

/// Names of tools have no dots.
fn plain_name(name: &str) -> String {
    name.replace('.', "_")
}

/// OpenAI's form of a function.
fn tool(function: &Value) -> Value {
    let mut function = function.clone();
    if let Some(name) = function.get("name").and_then(Value::as_str).map(plain_name) {
        function["name"] = Value::String(name);
    }
    if let Some(parameters) = function.get_mut("parameters") {
        to_json_schema(parameters, 0);
    }
    json!({"type": "function", "function": function})
}

/// The deepest schema that is looked through.
const MAX_DEPTH: usize = 64;

/// Types by their names in JSON schemas, instead of those in Python, Java and JavaScript. What they have no name for may be anything.
fn to_json_schema(schema: &mut Value, depth: usize) {
    let Some(object) = schema.as_object_mut().filter(|_| depth < MAX_DEPTH) else { return };
    if let Some(Value::String(kind)) = object.get_mut("type") {
        let known = match kind.as_str() {
            "dict" | "object" | "HashMap" | "Hashtable" => "object",
            "list" | "tuple" | "array" | "Array" | "ArrayList" => "array",
            "float" | "double" | "number" => "number",
            "int" | "integer" | "long" | "short" | "byte" | "Bigint" => "integer",
            "str" | "string" | "String" | "char" => "string",
            "bool" | "boolean" | "Boolean" => "boolean",
            _ => "",
        };
        if known.is_empty() {
            object.shift_remove("type");
        } else {
            *kind = known.to_owned();
        }
    }
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(|schema| to_json_schema(schema, depth + 1));
            }
            ("items" | "additionalProperties", schema) => to_json_schema(schema, depth + 1),
            _ => {}
        }
    }
}

/// Each call is one of those that are possible, and each of those is called once.
pub(super) fn is_answered(calls: &[Call], possible: &[PossibleCall]) -> bool {
    let mut left: Vec<&PossibleCall> = possible.iter().collect();
    calls.len() == possible.len()
        && calls.iter().all(|call| {
            let at = left.iter().position(|possible| is_accepted(call, possible));
            at.map(|at| left.remove(at)).is_some()
        })
}

fn is_accepted(call: &Call, possible: &PossibleCall) -> bool {
    call.name == possible.name
        && call.arguments.as_object().is_some_and(|given| fits(given, &possible.accepted))
}

/// Every parameter that is given has an accepted value, and every other may be left out.
fn fits(given: &Map<String, Value>, accepted: &Accepted) -> bool {
    let values = |name: &str| accepted.get(name).and_then(Value::as_array);
    let may_be_left_out = |values: &Vec<Value>| values.iter().any(|value| value == "");
    given.iter().all(|(name, value)| {
        values(name).is_some_and(|values| values.iter().any(|accepted| is_like(value, accepted)))
    }) && accepted
        .iter()
        .all(|(name, values)| given.contains_key(name) || values.as_array().is_some_and(may_be_left_out))
}

/// An accepted object has again a list of values for each key.
fn is_like(given: &Value, accepted: &Value) -> bool {
    match (given, accepted) {
        (Value::String(given), Value::String(accepted)) => standardized(given) == standardized(accepted),
        (Value::Number(given), Value::Number(accepted)) if given.is_f64() || accepted.is_f64() => {
            given.as_f64() == accepted.as_f64()
        }
        (Value::Array(given), Value::Array(accepted)) => {
            given.len() == accepted.len() && given.iter().zip(accepted).all(|(a, b)| is_like(a, b))
        }
        (Value::Object(given), Value::Object(accepted)) => fits(given, accepted),
        (given, accepted) => given == accepted,
    }
}

fn standardized(text: &str) -> String {
    let kept = text.chars().filter(|char| !char.is_whitespace() && !",./-_*^".contains(*char));
    kept.flat_map(char::to_lowercase).map(|char| if char == '\'' { '"' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = r#"{"id": "simple_0", "question": [[{"role": "user", "content": "Area?"}]], "function": [{"name": "geo.area", "description": "d", "parameters": {"type": "dict", "properties": {"base": {"type": "float"}, "unit": {"type": "String"}, "points": {"type": "tuple", "items": {"type": "any"}}}, "required": ["base"]}}]}"#;
    const ANSWER: &str = r#"{"id": "simple_0", "ground_truth": [{"geo.area": {"base": [10], "unit": ["sq. units", ""], "points": [[1, 2], ""]}}]}"#;

    fn files(name: &str, question: &str, answer: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), question).unwrap();
        if let Some(answer) = answer {
            std::fs::create_dir(dir.path().join("possible_answer")).unwrap();
            std::fs::write(dir.path().join("possible_answer").join(name), answer).unwrap();
        }
        dir
    }

    #[test]
    fn a_question_and_its_answers() {
        let dir = files("BFCL_v3_simple.json", QUESTION, Some(ANSWER));
        let cases = super::super::tools::read(&dir.path().join("BFCL_v3_simple.json")).unwrap();
        let [case] = &cases[..] else { panic!("one case") };
        let function = &case.tools[0]["function"];
        assert_eq!((case.category.as_str(), &function["name"]), ("simple", &json!("geo_area")));
        assert_eq!(
            function["parameters"]["properties"],
            json!({"base": {"type": "number"}, "unit": {"type": "string"}, "points": {"type": "array", "items": {}}})
        );
        let Expected::Possible(possible) = &case.expected else { panic!("possible answers") };
        let call = |arguments| vec![Call { name: "geo_area".into(), arguments }];
        for right in [
            json!({"base": 10}),
            json!({"base": 10.0, "unit": "SQ units"}),
            json!({"base": 10, "points": [1, 2.0], "unit": ""}),
        ] {
            assert!(is_answered(&call(right.clone()), possible), "{right}");
        }
        for wrong in [
            json!({}),
            json!({"base": 11}),
            json!({"base": "10"}),
            json!({"base": 10, "unit": "m"}),
            json!({"base": 10, "points": [2, 1]}),
            json!({"base": 10, "other": 1}),
        ] {
            assert!(!is_answered(&call(wrong.clone()), possible), "{wrong}");
        }
        assert!(!is_answered(&[], possible));
        let two = [call(json!({"base": 10})), call(json!({"base": 10}))].concat();
        assert!(!is_answered(&two, possible));
    }

    #[test]
    fn calls_come_in_any_order() {
        let possible = |name: &str, value| PossibleCall {
            name: name.into(),
            accepted: json!({"o": [{"k": [value]}]}).as_object().unwrap().clone(),
        };
        let call = |name: &str, value: u32| Call { name: name.into(), arguments: json!({"o": {"k": value}}) };
        let both = [possible("f", 1), possible("f", 2)];
        assert!(is_answered(&[call("f", 2), call("f", 1)], &both));
        assert!(!is_answered(&[call("f", 1), call("f", 1)], &both));
        assert!(!is_answered(&[call("g", 2), call("f", 1)], &both));
    }

    #[test]
    fn what_is_not_there() {
        let read = |dir: &tempfile::TempDir, name: &str| read(&dir.path().join(name));
        let dir = files("BFCL_v3_irrelevance.json", &QUESTION.replace("simple", "irrelevance"), None);
        let cases = read(&dir, "BFCL_v3_irrelevance.json").unwrap();
        assert_eq!(cases[0].expected, Expected::Possible(Vec::new()));
        let dir = files("x.json", QUESTION, None);
        assert!(matches!(read(&dir, "x.json"), Err(EvalError::Read { .. })));
        let dir = files("x.json", QUESTION, Some(&ANSWER.replace("simple_0", "simple_1")));
        assert!(matches!(read(&dir, "x.json"), Err(EvalError::Bfcl { .. })));
        let turns = QUESTION.replace("[[{", "[[], [{");
        let dir = files("x.json", &turns, Some(ANSWER));
        assert!(read(&dir, "x.json").unwrap_err().to_string().contains("turns"));
    }
}
