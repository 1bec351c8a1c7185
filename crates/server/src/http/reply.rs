//! Responses: JSON and errors, with the headers that every answer has.

use axum::body::Body;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde_json::Value;

use crate::error::{ApiError, ErrorKind, Shape};
use crate::page::PageFile;

/// JSON with status 200.
pub(super) fn json(value: &Value) -> Response {
    with_type(StatusCode::OK, "application/json", Body::from(value.to_string()))
}

/// A response of a type that nobody keeps.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What the page may do: load its own files and ask this server, nothing else, and be shown in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
pub(super) fn file(file: &PageFile) -> Response {
    let mut response = with_type(StatusCode::OK, file.kind, Body::from(file.text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// An error in an API's shape.
pub(super) fn error(error: &ApiError, shape: Shape) -> Response {
    let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, "application/json", Body::from(error.body(shape).to_string()));
    let headers = response.headers_mut();
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    match error.kind {
        ErrorKind::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of the body is not waited for.
        ErrorKind::TooLarge | ErrorKind::Slow | ErrorKind::MediaType => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

/// A method that a path does not know.
pub(super) fn wrong_method(shape: Shape, allowed: &'static str) -> Response {
    let message = format!("this method is not allowed here; use {allowed}");
    let mut response = error(&ApiError::new(ErrorKind::Method, message), shape);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Whose clients ask.
pub(super) fn shape_of(uri: &Uri, headers: &HeaderMap) -> Shape {
    if uri.path().starts_with("/v1/messages") || headers.contains_key("anthropic-version") {
        Shape::Anthropic
    } else {
        Shape::OpenAi
    }
}
