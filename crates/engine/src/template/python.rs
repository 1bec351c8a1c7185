//! Python's strings for templates: the methods, and how values are spelt.
//!
//! Methods compare what characters are, whether marked or not (see `marks`), and keep the marks of what they return.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::marks::{unmark, unmark_all};

/// Methods of strings, dicts and lists that the template engine itself does not have.
pub(super) fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            Ok(strip(text, set, method != "rstrip", method != "lstrip").into())
        }
        "split" | "rsplit" => {
            let (separator, n_max, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                Some(separator) => Some(separator),
                None => kwargs.get::<Option<&str>>("sep")?,
            };
            let n_max = n_max.or(kwargs.get::<Option<i64>>("maxsplit")?);
            kwargs.assert_all_used()?;
            let n_max = n_max.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            split(text, separator, n_max, method == "rsplit").map(|parts| parts.into_iter().collect())
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Ok(split_lines(text, keep.unwrap_or(false)).into_iter().collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
            Ok(replace(text, old, new, count).into())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(strip_prefix(text, prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(strip_suffix(text, suffix).unwrap_or(text).into())
        }
        // These only ask; where the characters come from does not matter.
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" | "islower"
        | "isupper" | "isspace" | "isdigit" | "isnumeric" | "isalnum" | "isalpha" | "isascii" => {
            let args: Vec<Value> = args.iter().map(unmark_value).collect();
            let name = method.replace("index", "find");
            let found = pycompat::unknown_method_callback(state, &unmark_all(text).into(), &name, &args)?;
            if name != method && found.as_i64() == Some(-1) {
                return Err(Error::new(ErrorKind::InvalidOperation, "substring not found"));
            }
            Ok(found)
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn unmark_value(value: &Value) -> Value {
    match value.as_str() {
        Some(text) => unmark_all(text).into(),
        // The tuple of `startswith(('a', 'b'))`.
        None if matches!(value.kind(), ValueKind::Seq) => match value.try_iter() {
            Ok(items) => items.map(|item| unmark_value(&item)).collect(),
            Err(_) => value.clone(),
        },
        None => value.clone(),
    }
}

/// What Python's `str.strip` takes for white space: Unicode's, and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `text` without the characters of `set` (white space if not given) at its start, its end or both.
pub(super) fn strip<'a>(text: &'a str, set: Option<&str>, start: bool, end: bool) -> &'a str {
    let set = set.map(unmark_all);
    let goes = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(unmark(c)));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

pub(super) fn replace(text: &str, old: &str, new: &str, count: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (start, end) in matches(text, old).into_iter().take(count) {
        out.push_str(&text[copied..start]);
        out.push_str(new);
        copied = end;
    }
    out.push_str(&text[copied..]);
    out
}

fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    n_max: usize,
    from_right: bool,
) -> Result<Vec<&'a str>, Error> {
    let found = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => matches(text, separator),
        None => return Ok(split_space(text, n_max, from_right)),
    };
    let n_splits = found.len().min(n_max);
    let chosen = if from_right { &found[found.len() - n_splits..] } else { &found[..n_splits] };
    let mut parts = Vec::with_capacity(n_splits + 1);
    let mut at = 0;
    for &(start, end) in chosen {
        parts.push(&text[at..start]);
        at = end;
    }
    parts.push(&text[at..]);
    Ok(parts)
}

/// Words between runs of white space; what is left after `n_max` splits stays one piece.
fn split_space(text: &str, n_max: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| parts.len() < n_max) else {
            parts.push(rest);
            break;
        };
        let (left, right) = rest.split_at(cut);
        let (word, others) = if from_right {
            (right.trim_start_matches(is_space), left.trim_end_matches(is_space))
        } else {
            (left, right.trim_start_matches(is_space))
        };
        parts.push(word);
        rest = others;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(is_end) {
        let len = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..end + len] } else { &rest[..end] });
        rest = &rest[end + len..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, separator: &str, last: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let found = matches(text, separator);
    let chosen = if last { found.last() } else { found.first() };
    let parts = match chosen {
        Some(&(start, end)) => [&text[..start], &text[start..end], &text[end..]],
        None if last => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from).to_vec()).into())
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for c in prefix.chars() {
        rest.next().filter(|&other| unmark(other) == unmark(c))?;
    }
    Some(rest.as_str())
}

fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for c in suffix.chars().rev() {
        rest.next_back().filter(|&other| unmark(other) == unmark(c))?;
    }
    Some(rest.as_str())
}

