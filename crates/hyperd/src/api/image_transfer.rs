//! Images on their way: pulling, importing, loading, saving.

use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::StatusCode;
use hyper_engine::EngineError;
use hyper_engine::image::{
    Auth, AuthFormatError, ImportRequest, LayerStep, LoginError, Platform, Progress, Reference,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::image::get;
use crate::fields::Fields;
use crate::http::{ApiError, Reply, Result, Sender, ok, read_untyped_json};
use crate::route::{Call, discard_body};
use crate::upload::Upload;

/// Progress messages that may wait for a slow client before superfluous ones are left out.
const PROGRESS_BACKLOG: usize = 256;

/// The header with credentials.
const REGISTRY_AUTH: &str = "X-Registry-Auth";

pub(crate) async fn pull_or_import(call: Call) -> Result {
    let source = call.query.get("fromSrc").to_owned();
    match source.as_str() {
        "" => pull(call).await,
        "-" => import(call).await,
        _ => Err(ApiError::unsupported("importing from a URL is not supported: send the tar (fromSrc=-)")),
    }
}

pub(super) fn platform(call: &Call) -> Result<Option<Platform>> {
    match call.query.get("platform") {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|error: hyper_engine::image::ParsePlatformError| ApiError::invalid(error.to_string())),
    }
}

async fn pull(call: Call) -> Result {
    let (name, tag) = (call.query.get("fromImage").to_owned(), call.query.get("tag").to_owned());
    let name = match tag.as_str() {
        "" => name,
        tag if tag.starts_with("sha256:") => format!("{name}@{tag}"),
        tag => format!("{name}:{tag}"),
    };
    let reference = Reference::parse(&name).map_err(EngineError::from)?;
    let (platform, auth) = (platform(&call)?, registry_auth(&call));
    let engine = call.app.engine.clone();
    let (teller, told) = teller();
    let work = async move {
        let progress = move |event: Progress| teller.tell(event);
        let outcome = engine.images().pull(&reference, platform, auth, progress).await?;
        engine.image_event("pull", &reference.to_string(), &reference.to_string());
        tracing::info!(image = %reference, id = %outcome.image_id, "pulled");
        Ok(())
    };
    progress_reply(told, work).await
}

/// Tells a client how work on images goes on. Those messages that the next of their kind makes useless are left out while
/// the client is slow; the others are few.
#[derive(Clone)]
pub(super) struct Teller {
    sender: mpsc::UnboundedSender<Progress>,
    waiting: Arc<AtomicUsize>,
}

/// What a [`Teller`] tells.
pub(super) struct Told {
    receiver: mpsc::UnboundedReceiver<Progress>,
    waiting: Arc<AtomicUsize>,
}

pub(super) fn teller() -> (Teller, Told) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Teller { sender, waiting: waiting.clone() }, Told { receiver, waiting })
}

impl Teller {
    pub(super) fn tell(&self, event: Progress) {
        let superseded = matches!(
            &event,
            Progress::Layer {
                step: LayerStep::Downloading { .. }
                    | LayerStep::Pushing { .. }
                    | LayerStep::Extracting { .. }
                    | LayerStep::Loading { .. },
                ..
            }
        );
        if superseded && self.waiting.load(Ordering::Relaxed) > PROGRESS_BACKLOG {
            return;
        }
        if self.sender.send(event).is_ok() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Told {
    async fn next(&mut self) -> Option<Progress> {
        let event = self.receiver.recv().await?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }
}

/// Credentials that the client sends along. As with dockerd, those that cannot be read are none: the registry says
/// whether it wants some.
pub(super) fn registry_auth(call: &Call) -> Option<Auth> {
    let header = call.request.headers().get(REGISTRY_AUTH)?;
    let auth = header.to_str().map_err(|_| AuthFormatError).and_then(Auth::from_header);
    auth.unwrap_or_else(|error| {
        tracing::debug!(%error, "credentials of a client are none");
        None
    })
}

/// Credentials for a push, in the header or, from clients of old, in the body: one of them must be there.
pub(super) async fn push_auth(mut call: Call) -> Result<Option<Auth>> {
    if call.request.headers().get(REGISTRY_AUTH).is_some_and(|header| !header.is_empty()) {
        discard_body(&mut call.request).await;
        return Ok(registry_auth(&call));
    }
    let missing = |reason: &str| {
        ApiError::invalid(format!(
            "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: {reason}"
        ))
    };
    match read_untyped_json(call.request).await {
        Ok(Some(body)) => {
            Auth::from_json(body.to_string().as_bytes()).map_err(|error| missing(&error.to_string()))
        }
        Ok(None) => Err(missing("EOF")),
        Err(error) => Err(missing(&error.message)),
    }
}

/// Whether a registry takes a login (`POST /auth`).
pub(crate) async fn login(call: Call) -> Result {
    let body = read_untyped_json(call.request).await.map_err(ApiError::blamed)?;
    let mut fields = Fields::of(body.unwrap_or_default(), "")?;
    let server = fields.string("serveraddress")?;
    let names = ["username", "password", "auth", "identitytoken", "registrytoken"];
    let login: Map<_, _> = names.map(|name| (name.to_owned(), fields.take(name))).into_iter().collect();
    let auth = Auth::from_json(Value::Object(login).to_string().as_bytes());
    let auth = auth.map_err(|error| ApiError::invalid(error.to_string()))?;
    let auth = auth.ok_or_else(|| ApiError::invalid("a login needs a username and password, or a token"))?;
    match call.app.engine.images().login(&server, auth).await {
        Ok(token) => ok(&json!({"Status": "Login Succeeded", "IdentityToken": token.unwrap_or_default()})),
        Err(error @ LoginError::Unauthorized(_)) => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, error.to_string()))
        }
        Err(error) => Err(EngineError::from(error).into()),
    }
}

