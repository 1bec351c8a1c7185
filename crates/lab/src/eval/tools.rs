//! The suite `tools`: requests with tools at hand, and the calls that answer them.
//!
//! A case is a line of JSON: `{"category": "simple", "tools": [..], "messages": [..], "calls": [{"name": "f", "arguments": {..}}]}`, with
//! tools and messages as in OpenAI's API. It is right if the model calls exactly these functions, in this order, and every argument
//! equals the reference as JSON; no call at all where `calls` is empty.

use std::path::Path;

use flashmill_engine::{
    Engine, Message, OutputOptions, OutputStream, ParsedCall, Piece, Prompt, Sampler, SamplingOptions,
    Session, TemplateOptions,
};
use flashmill_grammar::{Grammars, ToolChoice};
use serde::Deserialize;
use serde_json::Value;

use super::arguments::is_taken;
use super::{EvalError, Score, read_cases};

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
    pub calls: Vec<Call>,
}

/// A call, as it should be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

/// How the suite is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Hold calls to a grammar of the tools.
    pub grammar: bool,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

/// What became of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer is the reference.
    pub is_right: bool,
    /// Calls that were begun.
    pub n_calls: usize,
    /// Calls that a tool takes: read without an error, the tool is there, its arguments fit.
    pub n_valid: usize,
    /// The answer was cut off by [`Options::max_tokens`], or the context.
    pub is_cut: bool,
}

/// What became of all.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Category and outcome, in the order of the cases.
    pub outcomes: Vec<(String, Outcome)>,
}

impl Report {
    /// Right answers of each category, in the order of the first case of each; then of all.
    pub fn right(&self) -> Vec<Score> {
        let mut scores: Vec<Score> = Vec::new();
        for (category, outcome) in &self.outcomes {
            let at = scores.iter().position(|score| score.name == *category).unwrap_or_else(|| {
                scores.push(Score { name: category.clone(), n_good: 0, n: 0 });
                scores.len() - 1
            });
            scores[at].n += 1;
            scores[at].n_good += usize::from(outcome.is_right);
        }
        let n_good = scores.iter().map(|score| score.n_good).sum();
        scores.push(Score { name: "all".into(), n_good, n: self.outcomes.len() });
        scores
    }

    /// Calls that a tool takes, of all calls.
    pub fn valid(&self) -> Score {
        let sum =
            |count: fn(&Outcome) -> usize| self.outcomes.iter().map(|(_, outcome)| count(outcome)).sum();
        Score {
            name: "valid calls".into(),
            n_good: sum(|outcome| outcome.n_valid),
            n: sum(|outcome| outcome.n_calls),
        }
    }

    /// Answers that were cut off.
    pub fn n_cut(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| outcome.is_cut).count()
    }
}

/// Reads cases.
pub fn read(path: &Path) -> Result<Vec<Case>, EvalError> {
    read_cases(path)
}

/// Asks the model all cases, greedily. `progress` is told how many are done.
pub fn run(
    engine: &mut Engine,
    cases: &[Case],
    options: Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Report, EvalError> {
    let grammars = match options.grammar {
        true => Some(Grammars::new(engine.tokenizer(), &engine.defaults().eos_ids, engine.template())?),
        false => None,
    };
    let mut session = engine.session()?;
    let mut report = Report::default();
    for (index, case) in cases.iter().enumerate() {
        let (calls, is_cut) = ask(&mut session, case, grammars.as_ref(), options.max_tokens)?;
        report.outcomes.push((case.category.clone(), judge(case, &calls, is_cut)));
        progress(index + 1);
    }
    Ok(report)
}

/// The calls of the model's answer, and whether it was cut off.
fn ask(
    session: &mut Session<'_>,
    case: &Case,
    grammars: Option<&Grammars>,
    max_tokens: usize,
) -> Result<(Vec<ParsedCall>, bool), EvalError> {
    let tools = case.tools.as_array().is_some_and(|tools| !tools.is_empty()).then_some(&case.tools);
    let text = session.engine().text().clone();
    let prompt = Prompt::of_messages(&text, &case.messages, tools, &TemplateOptions::default())?;
    let form = match (grammars, tools) {
        (Some(grammars), Some(tools)) => Some(grammars.tool_calls(tools, &ToolChoice::Auto, true)?),
        _ => None,
    };
    let mut constraint = form.map(|form| form.start(prompt.in_thought));
    let mut sampler = Sampler::new(SamplingOptions::greedy(), text.tokenizer().n_vocab())?;
    let mut stream = OutputStream::new(OutputOptions {
        eos_ids: text.defaults().eos_ids.clone(),
        in_thought: prompt.in_thought,
        schemas: prompt.schemas,
        ..OutputOptions::default()
    });
    session.sync(&prompt.tokens, &[], &mut |_, _| ())?;
    let room = (session.engine().plan().context + 1).saturating_sub(prompt.tokens.len());
    let mut pieces = Vec::new();
    let mut is_cut = true;
    for _ in 0..max_tokens.min(room) {
        let token = session.next_within(&mut sampler, constraint.as_deref_mut())?;
        if stream.push(text.tokenizer(), token, &mut pieces).is_some() {
            is_cut = false;
            break;
        }
    }
    stream.finish(&mut pieces);
    let calls = pieces.into_iter().filter_map(|piece| match piece {
        Piece::ToolCall(call) => Some(call),
        Piece::Answer(_) | Piece::Thought(_) => None,
    });
    Ok((calls.collect(), is_cut))
}

fn judge(case: &Case, calls: &[ParsedCall], is_cut: bool) -> Outcome {
    let read: Vec<Call> = calls
        .iter()
        .filter_map(|call| call.call.as_ref().ok())
        .map(|call| Call { name: call.name.clone(), arguments: call.arguments.clone() })
        .collect();
    Outcome {
        is_right: read.len() == calls.len() && is_same(&read, &case.calls) && !is_cut,
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
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
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
            let outcome = judge(&case(), &calls, false);
            assert_eq!(outcome, Outcome { is_right, n_calls, n_valid, is_cut: false }, "{text}");
            assert!(!judge(&case(), &calls, true).is_right, "cut off is never right");
        }
        let no_call = Case { calls: Vec::new(), ..case() };
        assert!(judge(&no_call, &[], false).is_right);
    }

    #[test]
    fn a_report_counts_by_category() {
        let outcome = |is_right| Outcome { is_right, n_calls: 2, n_valid: 1, is_cut: !is_right };
        let outcomes = [("a", true), ("b", false), ("a", false)];
        let report =
            Report { outcomes: outcomes.map(|(name, right)| (name.to_owned(), outcome(right))).to_vec() };
        let right: Vec<_> =
            report.right().into_iter().map(|score| (score.name, score.n_good, score.n)).collect();
        assert_eq!(right, [("a".to_owned(), 1, 2), ("b".to_owned(), 0, 1), ("all".to_owned(), 1, 3)]);
        assert_eq!((report.valid().n_good, report.valid().n, report.n_cut()), (3, 6, 2));
    }
}
