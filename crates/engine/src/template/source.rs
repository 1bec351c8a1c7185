//! The source of a chat template: marking its control tokens, and taking out tags that only training needs.

use std::ops::Range;

use super::marks::mark;
use crate::tokenizer::AddedTokens;

/// A piece of a template's source that is text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Literal {
    /// Bytes of the source, without the quotes of a string.
    range: Range<usize>,
    /// A string that is compared with something, so that its own text counts and not where it comes from.
    is_compared: bool,
}

/// `source` with the added tokens in its texts marked, and the ends of texts that could be the ends of an added token.
pub(super) fn mark_added_tokens(source: &str, added: &AddedTokens) -> String {
    let mut marked = vec![false; source.len()];
    for literal in literals(source).into_iter().filter(|literal| !literal.is_compared) {
        let text = &source[literal.range.clone()];
        let mut mark = |range: Range<usize>| marked[literal.range.start..][range].fill(true);
        let mut at = 0;
        while let Some((start, token)) = added.next_match(text, at) {
            at = start + token.content.len();
            mark(start..at);
        }
        // `'<|' + message.role + '|>'`: the token's middle is not the template's.
        if let Some(len) =
            added.iter().filter_map(|token| overlap(text, &token.content, &token.content)).max()
        {
            mark(text.len() - len..text.len());
        }
        if let Some(len) =
            added.iter().filter_map(|token| overlap(&token.content, text, &token.content)).max()
        {
            mark(0..len);
        }
    }
    let twin = |(at, c): (usize, char)| if marked[at] { mark(c).unwrap_or(c) } else { c };
    source.char_indices().map(twin).collect()
}

/// The length in bytes of the longest end of `a` that `b` starts with, not all of the added token that one of them is.
fn overlap(a: &str, b: &str, token: &str) -> Option<usize> {
    let longest = a.len().min(b.len()).min(token.len().saturating_sub(1));
    (1..=longest).rev().find(|&len| b.is_char_boundary(len) && a.as_bytes().ends_with(&b.as_bytes()[..len]))
}

/// `source` with `{% generation %}` and its end, which mark what to train on, turned into a condition that always holds:
/// white space around the tags is then cut as around any other tag.
pub(super) fn without_generation_tags(source: &str) -> String {
    if !source.contains("generation") {
        return source.to_owned();
    }
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    scan(source, &mut |event| {
        let Event::Word { range, is_tag: true } = event else { return };
        let replacement = match &source[range.clone()] {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => return,
        };
        out.push_str(&source[copied..range.start]);
        out.push_str(replacement);
        copied = range.end;
    });
    out.push_str(&source[copied..]);
    out
}

fn literals(source: &str) -> Vec<Literal> {
    let mut literals: Vec<Literal> = Vec::new();
    // The word or operator before, inside of one tag; and whether the literal before may still be found to be compared.
    let mut before = "";
    let mut last_is_open = false;
    scan(source, &mut |event| match event {
        Event::Text { range } => {
            literals.push(Literal { range, is_compared: false });
            (before, last_is_open) = ("", false);
        }
        Event::String { range } => {
            literals.push(Literal { range, is_compared: is_comparison(before) });
            (before, last_is_open) = ("", true);
        }
        Event::Word { range, .. } | Event::Operator { range } => {
            before = &source[range];
            if let Some(last) = literals.last_mut().filter(|_| last_is_open) {
                last.is_compared |= is_comparison(before) || before == "not";
            }
            last_is_open = false;
        }
    });
    literals
}

fn is_comparison(token: &str) -> bool {
    matches!(token, "in" | "==" | "!=" | "<" | ">" | "<=" | ">=")
}

/// What [`scan`] finds, in order.
enum Event {
    /// Text between tags.
    Text { range: Range<usize> },
    /// The inside of a quoted string.
    String { range: Range<usize> },
    /// A name or number; `is_tag` if it is the first of a `{% .. %}`.
    Word { range: Range<usize>, is_tag: bool },
    /// Anything else of an expression.
    Operator { range: Range<usize> },
}

/// Walks over the source of a template. Bad syntax gives some events or other; the template engine is who complains.
fn scan(source: &str, on: &mut dyn FnMut(Event)) {
    let mut at = 0;
    while at < source.len() {
        let open =
            (at..source.len()).find(|&i| matches!(source.as_bytes()[i..], [b'{', b'{' | b'%' | b'#', ..]));
        let text = at..open.unwrap_or(source.len());
        if !text.is_empty() {
            on(Event::Text { range: text });
        }
        let Some(open) = open else { return };
        at = match source.as_bytes()[open + 1] {
            b'#' => source[open..].find("#}").map_or(source.len(), |len| open + len + 2),
            b'{' => scan_tag(source, open + 2, "}}", on),
            _ => match raw_block(&source[open..]) {
                Some((text, len)) => {
                    on(Event::Text { range: open + text.start..open + text.end });
                    open + len
                }
                None => scan_tag(source, open + 2, "%}", on),
            },
        };
    }
}

