//! Characters that know where they come from.
//!
//! A marked character is one of the chat template's own. Marking moves it to a private plane of Unicode, where no text
//! from outside is allowed to be while it is rendered; it stays one character, so lengths and positions do not change.

use std::collections::BTreeSet;

/// First code point that stands for a marked character.
const FIRST: u32 = 0xF_0000;
/// The marked twin of `c`; `None` for the few characters that have none.
pub(super) fn mark(c: char) -> Option<char> {
    match u32::from(c) {
        // Planes 15 and 16 end in two code points that are no characters, as do planes 0 and 1.
        code if code & 0xFFFF < 0xFFFE && code < 0x2_0000 => char::from_u32(FIRST + code),
        _ => None,
    }
}

/// `text` with every character marked, where that is possible.
pub(super) fn mark_all(text: &str) -> String {
    text.chars().map(|c| mark(c).unwrap_or(c)).collect()
}

pub(super) fn is_marked(c: char) -> bool {
    u32::from(c) >= FIRST
}

/// The character that `c` is, marked or not.
pub(super) fn unmark(c: char) -> char {
    if is_marked(c) { char::from_u32(u32::from(c) - FIRST).unwrap_or(c) } else { c }
}

pub(super) fn unmark_all(text: &str) -> String {
    text.chars().map(unmark).collect()
}

/// For each character of `plain`, whether its twin in `marked` is marked; `None` if the two are not the same text.
pub(super) fn align(plain: &str, marked: &str) -> Option<Vec<bool>> {
    let mut marks = Vec::with_capacity(plain.len());
    let mut twins = marked.chars();
    for c in plain.chars() {
        let twin = twins.next().filter(|&twin| unmark(twin) == c)?;
        marks.push(is_marked(twin));
    }
    twins.next().is_none().then_some(marks)
}

/// Characters of outside text that lie in the private planes already: while rendering, others stand for them.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// The character that was given, and one of the private use area of plane 0 that nothing else uses.
    pairs: Vec<(char, char)>,
}

impl Foreign {
    /// `texts` is all that will be rendered.
    pub(super) fn find(texts: &[&str]) -> Foreign {
        // Planes 15 and 16 start with F3 B0 to F4 8F in UTF-8.
        let possible = texts.iter().any(|text| text.as_bytes().iter().any(|&byte| byte >= 0xF3));
        if !possible {
            return Foreign::default();
        }
        let all: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
        let free = ('\u{E000}'..='\u{F8FF}').filter(|c| !all.contains(c));
        Foreign { pairs: all.iter().copied().filter(|&c| is_marked(c)).zip(free).collect() }
    }

    /// `text` with others in place of the characters that would be taken for marked ones.
    pub(super) fn hide(&self, text: &str) -> String {
        let hidden = |c| self.pairs.iter().find(|pair| pair.0 == c).map(|pair| pair.1);
        // More of them than there are others: nobody writes so, and a wrong character harms nothing.
        text.chars()
            .map(|c| if is_marked(c) { hidden(c).unwrap_or(char::REPLACEMENT_CHARACTER) } else { c })
            .collect()
    }

    /// The other way round.
    pub(super) fn show(&self, c: char) -> char {
        self.pairs.iter().find(|pair| pair.1 == c).map_or(c, |pair| pair.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_come_off(c in any::<char>()) {
            if let Some(marked) = mark(c) {
                prop_assert!(is_marked(marked));
                prop_assert_eq!(unmark(marked), c);
            }
        }

        #[test]
        fn alignment_finds_the_marked(a in "\\PC{0,5}", b in "\\PC{0,5}") {
            let marked = format!("{a}{}{b}", mark_all("<|x|>"));
            let marks = align(&format!("{a}<|x|>{b}"), &marked);
            if let Some(marks) = marks {
                let n = a.chars().count();
                for (i, is_marked) in marks.into_iter().enumerate() {
                    prop_assert_eq!(is_marked, (n..n + 5).contains(&i));
                }
            } else {
                prop_assert!((a + &b).chars().any(is_marked));
            }
        }
    }

    #[test]
    fn other_texts_do_not_align() {
        assert_eq!(align("ab", "a"), None);
        assert_eq!(align("a", "ab"), None);
        assert_eq!(align("ab", "ac"), None);
        assert_eq!(align("ab", &format!("a{}", mark_all("b"))), Some(vec![false, true]));
    }

    #[test]
    fn foreign_characters_hide_and_come_back() {
        let text = format!("a{}\u{E000}\u{10FFFD}", mark_all("<"));
        let foreign = Foreign::find(&[&text, "b"]);
        let hidden = foreign.hide(&text);
        assert!(!hidden.chars().any(is_marked));
        assert_eq!(hidden, "a\u{E001}\u{E000}\u{E002}");
        assert_eq!(hidden.chars().map(|c| foreign.show(c)).collect::<String>(), text);
        assert!(Foreign::find(&["a\u{1F600}"]).is_empty());
    }
}
