//! Who wrote what in a rendering.

use crate::tokenizer::{AddedTokens, TextPart};

/// Cuts the text into control tokens that the template wrote and the rest. `marks` has one entry for each character.
pub(super) fn split_parts(text: &str, marks: &[bool], added: &AddedTokens, roles: &[&str]) -> Vec<TextPart> {
    let mut parts = Vec::new();
    let mut data = String::new();
    // Where we are, in bytes of the text and in characters.
    let (mut at, mut index) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        let wrote = |content: &str| is_templates_own(content, &marks[index..], roles);
        match added.at(text, at).find(|token| wrote(&token.content)) {
            Some(token) => {
                if !data.is_empty() {
                    parts.push(TextPart::Data(std::mem::take(&mut data)));
                }
                parts.push(TextPart::Template(token.content.clone()));
                at += token.content.len();
                index += token.content.chars().count();
            }
            None => {
                data.push(c);
                at += c.len_utf8();
                index += 1;
            }
        }
    }
    if !data.is_empty() {
        parts.push(TextPart::Data(data));
    }
    parts
}

/// All characters of a control token are the template's, but for a role between them.
fn is_templates_own(content: &str, marks: &[bool], roles: &[&str]) -> bool {
    let inside: String =
        content.chars().zip(marks).filter(|&(_, &is_marked)| !is_marked).map(|(c, _)| c).collect();
    if inside.is_empty() {
        return true;
    }
    let n_chars = content.chars().count();
    marks[0] && marks[n_chars - 1] && roles.contains(&inside.as_str()) && content.contains(&inside)
}
