//! `hyper container prune` and `hyper image prune`

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
    output::write(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_err() {
        let _ = std::io::stdout().flush();
        return Ok(false);
    }
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// Removes all stopped containers.
pub async fn containers(app: &App, args: ContainerPruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    if !args.force && !confirmed("This will remove all stopped containers.")? {
        return Ok(0);
    }
    let mut options = PruneContainersOptionsBuilder::new();
    if !filters.is_empty() {
        options = options.filters(&filters);
    }
    let pruned = app.client.docker().prune_containers(Some(options.build())).await;
    let pruned = pruned.map_err(|error| Failure::from(ApiError::from(error)))?;
    let deleted = pruned.containers_deleted.unwrap_or_default();
    report("Deleted Containers:\n", deleted.into_iter().map(|id| id + "\n").collect(), pruned.space_reclaimed)
}

/// Removes unused images.
pub async fn images(app: &App, args: ImagePruneArgs) -> Outcome {
    let mut filters = filters(&args.filter)?;
    filters.insert("dangling".into(), vec![(!args.all).to_string()]);
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
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
    report("Deleted Images:\n", lines, pruned.space_reclaimed)
}

/// Prints what went and how much room that makes.
///
/// # Errors
/// Standard output is closed.
pub fn report(heading: &str, lines: String, reclaimed: Option<i64>) -> Outcome {
    let gone = if lines.is_empty() { String::new() } else { format!("{heading}{lines}\n") };
    output::line(&format!(
        "{gone}Total reclaimed space: {}",
        human_size(reclaimed.unwrap_or_default() as f64)
    ))?;
    Ok(0)
}
