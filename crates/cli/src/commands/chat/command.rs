//! What starts with a slash is for the program, not for the model.

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Quit,
    Reset,
    Stats,
    /// Show the tools, or offer them or not.
    Tools(Option<bool>),
    /// Show the system message, or start again with another one.
    System(Option<String>),
    /// Show whether the model is asked to think, or ask it to or not.
    Think(Option<bool>),
}

/// The text of `/help`.
pub(super) const HELP: &str = "\
/help          this list
/reset         forget the conversation
/system TEXT   start again with this system message; - for none, without TEXT show it
/tools on|off  offer the tools or not; without a word list them
/think on|off  let the model think before it answers or not
/stats         speed, bytes read, memory
/quit          leave (also Ctrl-D)
A line that ends with a backslash goes on in the next; \"\"\" starts and ends a text of several lines.
Ctrl-C ends an answer; what was said so far is kept.";

impl Command {
    /// The command that `text` is: a slash and a word of letters. `None` if it is a message.
    pub(super) fn parse(text: &str) -> Option<Result<Command, String>> {
        let rest = text.trim().strip_prefix('/')?;
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if word.is_empty() || !word.chars().all(|char| char.is_ascii_alphabetic()) {
            return None;
        }
        let argument = argument.trim();
        Some(match word {
            "help" => Ok(Command::Help),
            "quit" | "exit" | "bye" => Ok(Command::Quit),
            "reset" | "clear" => Ok(Command::Reset),
            "stats" => Ok(Command::Stats),
            "tools" => on_or_off(word, argument).map(Command::Tools),
            "think" => on_or_off(word, argument).map(Command::Think),
            "system" => Ok(Command::System((!argument.is_empty()).then(|| argument.to_owned()))),
            _ => Err(format!("there is no command /{word}; /help lists them")),
        })
    }
}

fn on_or_off(word: &str, argument: &str) -> Result<Option<bool>, String> {
    match argument {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        other => Err(format!("/{word} takes on or off, not {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_messages() {
        let parse = |text| Command::parse(text).map(|command| command.expect("known"));
        assert_eq!(parse("/help"), Some(Command::Help));
        assert_eq!(parse("  /exit "), Some(Command::Quit));
        assert_eq!(parse("/tools"), Some(Command::Tools(None)));
        assert_eq!(parse("/tools  off"), Some(Command::Tools(Some(false))));
        assert_eq!(parse("/think on"), Some(Command::Think(Some(true))));
        assert_eq!(parse("/system You are\nbrief."), Some(Command::System(Some("You are\nbrief.".into()))));
        assert_eq!(parse("/system"), Some(Command::System(None)));
        for message in ["hello", "/etc/hosts holds what?", "/", "/ x", "what is /help?", "/1"] {
            assert_eq!(Command::parse(message), None, "{message}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |text| Command::parse(text).expect("a command").expect_err("wrong");
        assert_eq!(error("/tool"), "there is no command /tool; /help lists them");
        assert_eq!(error("/tools maybe"), "/tools takes on or off, not \"maybe\"");
    }
}
