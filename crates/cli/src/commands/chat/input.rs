//! What the user types: lines with editing and history on a terminal, plain lines otherwise, messages of several lines.

use std::io::{self, BufRead as _, IsTerminal as _, StdinLock, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustyline::Editor;
use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use crate::terminal::note;

const PROMPT: &str = "> ";
const CONTINUED: &str = ". ";

/// The history keeps this many messages.
const MAX_HISTORY: usize = 1000;

/// What came from the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A message or command, perhaps of several lines.
    Text(String),
    /// Ctrl-C: the line is dropped.
    Interrupted,
    /// Ctrl-D, or the end of standard input.
    End,
}

/// Reads what the user types.
pub(super) struct Input {
    source: Source,
    /// A plain line that was read as an answer to a question and was none.
    unread: Option<String>,
}

enum Source {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    Plain(StdinLock<'static>),
}

impl Input {
    /// From the terminal if both ends are one, else from standard input.
    pub(super) fn open() -> Result<Input> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Input { source: Source::Plain(io::stdin().lock()), unread: None });
        }
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .context("cannot set up line editing")?
            .bell_style(BellStyle::None)
            .build();
        let mut editor = Editor::with_config(config).context("cannot set up line editing")?;
        let history = history_file();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Input { source: Source::Terminal { editor: Box::new(editor), history }, unread: None })
    }

    /// A person sits there.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Terminal { .. })
    }

    /// The next message or command.
    pub(super) fn message(&mut self) -> Result<Typed> {
        let mut lines = Lines::default();
        loop {
            let prompt = if lines.is_empty() { PROMPT } else { CONTINUED };
            match self.line(prompt)? {
                Typed::Text(line) => {
                    if let Some(text) = lines.push(&line) {
                        self.remember(&text);
                        return Ok(Typed::Text(text));
                    }
                }
                Typed::End if !lines.is_empty() => return Ok(Typed::Text(lines.rest())),
                other => return Ok(other),
            }
        }
    }

    /// An answer to a question, `None` if there is none. A plain line that `is_answer` does not know stays for the next message.
    pub(super) fn answer(
        &mut self,
        question: &str,
        is_answer: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        if !self.is_terminal() {
            let _ = write!(io::stderr(), "{question}");
        }
        let line = match self.line(question)? {
            Typed::Text(line) => line,
            Typed::Interrupted | Typed::End => return Ok(None),
        };
        if self.is_terminal() {
            return Ok(Some(line));
        }
        note!("");
        if is_answer(line.trim()) {
            return Ok(Some(line));
        }
        self.unread = Some(line);
        Ok(None)
    }

    fn line(&mut self, prompt: &str) -> Result<Typed> {
        if let Some(line) = self.unread.take() {
            return Ok(Typed::Text(line));
        }
        match &mut self.source {
            Source::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Typed::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Source::Plain(stdin) => {
                let mut line = String::new();
                let n = stdin.read_line(&mut line).context("cannot read standard input")?;
                let text = line.strip_suffix('\n').unwrap_or(&line);
                let text = text.strip_suffix('\r').unwrap_or(text);
                Ok(if n == 0 { Typed::End } else { Typed::Text(text.to_owned()) })
            }
        }
    }

    /// Keeps a message in the history, at once: the program may be closed with its window. Failing to is no reason to stop.
    fn remember(&mut self, text: &str) {
        if let Source::Terminal { editor, history } = &mut self.source
            && !text.trim().is_empty()
            && editor.add_history_entry(text).is_ok()
            && let Some(path) = history
        {
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(path);
        }
    }
}

/// Where the history is kept: the user's directory for state.
fn history_file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")))
    };
    base.map(|base| base.join("flashmill").join("history"))
}

/// Puts lines together to one message: a backslash at the end of a line continues it, and what stands between two `"""` is one
/// message with its line breaks.
#[derive(Default)]
struct Lines {
    text: String,
    state: LinesState,
}

#[derive(Default, PartialEq, Eq)]
enum LinesState {
    #[default]
    Fresh,
    Continued,
    Quoted,
}

const QUOTES: &str = "\"\"\"";

impl Lines {
    fn is_empty(&self) -> bool {
        self.state == LinesState::Fresh
    }

    /// Adds a line; the message if it is complete.
    fn push(&mut self, line: &str) -> Option<String> {
        let mut line = line;
        if self.state == LinesState::Fresh
            && let Some(rest) = line.trim_start().strip_prefix(QUOTES)
        {
            self.state = LinesState::Quoted;
            line = rest;
            if line.is_empty() {
                return None;
            }
        }
        if self.state == LinesState::Quoted {
            let Some(last) = line.trim_end().strip_suffix(QUOTES) else {
                self.text.push_str(line);
                self.text.push('\n');
                return None;
            };
            self.text.push_str(last);
            return Some(self.rest());
        }
        match line.strip_suffix('\\') {
            Some(line) => {
                self.text.push_str(line);
                self.text.push('\n');
                self.state = LinesState::Continued;
                None
            }
            None => {
                self.text.push_str(line);
                Some(self.rest())
            }
        }
    }

    /// What there is, the last line break apart.
    fn rest(&mut self) -> String {
        self.state = LinesState::Fresh;
        let mut text = std::mem::take(&mut self.text);
        if text.ends_with('\n') {
            text.pop();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(lines: &[&str]) -> Vec<String> {
        let mut all = Lines::default();
        let mut messages: Vec<String> = lines.iter().filter_map(|line| all.push(line)).collect();
        if !all.is_empty() {
            messages.push(all.rest());
        }
        messages
    }

    #[test]
    fn a_line_is_a_message() {
        assert_eq!(messages(&["hello", "", "a \"quoted\" word"]), ["hello", "", "a \"quoted\" word"]);
    }

    #[test]
    fn a_backslash_continues() {
        assert_eq!(messages(&["one\\", "two\\", "three", "four"]), ["one\ntwo\nthree", "four"]);
        assert_eq!(messages(&["cut off\\"]), ["cut off"]);
    }

    #[test]
    fn three_quotes_hold_many_lines() {
        assert_eq!(messages(&["\"\"\"", "a", "", "b\\", "\"\"\"", "c"]), ["a\n\nb\\", "c"]);
        assert_eq!(messages(&["\"\"\"one line\"\"\""]), ["one line"]);
        assert_eq!(messages(&["\"\"\"a", "b\"\"\" "]), ["a\nb"]);
        assert_eq!(messages(&["\"\"\"never", "closed"]), ["never\nclosed"]);
    }
}
