//! Calls in the form of tags, each on a line of its own:
//!
//! ```text
//! <function=f>
//! <parameter=a>
//! text as it is, or JSON
//! </parameter>
//! </function>
//! ```

use serde_json::{Map, Value};

use super::Tool;
use super::arguments::{MAX_ANY_ORDER, with_definitions};
use super::json::with_options;
use super::lark::{Lark, any_order, quote};
use crate::GrammarError;
use crate::limits::regex_to_lark;

/// What ends a value. A text that holds the tag itself could be read in two ways, so none does.
const END: &str = "\n</parameter>\n";

/// Any text.
const ANY: &str = "(?s:.*)";

/// Rules for calls of a tool, the first of them `call_INDEX`.
pub(super) fn write(lark: &mut Lark, index: usize, tool: &Tool) -> Result<(), GrammarError> {
    let cannot = |what: &str| GrammarError::Tool {
        name: tool.name.clone(),
        reason: format!(
            "{what} cannot be written in this model's form of calls, as it has '<', '>', a line end or spaces around it"
        ),
    };
    if !is_writable(&tool.name) {
        return Err(cannot("its name"));
    }
    let arguments: Vec<_> =
        tool.arguments.properties.iter().filter(|it| it.is_required || is_writable(&it.name)).collect();
    if let Some(argument) = arguments.iter().find(|argument| !is_writable(&argument.name)) {
        return Err(cannot(&format!("the required argument {:?}", argument.name)));
    }
    let open = quote(&format!("<function={}>\n", tool.name));
    let end = quote("</function>");
    let is_free = arguments.is_empty() && !tool.arguments.is_plain;
    if is_free {
        // Its schema does not list its arguments: any will do.
        let any =
            format!("{} /[^<>\\s]([^<>\\n]*[^<>\\s])?/ {} value_{index}", quote("<parameter="), quote(">\n"));
        lark.rule(&format!("call_{index}"), &[format!("{open} ({any})* {end}")]);
        let value = lark.terminal(text(ANY));
        lark.rule(&format!("value_{index}"), &[value]);
        return Ok(());
    }
    let part = |part: usize| format!("argument_{index}_{part}");
    if arguments.len() <= MAX_ANY_ORDER {
        let bits = arguments.iter().enumerate().map(|(bit, argument)| u32::from(argument.is_required) << bit);
        let required = bits.fold(0, |all, bit| all | bit);
        lark.rule(&format!("call_{index}"), &[format!("{open} order_{index}_0")]);
        any_order(lark, &format!("order_{index}"), arguments.len(), required, |at, _| part(at), &end);
    } else {
        let parts = arguments.iter().enumerate();
        let parts = parts
            .map(|(at, argument)| format!("{}{}", part(at), if argument.is_required { "" } else { "?" }));
        lark.rule(
            &format!("call_{index}"),
            &[format!("{open} {} {end}", parts.collect::<Vec<_>>().join(" "))],
        );
    }
    for (at, argument) in arguments.iter().enumerate() {
        let open = quote(&format!("<parameter={}>\n", argument.name));
        let mut left = MAX_FORMS;
        let values = values(lark, &argument.schema, &argument.schema, 0, &mut left);
        lark.rule(&part(at), &values.iter().map(|value| format!("{open} {value}")).collect::<Vec<_>>());
    }
    Ok(())
}

/// Names stand between `=` and `>`, and readers trim them.
fn is_writable(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.contains(['<', '>', '\n', '\r'])
}

/// Schemas within schemas that are looked through for texts.
const MAX_DEPTH: usize = 8;

/// Schemas and options that a value is made of at most: alternatives within alternatives multiply. What is beyond is any text.
const MAX_FORMS: usize = 256;

