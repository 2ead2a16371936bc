//! `hyper ps`

use std::collections::HashMap;

use bollard::models::{ContainerSummary, MountPoint, PortSummary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use clap::Args;

use super::App;
use super::listing;
use crate::client::ApiError;
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::format::{List, Row, Value, duration, ellipsis, go_time, quote, short_size};

/// Longest command shown, quotes included.
const COMMAND_WIDTH: usize = 20;
/// Characters of a short id.
pub const SHORT_ID: usize = 12;

/// Flags of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "-1", allow_negative_numbers = true)]
    last: i32,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

/// `--filter` flags as the API takes them.
///
/// # Errors
/// A filter without `=`.
pub fn filters(texts: &[String]) -> Result<HashMap<String, Vec<String>>, Failure> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=') else {
            let message = format!("invalid argument {text:?} for --filter: use KEY=VALUE");
            return Err(Failure::new(message).with_code(EXIT_DAEMON));
        };
        filters.entry(key.trim().to_lowercase()).or_default().push(value.trim().to_owned());
    }
    Ok(filters)
}

/// Lists containers.
pub async fn ps(app: &App, args: PsArgs) -> Outcome {
    let limit = if args.latest && args.last == -1 { 1 } else { args.last };
    let wants_size = args.size || args.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let filters = filters(&args.filter)?;
    let mut options = ListContainersOptionsBuilder::new().all(args.all).size(wants_size);
    if limit > 0 {
        options = options.limit(limit);
    }
    if !filters.is_empty() {
        options = options.filters(&filters);
    }
    let containers = app.client.docker().list_containers(Some(options.build())).await;
    let containers = containers.map_err(|error| Failure::from(ApiError::from(error)))?;
    let now = jiff::Timestamp::now().as_second();
    let list = List {
        headings: HEADINGS,
        table: table(&args),
        rows: containers.into_iter().map(|container| row(container, args.no_trunc, now)).collect(),
    };
    listing::print(list, args.format.as_deref(), args.quiet)
}

/// Docker's columns of containers.
pub const HEADINGS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

fn table(args: &PsArgs) -> &'static str {
    match (args.quiet, args.size) {
        (true, _) => "{{.ID}}",
        (false, false) => {
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
        }
        (false, true) => {
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}"
        }
    }
}

/// The first characters of an id, without its algorithm.
pub fn short_id(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(SHORT_ID).collect()
}

/// The row of a container in the details of `system df`.
pub fn container_row(mut container: ContainerSummary, now: i64) -> Row {
    // There it is the container's own size alone.
    container.size_root_fs = None;
    row(container, false, now)
}

fn row(container: ContainerSummary, no_trunc: bool, now: i64) -> Row {
    let id = container.id.unwrap_or_default();
    let created = container.created.unwrap_or_default();
    let mut labels: Vec<(String, String)> = container.labels.unwrap_or_default().into_iter().collect();
    labels.sort();
    let labels_text =
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let command = container.command.unwrap_or_default();
    let command = if no_trunc { command } else { ellipsis(&command, COMMAND_WIDTH) };
    let networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let mut networks: Vec<String> = networks.into_keys().collect();
    networks.sort();
    let mounts = container.mounts.unwrap_or_default();
    let local = mounts.iter().filter(|mount| mount.driver.as_deref() == Some("local")).count();
    let text = Value::text;
    vec![
        ("ID", text(if no_trunc { id } else { short_id(&id) })),
        ("Names", text(names(&container.names.unwrap_or_default(), no_trunc))),
        ("Image", text(image(container.image, container.image_id, no_trunc))),
        ("Command", text(quote(&command))),
        ("CreatedAt", text(go_time(created))),
        ("RunningFor", text(format!("{} ago", duration(now - created)))),
        ("Ports", text(ports(&container.ports.unwrap_or_default()))),
        ("State", text(container.state.map(|state| state.to_string()).unwrap_or_default())),
        ("Status", text(container.status.unwrap_or_default())),
        ("Size", text(size(container.size_rw, container.size_root_fs))),
        ("Labels", text(labels_text)),
        ("Mounts", text(mount_names(&mounts, no_trunc))),
        ("LocalVolumes", text(local.to_string())),
        ("Networks", text(networks.join(","))),
        ("Platform", Value::Nil("<nil>")),
        ("Label", Value::Lookup(labels)),
    ]
}

/// Names without their slash; short output leaves those with a second one out (they are links).
fn names(names: &[String], no_trunc: bool) -> String {
    let shown = names.iter().map(|name| name.strip_prefix('/').unwrap_or(name));
    shown.filter(|name| no_trunc || !name.contains('/')).collect::<Vec<_>>().join(",")
}

