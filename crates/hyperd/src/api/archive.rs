//! Files of containers: `archive`, `export`, `changes`, `commit`.

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use hyper_engine::image::Reference;
use hyper_engine::{ChangeKind, CommitOptions, Download, EngineError, PathStat, Timestamp, UnpackFlags};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::to_the_end;
use crate::http::{ApiError, Reply, Result, blamed_if, empty, json as json_reply, ok, read_json, stream};
use crate::route::Call;
use crate::upload::{BACKLOG, Pieces, Upload, receive};

/// Header with what a path is.
const STAT_HEADER: &str = "X-Docker-Container-Path-Stat";

/// Bytes decompressed at once.
const CHUNK: usize = 64 << 10;

fn path(call: &Call) -> Result<String> {
    match call.query.get("path") {
        "" => Err(ApiError::invalid("bad parameter: path cannot be empty")),
        path if path.contains('\0') => Err(ApiError::invalid("invalid path: it contains a NUL")),
        path => Ok(path.to_owned()),
    }
}

pub(crate) async fn look(call: Call, id: &str) -> Result {
    let found = call.app.engine.path_stat(id, &path(&call)?).await?;
    with_stat(empty(StatusCode::OK), &found)
}

pub(crate) async fn read(call: Call, id: &str) -> Result {
    let (found, download) = call.app.engine.read_files(id, &path(&call)?).await?;
    with_stat(send(download, "application/x-tar"), &found)
}

pub(crate) async fn export(call: Call, id: &str) -> Result {
    let download = call.app.engine.export(id).await?;
    Ok(send(download, "application/octet-stream"))
}

pub(crate) async fn changes(call: Call, id: &str) -> Result {
    let changes = call.app.engine.changes(id).await?;
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let list: Vec<Value> =
        changes.iter().map(|change| json!({"Path": change.path, "Kind": kind(change.kind)})).collect();
    // Docker's answer to a container without changes.
    if list.is_empty() { ok(&Value::Null) } else { ok(&list) }
}

/// A reply with what comes out of a container.
fn send(mut download: Download, content_type: &'static str) -> Reply {
    let (sender, reply) = stream(content_type);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = download.next() => piece,
                () = sender.closed() => return,
            };
            match piece {
                Ok(Some(piece)) => {
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = %error.report(), "files are cut off");
                    // The client must not take what it has for all.
                    sender.abort().await;
                    return;
                }
            }
        }
    });
    reply
}

fn with_stat(mut reply: Reply, found: &PathStat) -> Result {
    let text = json!({
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": Timestamp(found.mtime_ns).to_string(),
        "linkTarget": found.link_target,
    });
    let value =
        HeaderValue::from_str(&STANDARD.encode(text.to_string())).expect("base64 is a header's value");
    reply.headers_mut().insert(STAT_HEADER, value);
    Ok(reply)
}

/// A mode as Go's `fs.FileMode` has it.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => (1 << 26) | (1 << 21),
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, go)| all | go);
    kind | special | (mode & 0o777)
}

pub(crate) async fn write(call: Call, id: &str) -> Result {
    let path = path(&call)?;
    let flags = UnpackFlags {
        no_overwrite: call.query.bool("noOverwriteDirNonDir"),
        own: call.query.bool("copyUIDGID"),
    };
    let body = plain(receive(call.request.into_body())).await?;
    let written = call.app.engine.write_files(id, &path, flags, body).await;
    // What is wrong with the tar, or with where it shall go.
    written.map_err(blamed_if(|error| error.status == StatusCode::BAD_REQUEST))?;
    Ok(empty(StatusCode::OK))
}

/// `POST /commit`.
pub(crate) async fn commit(call: Call) -> Result {
    let query = call.query.clone();
    let body = read_json(call.request).await?;
    if !matches!(body, Value::Null | Value::Object(_)) {
        return Err(ApiError::invalid("invalid JSON: the request's body must be an object"));
    }
    if !crate::fields::is_neutral(&body) {
        return Err(ApiError::unsupported(
            "a configuration in the body of a commit is not supported: use changes",
        ));
    }
    let (repository, tag) = (query.get("repo"), query.get("tag"));
    let name = match tag {
        "" => repository.to_owned(),
        tag => format!("{repository}:{tag}"),
    };
    let reference = match repository {
        "" => None,
        _ => Some(Reference::parse(&name).map_err(EngineError::from)?),
    };
    let options = CommitOptions {
        reference,
        author: query.get("author").to_owned(),
        comment: query.get("comment").to_owned(),
        changes: query.all("changes").iter().flat_map(|lines| lines.lines().map(str::to_owned)).collect(),
        pause: !query.has("pause") || query.bool("pause"),
    };
    let (engine, container) = (call.app.engine.clone(), query.get("container").to_owned());
    let id = to_the_end(async move { engine.commit(&container, options).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({"Id": id.to_string()})))
}

/// A body's pieces, decompressed if they are compressed.
async fn plain(mut pieces: Pieces) -> Result<Pieces> {
    let mut head = Vec::new();
    while head.len() < 6 {
        match pieces.recv().await {
            Some(Ok(piece)) => head.extend_from_slice(&piece),
            Some(Err(error)) => return Err(ApiError::invalid(format!("cannot read the archive: {error}"))),
            None => break,
        }
    }
    let compressed = matches!(
        head.as_slice(),
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [b'B', b'Z', b'h', ..]
            | [0xfd, b'7', b'z', b'X', b'Z', 0, ..]
    );
    let (sender, out) = mpsc::channel(BACKLOG);
    let mut source = Upload { current: Bytes::from(head), pieces };
    if !compressed {
        tokio::spawn(async move {
            if sender.send(Ok(source.current)).await.is_err() {
                return;
            }
            while let Some(piece) = source.pieces.recv().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        return Ok(out);
    }
    tokio::task::spawn_blocking(move || {
        let mut plain = match hyper_engine::image::decompressed(&mut source) {
            Ok(plain) => plain,
            Err(error) => return drop(sender.blocking_send(Err(io::Error::other(error)))),
        };
        loop {
            let mut chunk = vec![0; CHUNK];
            let piece = match plain.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(Bytes::from(chunk))
                }
                Err(error) => Err(error),
            };
            let broken = piece.is_err();
            if sender.blocking_send(piece).is_err() || broken {
                return;
            }
        }
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0o755 | (1 << 31)),
            (0o120_777, 0o777 | (1 << 27)),
            (0o020_666, 0o666 | (1 << 26) | (1 << 21)),
            (0o104_755, 0o755 | (1 << 23)),
            (0o041_777, 0o777 | (1 << 31) | (1 << 20)),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }
}
