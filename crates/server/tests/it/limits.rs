//! Who may ask, and how much: keys, hosts, origins, bodies, slow and vanishing clients, full queues, the end.

use std::time::Duration;

use flashmill_engine::serving::Request;
use flashmill_engine::{Prompt, SamplingOptions, SchedulerOptions};
use flashmill_server::{Limits, Server, ServerError, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Connection, ask, get, post, request};
use crate::support::{Served, Setup, endless, serve, shared, until};

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

fn with(change: impl FnOnce(&mut ServerOptions)) -> Served {
    let mut setup = Setup::default();
    change(&mut setup.server);
    serve(setup)
}

fn hello() -> Vec<u8> {
    json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}).to_string().into_bytes()
}

#[test]
fn keys() {
    let server = with(|options| options.api_key = Some("a-key".into()));
    let status = |path: &str, headers: &[(&str, &str)]| ask(server.address, "GET", path, headers, b"").status;
    assert_eq!(status("/v1/models", &[]), 401);
    assert_eq!(status("/v1/models", &[("authorization", "Bearer wrong")]), 401);
    assert_eq!(status("/v1/models", &[("authorization", "Bearer a-key")]), 200);
    assert_eq!(status("/v1/models", &[("x-api-key", "a-key")]), 200);
    for path in ["/metrics", "/live", "/v1/models/demo", "/v1/nothing", "/nothing"] {
        assert_eq!(status(path, &[]), 401, "{path}");
    }
    for path in ["/health", "/openapi.json"] {
        assert_eq!(status(path, &[]), 200, "{path}");
    }
    let refused = ask(server.address, "POST", "/v1/messages", &[JSON], &hello());
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    assert_eq!(ask(server.address, "POST", CHAT, &[JSON, ("x-api-key", "a-key")], &hello()).status, 200);
}

#[test]
fn an_open_address_needs_a_key() {
    let open = || ServerOptions { host: "0.0.0.0".into(), port: 0, ..ServerOptions::default() };
    assert!(matches!(Server::bind(open()), Err(ServerError::KeyNeeded { .. })));
    assert!(Server::bind(ServerOptions { api_key: Some("k".into()), ..open() }).is_ok());
    assert!(Server::bind(ServerOptions { allow_no_key: true, ..open() }).is_ok());
    let bad = ServerOptions { api_key: Some("a b".into()), ..open() };
    assert!(matches!(Server::bind(bad), Err(ServerError::Setting { .. })));
    let taken = ServerOptions { port: shared().address.port(), ..ServerOptions::default() };
    let message = Server::bind(taken).err().expect("taken").to_string();
    assert!(message.starts_with("cannot listen on 127.0.0.1:"), "{message}");
}

#[test]
fn hosts_and_origins() {
    let server = with(|options| options.cors = vec!["https://good.example".into()]);
    let status = |headers: &[(&str, &str)]| ask(server.address, "GET", "/v1/models", headers, b"").status;
    assert_eq!(status(&[("host", "evil.example")]), 403);
    assert_eq!(status(&[("host", "127.0.0.1:80")]), 200);
    assert_eq!(status(&[("origin", "https://evil.example")]), 403);
    assert_eq!(status(&[("origin", "null")]), 403);
    assert_eq!(status(&[("host", "localhost:1"), ("origin", "http://localhost:1")]), 200);
    let good = ask(server.address, "GET", "/v1/models", &[("origin", "https://good.example")], b"");
    assert_eq!(
        (good.status, good.header("access-control-allow-origin")),
        (200, Some("https://good.example"))
    );
    let preflight = [
        ("origin", "https://good.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type, x-api-key"),
    ];
    let allowed = ask(server.address, "OPTIONS", CHAT, &preflight, b"");
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-headers")),
        (204, Some("content-type, x-api-key"))
    );
    // Off by default.
    let closed = ask(shared().address, "GET", "/v1/models", &[("origin", "https://good.example")], b"");
    assert_eq!((closed.status, closed.header("access-control-allow-origin")), (403, None));
}

#[test]
fn names_that_point_here_from_outside() {
    // Without a key on every address, a page whose name was made to point here could ask.
    let open = with(|options| (options.host, options.allow_no_key) = ("0.0.0.0".into(), true));
    let keyed = with(|options| (options.host, options.api_key) = ("0.0.0.0".into(), Some("k".into())));
    let status = |server: &Served, host: &str| {
        let address = (std::net::Ipv4Addr::LOCALHOST, server.address.port()).into();
        ask(address, "GET", "/v1/models", &[("host", host), ("x-api-key", "k")], b"").status
    };
    for (host, expected) in
        [("192.168.0.7:80", 200), ("[fe80::1]:80", 200), ("localhost", 200), ("evil.example", 403)]
    {
        assert_eq!(status(&open, host), expected, "{host}");
        assert_eq!(status(&keyed, host), 200, "{host}");
    }
}

