//! `hyper pod start|stop|restart|kill|pause|unpause|rm|prune`: what is done to whole pods.

use clap::Args;
use http1::Method;
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::each::each;
use super::pods::{PODS, checked};
use super::prune::{confirmed, report, titled};
use super::ps::filters;
use crate::client::ApiError;
use crate::container::{FlagError, parse_bytes, parse_cpus};
use crate::error::{EXIT_DAEMON, Failure, Outcome};

/// Names of pods.
#[derive(Debug, Args)]
pub struct PodNamesArgs {
    /// All pods with a name
    #[arg(short, long)]
    all: bool,
    /// The pods
    #[arg(value_name = "POD")]
    pods: Vec<String>,
}

/// Flags of `pod stop`.
#[derive(Debug, Args)]
pub struct PodStopArgs {
    /// Leave pods alone that do not exist
    #[arg(short, long)]
    ignore: bool,
    /// Seconds to wait before killing the pod's containers (default each container's own)
    #[arg(short, long, alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i32>,
    #[command(flatten)]
    names: PodNamesArgs,
}

/// Flags of `pod restart`.
#[derive(Debug, Args)]
pub struct PodRestartArgs {
    /// Seconds to wait before killing the pod's containers (default each container's own)
    #[arg(short, long, alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i32>,
    #[command(flatten)]
    names: PodNamesArgs,
}

/// Flags of `pod kill`.
#[derive(Debug, Args)]
pub struct PodKillArgs {
    /// Signal to send to the pod's containers
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    names: PodNamesArgs,
}

/// Flags of `pod rm`.
#[derive(Debug, Args)]
pub struct PodRemoveArgs {
    /// Remove pods that run as well, their containers killed
    #[arg(short, long)]
    force: bool,
    /// Leave pods alone that do not exist
    #[arg(short, long)]
    ignore: bool,
    /// With --force: ask the containers to end, and kill them after so many seconds
    #[arg(short, long, alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i32>,
    #[command(flatten)]
    names: PodNamesArgs,
}

/// Flags of `pod update`.
#[derive(Debug, Args)]
pub struct PodUpdateArgs {
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL")]
    cpus: Option<String>,
    /// Memory for the pod's containers
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// The pods, which must not run
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

/// Flags of `pod prune`.
#[derive(Debug, Args)]
pub struct PodPruneArgs {
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"label=<key>=<value>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// A pod as far as it is needed here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its name; empty where it has none.
    pub name: String,
    /// Its containers, oldest first.
    pub containers: Vec<Member>,
}

/// A container of a pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Docker's word for its state.
    pub state: String,
}

impl Pod {
    fn has(&self, states: &[&str]) -> bool {
        self.containers.iter().any(|container| states.contains(&container.state.as_str()))
    }
}

impl PodNamesArgs {
    /// The pods that are meant; with `--all` those with a name for which `fit` holds.
    async fn resolve(&self, app: &App, fit: impl Fn(&Pod) -> bool) -> Result<Vec<String>, Failure> {
        match (self.all, self.pods.is_empty()) {
            (false, false) => Ok(self.pods.clone()),
            (false, true) => Err(Failure::new("which pod? Name one, or all of them by --all")),
            (true, false) => Err(Failure::new("--all and names of pods exclude each other")),
            (true, true) => {
                let pods: Vec<Pod> = app.client.json(PODS, &[]).await?;
                let chosen = pods.into_iter().filter(|pod| !pod.name.is_empty() && fit(pod));
                Ok(chosen.map(|pod| pod.name).collect())
            }
        }
    }
}

/// A POST to each pod, whose name is printed.
async fn post_each(app: &App, pods: &[String], verb: &str, query: &[(&str, &str)], ignore: bool) -> Outcome {
    each(pods, |name| async move {
        request(app, Method::POST, &format!("{PODS}/{}/{verb}", checked(name)?), query, ignore).await?;
        Ok(name.to_owned())
    })
    .await
}

