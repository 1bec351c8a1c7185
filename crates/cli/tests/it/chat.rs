//! `flashmill chat` without a terminal: a line is a turn.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Ran, flashmill, run_with_input};

fn chat(input: &str, args: &[&str]) -> Ran {
    run_with_input(["chat", "demo", "--greedy"].iter().chain(args), input)
}

#[test]
fn a_conversation_with_a_tool() {
    let ran = chat("What is 17 * 42?\ny\nWhat is 5 + 6?\nalways\nWhat is 8 * 9?\n/quit\nnot read\n", &[]);
    let answer = ran.success();
    for (expression, result) in [("17 * 42", "714"), ("5 + 6", "11"), ("8 * 9", "72")] {
        assert!(answer.contains(&format!("\"expression\": \"{expression}\"")), "{ran:#?}");
        assert!(answer.contains(result), "{ran:#?}");
    }
    assert_eq!(ran.stderr.matches("run calculator").count(), 2, "the third is not asked for: {ran:#?}");
    assert!(ran.stderr.contains(" kept)"), "earlier turns are not read again: {}", ran.stderr);
}

#[test]
fn what_is_not_allowed_does_not_run() {
    let ran = chat("What is 17 * 42?\nno\n", &[]);
    assert!(ran.stderr.contains("the user did not allow this call"), "{ran:#?}");
    assert!(!ran.stderr.contains("714"));
    ran.success();
    // A line that is no answer to the question is the next message, and the call does not run.
    let ran = chat("What is 17 * 42?\n/tools\n", &[]);
    assert!(ran.stderr.contains("did not allow") && ran.stderr.contains("list_files"), "{ran:#?}");
    ran.success();
}

#[cfg(unix)]
#[test]
fn a_file_below_the_directory_is_read_and_none_above() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let inside = directory.path().join("inside");
    fs::create_dir(&inside).expect("a directory");
    fs::write(directory.path().join("secret.txt"), "do not forget the zebra").expect("a file");
    fs::write(inside.join("garden.txt"), "the meeting moved to Friday").expect("a file");
    std::os::unix::fs::symlink("../secret.txt", inside.join("lantern.txt")).expect("a link");
    let mut command = flashmill();
    command.args(["chat", "demo", "--greedy"]).current_dir(&inside);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let lines = "Read garden.txt\nyes\n/reset\nOpen the file lantern.txt\nyes\n";
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    let ran = Ran::from(child.wait_with_output().expect("the program ends"));
    assert!(ran.stderr.contains("{\"content\": \"the meeting moved to Friday\"}"), "{ran:#?}");
    assert!(ran.stderr.contains("\\\"lantern.txt\\\" is not below the current directory"), "{ran:#?}");
    assert!(!ran.stderr.contains("zebra") && !ran.stdout.contains("zebra"), "{ran:#?}");
}

#[test]
fn commands() {
    let input = "/help\n/system\n/system Answer briefly.\n/system\n/think\n/think off\n/think\n/tools off\n/tools\n/nonsense\n/reset\n/stats\n";
    let ran = chat(input, &[]);
    assert_eq!(ran.success(), "");
    for word in [
        "/reset         forget the conversation",
        "there is no system message",
        "Answer briefly.",
        "as the model's template decides",
        "they are not offered",
        "there is no command /nonsense",
        "the conversation is forgotten",
        "prompt 0 tokens",
    ] {
        assert!(ran.stderr.contains(word), "{word}: {ran:#?}");
    }
}

#[test]
fn what_was_said_is_remembered_until_reset() {
    let prompt_tokens = |input: &str| {
        let ran = chat(input, &["--no-tools"]);
        ran.success();
        let line = ran.stderr.lines().last().expect("statistics").to_owned();
        (ran.stdout, line)
    };
    let (twice, _) = prompt_tokens("Hello\n/reset\nHello\n");
    let lines: Vec<&str> = twice.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1], "after /reset the same message gets the same answer");
    let (_, statistics) = prompt_tokens("Hello\nThanks\n");
    assert!(statistics.contains(" kept)"), "{statistics}");
}

#[test]
fn several_lines_are_one_message() {
    let (quoted, escaped) = (chat("\"\"\"\nWho\nare you?\n\"\"\"\n", &[]), chat("Who\\\nare you?\n", &[]));
    assert_eq!(quoted.success(), escaped.success());
    assert_ne!(quoted.stdout, "");
}

#[test]
fn a_conversation_longer_than_the_context_is_an_error() {
    let long = "word ".repeat(200);
    let ran = chat(&format!("{long}\n"), &["--context", "100", "--no-tools"]);
    ran.fails_with(&["the context holds 100"]);
}
