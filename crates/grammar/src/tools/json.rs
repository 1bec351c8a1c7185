//! Calls in the form `{"name": "f", "arguments": {"a": 1}}`.

use serde_json::{Value, json};

use super::Tool;
use super::arguments::MAX_ANY_ORDER;
use super::lark::{Lark, any_order, quote};
use crate::limits::lenient;

/// Rules for calls of a tool, the first of them `call_INDEX`.
///
/// White space is as the chat templates write it: none, or one space after a comma or a colon. Up to [`MAX_ANY_ORDER`] arguments come in
/// any order; more, and those of nested objects, come in the order of the schema.
pub(super) fn write(lark: &mut Lark, index: usize, tool: &Tool) {
    let name = Value::from(tool.name.as_str());
    let space = "/ ?/";
    lark.rule(
        &format!("call_{index}"),
        &[format!(
            "{} {space} {} {space} {} {space} arguments_{index} {}",
            quote("{\"name\":"),
            quote(&format!("{name},")),
            quote("\"arguments\":"),
            quote("}")
        )],
    );
    let arguments = &tool.arguments;
    let n = arguments.properties.len();
    if !arguments.is_plain || n > MAX_ANY_ORDER {
        let value = lark.json_value(&with_options(&arguments.schema));
        lark.rule(&format!("arguments_{index}"), &[value]);
        return;
    }
    lark.rule(&format!("arguments_{index}"), &[format!("{} order_{index}_0", quote("{"))]);
    any_order(
        lark,
        &format!("order_{index}"),
        n,
        arguments.required_bits(),
        |part, is_first| match is_first {
            true => format!("argument_{index}_{part}"),
            false => format!("{} {space} argument_{index}_{part}", quote(",")),
        },
        &quote("}"),
    );
    for (part, argument) in arguments.properties.iter().enumerate() {
        let name = quote(&format!("{}:", Value::from(argument.name.as_str())));
        let value = lark.json_value(&with_options(&argument.schema));
        lark.rule(&format!("argument_{index}_{part}"), &[format!("{name} {space} {value}")]);
    }
}

/// A schema with the white space of templates.
pub(super) fn with_options(schema: &Value) -> Value {
    lenient(schema, json!({"whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?"}))
}
