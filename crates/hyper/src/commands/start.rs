//! `hyper start`: containers that exist already.

use std::sync::Arc;

use clap::Args;

use super::App;
use super::attach::Attachable;
use super::each::each;
use super::follow::{self, Condition, Ending, follow};
use super::session::{Session, Target, check_tty, detach_keys, forward_signals};
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::stream::Signals;

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
    super::run::start(app, name, detach_keys).await
}

async fn attached(app: &App, args: &StartArgs, name: &str) -> Outcome {
    let keys = args.detach_keys.as_str();
    detach_keys(keys)?;
    let container: Attachable = app.client.json(&path("containers", name, "/json")?, &[]).await?;
    let (id, tty) = (container.id.as_str(), container.config.tty);
    let stdin = args.interactive && container.config.open_stdin;
    check_tty(stdin, tty)?;
    let session =
        Session { target: Target::Container(id), tty, stdin, stdout: true, stderr: true, detach_keys: keys };
    let condition = Condition::of_start(container.host_config.auto_remove);
    let mut traffic = session.traffic(|| ())?;
    let attached = follow::attach(app, &session, condition, &mut traffic).await?;
    let mut signals = Signals::catch();
    let attached = match begin(app, id, keys).await {
        Ok(()) => attached,
        Err(error) if error.is_lost() => {
            follow::begin_again(app, &session, attached, condition, &mut traffic).await?
        }
        Err(error) => return Err(error.into()),
    };
    let streaming = async {
        match follow(app, &session, attached, condition, &mut traffic).await? {
            Ending::Detached => Ok(0),
            Ending::Exited(code) => Ok(code),
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
