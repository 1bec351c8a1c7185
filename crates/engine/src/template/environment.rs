//! The template engine, set up so that templates give what transformers' Jinja gives.

use std::io;
use std::sync::Arc;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

use super::python;
use super::tojson::tojson;

/// Steps of one rendering. A conversation takes a few hundred for each message.
const FUEL: u64 = 50_000_000;
/// Bytes of one rendering: far more than any model's context holds.
pub(super) const OUTPUT_LIMIT: usize = 64 << 20;

/// What a template said to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An engine that knows what chat templates use; `now` is the time that `strftime_now` tells.
pub(super) fn environment(now: Arc<Zoned>) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("only delimiters can be wrong, and they are the default ones"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(python::call_method);
    env.set_formatter(|out, _, value| write!(out, "{}", python::to_str(value)).map_err(Error::from));

    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| python::to_str(value));
    env.add_filter("trim", |value: &Value, set: Option<&str>| {
        python::strip(&python::to_str(value), set, true, true).to_owned()
    });
    env.add_filter("replace", |text: &Value, old: &str, new: &str, count: Option<i64>| {
        let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        python::replace(&python::to_str(text), old, new, count)
    });
    env.add_filter("indent", indent);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    env.add_test("iterable", |value: &Value| {
        !value.is_none() && (value.kind() == ValueKind::String || value.try_iter().is_ok())
    });
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);

    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let raised = Raised(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
    });
    env.add_function("strftime_now", move |format: &str, _zone: Rest<Value>| -> Result<String, Error> {
        jiff::fmt::strtime::format(format, &*now)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error))
    });
    env
}

fn indent(
    text: &Value,
    width: Option<&Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width.clone()),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match width.as_ref().map(|width| (width.as_str(), width.as_usize())) {
        Some((Some(text), _)) => text.to_owned(),
        Some((_, Some(n))) => " ".repeat(n.min(256)),
        _ => " ".repeat(4),
    };
    Ok(python::indent(&python::to_str(text), &indention, first, blank))
}

/// Jinja's filter `int`: what is no number gives `default`, or 0.
fn int(value: &Value, default: Option<Value>) -> Value {
    let text = python::to_str(value);
    let text = text.trim();
    let whole = match value.kind() {
        ValueKind::Bool => Some(i64::from(value.is_true())),
        _ => {
            text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x as i64))
        }
    };
    whole.map_or_else(|| default.unwrap_or_else(|| 0.into()), Value::from)
}

/// Jinja's filter `float`: what is no number gives `default`, or 0.0.
fn float(value: &Value, default: Option<Value>) -> Value {
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        _ => python::to_str(value).trim().parse::<f64>().ok(),
    };
    number.map_or_else(|| default.unwrap_or_else(|| 0.0.into()), Value::from)
}

/// Collects output up to [`OUTPUT_LIMIT`].
#[derive(Debug, Default)]
pub(super) struct BoundedOutput {
    bytes: Vec<u8>,
    pub(super) is_full: bool,
}

impl BoundedOutput {
    pub(super) fn into_text(self) -> String {
        String::from_utf8(self.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_LIMIT {
            self.is_full = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
