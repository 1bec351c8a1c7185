//! `pull` as people type it; the fetching itself is tested beside its library.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread;

use crate::support::{Ran, flashmill, run};

#[test]
fn names_that_are_none() {
    run(["pull", "not a name"]).fails_with(&["\"not a name\" is not the name of a repository", "org/name"]);
    run(["pull", "../secret/x"]).fails_with(&["is not the name of a repository"]);
    run(["run", "Org/Model", "-p", "x"]).fails_with(&["flashmill pull Org/Model"]);
}

/// A hub that answers each of these paths, and everything else with 404; it notes the tokens it is given.
fn hub(answers: Vec<(String, String)>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let hub = thread::spawn(move || {
        let mut tokens = Vec::new();
        // One request a connection, as the answer says.
        for stream in listener.incoming().take(answers.len()) {
            let mut stream = stream.expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
            let first = lines.next().expect("a request").expect("text");
            let path = first.split(' ').nth(1).expect("a path").to_owned();
            for header in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                tokens
                    .extend(header.to_lowercase().strip_prefix("authorization: bearer ").map(str::to_owned));
            }
            let answer = answers.iter().find(|(known, _)| *known == path);
            let (status, body) = answer.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body));
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .expect("the answer is taken");
        }
        tokens
    });
    (endpoint, hub)
}

#[test]
fn a_model_comes_into_the_cache_of_the_environment() {
    let (commit, blob) = ("c".repeat(40), "b".repeat(40));
    let tree = format!(
        "[{{\"type\": \"file\", \"path\": \"model.safetensors\", \"size\": 5, \"oid\": \"{blob}\"}}]"
    );
    let (endpoint, hub) = hub(vec![
        ("/api/models/Org/Model/revision/v1".to_owned(), format!("{{\"sha\": \"{commit}\"}}")),
        (format!("/api/models/Org/Model/tree/{commit}?recursive=true"), tree),
        (format!("/Org/Model/resolve/{commit}/model.safetensors"), "bytes".to_owned()),
    ]);
    let home = tempfile::tempdir().expect("a directory");
    let mut command = flashmill();
    command.args(["pull", "Org/Model", "--revision", "v1"]).env_remove("HF_HUB_CACHE");
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home.path()).env("HF_TOKEN", "hf_x");
    let ran = Ran::from(command.output().expect("the program starts"));
    let snapshot = home.path().join("hub/models--Org--Model/snapshots").join(&commit);
    assert_eq!(ran.success().trim_end(), snapshot.display().to_string());
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).expect("the file"), b"bytes");
    assert_eq!(hub.join().expect("the hub ends"), ["hf_x"; 3]);
}
