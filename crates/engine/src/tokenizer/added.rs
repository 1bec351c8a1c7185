//! Added tokens: texts such as `<|im_end|>` that stand for one token of their own.

use std::collections::HashMap;

/// A token that is matched as a literal before the text is split.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct AddedToken {
    /// Its id; in `added_tokens_decoder` the id is the key instead.
    #[serde(default)]
    pub id: u32,
    /// Its text.
    pub content: String,
    /// A control token: not part of what a model says.
    #[serde(default)]
    pub special: bool,
    /// White space before it belongs to it.
    #[serde(default)]
    pub lstrip: bool,
    /// White space after it belongs to it.
    #[serde(default)]
    pub rstrip: bool,
    /// Only between characters that are not of words.
    #[serde(default)]
    pub single_word: bool,
}

/// The added tokens of a tokenizer, ready to be found in a text.
#[derive(Clone, Debug, Default)]
pub struct AddedTokens {
    /// Longest text first, so that the first that matches is the longest.
    tokens: Vec<AddedToken>,
    /// Places in `tokens` by text and by id.
    by_text: HashMap<Box<[u8]>, usize>,
    by_id: HashMap<u32, usize>,
    /// `lengths[b]`: how long the texts are that start with byte `b`, the longest first.
    lengths: Vec<Vec<usize>>,
}

impl AddedTokens {
    /// Tokens with an empty text are left out: they would match everywhere.
    pub fn new(mut tokens: Vec<AddedToken>) -> AddedTokens {
        tokens.retain(|token| !token.content.is_empty());
        tokens.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then_with(|| a.content.cmp(&b.content)));
        tokens.dedup_by(|a, b| a.content == b.content);
        let mut added = AddedTokens { lengths: vec![Vec::new(); 256], ..AddedTokens::default() };
        for (index, token) in tokens.iter().enumerate() {
            let text = token.content.as_bytes();
            added.by_text.insert(text.into(), index);
            added.by_id.entry(token.id).or_insert(index);
            let lengths = &mut added.lengths[usize::from(text[0])];
            if lengths.last() != Some(&text.len()) {
                lengths.push(text.len());
            }
        }
        AddedTokens { tokens, ..added }
    }

    /// All of them, longest text first.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    /// The token with this id.
    pub fn get(&self, id: u32) -> Option<&AddedToken> {
        self.by_id.get(&id).map(|&index| &self.tokens[index])
    }

    /// The tokens whose text stands at byte `at` of `text`, longest first.
    pub fn at<'a>(&'a self, text: &'a str, at: usize) -> impl Iterator<Item = &'a AddedToken> {
        let rest = &text.as_bytes()[at..];
        let lengths = rest.first().and_then(|&byte| self.lengths.get(usize::from(byte)));
        let found = lengths.into_iter().flatten().filter_map(|&len| self.by_text.get(rest.get(..len)?));
        found
            .map(|&index| &self.tokens[index])
            .filter(move |token| !token.single_word || stands_alone(text, at, at + token.content.len()))
    }

    /// The leftmost token at or after byte `from`, the longest if several start there, and where it starts.
    pub fn next_match<'a>(&'a self, text: &'a str, from: usize) -> Option<(usize, &'a AddedToken)> {
        (from..text.len()).find_map(|at| self.at(text, at).next().map(|token| (at, token)))
    }
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..start].chars().next_back().is_some_and(is_word);
    let after = text[end..].chars().next().is_some_and(is_word);
    !before && !after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken {
            id,
            content: content.into(),
            special: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }

    #[test]
    fn the_leftmost_and_longest_wins() {
        let added = AddedTokens::new(vec![token(1, "<a"), token(2, "<a>"), token(3, "a>"), token(4, "")]);
        let found = |text| added.next_match(text, 0).map(|(at, token)| (at, token.id));
        assert_eq!(found("x<a>"), Some((1, 2)));
        assert_eq!(found("x<ab"), Some((1, 1)));
        assert_eq!(found("ba>"), Some((1, 3)));
        assert_eq!(found("\u{e9}\u{3042}"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn single_words_stand_alone() {
        let added = AddedTokens::new(vec![AddedToken { single_word: true, ..token(1, "ab") }]);
        assert!(added.next_match("x ab,", 0).is_some());
        assert!(added.next_match("xab", 0).is_none());
        assert!(added.next_match("ab1", 0).is_none());
    }
}
