//! Attaching to a container's streams.

use hyper_engine::{AttachStreams, LogQuery};

use super::logs;
use crate::detach::Scanner;
use crate::hijack::{self, Connected, Ended};
use crate::http::Result;
use crate::route::Call;

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
    let attachment = if live { Some(engine.attach(&id, streams).await?) } else { None };
    let keys = (tty && streams.stdin).then_some(keys);
    let (client, reply) = hijack::take(&mut call.request, call.version, tty);
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
                if client.copy(process, keys, std::future::ready(())).await == Ended::Detached {
                    engine.detached(&id);
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
