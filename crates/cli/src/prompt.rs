//! The prompt of `run`: what `-p`, `-f` and standard input hold, in this order.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::terminal::note;

/// A longer prompt is not read, so that a mistaken file does not fill the memory.
const MAX_BYTES: u64 = 16 << 20;

/// A silent standard input is mentioned after this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The parts that were given, separated by empty lines. The last newline of a file or of standard input is not part of it.
pub(crate) fn read_prompt(text: Option<&str>, files: &[PathBuf]) -> Result<String> {
    let mut parts: Vec<String> = text.map(str::to_owned).into_iter().collect();
    let names_stdin = files.iter().any(|file| file == Path::new("-"));
    for file in files {
        parts.push(if file == Path::new("-") { read_stdin()? } else { read_file(file)? });
    }
    if !names_stdin && stdin_is_input(parts.is_empty()) {
        parts.push(read_stdin()?);
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        bail!("there is no prompt; give one with -p TEXT, -f FILE or on standard input");
    }
    Ok(parts.join("\n\n"))
}

/// Whether someone feeds standard input. With a prompt at hand only a pipe or a file counts: a job runner may leave anything
/// else open for ever.
fn stdin_is_input(is_needed: bool) -> bool {
    if io::stdin().is_terminal() {
        return false;
    }
    is_needed || stdin_is_pipe_or_file()
}

#[cfg(unix)]
fn stdin_is_pipe_or_file() -> bool {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileTypeExt as _;
    let kind = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|handle| File::from(handle).metadata())
        .map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_file())
}

#[cfg(not(unix))]
fn stdin_is_pipe_or_file() -> bool {
    true
}

/// A text file of a bounded size.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let bytes = read_bounded(file).with_context(cannot)?;
    as_text(bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))
}

fn read_stdin() -> Result<String> {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(read_bounded(io::stdin().lock()));
    });
    let read = wait.recv_timeout(PATIENCE).or_else(|_| {
        note!("reading the prompt from standard input ...");
        wait.recv()
    });
    let bytes =
        read.context("the reader of standard input stopped")?.context("cannot read standard input")?;
    as_text(bytes).context("standard input is not UTF-8 text")
}

fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("it has more than {} MiB, which no context holds", MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn as_text(bytes: Vec<u8>) -> Result<String, std::string::FromUtf8Error> {
    let mut text = String::from_utf8(bytes)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_last_newline_goes() {
        let text = |bytes: &[u8]| as_text(bytes.to_vec()).expect("UTF-8");
        assert_eq!(text(b"hello\n"), "hello");
        assert_eq!(text(b"hello\r\n"), "hello");
        assert_eq!(text(b"hello\n\n"), "hello\n");
        assert_eq!(text(b""), "");
        assert!(as_text(vec![0xff]).is_err());
    }

    #[test]
    fn endless_input_is_refused() {
        let error = read_bounded(io::repeat(b'x')).expect_err("endless");
        assert_eq!(error.to_string(), "it has more than 16 MiB, which no context holds");
        assert_eq!(read_bounded(&b"short"[..]).expect("short"), b"short");
    }
}