fn image(image: Option<String>, id: Option<String>, no_trunc: bool) -> String {
    let image = image.unwrap_or_default();
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if no_trunc {
        return image;
    }
    // An image that lost its tag shows its id, which may be long.
    match id {
        Some(id) if image == id || image == short_id(&id) => short_id(&id),
        _ => image.split_once('@').map_or(image.clone(), |(name, _)| name.to_owned()),
    }
}

fn size(writable: Option<i64>, whole: Option<i64>) -> String {
    let shown = |bytes: Option<i64>| short_size(bytes.unwrap_or_default() as f64);
    match whole {
        Some(1..) => format!("{} (virtual {})", shown(writable), shown(whole)),
        _ => shown(writable),
    }
}

fn mount_names(mounts: &[MountPoint], no_trunc: bool) -> String {
    let name = |mount: &MountPoint| {
        let name = mount.name.clone().filter(|name| !name.is_empty()).or_else(|| mount.source.clone());
        let name = name.unwrap_or_default();
        if no_trunc { name } else { ellipsis(&name, 15) }
    };
    mounts.iter().map(name).collect::<Vec<_>>().join(",")
}

fn ports(ports: &[PortSummary]) -> String {
    let kind = |port: &PortSummary| port.typ.map(|kind| kind.to_string()).unwrap_or_default();
    let mut sorted: Vec<&PortSummary> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.private_port, port.ip.clone(), port.public_port, kind(port)));
    let at = |ip: &str| match ip {
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    };
    // Ports in a row that are not published, or under their own number, are shown as a range.
    let mut groups: Vec<(String, String, u16, u16)> = Vec::new();
    let (mut shown, mut moved) = (Vec::new(), Vec::new());
    let range = |(ip, kind, first, last): &(String, String, u16, u16)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if ip.is_empty() { format!("{range}/{kind}") } else { format!("{}:{range}->{range}/{kind}", at(ip)) }
    };
    for port in sorted {
        let (ip, kind) = (port.ip.clone().unwrap_or_default(), kind(port));
        let number = port.private_port;
        if !ip.is_empty() && port.public_port != Some(number) {
            let public = port.public_port.unwrap_or_default();
            moved.push(format!("{}:{public}->{number}/{kind}", at(&ip)));
            continue;
        }
        match groups.iter_mut().find(|group| (&group.0, &group.1) == (&ip, &kind)) {
            Some(group) if group.3.checked_add(1) == Some(number) => group.3 = number,
            Some(group) => {
                shown.push(range(group));
                (group.2, group.3) = (number, number);
            }
            None => groups.push((ip, kind, number, number)),
        }
    }
    shown.extend(groups.iter().map(range));
    shown.extend(moved);
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_need_an_equals_sign() {
        let parsed = filters(&["name=a".into(), "Label=x=y".into(), "name=b".into()]).unwrap();
        assert_eq!(parsed["name"], ["a", "b"]);
        assert_eq!(parsed["label"], ["x=y"]);
        assert!(filters(&["name".into()]).is_err());
    }

    #[test]
    fn ports_in_a_row_are_shown_together() {
        let port = |ip: &str, private, public| PortSummary {
            ip: (!ip.is_empty()).then(|| ip.to_owned()),
            private_port: private,
            public_port: public,
            typ: serde_json::from_str("\"tcp\"").unwrap(),
        };
        let all = [
            port("0.0.0.0", 80, Some(80)),
            port("0.0.0.0", 81, Some(81)),
            port("::", 80, Some(80)),
            port("0.0.0.0", 90, Some(8090)),
            port("", 5000, None),
        ];
        assert_eq!(ports(&all), "0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp, 5000/tcp, 0.0.0.0:8090->90/tcp");
    }

    #[test]
    fn a_container_shows_as_docker_shows_it() {
        let container: ContainerSummary = serde_json::from_str(
            r#"{"Id":"9fad60f3e098690457371fea03f4","Names":["/t1"],"Image":"bb","ImageID":"sha256:4196",
            "Command":"sh -c 'while true; do echo'","Created":1000,"Ports":[{"PrivatePort":80,"PublicPort":8080,"IP":"0.0.0.0","Type":"tcp"}],
            "Labels":{"c":"d","a":"b"},"State":"running","Status":"Up 2 minutes","NetworkSettings":{"Networks":{"bridge":{}}},"Mounts":[]}"#,
        )
        .unwrap();
        let list = List { headings: HEADINGS, table: "", rows: vec![row(container, false, 1120)] };
        let format = "{{.ID}}|{{.Names}}|{{.Image}}|{{.Command}}|{{.RunningFor}}|{{.Ports}}|{{.State}}|{{.Status}}|{{.Size}}|{{.Labels}}|{{.Networks}}|{{.Label \"c\"}}";
        assert_eq!(
            list.render(Some(format)).unwrap(),
            "9fad60f3e098|t1|bb|\"sh -c 'while true; …\"|2 minutes ago|0.0.0.0:8080->80/tcp|running|Up 2 minutes|0B|a=b,c=d|bridge|d\n"
        );
    }
}
