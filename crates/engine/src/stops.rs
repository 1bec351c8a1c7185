//! Stop strings, found across the borders of tokens.

/// Lets text through up to the first stop string.
///
/// What could be the start of a stop string is held back until it is known. The stop string that ends first wins, and
/// of several that end at the same place the longest, so that the result does not depend on how the text is cut.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopMatcher {
    /// Empty stop strings are ignored; indices count all of them.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new(), found: None }
    }

    /// Adds text; appends to `out` what can be shown. Gives the index of the stop string once one is found; text after it
    /// is dropped.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() || self.stops.iter().all(String::is_empty) {
            if self.found.is_none() {
                out.push_str(text);
            }
            return self.found;
        }
        let old_len = self.held.len();
        self.held.push_str(text);
        // A stop string ends in the new text, or it would have been found before.
        for end in old_len + 1..=self.held.len() {
            let until = &self.held.as_bytes()[..end];
            let ending = self
                .stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty() && until.ends_with(stop.as_bytes()));
            if let Some((index, stop)) = ending.max_by_key(|(index, stop)| (stop.len(), usize::MAX - index)) {
                out.push_str(&self.held[..end - stop.len()]);
                self.held.clear();
                self.found = Some(index);
                return self.found;
            }
        }
        let n_shown = self.held.len() - self.n_held();
        out.push_str(&self.held[..n_shown]);
        self.held.drain(..n_shown);
        None
    }

    /// The end of the text: nothing is held back any more.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// The length of the longest end of the held text that a stop string starts with.
    fn n_held(&self) -> usize {
        let held = self.held.as_bytes();
        let overlap = |stop: &String| overlap(held, stop.as_bytes());
        self.stops.iter().map(overlap).max().unwrap_or(0)
    }
}

/// The length of the longest end of `text` that `pattern` starts with, less than all of `pattern`.
pub(crate) fn overlap(text: &[u8], pattern: &[u8]) -> usize {
    let longest = text.len().min(pattern.len().saturating_sub(1));
    (1..=longest).rev().find(|&len| text.ends_with(&pattern[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| stop.to_string()).collect());
        let mut out = String::new();
        let mut found = None;
        for piece in pieces {
            found = matcher.push(piece, &mut out);
        }
        matcher.finish(&mut out);
        (out, found)
    }

    #[test]
    fn text_before_the_stop_is_shown() {
        assert_eq!(run(&["END"], &["abcEN", "Dxyz"]), ("abc".into(), Some(0)));
        assert_eq!(run(&["END"], &["abcEN", "Exyz"]), ("abcENExyz".into(), None));
        assert_eq!(run(&["END"], &["EEEEN", "D"]), ("EEE".into(), Some(0)));
        assert_eq!(run(&["aab"], &["aaa", "b"]), ("a".into(), Some(0)));
        assert_eq!(run(&["b", "abc"], &["xabc"]), ("xa".into(), Some(0)));
        assert_eq!(run(&["c", "abc"], &["xab", "c"]), ("x".into(), Some(1)));
        assert_eq!(run(&["\u{e9}"], &["a\u{e8}\u{e9}b"]), ("a\u{e8}".into(), Some(0)));
        assert_eq!(run(&[""], &["a"]), ("a".into(), None));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
    }

    #[test]
    fn only_what_may_be_a_stop_is_held() {
        let mut matcher = StopMatcher::new(vec!["\n\n".into()]);
        let mut out = String::new();
        matcher.push("a\n", &mut out);
        assert_eq!(out, "a");
        matcher.push("b", &mut out);
        assert_eq!(out, "a\nb");
    }

    proptest! {
        #[test]
        fn how_the_text_is_cut_does_not_matter(
            text in "[ab\u{e9}]{0,30}",
            stops in proptest::collection::vec("[ab\u{e9}]{0,4}", 0..4),
            cuts in proptest::collection::vec(1usize..5, 30),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            for n in cuts {
                let end = rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
                pieces.push(&rest[..end]);
                rest = &rest[end..];
            }
            let (shown, found) = run(&stops, &pieces);
            prop_assert_eq!(run(&stops, &[&text]), (shown.clone(), found));
            // No stop string is shown, and what is shown is a front of the text.
            prop_assert!(text.starts_with(&shown));
            prop_assert!(stops.iter().all(|stop| stop.is_empty() || !shown.contains(stop)));
            prop_assert_eq!(found.is_none(), shown == text);
        }
    }
}
