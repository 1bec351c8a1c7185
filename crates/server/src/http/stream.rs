//! Answers as server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::{AnswerEvent, Reply};
use crate::error::{ApiError, ErrorKind};
use crate::feed::Feed;

/// Bytes after which a chunk is sent; what comes while the client is busy goes out together.
const FULL: usize = 16 << 10;

/// A response that goes on until its body ends.
pub(super) fn events(
    body: impl HttpBody<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would hold the events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The body of a streamed answer. Dropping it, which the end of its connection does, ends the work.
pub(super) struct AnswerBody {
    feed: Feed,
    reply: Box<dyn Reply>,
    ping_time: Duration,
    ping: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    is_over: bool,
}

impl AnswerBody {
    pub(super) fn new(
        feed: Feed,
        reply: Box<dyn Reply>,
        ping_time: Duration,
        deadline: Instant,
    ) -> AnswerBody {
        AnswerBody {
            feed,
            reply,
            ping_time,
            ping: Box::pin(sleep_until(Instant::now() + ping_time)),
            deadline: Box::pin(sleep_until(deadline)),
            is_over: false,
        }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        let body = self.get_mut();
        if body.is_over {
            return Poll::Ready(None);
        }
        let mut out = String::new();
        if body.deadline.as_mut().poll(cx).is_ready() {
            body.is_over = true;
            let error = ApiError::new(ErrorKind::Unavailable, "the answer took longer than it may");
            body.reply.stream(&AnswerEvent::Failed(error), &mut out);
        } else {
            while out.len() < FULL {
                match body.feed.poll_next(cx) {
                    Poll::Ready(Some(event)) => body.reply.stream(&event, &mut out),
                    Poll::Ready(None) => {
                        body.is_over = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        if out.is_empty() && !body.is_over && body.ping.as_mut().poll(cx).is_ready() {
            out.push_str(body.reply.ping());
        }
        if !out.is_empty() {
            body.ping.as_mut().reset(Instant::now() + body.ping_time);
            return Poll::Ready(Some(Ok(Frame::data(out.into()))));
        }
        if body.is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}
