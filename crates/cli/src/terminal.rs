//! What the terminal may see: colours only where they are wanted, and no control character that a model wrote.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, StdoutLock, Write as _};

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Standard output as the place for a model's text.
///
/// On a terminal, control characters are shown instead of sent, so that a model (or a file that a tool read) cannot move the cursor, retitle
/// the window or write to the clipboard. Into a file or pipe the text goes as it is.
pub(crate) struct TextOut {
    out: StdoutLock<'static>,
    is_terminal: bool,
    has_color: bool,
    is_dim: bool,
    /// The last character was a newline, or nothing was written yet.
    at_line_start: bool,
}

impl TextOut {
    /// Takes standard output; no other part of the program writes to it meanwhile.
    pub(crate) fn new() -> TextOut {
        let out = io::stdout().lock();
        let is_terminal = out.is_terminal();
        TextOut {
            out,
            is_terminal,
            has_color: is_terminal && wants_color(),
            is_dim: false,
            at_line_start: true,
        }
    }

    /// Writes text of the model and shows it at once.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let shown = if self.is_terminal { neutral(text) } else { Cow::Borrowed(text) };
        self.out.write_all(shown.as_bytes())?;
        self.at_line_start = shown.ends_with('\n');
        self.out.flush()
    }

    /// What follows is dimmed, or no longer.
    pub(crate) fn set_dim(&mut self, dim: bool) -> io::Result<()> {
        if self.has_color && dim != self.is_dim {
            self.out.write_all(if dim { DIM } else { RESET }.as_bytes())?;
            self.out.flush()?;
        }
        self.is_dim = dim;
        Ok(())
    }

    /// Whether dimming shows: otherwise thoughts need markers to be told from the answer.
    pub(crate) fn can_dim(&self) -> bool {
        self.has_color
    }

    /// Ends the line, if one was begun.
    pub(crate) fn end_line(&mut self) -> io::Result<()> {
        self.set_dim(false)?;
        if self.at_line_start { Ok(()) } else { self.text("\n") }
    }
}

impl Drop for TextOut {
    /// What comes after an answer that an error cut off starts on a line of its own.
    fn drop(&mut self) {
        let _ = self.end_line();
    }
}

/// Tells the user something, on standard error. Unlike `eprintln!` it does not end the program if nobody can be told.
macro_rules! note {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
pub(crate) use note;

/// Text for standard error, dimmed where that is wanted.
pub(crate) fn dim_stderr(text: &str) -> String {
    if io::stderr().is_terminal() && wants_color() { format!("{DIM}{text}{RESET}") } else { text.to_owned() }
}

/// The text without characters that a terminal obeys: those are written out, as `\u{1b}`.
///
/// Newline and tab stay. Beside the control characters (C0, DEL, C1) go those that reorder text, which could show a tool's
/// argument as something else than it is.
pub(crate) fn neutral(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_unsafe(char) { out.extend(char.escape_default()) } else { out.push(char) }
    }
    Cow::Owned(out)
}

fn is_unsafe(char: char) -> bool {
    let reorders =
        matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (char.is_control() && char != '\n' && char != '\t') || reorders
}

/// The convention of <https://no-color.org>, and terminals that say that they know no escapes.
fn wants_color() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_not_sent() {
        assert_eq!(neutral("\x1b[2J\x1b]0;title\x07"), "\\u{1b}[2J\\u{1b}]0;title\\u{7}");
        assert_eq!(neutral("a\rb\x08\x7f\u{9b}31m"), "a\\rb\\u{8}\\u{7f}\\u{9b}31m");
        assert_eq!(neutral("rm \u{202e}txt.a"), "rm \\u{202e}txt.a");
    }

    #[test]
    fn plain_text_is_untouched() {
        for text in ["", "line\n\tindented", "\u{e9}\u{4e2d}\u{1f680}", "\\u{1b}"] {
            assert!(matches!(neutral(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }
}
