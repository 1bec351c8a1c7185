//! `flashmill serve` from its start to its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::support::{flashmill, run};

/// A server that ends with its test.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server on a free port and waits until it says where it is.
fn serve(change: impl FnOnce(&mut Command)) -> Serving {
    let mut command = flashmill();
    command.args(["serve", "demo", "--port", "0", "--threads", "1", "--ram", "256M", "--no-prompt-cache"]);
    change(&mut command);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("a line") > 0, "it ended before it listened");
        if let Some(rest) = line.split("http://").nth(1) {
            break rest.split(',').next().expect("an address").to_owned();
        }
    };
    Serving { child, stderr, address }
}

fn get(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[cfg(unix)]
#[test]
fn it_serves_until_sigterm() {
    let mut serving = serve(|_| {});
    assert!(get(&serving.address, "/v1/models", "").contains("\"id\":\"demo\""));
    let pid = serving.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert!(serving.child.wait().expect("it ends").success());
    let mut rest = String::new();
    serving.stderr.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "", "nothing went wrong");
}

#[test]
fn the_key_of_the_environment() {
    let serving = serve(|command| {
        command.env("FLASHMILL_API_KEY", "from-outside");
    });
    assert!(get(&serving.address, "/v1/models", "").starts_with("HTTP/1.1 401"));
    assert!(get(&serving.address, "/v1/models", "x-api-key: from-outside\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_address_that_others_reach_needs_a_key() {
    run(["serve", "demo", "--host", "0.0.0.0", "--port", "0"]).fails_with(&[
        "0.0.0.0:0",
        "--api-key",
        "--no-api-key",
    ]);
    run(["serve", "demo", "--cors", "example.org"]).fails_with(&["--cors", "https://example.org"]);
}
