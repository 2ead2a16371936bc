//! The short commands over named containers: stop, restart, kill, pause, unpause, rename, wait.

use bollard::query_parameters::{KillContainerOptionsBuilder, RenameContainerOptionsBuilder};
use clap::Args;
use http1::Method;

use super::App;
use super::attach::Attachable;
use super::each::each;
use super::follow::wait_for_end;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};

/// Only names.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Flags of `stop` and `restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i32>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Flags of `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Words of `rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Refuses an empty name before it becomes another request.
fn checked(name: &str) -> Result<&str, ApiError> {
    path("containers", name, "").map(|_| name)
}

/// Stops containers and prints their names.
pub async fn stop(app: &App, args: StopArgs) -> Outcome {
    end(app, &args, "/stop").await
}

/// Restarts containers and prints their names.
pub async fn restart(app: &App, args: StopArgs) -> Outcome {
    end(app, &args, "/restart").await
}

async fn end(app: &App, args: &StopArgs, verb: &str) -> Outcome {
    let timeout = args.timeout.map(|seconds| seconds.to_string());
    let mut query = Vec::new();
    query.extend(args.signal.as_deref().map(|signal| ("signal", signal)));
    query.extend(timeout.as_deref().map(|timeout| ("t", timeout)));
    let query = query.as_slice();
    each(&args.containers, |name| async move {
        app.client.send(Method::POST, &path("containers", name, verb)?, query).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Sends a signal and prints the names.
pub async fn kill(app: &App, args: KillArgs) -> Outcome {
    let options =
        args.signal.as_ref().map(|signal| KillContainerOptionsBuilder::new().signal(signal).build());
    each(&args.containers, |name| {
        let options = options.clone();
        async move {
            app.client.docker().kill_container(checked(name)?, options).await?;
            Ok(name.to_owned())
        }
    })
    .await
}

/// Pauses containers and prints their names.
pub async fn pause(app: &App, args: NamesArgs) -> Outcome {
    each(&args.containers, |name| async move {
        app.client.docker().pause_container(checked(name)?).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Unpauses containers and prints their names.
pub async fn unpause(app: &App, args: NamesArgs) -> Outcome {
    each(&args.containers, |name| async move {
        app.client.docker().unpause_container(checked(name)?).await?;
        Ok(name.to_owned())
    })
    .await
}

/// Waits for containers and prints their exit codes.
pub async fn wait(app: &App, args: NamesArgs) -> Outcome {
    each(&args.containers, |name| async move {
        // A name may be gone, or another's, when a daemon that was lost is back: the id is not.
        let container: Attachable = app.client.json(&path("containers", name, "/json")?, &[]).await?;
        match wait_for_end(app, &container.id).await {
            Ok(code) => Ok(code.to_string()),
            Err(broken) => {
                let message = Failure::from(broken).errors.join(": ");
                Err(ApiError::Daemon { status: 500, message })
            }
        }
    })
    .await
}

/// Gives a container another name.
pub async fn rename(app: &App, args: RenameArgs) -> Outcome {
    if args.container.trim().is_empty() || args.name.trim().is_empty() {
        return Err(Failure::new("neither old nor new names may be empty"));
    }
    let options = RenameContainerOptionsBuilder::new().name(&args.name).build();
    let renamed = app.client.docker().rename_container(&args.container, options).await;
    renamed.map_err(|error| Failure::from(ApiError::from(error)))?;
    Ok(0)
}
