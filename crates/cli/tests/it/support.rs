//! Running the program, and models to run it on.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The program with nothing on standard input, without colours, and with a cache of its own.
pub(crate) fn flashmill() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashmill"));
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("home");
    command
        .env("HOME", &home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_STATE_HOME", home.join("state"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::from(flashmill().args(args).output().expect("the program starts"))
}

/// The same with text on standard input.
pub(crate) fn run_with_input<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Ran {
    let mut command = flashmill();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // A program that fails before it reads closes the pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    Ran::from(child.wait_with_output().expect("the program ends"))
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
}

impl Ran {
    /// It ended well; gives standard output.
    #[track_caller]
    pub(crate) fn success(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        &self.stdout
    }

    /// It ended with code 1 and one line on standard error that holds each of `words`.
    #[track_caller]
    pub(crate) fn fails_with(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line: {self:#?}");
        assert!(lines[0].starts_with("error: "), "{self:#?}");
        for word in words {
            assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
        }
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.success()).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A folder of fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    repository().join("fixtures").join(name)
}

/// The demo model's files.
pub(crate) fn demo_files() -> PathBuf {
    repository().join("models/demo")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// A copy of a model that a test may damage.
pub(crate) fn copy_of(model: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for entry in fs::read_dir(model).expect("a model") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    copy
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
