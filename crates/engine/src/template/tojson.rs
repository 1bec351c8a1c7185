//! The filter `tojson` as transformers has it: Python's `json.dumps`, nothing escaped for HTML.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::marks::{is_marked, mark, unmark};
use super::python::{as_float, float_repr};

/// Deeper nesting is an error; files and messages are parsed with a lower bound.
const MAX_DEPTH: usize = 200;

/// How `json.dumps` was asked to write.
struct Style {
    ensure_ascii: bool,
    /// What a level of nesting is indented by; everything on one line if not given.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `value | tojson(ensure_ascii, indent, separators, sort_keys)`.
pub(super) fn tojson(
    value: &Value,
    positional: minijinja::value::Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let style = Style::new(&positional, &kwargs)?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(out)
}

impl Style {
    fn new(positional: &[Value], kwargs: &Kwargs) -> Result<Style, Error> {
        let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
            let value = match positional.get(index) {
                Some(value) => Some(value.clone()),
                None => kwargs.get::<Option<Value>>(name)?,
            };
            Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
        };
        let indent = argument(1, "indent")?.map(|indent| match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
        });
        let default_item = if indent.is_some() { "," } else { ", " };
        let (item_separator, key_separator) = match argument(2, "separators")? {
            Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
            None => (default_item.to_owned(), ": ".to_owned()),
        };
        Ok(Style {
            ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true()),
            indent,
            item_separator,
            key_separator,
            sort_keys: argument(3, "sort_keys")?.is_some_and(|value| value.is_true()),
        })
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply for JSON"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.collect::<Vec<_>>();
            write_items(out, ['[', ']'], items.len(), style, depth, |out, index| {
                write_value(out, &items[index], style, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut keys = value.try_iter()?.collect::<Vec<_>>();
            if style.sort_keys {
                keys.sort_by_key(ToString::to_string);
            }
            write_items(out, ['{', '}'], keys.len(), style, depth, |out, index| {
                write_key(out, &keys[index], style)?;
                out.push_str(&style.key_separator);
                write_value(out, &value.get_item(&keys[index])?, style, depth + 1)
            })?;
        }
        other => {
            let message = format!("a value of type {other} has no JSON form");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

fn write_items(
    out: &mut String,
    [open, close]: [char; 2],
    n_items: usize,
    style: &Style,
    depth: usize,
    mut write: impl FnMut(&mut String, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open);
    for index in 0..n_items {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        style.new_line(out, depth + 1);
        write(out, index)?;
    }
    if n_items > 0 {
        style.new_line(out, depth);
    }
    out.push(close);
    Ok(())
}

/// Python turns keys that are no strings into their JSON text.
fn write_key(out: &mut String, key: &Value, style: &Style) -> Result<(), Error> {
    match key.as_str() {
        Some(text) => write_string(out, text, style),
        None => {
            let mut text = String::new();
            write_value(&mut text, key, style, MAX_DEPTH)?;
            write_string(out, &text, style);
        }
    }
    Ok(())
}

fn number(value: &Value) -> String {
    match as_float(value) {
        Some(x) if x.is_nan() => "NaN".into(),
        Some(x) if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Some(x) => float_repr(x),
        None => value.to_string(),
    }
}

fn write_string(out: &mut String, text: &str, style: &Style) {
    out.push('"');
    let mut escaped = String::new();
    for c in text.chars() {
        escaped.clear();
        escape(&mut escaped, unmark(c), style.ensure_ascii);
        if is_marked(c) {
            out.extend(escaped.chars().map(|c| mark(c).unwrap_or(c)));
        } else {
            out.push_str(&escaped);
        }
    }
    out.push('"');
}

fn escape(out: &mut String, c: char, ensure_ascii: bool) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        c if c < ' ' || (ensure_ascii && !c.is_ascii()) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        c => out.push(c),
    }
}
