//! The stream of events.

use hyper_engine::{EVENT_FILTERS, Event, Filters, Timestamp, parse_duration};
use serde_json::{Value, json};

use crate::http::{ApiError, Query, Result, not_a_number};
use crate::route::Call;

pub(crate) async fn events(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), EVENT_FILTERS)?;
    let (since, until) = (time(&call.query, "since")?, time(&call.query, "until")?);
    if let (Some(after), Some(before)) = (since, until)
        && before < after
    {
        let (since, until) = (call.query.get("since"), call.query.get("until"));
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let mut stream = call.app.engine.events(since.or(until), filters);
    let (sender, reply) = crate::http::stream("application/json");
    tokio::spawn(async move {
        let deadline = async {
            match until {
                Some(until) => {
                    let left = until.0.saturating_sub(Timestamp::now().0).max(0);
                    tokio::time::sleep(std::time::Duration::from_nanos(left.unsigned_abs())).await;
                }
                None => std::future::pending().await,
            }
        };
        let ended = |event: &Event| until.is_some_and(|until| event.time > until);
        while let Some(event) = stream.next_past() {
            if ended(&event) || sender.send(line(&event)).await.is_err() {
                return;
            }
        }
        tokio::pin!(deadline);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = &mut deadline => return,
                () = sender.closed() => return,
            };
            match event {
                Some(event) if !ended(&event) => {
                    if sender.send(line(&event)).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    Ok(reply)
}

/// A point in time, or a duration before now.
fn time(query: &Query, name: &str) -> Result<Option<Timestamp>> {
    let text = query.get(name);
    if text.is_empty() {
        return Ok(None);
    }
    Timestamp::parse(text)
        .or_else(|| parse_duration(text).map(|nanos| Timestamp(Timestamp::now().0.saturating_sub(nanos))))
        .map(Some)
        .ok_or_else(|| not_a_number("ParseInt", text).blamed())
}

fn line(event: &Event) -> String {
    format!("{}\n", message(event))
}

fn message(event: &Event) -> Value {
    let mut message = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time.seconds(),
        "timeNano": event.time.0,
    });
    // The form of before API 1.22, which clients still read.
    if event.kind == "container" || event.kind == "image" {
        message["status"] = event.action.clone().into();
        message["id"] = event.actor.clone().into();
    }
    if event.kind == "container"
        && let Some(image) = event.attributes.get("image")
    {
        message["from"] = image.clone().into();
    }
    message
}
