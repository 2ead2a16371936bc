//! `hyper pod …`

use clap::Args;
use http1::Method;
use serde_json::json;

use super::App;
use super::each::each;
use crate::client::{ApiError, encode};
use crate::error::{Failure, Outcome};
use crate::format::{List, Row, Value, duration};
use crate::output;

/// Path of the pods.
const PODS: &str = "/hyper/pods";

/// Flags of `pod ls`.
#[derive(Debug, Args)]
pub struct PodListArgs {
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display pod IDs
    #[arg(short, long)]
    quiet: bool,
}

/// Words of `pod create`.
#[derive(Debug, Args)]
pub struct PodCreateArgs {
    /// The pod's name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Flags of `pod rm`.
#[derive(Debug, Args)]
pub struct PodRemoveArgs {
    /// Remove the pod's containers as well, running ones killed
    #[arg(short, long)]
    force: bool,
    /// The pods
    #[arg(required = true, value_name = "NAME")]
    pods: Vec<String>,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "POD ID"),
    ("Name", "NAME"),
    ("State", "STATUS"),
    ("Containers", "CONTAINERS"),
    ("Hypervisor", "HYPERVISOR"),
    ("RunningFor", "CREATED"),
];

/// Lists pods.
pub async fn list(app: &App, args: PodListArgs) -> Outcome {
    let pods: Vec<Value> = app.client.json(PODS, &[]).await?;
    let now = jiff::Timestamp::now().as_second();
    let rows = pods.iter().map(|pod| row(pod, args.no_trunc, now)).collect();
    let table = "{{.ID}}\t{{.Name}}\t{{.State}}\t{{.Containers}}\t{{.Hypervisor}}\t{{.RunningFor}}";
    let list = List { headings: HEADINGS, table, rows };
    let quiet_format = (args.quiet && args.format.is_none()).then_some("{{.ID}}");
    let text = list.render(args.format.as_deref().or(quiet_format));
    output::write(&text.map_err(|error| Failure::from_error(&error))?)?;
    Ok(0)
}

fn row(pod: &Value, no_trunc: bool, now: i64) -> Row {
    let field = |names: &[&str]| names.iter().find_map(|name| pod.field(name));
    let text = |names: &[&str]| match field(names) {
        None | Some(Value::Nil(_)) => String::new(),
        Some(value) => value.to_string(),
    };
    let id = text(&["Id", "ID"]);
    let containers = match field(&["Containers"]) {
        Some(Value::List(containers)) => containers.len().to_string(),
        _ => text(&["Containers"]),
    };
    let created = match field(&["Created"]) {
        Some(Value::Int(seconds)) => i64::try_from(*seconds).ok(),
        Some(Value::Text(time)) => time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second),
        _ => None,
    };
    vec![
        ("ID", Value::text(if no_trunc { id } else { super::ps::short_id(&id) })),
        ("Name", Value::text(text(&["Name"]))),
        ("State", Value::text(text(&["State", "Status"]))),
        ("Containers", Value::text(containers)),
        ("Hypervisor", Value::text(text(&["Hypervisor"]))),
        (
            "RunningFor",
            Value::text(created.map(|at| format!("{} ago", duration(now - at))).unwrap_or_default()),
        ),
    ]
}

/// Creates a pod and prints its id.
pub async fn create(app: &App, args: PodCreateArgs) -> Outcome {
    if args.name.is_empty() {
        return Err(Failure::new("the pod needs a name"));
    }
    let answer = app.client.post_json(PODS, &json!({ "Name": args.name })).await?;
    let pod: Value = serde_json::from_slice(&answer)
        .map_err(|source| Failure::from(ApiError::Answer { request: format!("POST {PODS}"), source }))?;
    let id = pod.field("Id").or_else(|| pod.field("ID")).map_or(args.name, ToString::to_string);
    output::line(&id)?;
    Ok(0)
}

/// Removes pods and prints their names.
pub async fn remove(app: &App, args: PodRemoveArgs) -> Outcome {
    let force = if args.force { "1" } else { "0" };
    each(&args.pods, |name| async move {
        if name.is_empty() {
            return Err(ApiError::EmptyName { what: "pod" });
        }
        app.client.send(Method::DELETE, &format!("{PODS}/{}", encode(name)), &[("force", force)]).await?;
        Ok(name.to_owned())
    })
    .await
}
