//! The form `<function=NAME><parameter=ARG>VALUE</parameter></function>`.

use serde_json::{Map, Value};

use super::schema::{describe, value_of};
use super::{ToolCallError, ToolSchemas, excerpt};

pub(super) const FUNCTION: &str = "<function=";
pub(super) const END_FUNCTION: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const END_PARAMETER: &str = "</parameter>";

/// Name and arguments of a call; `text` starts with [`FUNCTION`].
pub(super) fn parse(
    text: &str,
    schemas: &ToolSchemas,
) -> Result<(String, Map<String, Value>), ToolCallError> {
    let (name, mut rest) = tag_value(&text[FUNCTION.len()..]).ok_or(ToolCallError::NoName)?;
    let missing = |tag| ToolCallError::MissingTag { name: name.clone(), tag };
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(END_FUNCTION) {
            return match after.trim() {
                "" => Ok((name, arguments)),
                found => Err(ToolCallError::UnexpectedText { name, found: excerpt(found) }),
            };
        }
        let Some(parameter) = rest.strip_prefix(PARAMETER) else {
            return Err(match rest {
                "" => missing(END_FUNCTION),
                found => ToolCallError::UnexpectedText { name, found: excerpt(found) },
            });
        };
        let (argument, after) = tag_value(parameter).ok_or_else(|| missing(PARAMETER))?;
        let len = value_len(after).ok_or_else(|| missing(END_PARAMETER))?;
        let text = without_line_ends(&after[..len]);
        let types = schemas.types(&name, &argument);
        let Some(value) = value_of(text, types) else {
            return Err(ToolCallError::Type {
                name,
                argument,
                expected: describe(types),
                found: excerpt(text),
            });
        };
        arguments.insert(argument, value);
        rest = &after[len + END_PARAMETER.len()..];
    }
}

/// Of `NAME>rest`: the name, which may not be empty, and the rest.
fn tag_value(text: &str) -> Option<(String, &str)> {
    let (name, rest) = text.split_once('>')?;
    let name = name.trim();
    (!name.is_empty() && !name.contains(['<', '\n'])).then(|| (name.to_owned(), rest))
}

/// The length of a value: up to the first end tag after which another parameter or the end of the call follows, as the
/// value may contain an end tag of its own.
fn value_len(text: &str) -> Option<usize> {
    let ends = || text.match_indices(END_PARAMETER).map(|(at, _)| at);
    let is_followed = |&at: &usize| {
        let rest = text[at + END_PARAMETER.len()..].trim_start();
        rest.starts_with(PARAMETER) || rest.starts_with(END_FUNCTION)
    };
    ends().find(is_followed).or_else(|| ends().next())
}

/// The template writes a value on lines of its own: one line end at each side is not the value's.
fn without_line_ends(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}
