//! Bodies of requests, bounded in bytes and in time.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::app::App;
use crate::error::{ApiError, ErrorKind};

/// A whole body, and its share of the memory for bodies.
pub(super) struct WholeBody {
    pub(super) bytes: Vec<u8>,
    pub(super) share: Vec<OwnedSemaphorePermit>,
}

/// Reads a body that says it is JSON.
pub(super) async fn read_body(app: &App, headers: &HeaderMap, body: Body) -> Result<WholeBody, ApiError> {
    check_type(headers)?;
    let limit = app.options.limits.body_bytes;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large(limit));
    }
    match timeout(app.options.limits.body_time, collect(app, body)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(ErrorKind::Slow, "the body did not arrive in time; send it again")),
    }
}

/// What is not said is taken for JSON. Web pages cannot send this type to another origin without asking first.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::MediaType,
        format!("the content type is {text:?}, expected application/json"),
    ))
}

async fn collect(app: &App, mut body: Body) -> Result<WholeBody, ApiError> {
    let limit = app.options.limits.body_bytes;
    let mut bytes = Vec::new();
    let mut share = Vec::new();
    let mut n_kib = 0;
    while let Some(chunk) = next_chunk(&mut body).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        let wanted = (bytes.len() + chunk.len()).div_ceil(1024);
        if wanted > n_kib {
            let more = u32::try_from(wanted - n_kib).unwrap_or(u32::MAX);
            let permit = Arc::clone(&app.body_kib).try_acquire_many_owned(more).map_err(|_| crowded())?;
            share.push(permit);
            n_kib = wanted;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(WholeBody { bytes, share })
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                // Trailers say nothing.
                Err(_) => continue,
            },
            Some(Err(error)) => {
                return Err(ApiError::new(ErrorKind::Invalid, format!("the body cannot be read: {error}")));
            }
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorKind::TooLarge,
        format!("the body is larger than the limit of {limit} bytes; shorten it"),
    )
}

fn crowded() -> ApiError {
    let message = "too many large requests are being read; try again in 1 s";
    ApiError { retry_after: Some(1), ..ApiError::new(ErrorKind::Unavailable, message) }
}