#[test]
fn paths_that_are_no_text() {
    for (path, headers) in [
        ("/v1/models/%ff", &[][..]),
        ("/v1/responses/%ff", &[]),
        ("/v1/models/%ff", &[("anthropic-version", "1")]),
    ] {
        let response = ask(shared().address, "GET", path, headers, b"");
        assert_eq!(
            (response.status, response.header("content-type")),
            (400, Some("application/json")),
            "{path}"
        );
        assert_eq!(response.json()["error"]["type"], "invalid_request_error", "{path}");
    }
}

#[test]
fn bodies_that_are_none() {
    let server = shared();
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"".to_vec(), 400),
        (b"{".to_vec(), 400),
        (b"\xff\xfe{}".to_vec(), 400),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (b"null".to_vec(), 400),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}".to_vec(), 400),
        (b"{\"messages\": 5, \"messages\": 6}".to_vec(), 400),
        (deep.into_bytes(), 400),
    ];
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"] {
        for (body, expected) in &cases {
            let response = ask(server.address, "POST", path, &[JSON], body);
            assert_eq!(response.status, *expected, "{path}: {}", response.text());
            assert!(response.json()["error"]["message"].is_string());
        }
        let mut connection = Connection::open(server.address);
        connection.send(
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", (8 << 20) + 1)
                .as_bytes(),
        );
        assert_eq!(connection.response().map(|response| response.status), Some(413), "{path}");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(ask(server.address, "POST", path, &form, b"a=b").status, 415, "{path}");
    }
    assert_eq!(get(server.address, "/health").status, 200);
}

#[test]
fn bodies_in_chunks_are_bounded_too() {
    let server = with(|options| options.limits.body_bytes = 1000);
    let mut connection = Connection::open(server.address);
    connection.send(
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
    );
    for _ in 0..3 {
        connection.send(b"190\r\n");
        connection.send(&[b' '; 0x190]);
        connection.send(b"\r\n");
    }
    assert_eq!(connection.response().map(|response| response.status), Some(413));
    let mut connection = Connection::open(server.address);
    let body = hello();
    connection.send(
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        )
        .as_bytes(),
    );
    connection.send(&body);
    connection.send(b"\r\n0\r\n\r\n");
    assert_eq!(connection.response().map(|response| response.status), Some(200));
}

#[test]
fn heads_that_are_none() {
    let server = shared();
    for head in [
        "nonsense\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000)),
    ] {
        let mut connection = Connection::open(server.address);
        connection.send(head.as_bytes());
        let status = connection.response().map(|response| response.status);
        assert!(matches!(status, None | Some(400 | 431 | 505)), "{status:?}");
    }
    assert_eq!(get(server.address, "/health").status, 200);
}

