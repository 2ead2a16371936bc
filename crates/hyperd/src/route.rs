//! Which handler answers which request.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::header::{HeaderValue, LOCATION, SERVER};
use hyper::{Method, StatusCode};

use crate::api::{
    archive, attach, container, create, events, exec, image, image_push, image_transfer, inspect, logs,
    networks, pod, pod_watch, stats, system, template, update, volume,
};
use crate::http::{ApiError, Query, Reply, Request, Result, decode, empty};
use crate::path::{API_VERSION, check_query, cleaned, is_path, split_version};
use crate::server::App;

/// Most bytes of a body that nobody reads.
const DISCARDED_MAX: usize = 1 << 20;

/// How long a client may take to send them.
const DISCARD_PATIENCE: Duration = Duration::from_secs(5);

/// What a handler gets.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) request: Request,
    pub(crate) query: Query,
    /// Minor number of the version that the client asked for.
    pub(crate) version: u32,
}

/// Answers a request.
pub(crate) async fn handle(app: Arc<App>, request: Request) -> Reply {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let head = method == Method::HEAD;
    let answered = dispatch(app, request).await;
    let mut reply = answered.unwrap_or_else(|error| {
        if error.status == StatusCode::INTERNAL_SERVER_ERROR && !error.mistake {
            tracing::error!(%method, %uri, error = error.message, "a request failed");
        } else {
            tracing::debug!(%method, %uri, error = error.message, "a request was refused");
        }
        error.reply()
    });
    if head {
        *reply.body_mut() = crate::http::empty(StatusCode::OK).into_body();
    }
    let headers = reply.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(API_VERSION));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers
        .insert(SERVER, HeaderValue::from_static(concat!("Hyper/", env!("CARGO_PKG_VERSION"), " (linux)")));
    reply
}

async fn dispatch(app: Arc<App>, request: Request) -> Result {
    let path = request.uri().path().to_owned();
    if !is_path(&path) {
        let mut reply = crate::http::text("400 Bad Request");
        *reply.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(reply);
    }
    if let Some(clean) = cleaned(&path) {
        return moved(&clean, request.uri().query());
    }
    let (version, path) = split_version(&path)?;
    let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query());
    if let (Some(text), false) =
        (request.uri().query(), matches!(segments[..], ["_ping" | "info" | "version"]))
    {
        check_query(text)?;
    }
    let method = request.method().clone();
    let mut request = request;
    if !takes_body(&segments) {
        discard_body(&mut request).await;
    }
    let call = Call { app, request, query, version };
    if method == Method::OPTIONS {
        return Ok(empty(StatusCode::OK));
    }
    if path.ends_with('/') {
        return nameless(call, &method, &segments).await;
    }
    match segments.as_slice() {
        ["containers", rest @ ..] => containers(call, &method, rest).await,
        ["exec", id, verb] => execs(call, &method, id, verb).await,
        ["images", rest @ ..] => images(call, &method, rest).await,
        ["hyper", rest @ ..] => own(call, &method, rest).await,
        rest => others(call, &method, rest).await,
    }
}

/// Sends a client to a clean path.
fn moved(path: &str, query: Option<&str>) -> Result {
    let place = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
    let mut reply = empty(StatusCode::MOVED_PERMANENTLY);
    let place = HeaderValue::try_from(place).map_err(|error| ApiError::invalid(error.to_string()))?;
    reply.headers_mut().insert(LOCATION, place);
    Ok(reply)
}

/// Paths that end where a name should be: for docker that is the empty name.
async fn nameless(call: Call, method: &Method, path: &[&str]) -> Result {
    match (method.as_str(), path) {
        ("DELETE", ["containers"]) => container::remove(call, "").await,
        ("DELETE", ["images"]) => Err(ApiError::invalid("image name cannot be blank")),
        ("GET" | "DELETE", ["volumes"]) => absent("get: no such volume"),
        ("GET", ["networks"]) => system::networks(&call).await,
        ("DELETE", ["networks"]) => networks::remove(call, "").await,
        _ => missing(method, path),
    }
}

/// Whether the handler reads the request's body.
fn takes_body(path: &[&str]) -> bool {
    matches!(
        path,
        ["containers", "create"]
            | ["containers", _, "start" | "exec" | "update" | "archive"]
            | ["exec", _, "start"]
            | ["images", "create" | "load"]
            | ["hyper", "pods" | "templates"]
            | ["hyper", "pods", _, "update"]
            | ["volumes", "create"]
            | ["networks", "create"]
            | ["networks", _, "connect" | "disconnect"]
            | ["images", .., "push"]
            | ["auth" | "commit"]
    )
}

