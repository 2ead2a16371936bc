//! Containers: starting, ending, waiting, removing.

use hyper::StatusCode;
use hyper_engine::{Filters, PRUNE_FILTERS, WaitCondition};
use serde_json::json;

use super::to_the_end;
use crate::http::{ApiError, Result, blamed_if, done, not_a_number, ok, read_untyped_json};
use crate::route::Call;

pub(crate) async fn start(call: Call, id: &str) -> Result {
    if call.query.has("checkpoint") && !call.query.get("checkpoint").is_empty() {
        return Err(ApiError::unsupported("checkpoints are not supported"));
    }
    // Very old clients may send a HostConfig here; docker refuses it as well.
    let body = read_untyped_json(call.request).await?;
    if !body.is_none_or(|body| crate::fields::is_neutral(&body)) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    to_the_end(async move { engine.start(&id).await }).await?;
    done()
}

/// Seconds and signal of stop and restart.
fn stop_parameters(call: &Call) -> Result<(Option<i64>, Option<String>)> {
    let signal = call.query.get("signal");
    Ok((call.query.number("t").map_err(ApiError::blamed)?, (!signal.is_empty()).then(|| signal.to_owned())))
}

pub(crate) async fn stop(call: Call, id: &str) -> Result {
    let (timeout, signal) = stop_parameters(&call)?;
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    to_the_end(async move { engine.stop(&id, timeout, signal.as_deref()).await })
        .await
        .map_err(bad_signal)?;
    done()
}

pub(crate) async fn restart(call: Call, id: &str) -> Result {
    let (timeout, signal) = stop_parameters(&call)?;
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    to_the_end(async move { engine.restart(&id, timeout, signal.as_deref()).await })
        .await
        .map_err(bad_signal)?;
    done()
}

/// A signal that there is not is dockerd's fault when it stops a container, and the client's when it kills one.
fn bad_signal(error: ApiError) -> ApiError {
    blamed_if(|error| error.message.starts_with("invalid signal"))(error)
}

pub(crate) async fn kill(call: Call, id: &str) -> Result {
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    let signal = call.query.get("signal").to_owned();
    to_the_end(async move { engine.kill(&id, &signal).await }).await?;
    done()
}

pub(crate) async fn rename(call: Call, id: &str) -> Result {
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    let name = call.query.get("name").to_owned();
    to_the_end(async move { engine.rename(&id, &name).await }).await?;
    done()
}

pub(crate) async fn pause(call: Call, id: &str) -> Result {
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    to_the_end(async move { engine.pause(&id).await }).await?;
    done()
}

pub(crate) async fn unpause(call: Call, id: &str) -> Result {
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    to_the_end(async move { engine.unpause(&id).await })
        .await
        .map_err(blamed_if(|error| error.status == StatusCode::CONFLICT))?;
    done()
}

/// Columns and rows of a terminal.
pub(super) fn size_parameters(call: &Call) -> Result<(u16, u16)> {
    let number =
        |name: &str| -> Result<u16> { call.query.number(name)?.ok_or_else(|| not_a_number("Atoi", "")) };
    Ok((number("w")?, number("h")?))
}

pub(crate) async fn resize(call: Call, id: &str) -> Result {
    let (width, height) = size_parameters(&call)?;
    call.app.engine.resize(id, width, height).await?;
    Ok(crate::http::empty(StatusCode::OK))
}

pub(crate) async fn remove(call: Call, id: &str) -> Result {
    if call.query.bool("link") {
        let record = call.app.engine.record(id)?;
        return Err(match id.trim_start_matches('/').contains('/') || record.name.is_empty() {
            true => ApiError::unsupported("links are not supported"),
            false => {
                ApiError::invalid("Conflict, cannot remove the default link name of the container").blamed()
            }
        });
    }
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    let (force, volumes) = (call.query.bool("force"), call.query.bool("v"));
    to_the_end(async move { engine.remove(&id, force, volumes).await }).await?;
    done()
}

pub(crate) async fn prune(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), PRUNE_FILTERS)?;
    let engine = call.app.engine.clone();
    let (ids, freed) = to_the_end(async move { engine.prune(&filters).await }).await?;
    let ids = if ids.is_empty() { serde_json::Value::Null } else { json!(ids) };
    ok(&json!({"ContainersDeleted": ids, "SpaceReclaimed": freed}))
}

/// Answers at once with the head: clients start the container only when they know that the wait has begun.
pub(crate) async fn wait(call: Call, id: &str) -> Result {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waiting = call.app.engine.wait(id, condition)?;
    let (sender, reply) = crate::http::stream("application/json");
    tokio::spawn(async move {
        tokio::select! {
            code = waiting.done() => {
                let _ = sender.send(format!("{}\n", json!({"StatusCode": code}))).await;
            }
            () = sender.closed() => {}
        }
    });
    Ok(reply)
}
