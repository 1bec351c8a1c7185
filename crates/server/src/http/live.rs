//! `/live`: what the page's panel shows, about twice a second.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::app::App;
use crate::answer::push_data;
use flashmill_engine::serving::{ExpertMap, ServingStats};

/// Between two events.
const EVERY: Duration = Duration::from_millis(500);

/// A body that goes on until the client or the server ends.
pub(super) struct LiveBody {
    app: Arc<App>,
    ticks: Interval,
    last: Option<(Instant, ServingStats)>,
}

impl LiveBody {
    pub(super) fn new(app: Arc<App>) -> LiveBody {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        LiveBody { app, ticks, last: None }
    }
}

impl HttpBody for LiveBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        let now = ready!(body.ticks.poll_tick(cx));
        if body.app.is_ending.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        let stats = body.app.scheduler.stats();
        let (then, before) = body.last.replace((now, stats)).unwrap_or((now, stats));
        let mut event = rates(&before, &stats, now.duration_since(then));
        let plan = body.app.scheduler.plan();
        event["slots"] = json!({"resident_share": plan.resident_share});
        event["experts"] = experts(&body.app.scheduler.experts());
        let mut out = String::new();
        push_data(&mut out, &event);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

/// What happened between two looks.
fn rates(before: &ServingStats, now: &ServingStats, time: Duration) -> Value {
    let seconds = time.as_secs_f64().max(1e-3);
    let store = now.store.since(&before.store);
    let generated = now.generated_tokens - before.generated_tokens;
    let read = now.prompt_tokens - before.prompt_tokens;
    let (picks, tokens) = (store.hits + store.misses, generated + read);
    json!({
        "tokens_per_second": generated as f64 / seconds,
        "prompt_tokens_per_second": read as f64 / seconds,
        "hit_rate": (picks > 0).then(|| store.hits as f64 / picks as f64),
        "bytes_per_token": (tokens > 0).then(|| store.bytes_from_device as f64 / tokens as f64),
        "running": now.running,
        "queued": now.queued,
    })
}

fn experts(map: &ExpertMap) -> Value {
    json!({"layers": map.n_layers, "experts": map.n_experts, "cells": base64(&map.cells)})
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            match digit <= group.len() {
                true => text.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize].into()),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        // RFC 4648, section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let before = ServingStats { generated_tokens: 10, prompt_tokens: 100, ..ServingStats::default() };
        let mut now = ServingStats { generated_tokens: 30, prompt_tokens: 180, running: 2, ..before };
        now.store.hits = 30;
        now.store.misses = 10;
        now.store.bytes_from_device = 5000;
        let rates = rates(&before, &now, Duration::from_secs(2));
        assert_eq!(rates["tokens_per_second"], 10.0);
        assert_eq!(rates["prompt_tokens_per_second"], 40.0);
        assert_eq!(rates["hit_rate"], 0.75);
        assert_eq!(rates["bytes_per_token"], 50.0);
        assert_eq!(rates["running"], 2);
    }
}
