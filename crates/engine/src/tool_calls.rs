//! Tool calls as models write them, to calls that can be carried out.
//!
//! Two forms are read inside of `<tool_call>..</tool_call>`: JSON, `{"name": .., "arguments": {..}}`, and tags,
//! `<function=NAME><parameter=ARG>VALUE</parameter></function>`, whose values have the types that the tool's JSON schema
//! gives them.

mod schema;
mod tags;

use serde_json::{Map, Value};

pub use self::schema::ToolSchemas;
use crate::chat::ToolCall;

/// Starts a call.
pub const OPEN: &str = "<tool_call>";
/// Ends a call.
pub const CLOSE: &str = "</tool_call>";

/// Why a block is not a tool call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolCallError {
    /// Neither of the two forms.
    #[error("a tool call starts with neither '{{' nor '<function=': {found:?}")]
    Form {
        /// Its first characters.
        found: String,
    },
    /// The JSON form, but not JSON.
    #[error("a tool call is not valid JSON: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// No name, or one that is not a string.
    #[error("a tool call has no name")]
    NoName,
    /// Arguments that are not an object.
    #[error("the arguments of the tool call {name:?} are not a JSON object")]
    Arguments {
        /// The tool.
        name: String,
    },
    /// A tag that is missing.
    #[error("{tag} is missing in the tool call {name:?}")]
    MissingTag {
        /// The tool.
        name: String,
        /// The tag.
        tag: &'static str,
    },
    /// Text where only tags can be.
    #[error("unexpected text in the tool call {name:?}: {found:?}")]
    UnexpectedText {
        /// The tool.
        name: String,
        /// Its first characters.
        found: String,
    },
    /// A value that does not have the type of its schema.
    #[error("argument {argument:?} of the tool call {name:?} is not of type {expected}: {found:?}")]
    Type {
        /// The tool.
        name: String,
        /// The argument.
        argument: String,
        /// The types of its schema.
        expected: String,
        /// Its first characters.
        found: String,
    },
}

/// A call in the model's words, and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedCall {
    /// The whole block with its markers.
    pub raw: String,
    /// The call, or what is wrong with it.
    pub call: Result<ToolCall, ToolCallError>,
}

/// Splits a whole answer into its text and its tool calls, named `call_0`, `call_1` and so on.
///
/// Line ends around a call belong to the call.
pub fn split(text: &str, schemas: &ToolSchemas) -> (String, Vec<ParsedCall>) {
    let mut splitter = crate::thinking::Splitter::new(false, schemas.clone());
    let mut pieces = Vec::new();
    splitter.push_answer(text, &mut pieces);
    splitter.finish(&mut pieces);
    let mut answer = String::new();
    let mut calls = Vec::new();
    for piece in pieces {
        match piece {
            crate::Piece::ToolCall(call) => calls.push(call),
            crate::Piece::Answer(text) | crate::Piece::Thought(text) => answer.push_str(&text),
        }
    }
    (answer, calls)
}

/// The call inside of a block, without the markers around it.
pub fn parse(inside: &str, id: String, schemas: &ToolSchemas) -> Result<ToolCall, ToolCallError> {
    let inside = inside.trim();
    let (name, arguments) = if inside.starts_with('{') {
        parse_json(inside)?
    } else if inside.starts_with(tags::FUNCTION) {
        tags::parse(inside, schemas)?
    } else {
        return Err(ToolCallError::Form { found: excerpt(inside) });
    };
    Ok(ToolCall { id, name, arguments: Value::Object(arguments) })
}

/// Whether a closing marker after `inside` ends the call, or is a part of one of its strings.
pub(crate) fn is_complete(inside: &str) -> bool {
    let inside = inside.trim();
    if inside.starts_with('{') {
        json_is_complete(inside)
    } else if inside.starts_with(tags::FUNCTION) {
        inside.ends_with(tags::END_FUNCTION)
    } else {
        true
    }
}

fn parse_json(text: &str) -> Result<(String, Map<String, Value>), ToolCallError> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| ToolCallError::Json { reason: error.to_string() })?;
    let Value::Object(mut call) = value else { return Err(ToolCallError::NoName) };
    let Some(Value::String(name)) = call.shift_remove("name") else { return Err(ToolCallError::NoName) };
    if name.is_empty() {
        return Err(ToolCallError::NoName);
    }
    // Some models say "parameters", and some put the object into a string.
    let arguments = call.shift_remove("arguments").or_else(|| call.shift_remove("parameters"));
    match arguments {
        None | Some(Value::Null) => Ok((name, Map::new())),
        Some(Value::Object(arguments)) => Ok((name, arguments)),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(arguments) => Ok((name, arguments)),
            Err(_) => Err(ToolCallError::Arguments { name }),
        },
        Some(_) => Err(ToolCallError::Arguments { name }),
    }
}

/// All brackets and strings of a JSON text are closed.
fn json_is_complete(text: &str) -> bool {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth == 0 && !in_string
}

/// The first characters of a text, for messages.
fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(40).collect();
    if excerpt.len() < text.len() {
        excerpt.push_str("..");
    }
    excerpt
}

#[cfg(test)]
mod tests;
