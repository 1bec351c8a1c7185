//! Why a form cannot be had.

/// A form that was asked for and is none, or takes more work than it may. Each is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A JSON schema that cannot be held to.
    #[error("the JSON schema cannot be held to: {reason}")]
    Schema {
        /// Why.
        reason: String,
    },
    /// A regular expression that is none.
    #[error("the regular expression is not valid: {reason}")]
    Regex {
        /// Why.
        reason: String,
    },
    /// A Lark grammar that is none.
    #[error("the grammar is not valid: {reason}")]
    Lark {
        /// Why, and where.
        reason: String,
    },
    /// Something that is larger than it may be.
    #[error("{what} is {found}, the most is {limit}; make it smaller")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// What was given.
        found: u64,
        /// The most.
        limit: u64,
    },
    /// A tool definition that cannot be made a grammar.
    #[error("tool {name:?}: {reason}")]
    Tool {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Tools that are no array of functions.
    #[error(
        "tools are {found}, expected an array of {{\"type\": \"function\", \"function\": {{\"name\": ..}}}}"
    )]
    Tools {
        /// What stands there.
        found: &'static str,
    },
    /// A call was asked for, and there is nothing to call.
    #[error("a tool call was asked for and no tool was given; give tools, or do not ask for a call")]
    NoTools,
    /// A tool that was asked for by name.
    #[error("there is no tool {name:?} among the tools given; they are {known}")]
    UnknownTool {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A vocabulary for which masks cannot be computed.
    #[error("no grammar can be followed in the words of this model: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
}

/// The most characters of a reason.
const MAX_REASON: usize = 200;

/// A message of llguidance on one line. It may quote what a client sent, so it is cut.
pub(crate) fn one_line(message: &str) -> String {
    let message = message.split("<backtrace>").next().unwrap_or(message);
    let message = message.split("<non-verbose/>").next().unwrap_or(message);
    // Lines of the grammar, and what points into them.
    let is_excerpt = |line: &str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        rest.starts_with('|') || line.trim_matches([' ', '^']).is_empty()
    };
    let lines = message.lines().filter(|line| !is_excerpt(line));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let line: Vec<char> = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let mut short: String = line.iter().take(MAX_REASON).collect();
    if line.len() > MAX_REASON {
        short.push_str("..");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_and_control_characters_go() {
        let message =
            "at 2(4): unknown name\n   1 | start: A\n   2 | A: B\n          ^\n in\u{1b} A <backtrace> x";
        assert_eq!(one_line(message), "at 2(4): unknown name in A");
        assert_eq!(one_line(&"x".repeat(1000)).len(), MAX_REASON + 2);
    }
}
