//! What a client is told instead of an answer, in the words of each API.

use serde_json::{Value, json};

/// An error with its status, before it is put into an API's own shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// What went wrong, as a class.
    pub kind: ErrorKind,
    /// For people: what, where, what to do next.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<&'static str>,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u64>,
}

/// Classes of errors; each has one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// The key is missing or wrong.
    Unauthorized,
    /// The host or origin may not ask.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path is right, the method is not.
    Method,
    /// The client took too long to send its request.
    Slow,
    /// The body is larger than the limit.
    TooLarge,
    /// The body is not said to be JSON.
    MediaType,
    /// Too many requests wait already.
    Busy,
    /// A fault of ours.
    Internal,
    /// Shutting down, or out of time.
    Unavailable,
}

/// Whose words an error is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`.
    Anthropic,
}

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            ErrorKind::Invalid => 400,
            ErrorKind::Unauthorized => 401,
            ErrorKind::Forbidden => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::Method => 405,
            ErrorKind::Slow => 408,
            ErrorKind::TooLarge => 413,
            ErrorKind::MediaType => 415,
            ErrorKind::Busy => 429,
            ErrorKind::Internal => 500,
            ErrorKind::Unavailable => 503,
        }
    }

    fn openai(self) -> &'static str {
        match self {
            ErrorKind::Unauthorized => "authentication_error",
            ErrorKind::Forbidden => "permission_error",
            ErrorKind::Busy => "rate_limit_error",
            ErrorKind::Internal | ErrorKind::Unavailable => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic(self) -> &'static str {
        match self {
            ErrorKind::Unauthorized => "authentication_error",
            ErrorKind::Forbidden => "permission_error",
            ErrorKind::NotFound => "not_found_error",
            ErrorKind::TooLarge => "request_too_large",
            ErrorKind::Busy => "rate_limit_error",
            ErrorKind::Internal => "api_error",
            ErrorKind::Unavailable => "overloaded_error",
            _ => "invalid_request_error",
        }
    }
}

impl ApiError {
    /// An error of a class.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// A field of the request is wrong.
    pub fn field(param: impl Into<String>, problem: impl std::fmt::Display) -> ApiError {
        let param = param.into();
        let message = format!("{param}: {problem}");
        ApiError { param: Some(param), ..ApiError::new(ErrorKind::Invalid, message) }
    }

    /// The same with a code for programs.
    pub fn with_code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// The body in an API's shape.
    pub fn body(&self, shape: Shape) -> Value {
        match shape {
            Shape::OpenAi => json!({"error": {
                "message": self.message, "type": self.kind.openai(), "param": self.param, "code": self.code,
            }}),
            Shape::Anthropic => json!({"type": "error", "error": {
                "type": self.kind.anthropic(), "message": self.message,
            }}),
        }
    }
}

/// What the server itself cannot do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; give another --port or --host")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// An address that others can reach, without a key.
    #[error(
        "{address} can be reached from other machines; set a key with --api-key or FLASHMILL_API_KEY, or say --no-api-key"
    )]
    KeyNeeded {
        /// The address.
        address: String,
    },
    /// A setting that is none.
    #[error("{name} is {value:?}, expected {expected}")]
    Setting {
        /// Its flag.
        name: &'static str,
        /// As given.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// No threads.
    #[error("cannot start the server: {0}")]
    Runtime(std::io::Error),
    /// The thread that owns the model has panicked; it has said why.
    #[error(
        "the scheduler has failed, so that nothing can be answered any more; start again, and report what is above"
    )]
    SchedulerFailed,
}
