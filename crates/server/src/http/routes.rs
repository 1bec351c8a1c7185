//! What can be asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::app::App;
use super::body::{WholeBody, read_body};
use super::guard::guard;
use super::live::LiveBody;
use super::reply::{self, shape_of};
use super::stream::{AnswerBody, events};
use crate::answer::{AnswerEvent, Head, Outcome, Reply};
use crate::error::{ApiError, ErrorKind, Shape};
use crate::feed::Feed;
use crate::job::Job;
use crate::{anthropic, metrics, openai, openapi, page, work};

type Shared = State<Arc<App>>;

/// How an API reads a body.
type Parse<R> = fn(&[u8], Head) -> Result<(Job, R), ApiError>;

/// All routes, with what guards them.
pub(super) fn router(app: Arc<App>) -> Router {
    let router = Router::new()
        .route("/v1/chat/completions", only_post(post(chat)))
        .route("/v1/completions", only_post(post(completions)))
        .route("/v1/responses", only_post(post(responses)))
        .route("/v1/responses/{id}", get(stored).delete(stored).fallback(only_get_and_delete))
        .route("/v1/messages", only_post(post(messages)))
        .route("/v1/messages/count_tokens", only_post(post(count_tokens)))
        .route("/v1/embeddings", only_post(post(embeddings)))
        .route("/v1/models", only_get(get(models)))
        .route("/v1/models/{*id}", only_get(get(model)))
        .route("/health", only_get(get(health)))
        .route("/metrics", only_get(get(prometheus)))
        .route("/openapi.json", only_get(get(document)))
        .route("/live", only_get(get(live)));
    let router = page::FILES
        .iter()
        .fold(router, |router, file| router.route(file.path, only_get(get(async move || reply::file(file)))));
    router.fallback(nothing_here).layer(from_fn_with_state(Arc::clone(&app), guard)).with_state(app)
}

fn only_post(route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    route.fallback(async |uri: Uri, headers: HeaderMap| reply::wrong_method(shape_of(&uri, &headers), "POST"))
}

fn only_get(route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    route.fallback(async |uri: Uri, headers: HeaderMap| {
        reply::wrong_method(shape_of(&uri, &headers), "GET, HEAD")
    })
}

async fn only_get_and_delete() -> Response {
    reply::wrong_method(Shape::OpenAi, "GET, HEAD, DELETE")
}

async fn nothing_here(uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("there is nothing at {}; GET /openapi.json lists what there is", uri.path());
    reply::error(&ApiError::new(ErrorKind::NotFound, message), shape_of(&uri, &headers))
}

async fn chat(State(app): Shared, request: Request) -> Response {
    respond(Shape::OpenAi, answer(app, request, openai::chat::parse).await)
}

async fn completions(State(app): Shared, request: Request) -> Response {
    respond(Shape::OpenAi, answer(app, request, openai::completions::parse).await)
}

async fn responses(State(app): Shared, request: Request) -> Response {
    respond(Shape::OpenAi, answer(app, request, openai::responses::parse).await)
}

async fn messages(State(app): Shared, request: Request) -> Response {
    respond(Shape::Anthropic, answer(app, request, anthropic::messages::parse).await)
}

fn respond(shape: Shape, result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(|error| reply::error(&error, shape))
}

/// Reads, translates, submits, and answers as a stream or as a whole.
async fn answer<R: Reply + 'static>(
    app: Arc<App>,
    request: Request,
    parse: Parse<R>,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + app.options.limits.answer_time;
    let (parts, body) = request.into_parts();
    let body = read_body(&app, &parts.headers, body).await?;
    let head = app.heads.next(&app.options.model);
    let shared = Arc::clone(&app);
    let (mut feed, reply, is_stream) = blocking(deadline, move || {
        let WholeBody { bytes, share } = body;
        let (job, reply) = parse(&bytes, head)?;
        drop(bytes);
        let is_stream = job.stream;
        let feed = work::submit(&shared.scheduler, &shared.forms, job)?;
        // What was read from the body takes memory until here.
        drop(share);
        Ok((feed, reply, is_stream))
    })
    .await?;
    if is_stream {
        let ping_time = app.options.limits.ping_time;
        // A failure before the first event still has its status.
        if let Ok(begun) = timeout(ping_time, feed.begin()).await {
            begun?;
        }
        return Ok(events(AnswerBody::new(feed, Box::new(reply), ping_time, deadline)));
    }
    match timeout_at(deadline, whole(feed)).await {
        Ok(outcome) => Ok(reply::json(&reply.whole(&outcome?))),
        Err(_) => Err(too_slow()),
    }
}

