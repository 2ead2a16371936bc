//! What goes on in a pod: its containers' logs, usage and processes side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use hyper::StatusCode;
use hyper_engine::{ContainerRecord, Engine, LogLine, LogStream, Stats, Timestamp, short_id};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::logs::{frame, parse};
use super::stats::{INTERVAL, render, table};
use crate::hijack;
use crate::http::{ApiError, Result, Sender, ok};
use crate::route::Call;

/// How long the next entry of a log is waited for, so that entries come in the order of their times. A log that keeps
/// still for so long is not waited for again before it has something.
const GRACE: Duration = Duration::from_millis(100);

/// Entries of one log that may wait for their turn.
const BACKLOG: usize = 64;

/// The containers of a pod, or those of them that `wanted` names.
async fn members(engine: &Engine, pod: &str, wanted: &[String]) -> Result<Vec<ContainerRecord>> {
    let members = engine.inspect_pod(pod).await?.containers;
    if wanted.is_empty() {
        return Ok(members);
    }
    let mut chosen = Vec::new();
    for name in wanted {
        let record = engine.record(name)?;
        if !members.iter().any(|member| member.id == record.id) {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                format!("container {name} is not in pod {pod}"),
            ));
        }
        chosen.push(record);
    }
    Ok(chosen)
}

/// The logs of all containers, or of those that `container` names, by time; each line with its container in front.
pub(crate) async fn logs(call: Call, name: &str) -> Result {
    let (engine, query) = (&call.app.engine, parse(&call.query)?);
    let (names, timestamps) = (call.query.bool("names"), call.query.bool("timestamps"));
    let wanted = call.query.all("container");
    let members = members(engine, name, &wanted).await?;
    let mut logs = Vec::new();
    for record in &members {
        let label = if names { record.name.clone() } else { short_id(&record.id).to_owned() };
        match engine.logs(&record.id, query.clone()) {
            Ok(stream) => logs.push(Log::read(label, stream)),
            // The others' can be read.
            Err(error)
                if error.kind == hyper_engine::Kind::Unsupported
                    && wanted.is_empty()
                    && members.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (sender, reply) = crate::http::stream(hijack::content_type(call.version, false));
    tokio::spawn(merge(logs, timestamps, sender));
    Ok(reply)
}

/// A log that is being read.
struct Log {
    label: String,
    lines: mpsc::Receiver<LogLine>,
    /// Its next entry.
    head: Option<LogLine>,
    ended: bool,
    /// It kept still when it was waited for.
    still: bool,
}

impl Log {
    fn read(label: String, mut stream: LogStream) -> Self {
        let (sender, lines) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            loop {
                let line = tokio::select! {
                    line = stream.next() => line,
                    () = sender.closed() => return,
                };
                match line {
                    Ok(Some(line)) => {
                        if sender.send(line).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read a log");
                        return;
                    }
                }
            }
        });
        Self { label, lines, head: None, ended: false, still: false }
    }

    fn waits(&self) -> bool {
        self.head.is_none() && !self.ended
    }

    async fn fill(&mut self) {
        match self.lines.recv().await {
            Some(line) => (self.head, self.still) = (Some(line), false),
            None => self.ended = true,
        }
    }
}

/// Sends entries in the order of their times until all logs have ended or the client has gone.
async fn merge(mut logs: Vec<Log>, timestamps: bool, sender: Sender) {
    // The container whose entry came last, if that was not a whole line.
    let mut open: Option<usize> = None;
    loop {
        let filled = tokio::select! {
            filled = fill(&mut logs) => filled,
            () = sender.closed() => return,
        };
        if !filled {
            return;
        }
        let next =
            logs.iter().enumerate().filter_map(|(at, log)| log.head.as_ref().map(|line| (line.time, at)));
        let Some((_, at)) = next.min() else { continue };
        let log = &mut logs[at];
        let Some(line) = log.head.take() else { continue };
        let whole = line.text.ends_with('\n');
        let goes_on = open == Some(at);
        let mut shown = line;
        if timestamps && !goes_on {
            shown.text.insert_str(0, &format!("{} ", shown.time_text));
        }
        if !goes_on {
            let before = if open.is_some() { "\n" } else { "" };
            shown.text.insert_str(0, &format!("{before}{} ", log.label));
        }
        open = (!whole).then_some(at);
        if sender.send(frame(&shown, false, false)).await.is_err() {
            return;
        }
    }
}

/// Waits until there is an entry, and a moment for those that may be older; `false` when there is nothing to come.
async fn fill(logs: &mut [Log]) -> bool {
    loop {
        let some = logs.iter().any(|log| log.head.is_some());
        if some {
            let late = logs.iter_mut().filter(|log| log.waits() && !log.still);
            let all = join_all(late.map(Log::fill));
            if tokio::time::timeout(GRACE, all).await.is_err() {
                for log in logs.iter_mut().filter(|log| log.waits()) {
                    log.still = true;
                }
            }
            // What came from the others meanwhile.
            for log in logs.iter_mut().filter(|log| log.waits()) {
                if let Ok(line) = log.lines.try_recv() {
                    (log.head, log.still) = (Some(line), false);
                }
            }
            return true;
        }
        let waiting: Vec<_> =
            logs.iter_mut().filter(|log| log.waits()).map(|log| Box::pin(log.fill())).collect();
        if waiting.is_empty() {
            return false;
        }
        futures::future::select_all(waiting).await;
    }
}

