//! The client: bollard's typed calls, and the same requests untouched.

use std::sync::Arc;

use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use http1::body::Incoming;
use http1::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use http1::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::transport::Transport;
use super::{ApiError, Certificates, Endpoint, JsonLines, Socket};
use crate::timeline::Timeline;

/// API version of every request. Fixed, so that no negotiation costs a round trip; `HYPER_API_VERSION` overrides.
pub const API_VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 44 };
/// How long an answer's head may take, in seconds. `wait` and `stop -t` take as long as they take.
const NO_DEADLINE: u64 = u32::MAX as u64;
/// Longest error body read, in bytes.
const MAX_ERROR_BODY: usize = 1 << 20;
/// Longest answer kept in memory, in bytes: far above a list of all containers.
const MAX_ANSWER: usize = 256 << 20;
/// Path of our own endpoints; they carry no API version.
const OWN_PREFIX: &str = "/hyper/";

/// A raw stream taken over from an HTTP connection.
pub struct Hijacked {
    /// Both directions.
    pub socket: Box<dyn Socket>,
    /// Bytes that came with the answer's head.
    pub first: Bytes,
    /// Where the streams are, if the daemon keeps a session of ours.
    pub position: Option<Position>,
}

/// Where the streams of a session are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Bytes of standard output and of standard error before the first that comes.
    pub output: [u64; 2],
    /// Bytes of input that were taken from us.
    pub input: u64,
}

/// A place at a container's streams that outlives the connection.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its name, chosen at random.
    pub key: &'a str,
    /// To go on with it: bytes of standard output and of standard error that we have.
    pub received: Option<[u64; 2]>,
}

/// Calls one daemon.
pub struct Client {
    docker: Docker,
    transport: Arc<Transport>,
    version: String,
}

/// An error of the wrapped client's construction: never on user input.
fn version_from(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

impl Client {
    /// A client for `endpoint`; connects at the first call, and starts hyperd then if nobody
    /// listens on its socket, with `log_level` if given.
    pub fn new(
        endpoint: Endpoint,
        certificates: Option<Certificates>,
        log_level: Option<String>,
        timeline: Arc<Timeline>,
    ) -> Self {
        let wanted = std::env::var("HYPER_API_VERSION").ok().and_then(|text| version_from(&text));
        let version = wanted.unwrap_or(API_VERSION);
        let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
        let transport = Arc::new(Transport::new(endpoint, certificates, log_level, timeline));
        let shared = Arc::clone(&transport);
        let of_requests = prefix.clone();
        let carry = move |request: BollardRequest| {
            let transport = Arc::clone(&shared);
            let prefix = of_requests.clone();
            async move {
                let request = with_prefix(request, &prefix);
                transport
                    .send(request)
                    .await
                    .map_err(|error| bollard::errors::Error::IOError { err: std::io::Error::other(error) })
            }
        };
        let docker =
            Docker::connect_with_custom_transport(carry, Some("http://localhost"), NO_DEADLINE, &version)
                .expect("a custom transport checks nothing");
        Self { docker, transport, version: prefix }
    }

    /// The typed calls.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The address.
    pub fn endpoint(&self) -> &Endpoint {
        self.transport.endpoint()
    }

    /// The API version in use, such as `1.44`.
    pub fn api_version(&self) -> &str {
        self.version.trim_start_matches("/v")
    }

    /// Sends a request and gives the answer of a success; refusals become [`ApiError::Daemon`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Response<Incoming>, ApiError> {
        self.send_with(method, path, query, &[]).await
    }

    /// As [`Client::send`], with extra headers.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
    ) -> Result<Response<Incoming>, ApiError> {
        let mut request = self.request(method, path, query);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(broken)?;
        accept(self.transport.send(request).await?).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> http1::http::request::Builder {
        let prefix = if path.starts_with(OWN_PREFIX) { "" } else { &self.version };
        let mut uri = format!("{prefix}{path}");
        for (index, (key, value)) in query.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(key);
            uri.push('=');
            uri.push_str(&encode(value));
        }
        Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json")
    }

    /// The whole answer to a GET, untouched.
    pub async fn bytes(&self, path: &str, query: &[(&str, &str)]) -> Result<Bytes, ApiError> {
        let response = self.send(Method::GET, path, query).await?;
        whole(response).await
    }

    /// The whole answer to a POST without a body as `T`.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ApiError> {
        let response = self.send(Method::POST, path, query).await?;
        serde_json::from_slice(&whole(response).await?)
            .map_err(|source| ApiError::Answer { request: format!("POST {path}"), source })
    }

    /// The whole answer to a GET as `T`.
    pub async fn json<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ApiError> {
        let bytes = self.bytes(path, query).await?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ApiError::Answer { request: format!("GET {path}"), source })
    }

    /// The whole answer to a request without a body as `T`.
    pub async fn json_of<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ApiError> {
        let request = format!("{method} {path}");
        let bytes = whole(self.send(method, path, query).await?).await?;
        serde_json::from_slice(&bytes).map_err(|source| ApiError::Answer { request, source })
    }

    /// Sends a JSON body to one of our own endpoints and gives the answer's bytes.
    pub async fn post_json(&self, path: &str, body: &serde_json::Value) -> Result<Bytes, ApiError> {
        let body = Full::new(Bytes::from(body.to_string()));
        let request = self.request(Method::POST, path, &[]).body(body).map_err(broken)?;
        whole(accept(self.transport.send(request).await?).await?).await
    }

    /// An answer of JSON lines. `headers` are extra ones, such as a registry login.
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, String)],
    ) -> Result<JsonLines, ApiError> {
        let mut builder = self.request(method.clone(), path, query);
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        let request = builder.body(Full::<Bytes>::default()).map_err(broken)?;
        let response = accept(self.transport.send(request).await?).await?;
        Ok(JsonLines::new(response.into_body(), format!("{method} {path}")))
    }

    /// An answer of JSON lines to a request with a streamed body.
    pub async fn upload<B>(&self, path: &str, query: &[(&str, &str)], body: B) -> Result<JsonLines, ApiError>
    where
        B: http1::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = self.request(Method::POST, path, query).body(body).map_err(broken)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        let response = accept(self.transport.send(request).await?).await?;
        Ok(JsonLines::new(response.into_body(), format!("POST {path}")))
    }

    /// Sends a tar to `path`.
    pub async fn put<B>(&self, path: &str, query: &[(&str, &str)], body: B) -> Result<(), ApiError>
    where
        B: http1::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = self.request(Method::PUT, path, query).body(body).map_err(broken)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        whole(accept(self.transport.send(request).await?).await?).await.map(drop)
    }

    /// Reaches the daemon again after an error that [`ApiError::is_lost`].
    ///
    /// # Errors
    /// It does not come back, or cannot be started.
    pub async fn come_back(&self) -> Result<(), ApiError> {
        self.transport.come_back().await
    }

    /// Takes the connection over as a raw stream (attach, exec). A `place` asks for a session, or to go on with one; a
    /// daemon that knows no sessions gives a stream without a position.
    ///
    /// # Errors
    /// [`ApiError::NotHijacked`] when the daemon answers with a plain body.
    pub async fn hijack(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
        place: Option<Place<'_>>,
    ) -> Result<Hijacked, ApiError> {
        let mut request =
            self.request(Method::POST, path, query).header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
        if let Some(Place { key, received }) = place {
            request = request.header("hyper-session", key);
            if let Some([stdout, stderr]) = received {
                request = request.header("hyper-received", format!("{stdout} {stderr}"));
            }
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(broken)?;
        let response = accept(self.transport.send(request).await?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ApiError::NotHijacked { request: format!("POST {path}") });
        }
        let position = response.headers().get("hyper-position").and_then(position);
        let upgraded = http1::upgrade::on(response).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<Box<dyn Socket>>>() {
            Ok(parts) => Ok(Hijacked { socket: parts.io.into_inner(), first: parts.read_buf, position }),
            Err(upgraded) => {
                Ok(Hijacked { socket: Box::new(TokioIo::new(upgraded)), first: Bytes::new(), position })
            }
        }
    }
}

