//! The `flashmill` program: flags, terminal and environment. How anything is computed, the engine knows.

mod answer;
mod commands;
mod demo;
mod flags;
mod form;
mod interrupt;
mod load;
mod model_path;
mod profile;
mod progress;
mod prompt;
mod report;
mod terminal;
mod tools;
mod tuned;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use flashmill_lab::tune::ENDS_WITH_INPUT;

use flags::{LowArgs, Mode};
use terminal::note;

fn main() -> ExitCode {
    if std::env::var_os(ENDS_WITH_INPUT).is_some() {
        interrupt::end_with_input();
    }
    match LowArgs::try_parse() {
        Ok(args) => exit_code(run(args)),
        // Help and version are no errors; wrong usage is, with code 2.
        Err(usage) => {
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    }
}

fn run(args: LowArgs) -> Result<ExitCode> {
    match Mode::new(args)? {
        Mode::Run(options) => commands::run(options),
        Mode::Chat(options) => commands::chat(options),
        Mode::Serve(options) => commands::serve(&options),
        Mode::Plan(options) => commands::plan(options),
        Mode::Inspect(options) => commands::inspect(options),
        Mode::Pull(flags) => commands::pull(flags),
        Mode::Logits(options) => commands::logits(options),
        Mode::Bench(options) => commands::bench(options),
        Mode::Eval(flags) => commands::eval(&flags),
        Mode::Tune(flags) => commands::tune(flags),
        Mode::Loss(flags) => commands::loss(&flags),
        Mode::Trace(options) => commands::trace(options),
        Mode::Replay(options) => commands::replay(options),
        Mode::Pack(command) => commands::pack(&command),
        Mode::Verify(model) => commands::verify(&model),
    }
}

/// One line for people who read and scripts that test; silence if the reader of our output has gone.
fn exit_code(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of causes on one line. A cause that the message before it already quotes is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
    }
    terminal::neutral(&line).replace('\n', " ")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn errors_are_one_line() {
        let error = anyhow!("no\nsuch \x1b[31m file").context("cannot open x");
        assert_eq!(one_line(&error), "cannot open x: no such \\u{1b}[31m file");
        // Errors of libraries quote their source in their own message.
        let quoted = io::Error::other("the cause");
        let error = Err::<(), _>(quoted).context("reading failed: the cause").expect_err("an error");
        assert_eq!(one_line(&error), "reading failed: the cause");
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
