//! Health checks: what a client asks for, and what became of it.

use hyper_engine::Health;
use hyper_engine::image::Healthcheck;
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::http::Result;

/// The check in a request for a container; `None` where nothing is said.
pub(super) fn read(fields: &mut Fields) -> Result<Option<Healthcheck>> {
    let given = fields.take("Healthcheck");
    if given.is_null() {
        return Ok(None);
    }
    let mut fields = Fields::of(given, "Healthcheck")?;
    let check = Healthcheck {
        test: fields.strings("Test")?,
        interval: fields.int("Interval")?,
        timeout: fields.int("Timeout")?,
        start_period: fields.int("StartPeriod")?,
        start_interval: fields.int("StartInterval")?,
        retries: fields.int("Retries")?,
    };
    fields.finish()?;
    Ok(Some(check))
}

/// A container's health as `inspect` shows it.
pub(super) fn show(health: &Health) -> Value {
    let log = health.log.iter().map(|result| {
        json!({
            "Start": result.start.to_string(),
            "End": result.end.to_string(),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.status.word(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}