/// Walks over a tag whose inside starts at `at`; gives where it ends.
fn scan_tag(source: &str, mut at: usize, close: &str, on: &mut dyn FnMut(Event)) -> usize {
    let bytes = source.as_bytes();
    let mut depth = 0usize;
    let mut is_tag = close == "%}";
    while at < bytes.len() {
        if depth == 0 && source.as_bytes()[at..].starts_with(close.as_bytes()) {
            return at + 2;
        }
        let start = at;
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = at.min(bytes.len());
                on(Event::String { range: start + 1..at });
                at += 1;
                is_tag = false;
            }
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                on(Event::Word { range: start..at, is_tag });
                is_tag = false;
            }
            byte => {
                match byte {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                at += if matches!(&bytes[at..], [b'=' | b'!' | b'<' | b'>', b'=', ..]) { 2 } else { 1 };
                let is_trimming = is_tag && matches!(byte, b'-' | b'+');
                if !byte.is_ascii_whitespace() && !is_trimming {
                    on(Event::Operator { range: start..at });
                    is_tag = false;
                }
            }
        }
    }
    bytes.len()
}

/// Bytes above ASCII count as parts of words, so that no character is cut.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Of `{% raw %}TEXT{% endraw %}..`: where TEXT is, and the length of it all.
fn raw_block(source: &str) -> Option<(Range<usize>, usize)> {
    let inside =
        source.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start().strip_prefix("raw")?;
    let inside = inside.trim_start();
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).strip_prefix("%}")?;
    let start = source.len() - inside.len();
    let mut from = 0;
    while let Some(open) = inside[from..].find("{%").map(|len| from + len) {
        let tag = inside[open + 2..].trim_start_matches(['-', '+']).trim_start();
        if let Some(rest) = tag.strip_prefix("endraw") {
            let end = rest.find("%}").map_or(source.len(), |len| source.len() - rest.len() + len + 2);
            return Some((start..start + open, end));
        }
        from = open + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::marks::{is_marked, unmark};
    use crate::tokenizer::AddedToken;

    fn marked(source: &str) -> String {
        let token = |content: &str| AddedToken {
            id: 0,
            content: content.into(),
            special: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        };
        let added = AddedTokens::new(["<think>", "</think>", "<|user|>"].map(token).to_vec());
        let marked = mark_added_tokens(source, &added);
        assert_eq!(marked.chars().map(unmark).collect::<String>(), source);
        marked.chars().map(|c| if is_marked(c) { '^' } else { c }).collect()
    }

    #[test]
    fn texts_and_strings_are_marked() {
        assert_eq!(marked("a<think>b"), "a^^^^^^^b");
        assert_eq!(marked("{{ '<think>\\n' + x }}"), "{{ '^^^^^^^\\n' + x }}");
        assert_eq!(
            marked("{# <think> #}{% raw %}{{ <think> {% endraw %}"),
            "{# <think> #}{% raw %}{{ ^^^^^^^ {% endraw %}"
        );
        assert_eq!(
            marked("{{ {'a': {'b': '<think>'}}['a'] }}<think>"),
            "{{ {'a': {'b': '^^^^^^^'}}['a'] }}^^^^^^^"
        );
        assert_eq!(marked("{{ 'it\\'s' ~ \"<think>\" }}"), "{{ 'it\\'s' ~ \"^^^^^^^\" }}");
    }

    #[test]
    fn compared_strings_are_not() {
        let sources = [
            "{% if '</think>' in content %}",
            "{% if '</think>' not in content %}",
            "{% if x == '</think>' %}",
            "{% if '</think>' != x %}",
            "{% if x in '</think>' %}",
        ];
        for source in sources {
            assert_eq!(marked(source), source);
        }
    }

    #[test]
    fn open_ends_are_marked() {
        assert_eq!(marked("{{ 'a<|' + role + '|>b' }}"), "{{ 'a^^' + role + '^^b' }}");
        assert_eq!(marked("a<|{{ role }}|>b"), "a^^{{ role }}^^b");
        assert_eq!(marked("{{ '<|us' ~ 'er|>' ~ 'us' }}"), "{{ '^^^^' ~ '^^^^' ~ 'us' }}");
    }

    #[test]
    fn generation_tags_become_conditions() {
        let source = "{%- generation -%}a generation{{ generation }}{% endgeneration %}{% if generation %}";
        let expected = "{%- if true -%}a generation{{ generation }}{% endif %}{% if generation %}";
        assert_eq!(without_generation_tags(source), expected);
    }

    #[test]
    fn unfinished_sources_do_not_panic() {
        for source in
            ["{{ 'a", "{{ 'a\\", "{%", "{#", "{% raw %}x", "{{ a }", "{", "{{ (", "\u{e9}{{ \u{e9}'\u{e9}"]
        {
            marked(source);
            without_generation_tags(&format!("generation{source}"));
        }
    }
}