/// What the containers that run use; as docker's `stats`, one object for all of them.
pub(crate) async fn stats(call: Call, name: &str) -> Result {
    let engine = call.app.engine.clone();
    let pod = engine.inspect_pod(name).await?.record;
    let live = !call.query.has("stream") || call.query.bool("stream");
    let mut before = BTreeMap::new();
    if !live {
        if !call.query.bool("one-shot") {
            before = usage(&engine, &pod.id).await?;
            tokio::time::sleep(INTERVAL).await;
        }
        return ok(&sample(&engine, &pod.id, &mut before).await?);
    }
    let (sender, reply) = crate::http::stream("application/json");
    tokio::spawn(async move {
        loop {
            // A pod that is gone ends the stream.
            let Ok(sample) = sample(&engine, &pod.id, &mut before).await else { return };
            if sender.send(format!("{sample}\n")).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = sender.closed() => return,
            }
        }
    });
    Ok(reply)
}

/// Counters and when they were read, by container.
type Usage = BTreeMap<String, (Stats, Timestamp)>;

async fn usage(engine: &Engine, pod: &str) -> Result<Usage> {
    let members = members(engine, pod, &[]).await?;
    let read = members.iter().filter(|member| member.state.is_running()).map(|member| async move {
        // One that has ended meanwhile has none.
        let stats = engine.stats(&member.id).await.ok().flatten()?;
        Some((member.id.clone(), (stats, Timestamp::now())))
    });
    Ok(join_all(read).await.into_iter().flatten().collect())
}

async fn sample(engine: &Engine, pod: &str, before: &mut Usage) -> Result<Value> {
    let info = engine.inspect_pod(pod).await?;
    let now = usage(engine, &info.record.id).await?;
    let mut containers = Vec::new();
    for member in &info.containers {
        let Some((stats, _)) = now.get(&member.id) else { continue };
        let host = engine.host_memory(&member.id).await.ok().flatten();
        containers.push(render(&member.id, &member.name, Some(stats), before.get(&member.id), host));
    }
    *before = now;
    Ok(json!({"Id": info.record.id, "Name": info.record.name.unwrap_or_default(), "Containers": containers}))
}

/// The processes of all containers that run, with their container's name in front.
pub(crate) async fn top(call: Call, name: &str) -> Result {
    let engine = &call.app.engine;
    let members = members(engine, name, &[]).await?;
    let arguments = call.query.get("ps_args");
    let (mut titles, _) = table(arguments, &[])?;
    titles.insert(0, "CONTAINER".to_owned());
    let mut rows = Vec::new();
    let running: Vec<_> = members.iter().filter(|member| member.state.is_running()).collect();
    if running.is_empty() {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("pod {name} has no running containers")));
    }
    for member in running {
        // One that has ended meanwhile has none.
        let Ok(processes) = engine.processes(&member.id).await else { continue };
        for mut row in table(arguments, &processes)?.1 {
            row.insert(0, member.name.clone());
            rows.push(row);
        }
    }
    ok(&json!({"Titles": titles, "Processes": rows}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use hyper_engine::LogSource;

    fn log(label: &str, lines: &[(i64, &str)]) -> Log {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        for (time, text) in lines {
            let line = LogLine {
                source: LogSource::Stdout,
                time: Timestamp(*time),
                time_text: format!("t{time}"),
                text: (*text).to_owned(),
                attributes: BTreeMap::new(),
            };
            sender.try_send(line).unwrap();
        }
        Log { label: label.to_owned(), lines: receiver, head: None, ended: false, still: false }
    }

    async fn merged(logs: Vec<Log>, timestamps: bool) -> String {
        let (sender, reply) = crate::http::stream("text/plain");
        tokio::spawn(merge(logs, timestamps, sender));
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        let (mut rest, mut text) = (&bytes[..], String::new());
        while let Some((header, tail)) = rest.split_at_checked(8) {
            let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
            text += std::str::from_utf8(&tail[..length]).unwrap();
            rest = &tail[length..];
        }
        text
    }

    #[tokio::test]
    async fn entries_come_by_their_times_with_their_container_in_front() {
        let logs =
            || vec![log("a", &[(1, "one\n"), (4, "four\n")]), log("b", &[(2, "two\n"), (3, "three\n")])];
        assert_eq!(merged(logs(), false).await, "a one\nb two\nb three\na four\n");
        assert_eq!(merged(logs(), true).await, "a t1 one\nb t2 two\nb t3 three\na t4 four\n");
        assert_eq!(merged(Vec::new(), false).await, "");
    }

    #[tokio::test]
    async fn a_line_in_pieces_has_its_container_in_front_once() {
        let logs = vec![log("a", &[(1, "be"), (2, "gun\n"), (3, "cut")]), log("b", &[(4, "own\n")])];
        assert_eq!(merged(logs, false).await, "a begun\na cut\nb own\n");
    }
}
