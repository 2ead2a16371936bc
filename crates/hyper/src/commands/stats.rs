//! `hyper stats`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bollard::query_parameters::ListContainersOptionsBuilder;
use clap::Args;
use http1::Method;
use tokio::task::JoinHandle;

use super::App;
use super::stats_row::Sample;
use crate::client::{ApiError, Client, path};
use crate::error::{Failure, Outcome};
use crate::format::List;
use crate::output;
use crate::stream::stdout_is_terminal;

/// Between two pictures of the live display, as docker's.
const REFRESH: Duration = Duration::from_millis(500);
/// How long the first picture waits: a daemon sends a sample every second.
const FIRST_SAMPLE: Duration = Duration::from_secs(3);
/// Pictures between two looks for new containers.
const RELIST_EVERY: u32 = 4;
/// ANSI: to the upper left corner.
const HOME: &str = "\x1b[H";
/// ANSI: clears the screen.
const CLEAR: &str = "\x1b[2J";
/// ANSI: clears the rest of the line.
const CLEAR_LINE: &str = "\x1b[K";
/// ANSI: clears what is below.
const CLEAR_BELOW: &str = "\x1b[J";

/// Flags of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template; beside docker's columns there are what the
    /// container's pod takes of the host's memory (.HostMem, PSS), its own part (.HostPrivate), what it shares
    /// (.HostShared), and the guest's memory that the host has no page for (.HostAbsent)
    #[arg(long)]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// The containers; all when none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const HEADINGS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("HostMem", "HOST MEM"),
    ("HostPrivate", "HOST PRIVATE"),
    ("HostShared", "HOST SHARED"),
    ("HostAbsent", "HOST ABSENT"),
];
const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}\t{{.HostMem}}";

/// The latest sample of every watched container.
type Latest = Arc<Mutex<BTreeMap<usize, (String, Option<Sample>)>>>;

/// A watched container: its name, its place on the display, its reader.
type Watched = (String, usize, JoinHandle<Result<(), ApiError>>);

/// Shows what containers use.
pub async fn stats(app: &App, args: StatsArgs) -> Outcome {
    if args.no_stream {
        return once(app, &args).await;
    }
    live(app, &args).await
}

async fn names(app: &App, args: &StatsArgs) -> Result<Vec<String>, Failure> {
    if !args.containers.is_empty() {
        return Ok(args.containers.clone());
    }
    let options = ListContainersOptionsBuilder::new().all(args.all).build();
    let containers = app.client.docker().list_containers(Some(options)).await;
    let containers = containers.map_err(|error| Failure::from(ApiError::from(error)))?;
    Ok(containers
        .into_iter()
        .filter_map(|container| container.id)
        .map(|id| super::ps::short_id(&id))
        .collect())
}

async fn sample(client: &Client, name: &str) -> Result<Sample, ApiError> {
    client.json(&path("containers", name, "/stats")?, &[("stream", "0")]).await
}

async fn once(app: &App, args: &StatsArgs) -> Outcome {
    let names = names(app, args).await?;
    let samples = futures::future::join_all(names.iter().map(|name| sample(&app.client, name))).await;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (name, sample) in names.iter().zip(samples) {
        match sample {
            Ok(sample) => rows.push(Sample::row(Some(&sample), name, args.no_trunc)),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    if !failures.is_empty() {
        return super::each::complain_all(failures);
    }
    output::write(&render(args, rows)?)?;
    Ok(0)
}

fn render(args: &StatsArgs, rows: Vec<crate::format::Row>) -> Result<String, Failure> {
    let list = List { headings: HEADINGS, table: TABLE, rows };
    list.render(args.format.as_deref()).map_err(|error| Failure::from_error(&error))
}

/// Reads a container's samples until they end.
fn watch(client: Arc<Client>, latest: Latest, key: usize, name: String) -> JoinHandle<Result<(), ApiError>> {
    tokio::spawn(async move {
        let mut lines =
            client.lines(Method::GET, &path("containers", &name, "/stats")?, &[("stream", "1")], &[]).await?;
        while let Some(sample) = lines.next::<Sample>().await? {
            if let Ok(mut latest) = latest.lock() {
                latest.insert(key, (name.clone(), Some(sample)));
            }
        }
        Ok(())
    })
}

async fn live(app: &App, args: &StatsArgs) -> Outcome {
    let latest = Latest::default();
    let mut watched: Vec<Watched> = Vec::new();
    let mut next_key = 0;
    let terminal = stdout_is_terminal();
    if terminal {
        output::write(CLEAR)?;
    }
    for picture in 0u32.. {
        if picture == 0 || (args.containers.is_empty() && picture % RELIST_EVERY == 0) {
            for name in names(app, args).await? {
                if watched.iter().any(|(known, ..)| *known == name) {
                    continue;
                }
                if let Ok(mut latest) = latest.lock() {
                    latest.insert(next_key, (name.clone(), None));
                }
                let task = watch(Arc::clone(&app.client), Arc::clone(&latest), next_key, name.clone());
                watched.push((name, next_key, task));
                next_key += 1;
            }
        }
        if picture == 0 {
            wait_for_first(&latest, &watched).await;
        }
        drop_ended(args, &latest, &mut watched).await?;
        let rows = match latest.lock() {
            Ok(latest) => latest
                .values()
                .map(|(name, sample)| Sample::row(sample.as_ref(), name, args.no_trunc))
                .collect(),
            Err(_) => Vec::new(),
        };
        let text = render(args, rows)?;
        if terminal {
            output::write(&format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', &format!("{CLEAR_LINE}\n"))))?;
        } else {
            output::write(&text)?;
        }
        if watched.is_empty() && !args.containers.is_empty() {
            return Ok(0);
        }
        tokio::time::sleep(REFRESH).await;
    }
    Ok(0)
}

/// Waits until every container has a sample or has failed, so that the first picture is no row of dashes.
async fn wait_for_first(latest: &Latest, watched: &[Watched]) {
    let began = Instant::now();
    let pending = || {
        let Ok(latest) = latest.lock() else { return false };
        watched.iter().any(|(_, key, task)| {
            !task.is_finished() && latest.get(key).is_some_and(|(_, sample)| sample.is_none())
        })
    };
    while pending() && began.elapsed() < FIRST_SAMPLE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Takes ended containers off the display; a named one that is not there ends the command.
async fn drop_ended(args: &StatsArgs, latest: &Latest, watched: &mut Vec<Watched>) -> Result<(), Failure> {
    let mut index = 0;
    while index < watched.len() {
        if !watched[index].2.is_finished() {
            index += 1;
            continue;
        }
        let (_, key, task) = watched.swap_remove(index);
        let ended = task.await;
        if let Ok(mut latest) = latest.lock() {
            latest.remove(&key);
        }
        if let Ok(Err(error)) = ended
            && !args.containers.is_empty()
        {
            return Err(error.into());
        }
    }
    Ok(())
}