/// Start and end, in bytes of `text`, of each place where `pattern` stands; they do not overlap.
fn matches(text: &str, pattern: &str) -> Vec<(usize, usize)> {
    let pattern = unmark_all(pattern);
    if pattern.is_empty() {
        // Python finds the empty string before each character and at the end.
        return text.char_indices().map(|(at, _)| at).chain([text.len()]).map(|at| (at, at)).collect();
    }
    let plain = unmark_all(text);
    if plain == text {
        return plain.match_indices(&pattern).map(|(start, found)| (start, start + found.len())).collect();
    }
    // Positions are the same in characters, not in bytes.
    let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let mut at = (0, starts.next().unwrap_or(0));
    let mut bytes_of = |n_chars: usize| {
        if n_chars > at.0 {
            at = (n_chars, starts.nth(n_chars - at.0 - 1).unwrap_or(text.len()));
        }
        at.1
    };
    let n_pattern = pattern.chars().count();
    let (mut n_chars, mut counted) = (0, 0);
    let mut found = Vec::new();
    for (start, _) in plain.match_indices(&pattern) {
        n_chars += plain[counted..start].chars().count();
        counted = start;
        found.push((bytes_of(n_chars), bytes_of(n_chars + n_pattern)));
    }
    found
}

/// Jinja's filter `indent`: every line but the first, and no empty one, unless asked for.
pub(super) fn indent(text: &str, indention: &str, first: bool, blank: bool) -> String {
    // A line end more than there is, so that a last empty line is a line.
    let text = format!("{text}\n");
    let mut out = String::with_capacity(2 * text.len());
    for (index, line) in split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let is_indented = if index == 0 { first } else { blank || !line.is_empty() };
        if is_indented {
            out.push_str(indention);
        }
        out.push_str(line);
    }
    out
}

/// A float as Python's `repr` spells it: the shortest digits, an exponent below 1e-4 and from 1e16.
pub(super) fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan".into()
        } else if x > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A value as `str(value)` spells it.
pub(super) fn to_str(value: &Value) -> String {
    match as_float(value) {
        Some(x) => float_repr(x),
        None => value.to_string(),
    }
}

pub(super) fn as_float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    if is_float { f64::try_from(value.clone()).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::marks::mark_all;
    use super::*;

    #[test]
    fn floats_are_spelt_as_in_python() {
        let cases = [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123456.789, "123456.789"),
        ];
        for (x, expected) in cases {
            assert_eq!(float_repr(x), expected);
        }
    }

    #[test]
    fn methods_see_through_marks_and_keep_them() {
        let text = format!("a{}b{}c", mark_all("<x>"), "<x>");
        assert_eq!(split(&text, Some("<x>"), usize::MAX, false).unwrap(), ["a", "b", "c"]);
        assert_eq!(split(&text, Some(&mark_all("<x>")), 1, true).unwrap(), [&text[..text.len() - 4], "c"]);
        assert_eq!(replace("a<x>\u{e9}<x>", &mark_all("<x>"), "-", 1), "a-\u{e9}<x>");
        assert_eq!(replace(&text, "b", "B", 9), text.replace('b', "B"));
        assert_eq!(strip(&format!("{}a", mark_all("<<")), Some("<"), true, true), "a");
        assert_eq!(strip_prefix(&text, "a<"), Some(&text[1 + mark_all("<").len()..]));
        assert_eq!(strip_suffix("<x>", &mark_all("x>")), Some("<"));
    }

    #[test]
    fn splitting_is_pythons() {
        let none = |text| split(text, None, usize::MAX, false).unwrap();
        assert_eq!(none("  a b\u{a0}\n c "), ["a", "b", "c"]);
        assert_eq!(none("  "), [""; 0]);
        assert_eq!(split(" a  b  c ", None, 1, false).unwrap(), ["a", "b  c"]);
        assert_eq!(split(" a  b  c ", None, 1, true).unwrap(), ["a  b", "c"]);
        assert_eq!(split("aXbXc", Some("X"), 1, true).unwrap(), ["aXb", "c"]);
        assert_eq!(split("", Some("X"), 9, false).unwrap(), [""]);
        assert!(split("a", Some(""), 9, false).is_err());
        assert_eq!(split_lines("a\r\nb\n\nc", false), ["a", "b", "", "c"]);
        assert_eq!(split_lines("a\nb", true), ["a\n", "b"]);
        assert_eq!(replace("ab", "", "-", 9), "-a-b-");
    }
}
