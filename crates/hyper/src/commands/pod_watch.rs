//! `hyper pod logs|stats|top`: what goes on in pods.

use std::time::Duration;

use bytes::BytesMut;
use clap::Args;
use http_body_util::BodyExt;
use http1::Method;
use serde::Deserialize;

use super::App;
use super::logs::{show_piece, when};
use super::pod_life::Pod;
use super::pods::{PODS, checked};
use super::stats_row::Sample;
use super::top::print_table;
use crate::client::ApiError;
use crate::error::{Failure, Outcome};
use crate::format::{List, Row, Value};
use crate::output;
use crate::stream::{Frames, stdout_is_terminal};

/// ANSI: clears the screen, and to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Between two pictures where there is nothing to show: a pod's numbers take a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of `pod logs`.
#[derive(Debug, Args)]
pub struct PodLogsArgs {
    /// Only the logs of this container of the pod
    #[arg(short, long, value_name = "CONTAINER")]
    container: Vec<String>,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show names of containers instead of their IDs
    #[arg(short, long)]
    names: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Number of lines to show from the end of each container's log
    #[arg(long, value_name = "COUNT", default_value = "all", allow_negative_numbers = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp or relative time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The pod
    #[arg(value_name = "POD")]
    pod: String,
}

/// Flags of `pod stats`.
#[derive(Debug, Args)]
pub struct PodStatsArgs {
    /// All pods (default all pods with a container that runs)
    #[arg(short, long)]
    all: bool,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Do not clear the screen between two pictures
    #[arg(long)]
    no_reset: bool,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// The pods; all when none is named
    #[arg(value_name = "POD")]
    pods: Vec<String>,
}

/// Words of `pod top`.
#[derive(Debug, Args)]
pub struct PodTopArgs {
    /// The pod, then options of ps
    #[arg(required = true, trailing_var_arg = true, value_names = ["POD", "PS_OPTION"], num_args = 1..)]
    words: Vec<String>,
}

/// Prints the logs of a pod's containers, by time.
pub async fn logs(app: &App, args: PodLogsArgs) -> Outcome {
    let since = when("since", args.since.as_deref())?;
    let until = when("until", args.until.as_deref())?;
    let mut query = vec![("stdout", "1"), ("stderr", "1"), ("tail", args.tail.as_str())];
    query.extend(args.container.iter().map(|container| ("container", container.as_str())));
    query.extend(args.follow.then_some(("follow", "1")));
    query.extend(args.names.then_some(("names", "1")));
    query.extend(args.timestamps.then_some(("timestamps", "1")));
    query.extend(since.as_deref().map(|since| ("since", since)));
    query.extend(until.as_deref().map(|until| ("until", until)));
    let response =
        app.client.send(Method::GET, &format!("{PODS}/{}/logs", checked(&args.pod)?), &query).await?;
    let mut body = response.into_body();
    let (mut frames, mut pending) = (Frames::default(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Broken(Box::new(error)))?;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        while let Some((kind, bytes)) =
            frames.next(&mut pending).map_err(|error| Failure::from_error(&error))?
        {
            show_piece(kind, &bytes)?;
        }
    }
    Ok(0)
}

const HEADINGS: &[(&str, &str)] = &[
    ("Pod", "POD"),
    ("CID", "CID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET IO"),
    ("BlockIO", "BLOCK IO"),
    ("PIDs", "PIDS"),
    ("HostMem", "HOST MEM"),
];
const TABLE: &str = "{{.Pod}}\t{{.CID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}\t{{.HostMem}}";

/// What a pod's containers use.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    id: String,
    name: String,
    containers: Vec<Sample>,
}

/// Shows what the containers of pods use.
pub async fn stats(app: &App, args: PodStatsArgs) -> Outcome {
    if args.all && !args.pods.is_empty() {
        return Err(Failure::new("--all and names of pods exclude each other"));
    }
    let clears = stdout_is_terminal() && !args.no_reset && !args.no_stream;
    loop {
        let names = names(app, &args).await?;
        let asked = names.iter().map(|name| async move {
            let path = format!("{PODS}/{}/stats", checked(name)?);
            app.client.json::<Usage>(&path, &[("stream", "0")]).await
        });
        let mut rows = Vec::new();
        for usage in futures::future::join_all(asked).await {
            match usage {
                Ok(usage) => rows.extend(usage.containers.iter().map(|sample| row(&usage, sample))),
                // One that has gone meanwhile.
                Err(error) if args.pods.is_empty() && error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let list = List { headings: HEADINGS, table: TABLE, rows };
        let text = list.render(args.format.as_deref()).map_err(|error| Failure::from_error(&error))?;
        output::write(&if clears { format!("{CLEAR}{text}") } else { text })?;
        if args.no_stream {
            return Ok(0);
        }
        if names.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn names(app: &App, args: &PodStatsArgs) -> Result<Vec<String>, ApiError> {
    if !args.pods.is_empty() {
        return Ok(args.pods.clone());
    }
    let pods: Vec<Pod> = app.client.json(PODS, &[]).await?;
    let runs = |pod: &Pod| pod.containers.iter().any(|container| container.state == "running");
    Ok(pods.into_iter().filter(|pod| args.all || runs(pod)).map(|pod| pod.id).collect())
}

fn row(usage: &Usage, sample: &Sample) -> Row {
    let mut row = Sample::row(Some(sample), "", false);
    let id = row.iter().find(|(name, _)| *name == "ID").map(|(_, id)| id.to_string()).unwrap_or_default();
    let known = |name: &str| HEADINGS.iter().any(|(known, _)| *known == name);
    row.retain(|(name, _)| known(name));
    row.push(("CID", Value::text(id)));
    let pod = if usage.name.is_empty() { super::ps::short_id(&usage.id) } else { usage.name.clone() };
    row.push(("Pod", Value::text(pod)));
    row
}

/// Lists the processes of a pod's containers.
pub async fn top(app: &App, args: PodTopArgs) -> Outcome {
    let (pod, options) = args.words.split_first().expect("clap requires a word");
    print_table(app, &format!("{PODS}/{}/top", checked(pod)?), options).await
}
