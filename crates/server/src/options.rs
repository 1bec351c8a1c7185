//! How the server listens and what it bounds.

use std::time::Duration;

use crate::error::ServerError;

/// How a model is served. Built by the program, passed down whole.
#[derive(Clone)]
pub struct ServerOptions {
    /// A name or an address to listen on.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The name of the model in answers and lists.
    pub model: String,
    /// What clients must send as `Authorization: Bearer ..` or `x-api-key`.
    pub api_key: Option<String>,
    /// An address that others can reach may go without a key.
    pub allow_no_key: bool,
    /// Origins whose web pages may ask, such as `https://example.org`; `*` is all.
    pub cors: Vec<String>,
    /// Hold calls that the model begins of its own accord to their tool's schema too, not only those that a request asks for.
    pub tool_grammar: bool,
    /// What is bounded.
    pub limits: Limits,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            host: "127.0.0.1".into(),
            port: 8080,
            model: "model".into(),
            api_key: None,
            allow_no_key: false,
            cors: Vec::new(),
            tool_grammar: false,
            limits: Limits::default(),
        }
    }
}

impl ServerOptions {
    /// An error that names the first setting that is none.
    pub fn check(&self) -> Result<(), ServerError> {
        let setting =
            |name, value: &str, expected| ServerError::Setting { name, value: value.to_owned(), expected };
        if let Some(key) = &self.api_key
            && (key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            // The key itself is not repeated.
            return Err(setting("--api-key", "..", "visible ASCII characters, no spaces"));
        }
        for origin in &self.cors {
            let is_origin =
                origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
            if origin != "*" && !is_origin {
                return Err(setting(
                    "--cors",
                    origin,
                    "an origin such as https://example.org, without a path, or *",
                ));
            }
        }
        Ok(())
    }
}

/// Bounds on what clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read or translated.
    pub all_bodies_bytes: usize,
    /// Connections at the same time.
    pub connections: usize,
    /// Bytes of the head of a request.
    pub header_bytes: usize,
    /// Until the head of a request is there, the wait for the next request on an open connection included.
    pub header_time: Duration,
    /// Until the body is there.
    pub body_time: Duration,
    /// Until an answer is over.
    pub answer_time: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_time: Duration,
    /// Between signs of life on a stream that is silent.
    pub ping_time: Duration,
    /// How long running answers may go on when the server ends.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 8 << 20,
            all_bodies_bytes: 16 << 20,
            connections: 256,
            header_bytes: 64 << 10,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
            answer_time: Duration::from_secs(3600),
            write_time: Duration::from_secs(60),
            ping_time: Duration::from_secs(10),
            grace: Duration::from_secs(30),
        }
    }
}