async fn request(
    app: &App,
    method: Method,
    path: &str,
    query: &[(&str, &str)],
    ignore: bool,
) -> Result<(), ApiError> {
    match app.client.send(method, path, query).await {
        Err(error) if ignore && error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Starts pods with all of their containers, and prints their names.
pub async fn start(app: &App, args: PodNamesArgs) -> Outcome {
    post_each(app, &args.resolve(app, |_| true).await?, "start", &[], false).await
}

/// Stops pods and prints their names.
pub async fn stop(app: &App, args: PodStopArgs) -> Outcome {
    let seconds = args.time.map(|seconds| seconds.to_string());
    let query: Vec<_> = seconds.as_deref().map(|seconds| ("t", seconds)).into_iter().collect();
    post_each(app, &args.names.resolve(app, |_| true).await?, "stop", &query, args.ignore).await
}

/// Restarts pods and prints their names.
pub async fn restart(app: &App, args: PodRestartArgs) -> Outcome {
    let seconds = args.time.map(|seconds| seconds.to_string());
    let query: Vec<_> = seconds.as_deref().map(|seconds| ("t", seconds)).into_iter().collect();
    post_each(app, &args.names.resolve(app, |_| true).await?, "restart", &query, false).await
}

/// Sends a signal to pods' containers, and prints the pods' names.
pub async fn kill(app: &App, args: PodKillArgs) -> Outcome {
    let pods = args.names.resolve(app, |pod| pod.has(&["running", "paused", "restarting"])).await?;
    post_each(app, &pods, "kill", &[("signal", &args.signal)], false).await
}

/// Freezes pods' containers, and prints the pods' names.
pub async fn pause(app: &App, args: PodNamesArgs) -> Outcome {
    post_each(app, &args.resolve(app, |pod| pod.has(&["running"])).await?, "pause", &[], false).await
}

/// Undoes [`pause`].
pub async fn unpause(app: &App, args: PodNamesArgs) -> Outcome {
    post_each(app, &args.resolve(app, |pod| pod.has(&["paused"])).await?, "unpause", &[], false).await
}

/// Removes pods and prints their names.
pub async fn remove(app: &App, args: PodRemoveArgs) -> Outcome {
    if args.time.is_some() && !args.force {
        return Err(Failure::new("--time is for --force: without it nothing that runs is removed"));
    }
    let seconds = args.time.map(|seconds| seconds.to_string());
    let mut query = vec![("force", if args.force { "1" } else { "0" })];
    query.extend(seconds.as_deref().map(|seconds| ("t", seconds)));
    let query = query.as_slice();
    each(&args.names.resolve(app, |_| true).await?, |name| async move {
        request(app, Method::DELETE, &format!("{PODS}/{}", checked(name)?), query, args.ignore).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Gives pods another size, and prints their names.
pub async fn update(app: &App, args: PodUpdateArgs) -> Outcome {
    let wrong = |error: FlagError| Failure::from_error(&error).with_code(EXIT_DAEMON);
    let cpus = args.cpus.as_deref().map(parse_cpus).transpose().map_err(wrong)?;
    let memory = args.memory.as_deref().map(|text| parse_bytes("memory", text)).transpose().map_err(wrong)?;
    if cpus.is_none() && memory.is_none() {
        return Err(Failure::new("you must provide one or more flags: --cpus, --memory"));
    }
    let body = json!({"NanoCpus": cpus, "Memory": memory});
    let body = &body;
    each(&args.pods, |name| async move {
        app.client.post_json(&format!("{PODS}/{}/update", checked(name)?), body).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Removes pods that have ended.
pub async fn prune(app: &App, args: PodPruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    let warning = "This will remove all pods with a name whose containers have ended, and these containers.";
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let filters = serde_json::to_string(&filters).unwrap_or_default();
    let answer: serde_json::Value =
        app.client.post(&format!("{PODS}/prune"), &[("filters", &filters)]).await?;
    let ids = answer["PodsDeleted"].as_array().into_iter().flatten().filter_map(|id| id.as_str());
    let lines: String = ids.map(|id| format!("{id}\n")).collect();
    report(&titled("Deleted Pods:\n", &lines), answer["SpaceReclaimed"].as_i64().unwrap_or_default())
}
