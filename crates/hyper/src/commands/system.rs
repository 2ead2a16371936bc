//! `hyper system df` and `hyper system prune`

use std::collections::HashMap;

use bollard::models::{ContainerSummary, ImageSummary, Volume};
use clap::Args;
use serde::Deserialize;

use super::images::image_rows;
use super::prune::{confirm_text, prune_containers, prune_images, prune_kind, report, titled};
use super::ps::{container_row, filters};
use super::{App, listing};
use crate::error::{Failure, Outcome};
use crate::format::{List, Row, Value, human_size};
use crate::output;

/// Flags of `system df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

/// Flags of `system prune`.
#[derive(Debug, Args)]
pub struct SystemPruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"label=<key>=<value>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    layers_size: i64,
    images: Option<Vec<ImageSummary>>,
    containers: Option<Vec<ContainerSummary>>,
    volumes: Option<Vec<Volume>>,
}

const HEADINGS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// One kind of things: how many, how many of them in use, their bytes, and those that a prune gives back.
struct Kind {
    name: &'static str,
    total: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
}

impl Kind {
    fn row(&self) -> Row {
        let mut reclaimable = human_size(self.reclaimable as f64);
        if self.size > 0 {
            reclaimable += &format!(" ({}%)", self.reclaimable * 100 / self.size);
        }
        vec![
            ("Type", Value::text(self.name)),
            ("TotalCount", Value::text(self.total.to_string())),
            ("Active", Value::text(self.active.to_string())),
            ("Size", Value::text(human_size(self.size as f64))),
            ("Reclaimable", Value::text(reclaimable)),
        ]
    }
}

fn kinds(usage: &Usage) -> [Kind; 4] {
    let images = usage.images.as_deref().unwrap_or_default();
    let used: i64 = images
        .iter()
        .filter(|image| image.containers != 0 && image.size != -1 && image.shared_size != -1)
        .map(|image| image.size - image.shared_size)
        .sum();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let runs = |container: &&ContainerSummary| {
        let state = container.state.map(|state| state.to_string()).unwrap_or_default();
        matches!(state.as_str(), "running" | "paused" | "restarting")
    };
    let bytes = |container: &ContainerSummary| container.size_rw.unwrap_or(0);
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let of_volume = |volume: &Volume| {
        volume.usage_data.as_ref().map_or((0, 0), |data| (data.size.max(0), data.ref_count))
    };
    [
        Kind {
            name: "Images",
            total: images.len(),
            active: images.iter().filter(|image| image.containers > 0).count(),
            size: usage.layers_size,
            reclaimable: (usage.layers_size - used).max(0),
        },
        Kind {
            name: "Containers",
            total: containers.len(),
            active: containers.iter().filter(runs).count(),
            size: containers.iter().map(bytes).sum(),
            reclaimable: containers.iter().filter(|container| !runs(container)).map(bytes).sum(),
        },
        Kind {
            name: "Local Volumes",
            total: volumes.len(),
            active: volumes.iter().filter(|volume| of_volume(volume).1 > 0).count(),
            size: volumes.iter().map(|volume| of_volume(volume).0).sum(),
            reclaimable: volumes
                .iter()
                .map(of_volume)
                .filter(|(_, uses)| *uses == 0)
                .map(|(size, _)| size)
                .sum(),
        },
        Kind { name: "Build Cache", total: 0, active: 0, size: 0, reclaimable: 0 },
    ]
}

/// Shows what takes room on the daemon's disk.
///
/// # Errors
/// The daemon's failure, or a wrong template.
pub async fn df(app: &App, args: DfArgs) -> Outcome {
    let query: &[(&str, &str)] = if args.verbose { &[("verbose", "1")] } else { &[] };
    let usage: Usage = app.client.json("/system/df", query).await?;
    if !args.verbose {
        let rows = kinds(&usage).iter().map(Kind::row).collect();
        let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
        return listing::print(List { headings: HEADINGS, table, rows }, args.format.as_deref(), false);
    }
    details(usage, args.format.as_deref())
}

const IMAGE_TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINER_TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUME_HEADINGS: &[(&str, &str)] = &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];
const CACHE_HEADINGS: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

