//! `hyper container prune` and `hyper image prune`

use std::collections::HashMap;
use std::io::Write;

use bollard::query_parameters::{PruneContainersOptionsBuilder, PruneImagesOptionsBuilder};
use clap::Args;

use super::App;
use super::ps::filters;
use crate::client::ApiError;
use crate::error::{Failure, Outcome};
use crate::format::human_size;
use crate::output;

/// Flags of `container prune`.
#[derive(Debug, Args)]
pub struct ContainerPruneArgs {
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"until=<timestamp>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Flags of `image prune`.
#[derive(Debug, Args)]
pub struct ImagePruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"until=<timestamp>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Asks; only a `y` is a yes.
///
/// # Errors
/// Standard output is closed.
pub fn confirmed(warning: &str) -> Result<bool, Failure> {
    confirm_text(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))
}

/// As [`confirmed`], with the whole question.
///
/// # Errors
/// Standard output is closed.
pub fn confirm_text(question: &str) -> Result<bool, Failure> {
    output::write(question)?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_err() {
        let _ = std::io::stdout().flush();
        return Ok(false);
    }
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// Filters by name.
type Filters = HashMap<String, Vec<String>>;

/// Removes stopped containers: a line for each, and the bytes that became free.
///
/// # Errors
/// The daemon's failure.
pub async fn prune_containers(app: &App, filters: &Filters) -> Result<(String, i64), Failure> {
    let mut options = PruneContainersOptionsBuilder::new();
    if !filters.is_empty() {
        options = options.filters(filters);
    }
    let pruned = app.client.docker().prune_containers(Some(options.build())).await;
    let pruned = pruned.map_err(|error| Failure::from(ApiError::from(error)))?;
    let deleted = pruned.containers_deleted.unwrap_or_default();
    Ok((deleted.into_iter().map(|id| id + "\n").collect(), pruned.space_reclaimed.unwrap_or_default()))
}

/// Removes unused images, likewise.
///
/// # Errors
/// The daemon's failure.
pub async fn prune_images(app: &App, filters: &Filters, all: bool) -> Result<(String, i64), Failure> {
    let mut filters = filters.clone();
    filters.insert("dangling".into(), vec![(!all).to_string()]);
    let options = PruneImagesOptionsBuilder::new().filters(&filters).build();
    let pruned = app.client.docker().prune_images(Some(options)).await;
    let pruned = pruned.map_err(|error| Failure::from(ApiError::from(error)))?;
    let mut lines = String::new();
    for item in pruned.images_deleted.unwrap_or_default() {
        match (item.untagged, item.deleted) {
            (Some(untagged), _) => lines += &format!("untagged: {untagged}\n"),
            (None, Some(deleted)) => lines += &format!("deleted: {deleted}\n"),
            (None, None) => {}
        }
    }
    Ok((lines, pruned.space_reclaimed.unwrap_or_default()))
}

/// Removes unused networks or volumes, likewise. A daemon that has none of a kind has nothing to remove.
///
/// # Errors
/// The daemon's failure.
pub async fn prune_kind(
    app: &App,
    kind: &str,
    field: &str,
    filters: &Filters,
) -> Result<(String, i64), Failure> {
    let filters = serde_json::to_string(filters).unwrap_or_default();
    let path = format!("/{kind}/prune");
    let answer: serde_json::Value = match app.client.post(&path, &[("filters", &filters)]).await {
        Err(error) if error.status() == Some(501) => return Ok((String::new(), 0)),
        answer => answer?,
    };
    let names = answer[field].as_array().into_iter().flatten().filter_map(|name| name.as_str());
    let lines = names.map(|name| format!("{name}\n")).collect();
    Ok((lines, answer["SpaceReclaimed"].as_i64().unwrap_or_default()))
}

/// Removes all stopped containers.
pub async fn containers(app: &App, args: ContainerPruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    if !args.force && !confirmed("This will remove all stopped containers.")? {
        return Ok(0);
    }
    let (lines, reclaimed) = prune_containers(app, &filters).await?;
    report(&titled("Deleted Containers:\n", &lines), reclaimed)
}

/// Removes unused images.
pub async fn images(app: &App, args: ImagePruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let (lines, reclaimed) = prune_images(app, &filters, args.all).await?;
    report(&titled("Deleted Images:\n", &lines), reclaimed)
}

/// The lines under their title, and nothing where there are none.
pub fn titled(title: &str, lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!("{title}{lines}\n") }
}

/// Prints what went and how much room that makes.
///
/// # Errors
/// Standard output is closed.
pub fn report(gone: &str, reclaimed: i64) -> Outcome {
    output::line(&format!("{gone}Total reclaimed space: {}", human_size(reclaimed as f64)))?;
    Ok(0)
}