/// Three numbers.
fn position(value: &HeaderValue) -> Option<Position> {
    let mut numbers = value.to_str().ok()?.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(Position { output: [next()?, next()?], input: next()? })
}

fn broken<E: std::error::Error + Send + Sync + 'static>(error: E) -> ApiError {
    ApiError::Broken(Box::new(error))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok(body.map_err(ApiError::Broken)?.to_bytes())
}

/// Bollard keeps the version to itself: its request paths carry none.
fn with_prefix(mut request: BollardRequest, prefix: &str) -> BollardRequest {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if !path.starts_with(prefix)
        && let Ok(uri) = format!("{prefix}{path}").parse()
    {
        *request.uri_mut() = uri;
    }
    request
}

/// Passes a success on and reads a refusal's text.
async fn accept(response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED
    {
        return Ok(response);
    }
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(&data[..data.len().min(MAX_ERROR_BODY - text.len())]);
        }
    }
    Err(ApiError::Daemon { status: status.as_u16(), message: refusal(status, &text) })
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) if body.iter().all(u8::is_ascii_whitespace) => format!("the daemon answered {status}"),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// A request path; every segment is percent-encoded.
///
/// # Errors
/// [`ApiError::EmptyName`] when `name` is empty.
pub fn path(kind: &'static str, name: &str, rest: &str) -> Result<String, ApiError> {
    let what = match kind {
        "images" => "image",
        "networks" => "network",
        _ => "container",
    };
    if name.trim().is_empty() {
        return Err(ApiError::EmptyName { what });
    }
    // An image reference keeps its slashes: the daemon's routes expect them.
    let encoded = name.split('/').map(encode).collect::<Vec<_>>().join("/");
    Ok(format!("/{kind}/{encoded}{rest}"))
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_and_never_empty() {
        assert_eq!(path("containers", "web", "/json").unwrap(), "/containers/web/json");
        assert_eq!(
            path("images", "h:5000/a b@sha256:0", "/json").unwrap(),
            "/images/h:5000/a%20b@sha256:0/json"
        );
        assert_eq!(path("containers", "x?force=1", "").unwrap(), "/containers/x%3Fforce%3D1");
        assert!(matches!(path("containers", "", ""), Err(ApiError::EmptyName { what: "container" })));
    }

    #[test]
    fn a_refusal_is_read_from_json_text_or_status() {
        assert_eq!(refusal(StatusCode::CONFLICT, b"{\"message\":\"in use\"}"), "in use");
        assert_eq!(refusal(StatusCode::NOT_FOUND, b"page not found\n"), "page not found");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b""), "the daemon answered 502 Bad Gateway");
    }
}
