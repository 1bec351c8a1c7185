//! Requests with time-outs, and the one place that decides what is worth another attempt.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Response;

use crate::{PullError, PullOptions, Repo};

/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A connection pool to a hub.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: String,
    token: Option<String>,
    repo: String,
    attempts: u32,
    backoff: Duration,
}

/// Why an attempt failed.
pub(crate) enum Failure {
    /// The next may do better, not before the given time.
    Again(String, Option<Duration>),
    /// It will not.
    Final(PullError),
}

/// An answer, and the body that is still to be read.
pub(crate) type Answer = Response<ureq::Body>;

impl Client {
    pub(crate) fn new(repo: &Repo, options: &PullOptions) -> Client {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("flashmill/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .max_idle_connections_per_host(options.connections)
            .build()
            .new_agent();
        Client {
            agent,
            endpoint: options.endpoint.trim_end_matches('/').to_owned(),
            token: options.token.clone(),
            repo: repo.id(),
            attempts: options.attempts.max(1),
            backoff: options.backoff,
        }
    }

    /// One request; `range` is the first byte and the byte after the last. Statuses below 300 only.
    pub(crate) fn get(&self, url: &str, range: Option<(u64, u64)>) -> Result<Answer, Failure> {
        let mut request = self.agent.get(url);
        // The agent drops it when the hub redirects to another host.
        if let Some(token) = &self.token
            && url.starts_with(&self.endpoint)
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some((first, end)) = range {
            request = request.header("range", format!("bytes={first}-{}", end - 1));
        }
        let answer = request.call().map_err(|error| classify(url, &error))?;
        let (status, url) = (answer.status().as_u16(), url.to_owned());
        match status {
            200..300 => Ok(answer),
            401 | 403 => Err(Failure::Final(PullError::Forbidden { url, status, repo: self.repo.clone() })),
            404 | 410 => Err(Failure::Final(PullError::NotFound { url })),
            408 | 425 | 429 | 500.. => {
                let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let wait = wait.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
                Err(Failure::Again(format!("the hub answers {status}"), wait))
            }
            _ => Err(Failure::Final(PullError::Status { url, status })),
        }
    }

    /// A whole small answer, at most `limit` bytes, with its headers' `link`.
    pub(crate) fn text(&self, url: &str, limit: u64) -> Result<(Vec<u8>, Option<String>), PullError> {
        let mut patience = self.patience(url);
        loop {
            let attempt = || -> Result<_, Failure> {
                let mut answer = self.get(url, None)?;
                let link =
                    answer.headers().get("link").and_then(|value| value.to_str().ok().map(str::to_owned));
                let mut bytes = Vec::new();
                let mut body = answer.body_mut().as_reader().take(limit + 1);
                body.read_to_end(&mut bytes).map_err(|error| Failure::Again(error.to_string(), None))?;
                if bytes.len() as u64 > limit {
                    let reason = format!("it has more than {limit} bytes");
                    return Err(Failure::Final(PullError::Answer { url: url.to_owned(), reason }));
                }
                Ok((bytes, link))
            };
            match attempt() {
                Ok(found) => return Ok(found),
                Err(failure) => patience.after(failure, false)?,
            }
        }
    }

    /// `org/name`.
    pub(crate) fn repo(&self) -> &str {
        &self.repo
    }

    /// Counts the attempts at one thing.
    pub(crate) fn patience(&self, url: &str) -> Patience<'_> {
        Patience { client: self, url: url.to_owned(), failed: 0 }
    }
}

/// Attempts without progress so far.
pub(crate) struct Patience<'a> {
    client: &'a Client,
    url: String,
    failed: u32,
}

impl Patience<'_> {
    /// Waits before the next attempt, or says why there is none. An attempt that made progress starts the count anew.
    pub(crate) fn after(&mut self, failure: Failure, progress: bool) -> Result<(), PullError> {
        let (reason, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(reason, asked) => (reason, asked),
        };
        self.failed = if progress { 1 } else { self.failed + 1 };
        if self.failed >= self.client.attempts {
            let (url, attempts) = (self.url.clone(), self.failed);
            return Err(PullError::GaveUp { url, attempts, reason });
        }
        let doubled = self.client.backoff.saturating_mul(1 << (self.failed - 1).min(16));
        thread::sleep(doubled.max(asked.unwrap_or_default()).min(MAX_BACKOFF));
        Ok(())
    }
}

/// Which errors of the transport may pass.
fn classify(url: &str, error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            let reason = error.to_string();
            Failure::Final(PullError::Answer { url: url.to_owned(), reason })
        }
        other => Failure::Again(other.to_string(), None),
    }
}

/// A path as a URL writes it.
pub(crate) fn escaped(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into())
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
