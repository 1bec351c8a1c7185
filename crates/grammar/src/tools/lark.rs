//! Writing grammars in the syntax of Lark that llguidance reads.

use std::collections::HashMap;

use serde_json::Value;

use crate::GrammarError;
use crate::limits::MAX_GRAMMAR_BYTES;

/// A grammar that is being written.
#[derive(Default)]
pub(super) struct Lark {
    text: String,
    /// Names of what stands in it once, by what it matches.
    names: HashMap<String, String>,
}

impl Lark {
    /// A rule that matches any of `alternatives`.
    pub(super) fn rule(&mut self, name: &str, alternatives: &[String]) {
        self.text.push_str(name);
        self.text.push_str(": ");
        self.text.push_str(&alternatives.join("\n    | "));
        self.text.push('\n');
    }

    /// The name of the terminal that matches `pattern`; only there can patterns be combined by `&` and `~`.
    pub(super) fn terminal(&mut self, pattern: String) -> String {
        self.named("T", pattern)
    }

    /// The name of the rule that matches a JSON value of `schema`. Tools have much in common, and every value that is compiled costs
    /// milliseconds: it is compiled once.
    pub(super) fn json_value(&mut self, schema: &Value) -> String {
        self.named("v", json_value(schema))
    }

    fn named(&mut self, prefix: &str, body: String) -> String {
        if let Some(name) = self.names.get(&body) {
            return name.clone();
        }
        let name = format!("{prefix}{}", self.names.len());
        self.rule(&name, std::slice::from_ref(&body));
        self.names.insert(body, name.clone());
        name
    }

    /// The text, if it is not far too long.
    pub(super) fn finish(self) -> Result<String, GrammarError> {
        match self.text.len() {
            n if n > MAX_GRAMMAR_BYTES => Err(GrammarError::TooLarge {
                what: "the grammar of the tools in bytes",
                found: n as u64,
                limit: MAX_GRAMMAR_BYTES as u64,
            }),
            _ => Ok(self.text),
        }
    }
}

/// A text as a string of the grammar.
pub(super) fn quote(text: &str) -> String {
    // The syntax is that of JSON, but for a control character that JSON leaves alone.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn json_value(schema: &Value) -> String {
    // No line end may stand in it, and serde_json writes none.
    format!("%json {schema}")
}

/// Any order of `n` parts, each at most once and those in `required` (a bit each) once: rules named `PREFIX_BITS`, by the parts that have
/// been there. `part` writes a part, given its index and whether it is the first; `end` is what follows the last.
pub(super) fn any_order(
    lark: &mut Lark,
    prefix: &str,
    n: usize,
    required: u32,
    part: impl Fn(usize, bool) -> String,
    end: &str,
) {
    for seen in 0..1u32 << n {
        let missing = (0..n).filter(|index| seen & (1 << index) == 0);
        let mut alternatives: Vec<String> = missing
            .map(|index| format!("{} {prefix}_{}", part(index, seen == 0), seen | (1 << index)))
            .collect();
        if required & !seen == 0 {
            alternatives.push(end.to_owned());
        }
        lark.rule(&format!("{prefix}_{seen}"), &alternatives);
    }
}
