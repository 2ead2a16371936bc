//! `hyper run`: create, attach, start, stream, wait.

use std::sync::Arc;

use bollard::query_parameters::{RemoveContainerOptionsBuilder, StartContainerOptionsBuilder};
use clap::Args;

use super::App;
use super::create::{coded, make, prepare};
use super::follow::{self, Attached, Condition, Ending, follow};
use super::session::{Session, Target, check_tty, detach_keys, forward_signals};
use crate::client::ApiError;
use crate::container::{ContainerFlags, Request};
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::output;
use crate::stream::{Signals, Traffic};
use crate::timeline::DaemonTimeline;

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Proxy received signals to the process (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
        value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Print the phases of the start with their durations to standard error
    #[arg(long)]
    timeline: bool,
    #[command(flatten)]
    flags: ContainerFlags,
}

impl RunArgs {
    /// The flags that describe the container.
    #[cfg(test)]
    pub fn flags(&self) -> &ContainerFlags {
        &self.flags
    }
}

/// Runs a container; the exit code is its own, or docker's for what went wrong before.
pub async fn run(app: &App, args: RunArgs) -> Outcome {
    if args.detach && !args.flags.attach.is_empty() {
        return Err(Failure::new("conflicting options: cannot specify both --attach and --detach"));
    }
    if args.detach && args.flags.rm && args.timeline {
        return Err(Failure::new("conflicting options: --timeline with both --detach and --rm")
            .with_code(EXIT_DAEMON));
    }
    let mut request = prepare(&args.flags)?;
    detach_keys(&args.detach_keys).map_err(|failure| failure.with_code(EXIT_DAEMON))?;
    if args.detach {
        request.body.attach_stdin = Some(false);
        request.body.attach_stdout = Some(false);
        request.body.attach_stderr = Some(false);
        request.body.stdin_once = Some(false);
    } else {
        check_tty(request.body.attach_stdin == Some(true), args.flags.tty)?;
    }
    app.timeline.record("parse", 0);
    let id = make(app, &args.flags, &request).await?;
    let outcome =
        if args.detach { background(app, &id).await } else { foreground(app, &args, &request, &id).await };
    let (outcome, daemon) = match outcome {
        Ok((code, daemon)) => (Ok(code), daemon),
        Err(failure) => (Err(failure), None),
    };
    if args.timeline {
        let daemon = match daemon {
            Some(timeline) => timeline.await.ok().flatten(),
            None => None,
        };
        output::complain(&app.timeline.render(daemon.as_ref()));
    }
    outcome
}

/// The daemon's phases, in the foreground asked for before the container runs: with `--rm` nobody knows them later.
type Phases = Option<tokio::task::JoinHandle<Option<DaemonTimeline>>>;

fn ask_for_phases(app: &App, id: &str, query: &str) -> Phases {
    let client = Arc::clone(&app.client);
    let path = format!("/hyper/containers/{id}/timeline{query}");
    Some(tokio::spawn(async move { client.json(&path, &[]).await.ok() }))
}

async fn background(app: &App, id: &str) -> Result<(i32, Phases), Failure> {
    output::line(id)?;
    start(app, id, "").await.map_err(|error| coded(error.into()))?;
    Ok((0, ask_for_phases(app, id, "")))
}

async fn foreground(
    app: &App,
    args: &RunArgs,
    request: &Request,
    id: &str,
) -> Result<(i32, Phases), Failure> {
    let mut signals = args.sig_proxy.then(Signals::catch);
    let on = |flag: Option<bool>| flag == Some(true);
    let session = Session {
        target: Target::Container(id),
        tty: args.flags.tty,
        stdin: on(request.body.attach_stdin),
        stdout: on(request.body.attach_stdout),
        stderr: on(request.body.attach_stderr),
        detach_keys: &args.detach_keys,
    };
    let timeline = Arc::clone(&app.timeline);
    let began = timeline.now();
    let mut traffic = session.traffic(move || timeline.record("first byte", began))?;
    let condition = Condition::of_start(args.flags.rm);
    let phases = if args.timeline { ask_for_phases(app, id, "?started=1") } else { None };
    let begun = begin(app, &session, condition, &mut traffic);
    let attached = match &mut signals {
        Some(signals) => tokio::select! {
            begun = begun => begun,
            signal = signals.next_end() => return Err(abandon(app, args, id, signal.number).await),
        },
        None => begun.await,
    }?;
    let streaming = stream_until_exit(app, &session, attached, condition, &mut traffic);
    let code = match &mut signals {
        Some(signals) => tokio::select! {
            code = streaming => code,
            () = forward_signals(Arc::clone(&app.client), id, signals) => unreachable!("signals are forwarded for ever"),
        },
        None => end_on_signal(streaming).await,
    }?;
    Ok((code, phases))
}

/// Attaches to the container and starts it.
async fn begin(
    app: &App,
    session: &Session<'_>,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<Attached, Failure> {
    let Target::Container(id) = session.target else { unreachable!("only containers are run") };
    let failed = |error: ApiError| coded(error.into());
    let began = app.timeline.now();
    let attached = follow::attach(app, session, condition, traffic).await;
    app.timeline.record("attach", began);
    let attached = attached.map_err(failed)?;
    match start(app, id, session.detach_keys).await {
        Ok(()) => Ok(attached),
        Err(error) if error.is_lost() => {
            follow::begin_again(app, session, attached, condition, traffic).await.map_err(coded)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Without proxying a signal ends us; the terminal is restored first.
async fn end_on_signal(streaming: impl Future<Output = Outcome>) -> Outcome {
    let mut signals = Signals::catch();
    tokio::select! {
        code = streaming => code,
        signal = signals.next_end() => Err(Failure::silent(128 + signal.number)),
    }
}

/// The user gave up before the container ran: what was made for `--rm` goes, the rest stays created.
async fn abandon(app: &App, args: &RunArgs, id: &str, signal: i32) -> Failure {
    if args.flags.rm {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let _ = app.client.docker().remove_container(id, Some(options)).await;
    }
    Failure::silent(128 + signal)
}

/// Starts a container.
pub async fn start(app: &App, id: &str, detach_keys: &str) -> Result<(), ApiError> {
    let began = app.timeline.now();
    let mut options = StartContainerOptionsBuilder::new();
    if !detach_keys.is_empty() {
        options = options.detach_keys(detach_keys);
    }
    let started = app.client.docker().start_container(id, Some(options.build())).await;
    app.timeline.record("start", began);
    Ok(started?)
}

async fn stream_until_exit(
    app: &App,
    session: &Session<'_>,
    attached: Attached,
    condition: Condition,
    traffic: &mut Traffic,
) -> Outcome {
    let began = app.timeline.now();
    match follow(app, session, attached, condition, traffic).await? {
        Ending::Detached => Ok(0),
        Ending::Exited(code) => {
            app.timeline.record("run to exit", began);
            Ok(code)
        }
    }
}