/// The forms of a value with the tag that ends it: texts as they are, anything else as JSON. `left`: schemas that may still be looked at.
fn values(lark: &mut Lark, schema: &Value, root: &Value, depth: usize, left: &mut usize) -> Vec<String> {
    let Some(object) = schema.as_object().filter(|_| depth < MAX_DEPTH && *left > 0) else {
        return vec![lark.terminal(text(ANY))];
    };
    *left -= 1;
    if let Some(value) = object.get("const") {
        return vec![literal(value)];
    }
    if let Some(options) = object.get("enum").and_then(Value::as_array).filter(|options| !options.is_empty())
    {
        *left = left.saturating_sub(options.len());
        return options.iter().map(literal).collect();
    }
    let reference = object.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    if let Some(target) = reference.and_then(|path| root.pointer(path)) {
        return values(lark, target, root, depth + 1, left);
    }
    if let Some(options) = ["anyOf", "oneOf"].iter().find_map(|key| object.get(*key)?.as_array()) {
        return any_of(lark, options.iter().cloned(), root, depth, left);
    }
    match object.get("type") {
        Some(Value::Array(kinds)) => {
            let of = |kind: &Value| {
                Value::Object(Map::from_iter(
                    object.clone().into_iter().chain([("type".into(), kind.clone())]),
                ))
            };
            any_of(lark, kinds.iter().map(of), root, depth, left)
        }
        Some(Value::String(kind)) if kind == "string" => vec![lark.terminal(string(object))],
        Some(Value::String(kind)) if kind == "boolean" => words(&["true", "false", "True", "False"]),
        Some(Value::String(kind)) if kind == "null" => words(&["null", "None"]),
        Some(Value::String(_)) => {
            let schema = with_definitions(schema, root);
            vec![format!("{} {}", lark.json_value(&with_options(&schema)), quote(END))]
        }
        _ => vec![lark.terminal(text(ANY))],
    }
}

/// The forms of all of them, as long as schemas may be looked at.
fn any_of(
    lark: &mut Lark,
    schemas: impl Iterator<Item = Value>,
    root: &Value,
    depth: usize,
    left: &mut usize,
) -> Vec<String> {
    let mut forms = Vec::new();
    for schema in schemas {
        forms.extend(values(lark, &schema, root, depth + 1, left));
        if *left == 0 {
            forms.push(lark.terminal(text(ANY)));
            break;
        }
    }
    forms
}

/// One value: a text as it is, anything else as JSON.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => quote(&format!("{text}{END}")),
        other => quote(&format!("{other}{END}")),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| quote(&format!("{word}{END}"))).collect()
}

/// A text of the lengths and the pattern that its schema asks for.
fn string(schema: &Map<String, Value>) -> String {
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    let lengths = match (bound("minLength"), bound("maxLength")) {
        (None, None) => None,
        (least, most) => {
            let most = most.map(|most| most.to_string()).unwrap_or_default();
            Some(format!("(?s:.{{{},{most}}})", least.unwrap_or(0)))
        }
    };
    let pattern = schema.get("pattern").and_then(Value::as_str).and_then(searched);
    match (lengths, pattern) {
        (None, None) => text(ANY),
        (Some(one), None) | (None, Some(one)) => text(&one),
        (Some(one), Some(other)) => format!("{} & {}", text(&one), terminal(&other)),
    }
}

/// A regular expression for texts that `pattern` is found in; `None` for one with anchors in its midst, which are not followed.
fn searched(pattern: &str) -> Option<String> {
    let (starts, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let is_end = rest.ends_with('$') && !rest.ends_with("\\$");
    let body = if is_end { &rest[..rest.len() - 1] } else { rest };
    let has_anchor = body.contains(['^', '$']) || body.contains("\\b") || body.contains("\\B");
    let is_cut = (starts || is_end) && body.contains('|');
    if has_anchor || (is_cut && !body.starts_with('(')) {
        return None;
    }
    let any = |is_anchored: bool| if is_anchored { "" } else { ANY };
    Some(format!("{}(?:{}){}", any(starts), regex_to_lark(body), any(is_end)))
}

/// A text that matches `pattern` (in Lark's syntax), up to the tag that ends it and with no such tag inside.
fn text(pattern: &str) -> String {
    format!("{} & ~/(?s:.*)<\\/parameter>(?s:.{{2,}})/", terminal(pattern))
}

fn terminal(pattern: &str) -> String {
    format!("/(?:{pattern})\\n<\\/parameter>\\n/")
}
