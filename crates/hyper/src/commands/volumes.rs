//! `hyper volume …`

use std::collections::HashMap;

use bytes::Bytes;
use clap::Args;
use http1::Method;
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::each::each;
use super::inspect::print_objects;
use super::listing;
use super::prune::{confirmed, prune_kind, report, titled};
use super::ps::filters;
use crate::client::{ApiError, encode};
use crate::container::parse_pair;
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::format::{List, Row, Value};
use crate::output;

/// Path of the volumes.
const VOLUMES: &str = "/volumes";

/// Flags of `volume create`.
#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// Volume driver: local, or disk for a filesystem of its own with a size
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set driver specific options (disk: size=BYTES)
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Specify volume name
    #[arg(long, hide = true)]
    name: Option<String>,
    /// The volume's name; without one it gets one
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

/// Flags of `volume ls`.
#[derive(Debug, Args)]
pub struct VolumeListArgs {
    #[arg(short, long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"dangling=true\")")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `volume inspect`.
#[derive(Debug, Args)]
pub struct VolumeInspectArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Flags of `volume rm`.
#[derive(Debug, Args)]
pub struct VolumeRemoveArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    force: bool,
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Flags of `volume prune`.
#[derive(Debug, Args)]
pub struct VolumePruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"label=<label>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "VOLUME NAME"),
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

/// A volume as the daemon tells of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    driver: String,
    scope: String,
    mountpoint: String,
    #[serde(default)]
    labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Makes a volume and prints its name.
pub async fn create(app: &App, args: VolumeCreateArgs) -> Outcome {
    let name = match (args.volume, args.name) {
        (Some(_), Some(_)) => {
            return Err(Failure::new(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            ));
        }
        (volume, name) => volume.or(name).unwrap_or_default(),
    };
    let wrong = |error| Failure::from_error(&error).with_code(EXIT_DAEMON);
    let options: Result<HashMap<_, _>, _> = args.opt.iter().map(|text| parse_pair("opt", text)).collect();
    let labels = args.label.iter().map(|text| text.split_once('=').unwrap_or((text, "")));
    let labels: HashMap<_, _> = labels.collect();
    let body = json!({
        "Name": name, "Driver": args.driver, "DriverOpts": options.map_err(wrong)?, "Labels": labels,
    });
    let path = format!("{VOLUMES}/create");
    let answer = app.client.post_json(&path, &body).await?;
    let volume: Volume = serde_json::from_slice(&answer)
        .map_err(|source| Failure::from(ApiError::Answer { request: format!("POST {path}"), source }))?;
    output::line(&volume.name)?;
    Ok(0)
}

/// What a list tells.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    volumes: Option<Vec<Volume>>,
}

/// Lists volumes.
pub async fn list(app: &App, args: VolumeListArgs) -> Outcome {
    let filters = serde_json::to_string(&filters(&args.filter)?).unwrap_or_default();
    let listed: Listed = app.client.json(VOLUMES, &[("filters", &filters)]).await?;
    let mut volumes = listed.volumes.unwrap_or_default();
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    let rows = volumes.iter().map(row).collect();
    let list = List { headings: HEADINGS, table: "{{.Driver}}\t{{.Name}}", rows };
    listing::print(list, args.format.as_deref(), args.quiet)
}

fn row(volume: &Volume) -> Row {
    let labels = volume.labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let text = |text: &str| Value::text(text.to_owned());
    vec![
        ("ID", text(&volume.name)),
        ("Name", text(&volume.name)),
        ("Driver", text(&volume.driver)),
        ("Scope", text(&volume.scope)),
        ("Mountpoint", text(&volume.mountpoint)),
        ("Labels", Value::text(labels.collect::<Vec<_>>().join(","))),
        // As docker has them here: they are counted for `system df` alone.
        ("Links", text("N/A")),
        ("Size", text("N/A")),
    ]
}

/// A volume as the daemon tells of it.
///
/// # Errors
/// There is none, or the daemon does not answer.
pub async fn fetch(app: &App, name: &str) -> Result<Bytes, ApiError> {
    if name.is_empty() {
        return Err(ApiError::EmptyName { what: "volume" });
    }
    app.client.bytes(&format!("{VOLUMES}/{}", encode(name)), &[]).await
}

/// Prints volumes.
pub async fn inspect(app: &App, args: VolumeInspectArgs) -> Outcome {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.volumes {
        match fetch(app, name).await {
            Ok(json) => found.push(json),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    print_objects(&found, args.format.as_deref(), failures)
}

/// Removes volumes and prints their names.
pub async fn remove(app: &App, args: VolumeRemoveArgs) -> Outcome {
    let query: &[(&str, &str)] = if args.force { &[("force", "1")] } else { &[] };
    each(&args.volumes, |name| async move {
        if name.is_empty() {
            return Err(ApiError::EmptyName { what: "volume" });
        }
        app.client.send(Method::DELETE, &format!("{VOLUMES}/{}", encode(name)), query).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Removes unused volumes.
pub async fn prune(app: &App, args: VolumePruneArgs) -> Outcome {
    let mut filters = filters(&args.filter)?;
    if args.all {
        if filters.contains_key("all") {
            return Err(Failure::new("conflicting options: cannot specify both --all and --filter all=1"));
        }
        filters.insert("all".into(), vec!["true".into()]);
    }
    let warning = if args.all {
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let (lines, reclaimed) = prune_kind(app, "volumes", "VolumesDeleted", &filters).await?;
    report(&titled("Deleted Volumes:\n", &lines), reclaimed)
}
