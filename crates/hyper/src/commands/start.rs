//! `hyper start`: containers that exist already.

use std::sync::Arc;

use bollard::query_parameters::StartContainerOptionsBuilder;
use clap::Args;
use http1::Method;

use super::App;
use super::attach::Attachable;
use super::each::each;
use super::session::{Session, Target, check_tty, converse, detach_keys, exit_code, forward_signals};
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::stream::{End, Signals};

/// Flags of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts containers; with `-a` or `-i` one, until it exits.
pub async fn start(app: &App, args: StartArgs) -> Outcome {
    if !args.attach && !args.interactive {
        return each(&args.containers, |name| async move {
            begin(app, name, "").await?;
            Ok(name.to_owned())
        })
        .await;
    }
    let [name] = args.containers.as_slice() else {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    };
    attached(app, &args, name).await
}

async fn begin(app: &App, name: &str, detach_keys: &str) -> Result<(), ApiError> {
    path("containers", name, "")?;
    let mut options = StartContainerOptionsBuilder::new();
    if !detach_keys.is_empty() {
        options = options.detach_keys(detach_keys);
    }
    Ok(app.client.docker().start_container(name, Some(options.build())).await?)
}

async fn attached(app: &App, args: &StartArgs, name: &str) -> Outcome {
    let keys = args.detach_keys.as_str();
    detach_keys(keys)?;
    let container: Attachable = app.client.json(&path("containers", name, "/json")?, &[]).await?;
    let (id, tty) = (container.id.as_str(), container.config.tty);
    let stdin = args.interactive && container.config.open_stdin;
    check_tty(stdin, tty)?;
    let mut query =
        vec![("stream", "1"), ("stdin", if stdin { "1" } else { "0" }), ("stdout", "1"), ("stderr", "1")];
    if !keys.is_empty() {
        query.push(("detachKeys", keys));
    }
    let stream = app.client.hijack(&path("containers", id, "/attach")?, &query, None).await?;
    let condition = if container.host_config.auto_remove { "removed" } else { "next-exit" };
    let waiting = path("containers", id, "/wait")?;
    let wait = app.client.lines(Method::POST, &waiting, &[("condition", condition)], &[]).await?;
    let mut signals = Signals::catch();
    begin(app, id, keys).await?;
    let session = Session { target: Target::Container(id), tty, stdin, output: true, detach_keys: keys };
    let streaming = async {
        match converse(app, &session, stream, || ()).await? {
            End::Detached => Ok(0),
            End::Finished => exit_code(wait).await,
        }
    };
    if tty {
        return tokio::select! {
            code = streaming => code,
            signal = signals.next_end() => Err(Failure::silent(128 + signal.number)),
        };
    }
    tokio::select! {
        code = streaming => code,
        () = forward_signals(Arc::clone(&app.client), id, &mut signals) => unreachable!("signals are forwarded for ever"),
    }
}