#[test]
fn slow_clients_are_given_up() {
    let server = with(|options| {
        options.limits.header_time = Duration::from_millis(200);
        options.limits.body_time = Duration::from_millis(200);
        options.limits.connections = 3;
    });
    // Half a head, and nothing at all.
    let mut half = Connection::open(server.address);
    half.send(b"POST /v1/messages HTTP/1.1\r\nhost: loc");
    let mut silent = Connection::open(server.address);
    assert!(matches!(half.response().map(|response| response.status), None | Some(408)));
    assert!(matches!(silent.response().map(|response| response.status), None | Some(408)));
    // A head without its body.
    let mut slow = Connection::open(server.address);
    slow.send(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{");
    let response = slow.response().expect("an answer");
    assert_eq!((response.status, &response.json()["type"]), (408, &json!("error")));
    drop(slow);
    until("the places are free again", || {
        let mut connection = Connection::open(server.address);
        connection.send(&request("GET", "/health", &[], b""));
        connection.response().is_some_and(|response| response.status == 200)
    });
}

#[test]
fn connections_are_bounded() {
    let server = with(|options| options.limits.connections = 1);
    let mut first = Connection::open(server.address);
    first.send(&request("GET", "/health", &[], b""));
    assert_eq!(first.response().map(|response| response.status), Some(200));
    let mut second = Connection::open(server.address);
    let refused = second.response().expect("an answer");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["error"]["type"], "server_error");
    drop(first);
    until("the place is free again", || {
        let mut connection = Connection::open(server.address);
        connection.send(&request("GET", "/health", &[], b""));
        connection.response().is_some_and(|response| response.status == 200)
    });
}

/// Starts an answer that does not end by itself, and waits for its first token.
fn begin(server: &Served) -> Connection {
    let mut body = endless();
    body["stream"] = true.into();
    let mut connection = Connection::open(server.address);
    connection.send(&request("POST", "/v1/completions", &[JSON], body.to_string().as_bytes()));
    assert_eq!(connection.head().expect("a head").status, 200);
    connection.chunk().expect("a token");
    connection
}

#[test]
fn a_client_that_goes_away_ends_its_work() {
    let server = serve(Setup { context: 8192, ..Setup::default() });
    let connection = begin(&server);
    until("it runs", || server.scheduler.stats().running == 1);
    drop(connection);
    until("the streamed answer ends", || server.scheduler.stats().cancelled == 1);
    // The same for an answer that is waited for as a whole.
    let mut whole = Connection::open(server.address);
    whole.send(&request("POST", "/v1/completions", &[JSON], endless().to_string().as_bytes()));
    until("the answer begins", || server.scheduler.stats().running == 1);
    drop(whole);
    until("the whole answer ends", || server.scheduler.stats().cancelled == 2);
    assert_eq!((server.scheduler.stats().finished, server.scheduler.stats().running), (0, 0));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let scheduler = SchedulerOptions { max_queue: 1, ..SchedulerOptions::default() };
    let server = serve(Setup { sessions: 1, context: 8192, scheduler, ..Setup::default() });
    let running = begin(&server);
    let mut waiting = Connection::open(server.address);
    waiting.send(&request("POST", CHAT, &[JSON], &hello()));
    until("one waits", || server.scheduler.stats().queued == 1);
    for (path, kind) in [(CHAT, "rate_limit_error"), ("/v1/messages", "rate_limit_error")] {
        let refused = ask(server.address, "POST", path, &[JSON], &hello());
        assert_eq!((refused.status, &refused.json()["error"]["type"]), (429, &json!(kind)), "{path}");
        let seconds: u64 =
            refused.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
        assert!((1..=600).contains(&seconds));
    }
    drop(running);
    assert_eq!(waiting.response().map(|response| response.status), Some(200));
}

#[test]
fn an_answer_may_only_take_so_long() {
    let server = serve(Setup {
        context: 8192,
        server: ServerOptions {
            port: 0,
            limits: Limits { answer_time: Duration::from_millis(300), ..Limits::default() },
            ..ServerOptions::default()
        },
        ..Setup::default()
    });
    let whole = post(server.address, "/v1/completions", &endless());
    assert_eq!((whole.status, &whole.json()["error"]["type"]), (503, &json!("server_error")));
    let mut body = endless();
    body["stream"] = true.into();
    let streamed = post(server.address, "/v1/completions", &body).events();
    let last: Value = serde_json::from_str(&streamed.last().expect("events").1).expect("JSON");
    assert!(last["error"]["message"].as_str().is_some_and(|message| message.contains("longer than it may")));
    until("the work ends", || server.scheduler.stats().running == 0);
}

#[test]
fn running_answers_end_before_the_server_does() {
    let mut server = serve(Setup::default());
    let mut running = begin(&server);
    server.stop();
    until("no new connections", || std::net::TcpStream::connect(server.address).is_err());
    let mut text = String::new();
    while let Some(chunk) = running.chunk() {
        text += &String::from_utf8(chunk).expect("UTF-8");
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "the answer went on to its end: {text:?}");
    assert!(text.contains("\"finish_reason\":\"length\""));
    server.join().expect("the server ends well");
}

#[test]
fn a_server_whose_scheduler_has_panicked_ends() {
    let mut server = serve(Setup::default());
    let request = Request {
        prompt: Prompt::of_tokens(vec![5, 6, 7]),
        n: 1,
        sampling: SamplingOptions::greedy(),
        constraint: None,
        stops: Vec::new(),
        max_tokens: Some(5),
        logprobs: None,
    };
    server.scheduler.submit(request, Box::new(|_| panic!("a test"))).expect("there is a place");
    let error = server.join().expect_err("nobody is there to answer");
    assert!(matches!(error, ServerError::SchedulerFailed), "{error}");
}

#[test]
fn a_stream_that_never_began_has_the_status_of_its_error() {
    let server = serve(Setup { sessions: 1, context: 8192, ..Setup::default() });
    let _running = begin(&server);
    let mut waiting = Connection::open(server.address);
    let mut body: Value = serde_json::from_slice(&hello()).expect("JSON");
    body["stream"] = true.into();
    waiting.send(&request("POST", "/v1/messages", &[JSON], body.to_string().as_bytes()));
    until("one waits", || server.scheduler.stats().queued == 1);
    server.stop();
    let refused = waiting.response().expect("an answer");
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &json!("overloaded_error")));
}

#[test]
fn told_twice_the_server_ends_at_once() {
    let mut server = serve(Setup { context: 8192, ..Setup::default() });
    let mut running = begin(&server);
    server.stop();
    server.stop();
    server.join().expect("the server ends well");
    while running.line().is_some() {}
}

#[test]
fn requests_on_one_connection() {
    let mut connection = Connection::open(shared().address);
    for _ in 0..3 {
        connection.send(&request("POST", CHAT, &[JSON], &hello()));
        assert_eq!(connection.response().map(|response| response.status), Some(200));
    }
}
