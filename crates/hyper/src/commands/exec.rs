//! `hyper exec`: another process in a running container.

use std::path::PathBuf;

use bollard::models::ExecConfig;
use clap::Args;
use serde_json::json;

use super::App;
use super::session::{Broken, Session, Target, check_tty, converse, detach_keys, read_escape_sequence};
use crate::client::{ApiError, path};
use crate::container::environment;
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::stream::{End, Signals, window_size};

/// Flags of `exec`, but for the words.
#[derive(Debug, Args)]
pub struct ExecFlags {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

/// Flags of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    flags: ExecFlags,
    /// The container, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"], num_args = 2..)]
    words: Vec<String>,
}

/// Runs the command; the exit code is its own.
pub async fn exec(app: &App, args: ExecArgs) -> Outcome {
    let Some((container, command)) = args.words.split_first() else {
        return Err(Failure::new("exec needs a container and a command"));
    };
    run(app, &args.flags, container, command).await
}

/// Runs a command in a container; the exit code is the command's.
///
/// # Errors
/// The daemon's failure.
pub async fn run(app: &App, args: &ExecFlags, container: &str, command: &[String]) -> Outcome {
    if !args.detach {
        check_tty(args.interactive, args.tty)?;
    }
    detach_keys(&args.detach_keys)?;
    let config = config(args, command)?;
    path("containers", container, "")?;
    let created = app.client.docker().create_exec(container, config).await;
    let id = created.map_err(|error| Failure::from(ApiError::from(error)))?.id;
    let begin = json!({ "Detach": args.detach, "Tty": args.tty, "ConsoleSize": console_size(args.tty) });
    if args.detach {
        app.client.post_json(&path("exec", &id, "/start")?, &begin).await?;
        return Ok(0);
    }
    attached(app, args, container, &id, begin.to_string()).await
}

fn console_size(tty: bool) -> Option<[u16; 2]> {
    let (rows, columns) = tty.then(window_size).flatten()?;
    Some([rows, columns])
}

fn config(args: &ExecFlags, command: &[String]) -> Result<ExecConfig, Failure> {
    let env = environment(&args.env_file, &args.env, |name| std::env::var(name).ok())
        .map_err(|error| Failure::from_error(&error).with_code(EXIT_DAEMON))?;
    let attach = !args.detach;
    Ok(ExecConfig {
        attach_stdin: Some(attach && args.interactive),
        attach_stdout: Some(attach),
        attach_stderr: Some(attach),
        console_size: console_size(args.tty).map(|[rows, columns]| vec![rows.into(), columns.into()]),
        detach_keys: (!args.detach_keys.is_empty()).then(|| args.detach_keys.clone()),
        tty: Some(args.tty),
        env: (!env.is_empty()).then_some(env),
        cmd: Some(command.to_vec()),
        privileged: Some(args.privileged),
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
    })
}

async fn attached(app: &App, args: &ExecFlags, container: &str, id: &str, begin: String) -> Outcome {
    let stream = app.client.hijack(&path("exec", id, "/start")?, &[], Some(begin), None).await?;
    let session = Session {
        target: Target::Exec(id),
        tty: args.tty,
        stdin: args.interactive,
        stdout: true,
        stderr: true,
        detach_keys: &args.detach_keys,
    };
    // Signals are not passed on to an exec: they end us, with the terminal restored.
    let mut signals = Signals::catch();
    let mut traffic = session.traffic(|| ())?;
    let end = tokio::select! {
        end = converse(app, &session, stream, &mut traffic) => match end {
            Err(Broken::Lost(_)) => return Err(lost(container)),
            end => end?,
        },
        signal = signals.next_end() => return Err(Failure::silent(128 + signal.number)),
    };
    if end == End::Detached {
        return Err(read_escape_sequence());
    }
    let state = app.client.docker().inspect_exec(id).await.map_err(|error| match ApiError::from(error) {
        // The next daemon knows nothing of it.
        error if error.is_lost() || error.is_not_found() => lost(container),
        error => error.into(),
    })?;
    Ok(state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0))
}

/// The daemon was lost while the command ran: only it knew of the command.
fn lost(container: &str) -> Failure {
    Failure::new(
        "the daemon was lost while the command ran: its further output and its exit code cannot be known",
    )
    .with_hint(format!("the command itself goes on; `hyper top {container}` shows it"))
    .with_code(EXIT_DAEMON)
}
