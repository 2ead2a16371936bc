//! `hyper events`

use clap::Args;
use http1::Method;

use super::App;
use super::logs::when;
use super::ps::filters;
use crate::error::{Failure, Outcome};
use crate::format::{Template, Value, rfc3339_nano, unescape};
use crate::output;

/// Flags of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Format output: 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Prints events as they come.
pub async fn events(app: &App, args: EventsArgs) -> Outcome {
    let (since, until) = (when("since", args.since.as_deref())?, when("until", args.until.as_deref())?);
    let filters = filters(&args.filter)?;
    let filters = serde_json::to_string(&filters).map(|json| if json == "{}" { String::new() } else { json });
    let filters = filters.unwrap_or_default();
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let template = match format {
        Some("json") | None => None,
        Some(text) => Some(
            Template::parse(&unescape(text)).map_err(|error| Failure::from_error(&error).with_code(64))?,
        ),
    };
    let mut query = Vec::new();
    query.extend(since.as_deref().map(|since| ("since", since)));
    query.extend(until.as_deref().map(|until| ("until", until)));
    query.extend((!filters.is_empty()).then_some(("filters", filters.as_str())));
    let mut lines = app.client.lines(Method::GET, "/events", &query, &[]).await?;
    while let Some(event) = lines.next::<Value>().await? {
        let text = match &template {
            Some(template) => template.render(&event).map_err(|error| Failure::from_error(&error))?,
            None if format.is_some() => event.to_json(),
            None => plain(&event),
        };
        output::line(&text)?;
    }
    Ok(0)
}

fn plain(event: &Value) -> String {
    let field = |name: &str| event.field(name).map(ToString::to_string).unwrap_or_default();
    let number = |name: &str| match event.field(name) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    let nanos = number("timeNano")
        .or_else(|| number("time").map(|seconds| seconds * 1_000_000_000))
        .unwrap_or_default();
    let time = jiff::Timestamp::from_nanosecond(nanos).map(rfc3339_nano).unwrap_or_default();
    let actor = event.field("Actor");
    let id = actor.and_then(|actor| actor.field("ID")).map(ToString::to_string).unwrap_or_default();
    let mut line = format!("{time} {} {} {id}", field("Type"), field("Action"));
    if let Some(Value::Object { fields, .. }) = actor.and_then(|actor| actor.field("Attributes")) {
        let mut attributes: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
        attributes.sort();
        if !attributes.is_empty() {
            line += &format!(" ({})", attributes.join(", "));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let json = r#"{"Type":"container","Action":"start","Actor":{"ID":"9f","Attributes":{"name":"t1","image":"bb"}},"time":1795338656,"timeNano":1795338656063662651}"#;
        let event: Value = serde_json::from_str(json).unwrap();
        let line = plain(&event);
        assert!(line.ends_with(" container start 9f (image=bb, name=t1)"), "{line}");
        assert!(line.contains(".063662651"), "{line}");
    }
}
