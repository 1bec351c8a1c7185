"""What no client package shows: paths, methods, bodies that are none, headers, the document, the feed of the page."""

import json

import pytest

from conftest import LOCKED_KEY, LOCKED_ROOT

POLICY = ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
          "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]


def test_health_and_metrics(http):
    assert http.get("/health").status_code == 200
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for line in metrics.text.splitlines():
        if not line.startswith("#") and line:
            float(line.rsplit(" ", 1)[1])


def test_unknown_paths_and_methods(http):
    answer = http.get("/v1/nothing")
    assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.get("/../../etc/passwd").status_code == 404


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": 5}', b'{"a":' * 200_000, b"[" * 100_000])
def test_bodies_that_are_no_requests(http, path, body):
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["message"]
    assert http.get("/health").status_code == 200


def test_other_origins_are_not_let_in(http):
    answer = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]}, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_page(http):
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    for rule in POLICY:
        assert rule in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text and " style=" not in page.text and " onclick=" not in page.text


def test_openapi_document_names_every_path(http):
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {*POSTS, "/v1/models", "/health", "/metrics"} <= set(document["paths"])


def test_live_feed(http):
    with http.stream("GET", "/live") as feed:
        assert feed.headers["content-type"].startswith("text/event-stream")
        line = next(line for line in feed.iter_lines() if line.startswith("data:"))
    sample = json.loads(line[5:])
    assert {"tokens_per_second", "prompt_tokens_per_second", "hit_rate", "bytes_per_token", "running", "queued", "slots", "experts"} <= set(sample)
    assert sample["experts"]["layers"] > 0 and sample["experts"]["experts"] > 0


@pytest.mark.parametrize("path", ["/v1/models", "/live", "/metrics"])
def test_locked_without_a_key(http, path):
    answer = http.get(LOCKED_ROOT + path)
    assert answer.status_code == 401
    with http.stream("GET", LOCKED_ROOT + path, headers={"authorization": f"Bearer {LOCKED_KEY}"}) as answer:
        assert answer.status_code == 200
