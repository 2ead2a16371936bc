//! Attaching to a container's streams.

use hyper::header::{HeaderName, HeaderValue, UPGRADE};
use hyper_engine::{AttachStreams, LogQuery};

use super::logs;
use crate::detach::Scanner;
use crate::framing::Framing;
use crate::hijack::{self, Connected, Ended};
use crate::http::{ApiError, Request, Result};
use crate::route::Call;

/// Names a session: a client that sends it can go on after this daemon was ended, at the byte where it was. Its value
/// is a key that the client has chosen at random.
const SESSION: HeaderName = HeaderName::from_static("hyper-session");

/// Goes on with the session: the bytes of standard output and of standard error that the client has.
const RECEIVED: HeaderName = HeaderName::from_static("hyper-received");

/// In the reply to a request with a session: where the streams are. Bytes of standard output and of standard error
/// before the first that is sent, bytes of input that were taken from the client.
const POSITION: HeaderName = HeaderName::from_static("hyper-position");

/// A session as a request names it.
struct Session {
    key: String,
    received: Option<[u64; 2]>,
}

impl Session {
    /// The session of a request that becomes a stream, if it names one.
    fn of(request: &Request) -> Result<Option<Self>> {
        let text =
            |name: &HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let Some(key) = text(&SESSION).filter(|_| request.headers().contains_key(UPGRADE)) else {
            return Ok(None);
        };
        let received = text(&RECEIVED).map(|text| {
            let numbers =
                text.split_once(' ').and_then(|(out, err)| Some([out.parse().ok()?, err.parse().ok()?]));
            numbers.ok_or_else(|| ApiError::invalid(format!("invalid header hyper-received: {text:?}")))
        });
        Ok(Some(Self { key: key.to_owned(), received: received.transpose()? }))
    }
}

pub(crate) async fn attach(mut call: Call, id: &str) -> Result {
    let streams = AttachStreams {
        stdin: call.query.bool("stdin"),
        stdout: call.query.bool("stdout"),
        stderr: call.query.bool("stderr"),
    };
    let (with_logs, live) = (call.query.bool("logs"), call.query.bool("stream"));
    let keys = Scanner::new(call.query.get("detachKeys"))?;
    let engine = call.app.engine.clone();
    let record = engine.record(id)?;
    let (id, tty) = (record.id, record.options.tty);
    let past = if with_logs {
        let query = LogQuery { stdout: streams.stdout, stderr: streams.stderr, ..LogQuery::default() };
        Some(engine.logs(&id, query)?)
    } else {
        None
    };
    let session = Session::of(&call.request)?;
    let attachment = match (&session, live) {
        (_, false) => None,
        (Some(Session { key, received: Some(received) }), true) => {
            Some(engine.resume(&id, streams, key.clone(), *received).await?)
        }
        (session, true) => {
            let key = session.as_ref().map(|session| session.key.clone());
            Some(engine.attach(&id, streams, key).await?)
        }
    };
    let keys = (tty && streams.stdin).then_some(keys);
    let (client, mut reply) = hijack::take(&mut call.request, call.version, tty);
    if let Some(position) = attachment.as_ref().and_then(|attachment| attachment.position) {
        let [stdout, stderr] = position.output;
        let text = format!("{stdout} {stderr} {}", position.input);
        let value = HeaderValue::try_from(text).map_err(|error| ApiError::invalid(error.to_string()))?;
        reply.headers_mut().insert(POSITION, value);
    }
    tokio::spawn(async move {
        let Some(mut client) = client.connect().await else { return };
        if let Some(past) = past
            && send_past(&mut client, past, tty).await.is_err()
        {
            return;
        }
        let Some(attachment) = attachment else { return client.close().await };
        match attachment.stream().await {
            Some(process) => {
                let ended = client.copy(process, Framing::AsItComes, keys, std::future::ready(())).await;
                if ended == Ended::Detached {
                    engine.detached(&id);
                }
                // One whose output has ended may lack the end of it until the container is deleted.
                if let Some(session) = session.filter(|_| ended != Ended::Finished) {
                    engine.release(&id, &session.key).await;
                }
            }
            None => client.close().await,
        }
    });
    Ok(reply)
}

async fn send_past(
    client: &mut Connected,
    mut past: hyper_engine::LogStream,
    tty: bool,
) -> std::io::Result<()> {
    while let Some(line) = past.next().await? {
        client.send(&logs::frame(&line, tty, false)).await?;
    }
    Ok(())
}
