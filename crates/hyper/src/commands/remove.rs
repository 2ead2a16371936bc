//! `hyper rm` and `hyper rmi`

use bollard::query_parameters::{RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder};
use clap::Args;

use super::App;
use super::each::complain_all;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::output;

/// Flags of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove the specified link (not supported)
    #[arg(short, long)]
    link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Flags of `rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes containers and prints their names.
pub async fn rm(app: &App, args: RmArgs) -> Outcome {
    if args.link {
        return Err(Failure::new("--link is not supported: Hyper has no legacy container links"));
    }
    let options = RemoveContainerOptionsBuilder::new().force(args.force).v(args.volumes).build();
    let calls = args.containers.iter().map(|name| {
        let options = options.clone();
        async move {
            let name = name.trim_start_matches('/');
            path("containers", name, "")?;
            Ok(app.client.docker().remove_container(name, Some(options)).await?)
        }
    });
    let answers: Vec<Result<(), ApiError>> = futures::future::join_all(calls).await;
    let mut failures = Vec::new();
    for (name, answer) in args.containers.iter().zip(answers) {
        match answer {
            Ok(()) => output::line(name)?,
            // What is to be gone is gone.
            Err(error) if args.force && error.is_not_found() => {
                output::complain(&Failure::from(error).render())
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    complain_all(failures)
}

/// Removes images and prints what went.
pub async fn rmi(app: &App, args: RmiArgs) -> Outcome {
    let options = RemoveImageOptionsBuilder::new().force(args.force).noprune(args.no_prune).build();
    let mut failures = Vec::new();
    for name in &args.images {
        path("images", name, "")?;
        let removed = app.client.docker().remove_image(name, Some(options.clone()), None).await;
        match removed.map_err(ApiError::from) {
            Ok(items) => {
                for item in items {
                    if let Some(untagged) = item.untagged {
                        output::line(&format!("Untagged: {untagged}"))?;
                    }
                    if let Some(deleted) = item.deleted {
                        output::line(&format!("Deleted: {deleted}"))?;
                    }
                }
            }
            Err(error) if args.force && error.is_not_found() => {
                output::complain(&Failure::from(error).render())
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    complain_all(failures)
}