fn details(usage: Usage, format: Option<&str>) -> Outcome {
    let now = jiff::Timestamp::now().as_second();
    let images: Vec<Row> =
        usage.images.unwrap_or_default().iter().flat_map(|image| image_rows(image, now)).collect();
    let containers: Vec<Row> = (usage.containers.unwrap_or_default().into_iter())
        .map(|container| container_row(container, now))
        .collect();
    let volumes: Vec<Row> = (usage.volumes.unwrap_or_default().into_iter())
        .map(|volume| {
            let (size, links) = volume.usage_data.map_or((-1, -1), |data| (data.size, data.ref_count));
            let size = if size < 0 { "N/A".to_owned() } else { human_size(size as f64) };
            let links = if links < 0 { "N/A".to_owned() } else { links.to_string() };
            vec![
                ("Name", Value::text(volume.name)),
                ("Links", Value::text(links)),
                ("Size", Value::text(size)),
            ]
        })
        .collect();
    let tables = [
        ("Images space usage:", super::images::HEADINGS, IMAGE_TABLE, images),
        ("Containers space usage:", super::ps::HEADINGS, CONTAINER_TABLE, containers),
        ("Local Volumes space usage:", VOLUME_HEADINGS, "{{.Name}}\t{{.Links}}\t{{.Size}}", volumes),
    ];
    match format {
        None | Some("" | "table") => {}
        Some(other) => {
            return Err(Failure::new(format!("system df -v has no format {other:?}: only its tables"))
                .with_hint("`hyper system df --format json` has the totals"));
        }
    }
    for (title, headings, table, rows) in tables {
        output::write(&format!("{title}\n\n"))?;
        listing::print(List { headings, table, rows }, None, false)?;
        output::write("\n")?;
    }
    output::write("Build cache usage: 0B\n\n")?;
    let table = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";
    listing::print(List { headings: CACHE_HEADINGS, table, rows: Vec::new() }, None, false)
}

/// Removes all that nothing uses.
///
/// # Errors
/// The daemon's failure.
pub async fn prune(app: &App, args: SystemPruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    if args.volumes && filters.contains_key("until") {
        return Err(Failure::new("the \"until\" filter is not supported with \"--volumes\""));
    }
    if !args.force && !confirm_text(&warning(&args, &filters))? {
        return Ok(0);
    }
    let mut reclaimed = 0;
    let mut text = String::new();
    let (lines, bytes) = prune_containers(app, &filters).await?;
    text += &titled("Deleted Containers:\n", &lines);
    reclaimed += bytes;
    let mut kinds = vec![("networks", "NetworksDeleted", "Deleted Networks:\n")];
    if args.volumes {
        kinds.push(("volumes", "VolumesDeleted", "Deleted Volumes:\n"));
    }
    for (kind, field, title) in kinds {
        let (lines, bytes) = prune_kind(app, kind, field, &filters).await?;
        text += &titled(title, &lines);
        reclaimed += bytes;
    }
    let (lines, bytes) = prune_images(app, &filters, args.all).await?;
    text += &titled("Deleted Images:\n", &lines);
    report(&text, reclaimed + bytes)
}

fn warning(args: &SystemPruneArgs, filters: &HashMap<String, Vec<String>>) -> String {
    let mut text =
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
                    container\n"
            .to_owned();
    if args.volumes {
        text += "  - all anonymous volumes not used by at least one container\n";
    }
    text += if args.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    };
    if !filters.is_empty() {
        text += "\n  Items to be pruned will be filtered with:\n";
        let mut lines: Vec<String> = (filters.iter())
            .flat_map(|(key, values)| values.iter().map(move |value| format!("  - {key}={value}\n")))
            .collect();
        lines.sort();
        text += &lines.concat();
    }
    text + "\nAre you sure you want to continue? [y/N] "
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_counted_as_docker_counts_them() {
        let usage: Usage = serde_json::from_str(
            r#"{"LayersSize":1000,"Images":[
                {"Id":"a","ParentId":"","RepoTags":[],"RepoDigests":[],"Created":1,"Size":700,"SharedSize":100,"Labels":{},"Containers":1},
                {"Id":"b","ParentId":"","RepoTags":[],"RepoDigests":[],"Created":1,"Size":400,"SharedSize":100,"Labels":{},"Containers":0}],
            "Containers":[{"State":"running","SizeRw":10},{"State":"exited","SizeRw":30}],"Volumes":null}"#,
        )
        .unwrap();
        let format = "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}";
        let rows = kinds(&usage).iter().map(Kind::row).collect();
        assert_eq!(
            List { headings: HEADINGS, table: "", rows }.render(Some(format)).unwrap(),
            "Images 2 1 1kB 400B (40%)\nContainers 2 1 40B 30B (75%)\nLocal Volumes 0 0 0B 0B\nBuild Cache 0 0 0B 0B\n"
        );
    }
}
