//! Who may ask: hosts, origins and keys, before anything is read.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::app::App;
use super::reply::{self, shape_of};
use crate::error::{ApiError, ErrorKind};

/// Paths that need no key: the page, which asks for the key, and what says nothing about anybody.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/openapi.json") || (!path.starts_with("/v1") && is_asset(path))
}

fn is_asset(path: &str) -> bool {
    path.ends_with(".js") || path.ends_with(".css")
}

/// Lets a request through, or answers it.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let shape = shape_of(request.uri(), request.headers());
    let origin = request.headers().get(ORIGIN).cloned();
    let id = app.heads.id();
    let mut response = match check(&app, &request) {
        Err(error) => reply::error(&error, shape),
        Ok(()) if is_preflight(&request) => preflight(&request),
        Ok(()) => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin.filter(|origin| is_listed(&app, origin)) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("request-id, x-request-id, retry-after, x-flashmill-cache-aware"),
        );
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&format!("req_{id}")) {
        headers.insert("x-request-id", id.clone());
        headers.insert("request-id", id);
    }
    if let Some(share) = &app.cache_aware {
        // An answer may be of other experts than those that the model picks by itself.
        headers.insert("x-flashmill-cache-aware", share.clone());
    }
    let class = match response.status().as_u16() {
        ..400 => 0,
        400..500 => 1,
        _ => 2,
    };
    app.counters.responses[class].fetch_add(1, Ordering::Relaxed);
    response
}

fn check(app: &App, request: &Request) -> Result<(), ApiError> {
    let (headers, uri) = (request.headers(), request.uri());
    let host = host_of(uri, headers);
    // Where a key is asked for, the page that tricks a browser has none.
    let is_good = |host: &str| match (app.is_loopback, &app.options.api_key) {
        (true, _) => is_local(host, &app.options.host),
        (false, None) => is_local(host, &app.options.host) || without_port(host).parse::<IpAddr>().is_ok(),
        (false, Some(_)) => true,
    };
    if host.as_deref().is_some_and(|host| !is_good(host)) {
        let message =
            "this host name is not this server's; ask for its IP address or localhost, or serve with --host";
        return Err(ApiError::new(ErrorKind::Forbidden, message));
    }
    if let Some(origin) = headers.get(ORIGIN)
        && !is_listed(app, origin)
        && !is_own(origin, host.as_deref())
    {
        let message = "web pages of this origin may not ask; allow it with --cors";
        return Err(ApiError::new(ErrorKind::Forbidden, message));
    }
    match &app.options.api_key {
        Some(key) if !is_preflight(request) && !is_open(uri.path()) => check_key(key, headers),
        _ => Ok(()),
    }
}

fn check_key(key: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, key) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
    });
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    let message = match given {
        Some(given) if bool::from(given.ct_eq(key.as_bytes())) => return Ok(()),
        Some(_) => "the API key is wrong",
        None => "the API key is missing; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
    };
    Err(ApiError::new(ErrorKind::Unauthorized, message).with_code("invalid_api_key"))
}

/// The host that the client thinks it speaks to, with its port.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let header = || Some(headers.get(HOST)?.to_str().unwrap_or("?").to_owned());
    uri.authority().map(|authority| authority.as_str().to_owned()).or_else(header)
}

/// A name of this machine itself. Another one that points here was made to trick a browser (DNS rebinding).
fn is_local(host: &str, own: &str) -> bool {
    let name = without_port(host);
    let is_loopback = |name: &str| name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.eq_ignore_ascii_case(own)
        || is_loopback(name)
}

/// `[::1]:8080` to `::1`, `localhost:8080` to `localhost`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or("");
    }
    host.split(':').next().unwrap_or("")
}

/// A page of this server itself asks.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let authority =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
}

fn is_listed(app: &App, origin: &HeaderValue) -> bool {
    app.options.cors.iter().any(|listed| listed == "*" || listed.as_bytes() == origin.as_bytes())
}

fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(request: &Request) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    if let Some(wanted) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "a.localhost:1",
            "box:3",
        ] {
            assert!(is_local(host, "box"), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8080",
            "10.0.0.1",
            "",
            "?",
            "[::2]:1",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_local(host, "127.0.0.1"), "{host}");
        }
    }

    #[test]
    fn origins_of_the_page_itself() {
        let is = |origin: &'static str, host| is_own(&HeaderValue::from_static(origin), Some(host));
        assert!(is("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(!is("http://127.0.0.1:8081", "127.0.0.1:8080"));
        assert!(!is("null", "127.0.0.1:8080"));
        assert!(!is("https://evil.example", "127.0.0.1:8080"));
    }

    #[test]
    fn keys() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            check_key("secret", &headers)
        };
        assert!(with("authorization", "Bearer secret").is_ok());
        assert!(with("authorization", "bearer secret ").is_ok());
        assert!(with("x-api-key", "secret").is_ok());
        for (name, value) in [
            ("authorization", "secret"),
            ("authorization", "Bearer secre"),
            ("authorization", "Bearer secrets"),
            ("authorization", "Bearer "),
            ("authorization", "Basic secret"),
            ("x-api-key", "Secret"),
            ("other", "secret"),
        ] {
            assert_eq!(with(name, value).expect_err(value).kind, ErrorKind::Unauthorized, "{name}: {value}");
        }
    }
}