/// Streams progress while `work` goes on. A failure before the first message has a status of its own, a later one is
/// told in the stream, as docker does. Work of a client that went away is given up.
pub(super) async fn progress_reply(
    mut progress: Told,
    work: impl Future<Output = hyper_engine::Result<()>> + Send + 'static,
) -> Result {
    let mut work = Box::pin(work);
    let first = tokio::select! {
        biased;
        event = progress.next() => event,
        result = &mut work => {
            // What was told before it failed makes the failure a part of the stream, as docker has it.
            let begun = progress.waiting.load(Ordering::Relaxed) > 0;
            let failed = match result {
                Err(error) if begun => Some(error.report()),
                result => result.map(|()| None)?,
            };
            let (sender, reply) = crate::http::stream("application/json");
            tokio::spawn(async move {
                while let Some(event) = progress.next().await {
                    if sender.send_json(&event.to_json()).await.is_err() {
                        return;
                    }
                }
                if let Some(text) = failed {
                    let _ = sender.send_json(&json!({"errorDetail": {"message": text}, "error": text})).await;
                }
            });
            return Ok(reply);
        }
    };
    let (sender, reply) = crate::http::stream("application/json");
    tokio::spawn(async move {
        // The work has the other end of the progress: when it is done, both are.
        let both = async { tokio::join!(work, forward(&sender, first, progress)) };
        let result = tokio::select! {
            (result, ()) = both => result,
            () = sender.closed() => {
                tracing::debug!("a client went away in the middle of work on images");
                return;
            }
        };
        if let Err(error) = result {
            let text = error.report();
            let _ = sender.send_json(&json!({"errorDetail": {"message": text}, "error": text})).await;
        }
    });
    Ok(reply)
}

async fn forward(sender: &Sender, first: Option<Progress>, mut progress: Told) {
    let mut next = first;
    while let Some(event) = next {
        if sender.send_json(&event.to_json()).await.is_err() {
            return;
        }
        next = progress.next().await;
    }
}

/// What a request to import asks for.
fn import_request(call: &Call) -> Result<ImportRequest> {
    let (repository, tag) = (call.query.get("repo"), call.query.get("tag"));
    let reference = match (repository, tag) {
        ("", _) => None,
        (repository, "") => Some(Reference::parse(repository).map_err(EngineError::from)?),
        (repository, tag) => {
            Some(Reference::parse(&format!("{repository}:{tag}")).map_err(EngineError::from)?)
        }
    };
    let message = call.query.get("message");
    Ok(ImportRequest {
        reference,
        changes: call.query.all("changes"),
        message: (!message.is_empty()).then(|| message.to_owned()),
        platform: platform(call)?,
    })
}

async fn import(mut call: Call) -> Result {
    let request = match import_request(&call) {
        Ok(request) => request,
        Err(error) => {
            discard_body(&mut call.request).await;
            return Err(error);
        }
    };
    let engine = call.app.engine.clone();
    let upload = Upload::of(call.request.into_body());
    let (teller, told) = teller();
    let work = async move {
        let joined = tokio::task::spawn_blocking(move || {
            let progress = |event: Progress| teller.tell(event);
            let id = engine.images().import(upload, &request, &progress)?;
            engine.image_event("import", &id.to_string(), &id.to_string());
            Ok(())
        });
        joined.await.map_err(|error| EngineError::system("the import ended early", error))?
    };
    progress_reply(told, work).await
}

pub(crate) async fn load(call: Call) -> Result {
    let quiet = call.query.bool("quiet");
    let engine = call.app.engine.clone();
    let upload = Upload::of(call.request.into_body());
    let (teller, told) = teller();
    let work = async move {
        let joined = tokio::task::spawn_blocking(move || {
            let progress = |event: Progress| match event {
                Progress::Layer { .. } if quiet => {}
                event => teller.tell(event),
            };
            for image in engine.images().load(upload, &progress)? {
                engine.image_event("load", &image.id.to_string(), &image.id.to_string());
            }
            Ok(())
        });
        joined.await.map_err(|error| EngineError::system("the load ended early", error))?
    };
    progress_reply(told, work).await
}

/// Something to write to where blocking is allowed, whose bytes are a reply's body.
struct Download(Sender);

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map(|()| bytes.len())
            .map_err(|gone| io::Error::new(io::ErrorKind::BrokenPipe, gone))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn save(call: Call, names: Vec<String>) -> Result {
    let names: Vec<String> = names
        .iter()
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(ApiError::invalid("no image named"));
    }
    let engine = call.app.engine.clone();
    for name in &names {
        get(&engine, name).await.map_err(|error| match error.status {
            StatusCode::BAD_REQUEST => error.blamed(),
            _ => error,
        })?;
    }
    let (sender, reply): (Sender, Reply) = crate::http::stream("application/x-tar");
    tokio::task::spawn_blocking(move || {
        let writer = io::BufWriter::with_capacity(256 << 10, Download(sender));
        if let Err(error) = engine.images().save(&names, writer) {
            tracing::warn!(error = %EngineError::from(error).report(), "cannot save images");
        }
    });
    Ok(reply)
}