/// Takes what a client sends without need: a connection closed with bytes unread would take the reply with it.
pub(crate) async fn discard_body(request: &mut Request) {
    let read = async {
        let mut left = DISCARDED_MAX;
        while let Some(Ok(frame)) = request.body_mut().frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_PATIENCE, read).await;
}

async fn containers(call: Call, method: &Method, path: &[&str]) -> Result {
    match (method.as_str(), path) {
        ("GET", ["json"]) => inspect::list(call).await,
        ("POST", ["create"]) => create::create(call).await,
        ("POST", ["prune"]) => container::prune(call).await,
        ("DELETE", [id]) => container::remove(call, id).await,
        ("GET", [id, "json"]) => inspect::inspect(call, id).await,
        ("GET", [id, "logs"]) => logs::logs(call, id).await,
        ("GET", [id, "top"]) => stats::top(call, id).await,
        ("GET", [id, "stats"]) => stats::stats(call, id).await,
        ("POST", [id, "start"]) => container::start(call, id).await,
        ("POST", [id, "stop"]) => container::stop(call, id).await,
        ("POST", [id, "restart"]) => container::restart(call, id).await,
        ("POST", [id, "kill"]) => container::kill(call, id).await,
        ("POST", [id, "rename"]) => container::rename(call, id).await,
        ("POST", [id, "pause"]) => container::pause(call, id).await,
        ("POST", [id, "unpause"]) => container::unpause(call, id).await,
        ("POST", [id, "resize"]) => container::resize(call, id).await,
        ("POST", [id, "wait"]) => container::wait(call, id).await,
        ("POST", [id, "attach"]) => attach::attach(call, id).await,
        ("POST", [id, "exec"]) => exec::create(call, id).await,
        ("GET", [_, "attach", "ws"]) => later("attaching by websocket"),
        ("GET", [id, "archive"]) => archive::read(call, id).await,
        ("HEAD", [id, "archive"]) => archive::look(call, id).await,
        ("PUT", [id, "archive"]) => archive::write(call, id).await,
        ("GET", [id, "export"]) => archive::export(call, id).await,
        ("GET", [id, "changes"]) => archive::changes(call, id).await,
        ("POST", [id, "update"]) => update::update(call, id).await,
        ("GET" | "POST", [_, "checkpoints", ..]) => later("checkpoints"),
        _ => missing(method, path),
    }
}

async fn execs(call: Call, method: &Method, id: &str, verb: &str) -> Result {
    match (method.as_str(), verb) {
        ("POST", "start") => exec::start(call, id).await,
        ("POST", "resize") => exec::resize(call, id).await,
        ("GET", "json") => exec::inspect(&call, id),
        _ => missing(method, &["exec", id, verb]),
    }
}

/// Image names have slashes: the last part of the path is the verb.
async fn images(call: Call, method: &Method, path: &[&str]) -> Result {
    match (method.as_str(), path) {
        ("GET", ["json"]) => image::list(call).await,
        ("POST", ["create"]) => image_transfer::pull_or_import(call).await,
        ("POST", ["load"]) => image_transfer::load(call).await,
        ("GET", ["get"]) => {
            let names = call.query.all("names");
            image_transfer::save(call, names).await
        }
        ("POST", ["prune"]) => image::prune(call).await,
        ("GET", ["search"]) => later("searching registries"),
        ("GET", [name @ .., "json"]) => image::inspect(call, &name.join("/")).await,
        ("GET", [name @ .., "history"]) => image::history(call, &name.join("/")).await,
        ("GET", [name @ .., "get"]) => image_transfer::save(call, vec![name.join("/")]).await,
        ("POST", [name @ .., "tag"]) => image::tag(call, &name.join("/")).await,
        ("POST", [name @ .., "push"]) if !name.is_empty() => image_push::push(call, &name.join("/")).await,
        ("DELETE", name) if !name.is_empty() => image::remove(call, &name.join("/")).await,
        _ => missing(method, path),
    }
}