fn too_slow() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, "the answer took longer than it may")
}

/// If the client goes away, this is dropped, and with it the work.
async fn whole(mut feed: Feed) -> Result<Outcome, ApiError> {
    let mut outcome = Outcome::new(feed.n_answers());
    while let Some(event) = feed.next().await {
        match event {
            AnswerEvent::Failed(error) => return Err(error),
            event => outcome.add(event),
        }
    }
    Ok(outcome)
}

/// Runs what takes a while away from the threads of the connections. What is not done in time goes on to its end unheard.
async fn blocking<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match timeout_at(deadline, spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            Err(ApiError::new(ErrorKind::Internal, "the request could not be worked on; this is a bug"))
        }
        Err(_) => Err(too_slow()),
    }
}

async fn count_tokens(State(app): Shared, request: Request) -> Response {
    let count = async {
        let deadline = Instant::now() + app.options.limits.answer_time;
        let (parts, body) = request.into_parts();
        let body = read_body(&app, &parts.headers, body).await?;
        let text = Arc::clone(app.scheduler.text());
        let n = blocking(deadline, move || {
            let chat = anthropic::messages::parse_count(&body.bytes)?;
            Ok(work::chat_prompt(&text, &chat)?.tokens.len())
        });
        Ok(reply::json(&json!({"input_tokens": n.await?})))
    };
    respond(Shape::Anthropic, count.await)
}

async fn embeddings() -> Response {
    let message = "embeddings are not supported: this server runs models that write text";
    reply::error(&ApiError::new(ErrorKind::NotFound, message).with_code("not_supported"), Shape::OpenAi)
}

/// The end of a path.
type Id = Result<Path<String>, PathRejection>;

/// The framework's own words would be plain text.
fn bad_path(rejection: &PathRejection, shape: Shape) -> Response {
    reply::error(&ApiError::new(ErrorKind::Invalid, rejection.body_text()), shape)
}

async fn stored(id: Id) -> Response {
    let Path(id) = match id {
        Ok(id) => id,
        Err(rejection) => return bad_path(&rejection, Shape::OpenAi),
    };
    let message = format!("there is no response {id:?}: responses are not stored");
    reply::error(&ApiError::new(ErrorKind::NotFound, message), Shape::OpenAi)
}

/// The model in the words of both APIs.
fn model_json(app: &App) -> Value {
    let created = crate::ids::rfc3339(app.created);
    json!({
        "id": app.options.model, "object": "model", "created": app.created, "owned_by": "flashmill",
        "type": "model", "display_name": app.options.model, "created_at": created,
        "max_model_len": app.scheduler.plan().context, "cache_aware": app.scheduler.plan().cache_aware,
    })
}

async fn models(State(app): Shared) -> Response {
    let id = &app.options.model;
    reply::json(&json!({
        "object": "list", "data": [model_json(&app)], "has_more": false, "first_id": id, "last_id": id,
    }))
}

async fn model(State(app): Shared, id: Id, uri: Uri, headers: HeaderMap) -> Response {
    let Path(id) = match id {
        Ok(id) => id,
        Err(rejection) => return bad_path(&rejection, shape_of(&uri, &headers)),
    };
    if id == app.options.model {
        return reply::json(&model_json(&app));
    }
    let message = format!("there is no model {id:?}; this server has {:?}", app.options.model);
    let error = ApiError::new(ErrorKind::NotFound, message).with_code("model_not_found");
    reply::error(&error, shape_of(&uri, &headers))
}

async fn health(State(app): Shared) -> Response {
    if app.is_ending.load(Ordering::Relaxed) {
        let error = ApiError::new(ErrorKind::Unavailable, "the server is shutting down");
        return reply::error(&error, Shape::OpenAi);
    }
    if !app.scheduler.is_working() {
        let error = ApiError::new(ErrorKind::Unavailable, "the model's thread has ended; restart the server");
        return reply::error(&error, Shape::OpenAi);
    }
    reply::json(&json!({"status": "ok"}))
}

async fn prometheus(State(app): Shared) -> Response {
    let text =
        metrics::text(&app.scheduler.stats(), &app.counters.snapshot(), app.scheduler.plan().cache_aware);
    reply::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Body::from(text))
}

async fn document(State(app): Shared) -> Response {
    reply::json(&openapi::document(app.scheduler.plan().sessions))
}

async fn live(State(app): Shared) -> Response {
    events(LiveBody::new(app))
}
