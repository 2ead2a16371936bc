//! Requests and replies: bodies, errors, query parameters.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use hyper_engine::{EngineError, Kind};
use serde::Serialize;
use serde_json::Value;
use serde_json::error::Category;
use tokio::sync::mpsc;

/// Most bytes of a JSON body.
const JSON_MAX: usize = 8 << 20;

/// Pieces of a streamed reply that may wait for a slow client; then the sender waits.
const STREAM_BACKLOG: usize = 16;

/// A request as it came.
pub(crate) type Request = hyper::Request<Incoming>;

/// A reply's body.
pub(crate) type Body = BoxBody<Bytes, BrokenOff>;

/// A streamed reply that failed in its middle.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the reply is broken off")]
pub(crate) struct BrokenOff;

/// A body that is there at once.
fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

/// A reply.
pub(crate) type Reply = Response<Body>;

/// A request that failed: status and text for the client.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// It was the client's mistake, whatever the status says.
    pub(crate) mistake: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), mistake: false }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A client's mistake that dockerd answers as if it were its own: clients know it by that status.
    pub(crate) fn blamed(self) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, mistake: true, ..self }
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(crate) fn reply(&self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return empty(self.status);
        }
        json(self.status, &serde_json::json!({"message": self.message}))
    }
}

/// [`ApiError::blamed`], if the error is such a mistake.
pub(crate) fn blamed_if<E: Into<ApiError>>(mistake: impl Fn(&ApiError) -> bool) -> impl Fn(E) -> ApiError {
    move |error| {
        let error = error.into();
        if mistake(&error) { error.blamed() } else { error }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match error.kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotModified => StatusCode::NOT_MODIFIED,
            Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            // Not 401: docker's client would take it for the daemon's own and ask for a login to Docker Hub.
            Kind::Unauthorized => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.report())
    }
}

/// What handlers return.
pub(crate) type Result<T = Reply, E = ApiError> = std::result::Result<T, E>;

/// A reply without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(whole(Bytes::new()));
    *reply.status_mut() = status;
    reply
}

/// A reply with a JSON body.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let text = match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            text
        }
        Err(error) => {
            tracing::error!(%error, "cannot encode a reply");
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let mut reply = Response::new(whole(Bytes::from(text)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// 200 with a JSON body.
pub(crate) fn ok(value: &impl Serialize) -> Result {
    Ok(json(StatusCode::OK, value))
}

/// 204.
pub(crate) fn done() -> Result {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// 200 with plain text.
pub(crate) fn text(content: &'static str) -> Reply {
    let mut reply = Response::new(whole(Bytes::from_static(content.as_bytes())));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// The sending end of a streamed reply. Sending fails when the client has gone.
#[derive(Debug, Clone)]
pub(crate) struct Sender(mpsc::Sender<Option<Bytes>>);

impl Sender {
    pub(crate) async fn send(&self, bytes: impl Into<Bytes>) -> std::result::Result<(), Gone> {
        self.0.send(Some(bytes.into())).await.map_err(|_| Gone)
    }

    /// One JSON object and the line end after it.
    pub(crate) async fn send_json(&self, value: &Value) -> std::result::Result<(), Gone> {
        self.send(format!("{value}\r\n")).await
    }

    pub(crate) fn blocking_send(&self, bytes: impl Into<Bytes>) -> std::result::Result<(), Gone> {
        self.0.blocking_send(Some(bytes.into())).map_err(|_| Gone)
    }

    /// Breaks the reply off, so that its client does not take it for whole.
    pub(crate) async fn abort(&self) {
        let _ = self.0.send(None).await;
    }

    /// Resolves when the client has gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The client has gone.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client has gone")]
pub(crate) struct Gone;

/// A streamed body.
struct StreamBody(mpsc::Receiver<Option<Bytes>>);

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BrokenOff>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data).ok_or(BrokenOff)))
    }
}

/// A reply whose body is sent piece by piece.
pub(crate) fn stream(content_type: &'static str) -> (Sender, Reply) {
    let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
    let mut reply = Response::new(StreamBody(receiver).boxed());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (Sender(sender), reply)
}

/// Reads a body that must be JSON and say so; none at all is `null`.
pub(crate) async fn read_json(request: Request) -> Result<Value> {
    let no_body = request.body().is_end_stream();
    crate::media::expect_json(request.headers(), no_body)?;
    if no_body {
        return Ok(Value::Null);
    }
    match read_untyped_json(request).await? {
        None => Err(ApiError::invalid("invalid JSON: got EOF while reading request body")),
        Some(value) => Ok(value),
    }
}

/// Reads a JSON body of whatever type it says it is.
pub(crate) async fn read_untyped_json(request: Request) -> Result<Option<Value>> {
    if request.body().size_hint().lower() > JSON_MAX as u64 {
        return Err(ApiError::invalid("request body too large"));
    }
    let body = Limited::new(request.into_body(), JSON_MAX)
        .collect()
        .await
        .map_err(|error| ApiError::invalid(format!("cannot read request body: {error}")))?
        .to_bytes();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).map_err(|error| {
        ApiError::invalid(match error.classify() {
            Category::Eof => "invalid JSON: unexpected EOF".to_owned(),
            _ if error.to_string().starts_with("trailing characters") => {
                "unexpected content after JSON".to_owned()
            }
            _ => format!("invalid JSON: {error}"),
        })
    })
}

/// The query parameters of a request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The value of a parameter; empty when it is not given.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Docker's rule: everything but a few words is true.
    pub(crate) fn bool(&self, name: &str) -> bool {
        !matches!(self.get(name).trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number, if it is given.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| not_a_number("Atoi", text)),
        }
    }

    /// A boolean of those few that dockerd is strict with.
    pub(crate) fn strict_bool(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            text => Err(ApiError::invalid(format!(
                "invalid value for {name}: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
            ))),
        }
    }
}

/// What Go's `strconv` says of a text that is no number, or too large a one.
pub(crate) fn not_a_number(function: &str, text: &str) -> ApiError {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let reason = if numeric { "value out of range" } else { "invalid syntax" };
    ApiError::invalid(format!("strconv.{function}: parsing {text:?}: {reason}"))
}

/// Decodes `%XX`; what is malformed stays as it is, what is no UTF-8 becomes the replacement character.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_query_and_filters() {
        let good = [
            "all=1&limit=5&filters=%7B%22status%22%3A%5B%22running%22%5D%7D",
            r#"filters={"label":{"a=b":true},"until":["10m"]}&since=1.5"#,
        ];
        hyper_fuzz::text(&good, &["%", "%2", "%ff", "+", "&", "=", "\"", "{", "[", "\u{0}"], |text| {
            let query = Query::parse(Some(text));
            let _ = (query.bool("all"), query.number::<i64>("limit"), query.all("since"), query.has("x"));
            let _ = hyper_engine::Filters::parse(query.get("filters"), &["status", "label", "until"]);
        });
    }

    #[test]
    fn query_parameters_are_decoded() {
        let query = Query::parse(Some("name=a%2Fb+c&all=1&x&names=a&names=b&bad=%zz%"));
        assert_eq!(query.get("name"), "a/b c");
        assert!(query.bool("all") && !query.bool("x") && query.has("x"));
        assert_eq!(query.all("names"), ["a", "b"]);
        assert_eq!(query.get("bad"), "%zz%");
        assert_eq!(Query::parse(Some("t=5")).number::<i64>("t").unwrap(), Some(5));
        assert!(Query::parse(Some("t=x")).number::<i64>("t").is_err());
    }
}