/// Endpoints of our own.
async fn own(call: Call, method: &Method, path: &[&str]) -> Result {
    match (method.as_str(), path) {
        ("GET", ["info"]) => system::hyper_info(call).await,
        ("GET", ["doctor"]) => system::doctor(call).await,
        ("GET", ["containers", id, "timeline"]) => stats::timeline(call, id).await,
        ("GET", ["pods"]) => pod::list(call).await,
        ("POST", ["pods"]) => pod::create(call).await,
        ("GET", ["pods", name]) => pod::inspect(call, name).await,
        ("POST", ["pods", "prune"]) => pod::prune(call).await,
        ("POST", ["pods", name, "start"]) => pod::start(call, name).await,
        ("POST", ["pods", name, "stop"]) => pod::stop(call, name).await,
        ("POST", ["pods", name, "restart"]) => pod::restart(call, name).await,
        ("POST", ["pods", name, "kill"]) => pod::kill(call, name).await,
        ("POST", ["pods", name, "pause"]) => pod::pause(call, name).await,
        ("POST", ["pods", name, "unpause"]) => pod::unpause(call, name).await,
        ("POST", ["pods", name, "update"]) => pod::update(call, name).await,
        ("GET", ["pods", name, "logs"]) => pod_watch::logs(call, name).await,
        ("GET", ["pods", name, "stats"]) => pod_watch::stats(call, name).await,
        ("GET", ["pods", name, "top"]) => pod_watch::top(call, name).await,
        ("DELETE", ["pods", name]) => pod::remove(call, name).await,
        ("GET", ["templates"]) => template::list(call).await,
        ("POST", ["templates"]) => template::create(call).await,
        ("POST", ["templates", "prune"]) => template::prune(call).await,
        ("DELETE", ["templates", key]) => template::remove(call, key).await,
        _ => missing(method, path),
    }
}

async fn others(call: Call, method: &Method, path: &[&str]) -> Result {
    match (method.as_str(), path) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping()),
        ("GET", ["version"]) => system::version(call).await,
        ("GET", ["info"]) => system::info(call).await,
        ("GET", ["events"]) => events::events(call).await,
        ("GET", ["system", "df"]) => system::disk_usage(call).await,
        ("POST", ["auth"]) => image_transfer::login(call).await,
        ("POST", ["commit"]) => archive::commit(call).await,
        // What docker's `system prune` asks for last: nothing was ever built.
        ("POST", ["build", "prune"]) => {
            hyper_engine::Filters::parse_any(call.query.get("filters"))?;
            crate::http::ok(&serde_json::json!({"CachesDeleted": null, "SpaceReclaimed": 0}))
        }
        ("POST", ["build" | "session" | "grpc", ..]) => later("building images"),
        ("GET", ["volumes"]) => volume::list(call).await,
        ("POST", ["volumes", "create"]) => volume::create(call).await,
        ("POST", ["volumes", "prune"]) => volume::prune(call).await,
        ("GET", ["volumes", name]) => volume::inspect(&call, name),
        ("PUT", ["volumes", _]) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "volume update only valid for cluster volumes, but swarm is unavailable",
        )),
        ("DELETE", ["volumes", name]) => volume::remove(call, name).await,
        ("GET", ["networks"]) => system::networks(&call).await,
        ("GET", ["networks", name]) => system::network(&call, name).await,
        ("POST", ["networks", "create"]) => networks::create(call).await,
        ("POST", ["networks", "prune"]) => networks::prune(call).await,
        ("POST", ["networks", name, "connect"]) => networks::connect(call, name).await,
        ("POST", ["networks", name, "disconnect"]) => networks::disconnect(call, name).await,
        ("DELETE", ["networks", name]) => networks::remove(call, name).await,
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => {
            image_push::distribution(call, &name.join("/")).await
        }
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager: Hyper has no swarm mode.",
        )),
        ("GET", ["plugins"]) => {
            hyper_engine::Filters::parse_any(call.query.get("filters"))?;
            crate::http::ok(&serde_json::json!([]))
        }
        ("GET", ["plugins", name, "json"]) => absent(&format!("plugin \"{name}\" not found")),
        (_, ["plugins", ..]) => later("plugins"),
        _ => missing(method, path),
    }
}

fn later(what: &str) -> Result {
    Err(ApiError::unsupported(format!("{what} is not supported yet")))
}

/// Clients look for a name among all kinds of things.
fn absent(message: &str) -> Result {
    Err(ApiError::new(StatusCode::NOT_FOUND, message))
}

fn missing(method: &Method, path: &[&str]) -> Result {
    tracing::debug!(%method, ?path, "no such endpoint");
    Err(ApiError::new(StatusCode::NOT_FOUND, "page not found"))
}
