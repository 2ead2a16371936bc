//! `hyper attach`: our terminal on a running container.

use std::sync::Arc;

use clap::Args;
use serde::Deserialize;

use super::App;
use super::follow::{self, Condition, Ending, follow};
use super::session::{Session, Target, check_tty, detach_keys, forward_signals, nudge, read_escape_sequence};
use crate::client::path;
use crate::error::{Failure, Outcome};
use crate::stream::Signals;

/// Flags of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
        value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// What attaching needs to know of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attachable {
    /// The full id.
    pub id: String,
    /// Its state.
    pub state: State,
    /// Its configuration.
    pub config: Config,
    /// Its host configuration.
    pub host_config: HostConfig,
}

/// A container's state.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    /// It runs.
    pub running: bool,
    /// It is paused.
    #[serde(default)]
    pub paused: bool,
    /// It is being restarted.
    #[serde(default)]
    pub restarting: bool,
    /// Why it could not be started, or did not end by itself.
    #[serde(default)]
    pub error: String,
}

/// A container's configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// It has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Its input is open.
    #[serde(default)]
    pub open_stdin: bool,
}

/// A container's host configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    /// It is removed when it exits.
    #[serde(default)]
    pub auto_remove: bool,
}

/// Attaches until the container exits or the user detaches.
pub async fn attach(app: &App, args: AttachArgs) -> Outcome {
    let keys = args.detach_keys.as_str();
    detach_keys(keys)?;
    let container: Attachable = app.client.json(&path("containers", &args.container, "/json")?, &[]).await?;
    refuse_stopped(&container.state, &args.container)?;
    let stdin = !args.no_stdin && container.config.open_stdin;
    check_tty(stdin, container.config.tty)?;
    let id = container.id.as_str();
    let session = Session {
        target: Target::Container(id),
        tty: container.config.tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: keys,
    };
    let condition = Condition::NotRunning;
    let mut traffic = session.traffic(|| ())?;
    let attached = follow::attach(app, &session, condition, &mut traffic).await?;
    let streaming = async {
        if session.tty {
            nudge(&app.client, session.target).await;
        }
        match follow(app, &session, attached, condition, &mut traffic).await? {
            Ending::Detached => Err(read_escape_sequence()),
            Ending::Exited(code) => Ok(code),
        }
    };
    let mut signals = Signals::catch();
    if args.sig_proxy && !container.config.tty {
        tokio::select! {
            code = streaming => code,
            () = forward_signals(Arc::clone(&app.client), id, &mut signals) => unreachable!("signals are forwarded for ever"),
        }
    } else {
        tokio::select! {
            code = streaming => code,
            signal = signals.next_end() => Err(Failure::silent(128 + signal.number)),
        }
    }
}

fn refuse_stopped(state: &State, name: &str) -> Result<(), Failure> {
    if !state.running {
        let text = "cannot attach to a stopped container, start it first";
        return Err(Failure::new(text).with_hint(format!("hyper start -a {name}")));
    }
    if state.paused {
        let text = "cannot attach to a paused container, unpause it first";
        return Err(Failure::new(text).with_hint(format!("hyper unpause {name}")));
    }
    if state.restarting {
        return Err(Failure::new("cannot attach to a restarting container, wait until it is running"));
    }
    Ok(())
}
