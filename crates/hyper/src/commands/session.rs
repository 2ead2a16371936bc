//! A container's or exec's streams on our terminal, until they end.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{
    KillContainerOptionsBuilder, ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder,
};
use serde::Deserialize;

use super::App;
use crate::client::{ApiError, Client, Hijacked, JsonLines};
use crate::error::{EXIT_BROKEN_PIPE, EXIT_DAEMON, EXIT_FAILURE, Failure};
use crate::output;
use crate::stream::{
    DetachKeys, End, Plan, RawMode, Signals, StreamError, Traffic, pump, resize_on_change, stdin_is_terminal,
    stdout_is_terminal, window_size,
};

/// How often a signal is passed on to a daemon that is not there, and the pause between: longer than its start takes.
const SIGNAL_TRIES: usize = 50;
/// See [`SIGNAL_TRIES`].
const SIGNAL_PAUSE: Duration = Duration::from_millis(200);

/// Whose streams.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A container's main process.
    Container(&'a str),
    /// An exec's process.
    Exec(&'a str),
}

/// What is connected and how.
pub struct Session<'a> {
    /// Whose streams.
    pub target: Target<'a>,
    /// It has a terminal.
    pub tty: bool,
    /// Send our standard input.
    pub stdin: bool,
    /// Show its standard output.
    pub stdout: bool,
    /// Show its standard error.
    pub stderr: bool,
    /// `--detach-keys`; empty for the default.
    pub detach_keys: &'a str,
}

/// Refuses a terminal for input that is none, as docker does.
///
/// # Errors
/// A failure with exit code 1.
pub fn check_tty(attach_stdin: bool, tty: bool) -> Result<(), Failure> {
    if attach_stdin && tty && !stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY")
            .with_hint("leave out -t when the input is a pipe or file"));
    }
    Ok(())
}

/// `--detach-keys` as keys.
///
/// # Errors
/// A text that names no keys.
pub fn detach_keys(text: &str) -> Result<DetachKeys, Failure> {
    DetachKeys::parse(text).map_err(|error| Failure::from_error(&error))
}

impl Session<'_> {
    /// Its traffic before it begins. `first_byte` is called at the first output.
    ///
    /// # Errors
    /// `--detach-keys` that are none.
    pub fn traffic(&self, first_byte: impl FnOnce() + 'static) -> Result<Traffic, Failure> {
        let keys = detach_keys(self.detach_keys)?;
        Ok(Traffic::new((self.tty && self.stdin).then_some(keys), first_byte))
    }
}

/// Moves the bytes until the output ends or the user detaches.
///
/// # Errors
/// A broken stream.
pub async fn converse(
    app: &App,
    session: &Session<'_>,
    stream: Hijacked,
    traffic: &mut Traffic,
) -> Result<End, Broken> {
    let raw = match session.tty && session.stdin && stdin_is_terminal() {
        true => Some(RawMode::enter().map_err(|error| {
            Broken::Failed(Failure::new(format!("cannot set the terminal raw: {error}")))
        })?),
        false => None,
    };
    let plan = Plan { tty: session.tty, stdin: session.stdin, output: session.stdout || session.stderr };
    let resizing = async {
        if session.tty && stdout_is_terminal() {
            resize_on_change(|rows, columns| resize(&app.client, session.target, rows, columns)).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = pump(stream, &plan, traffic) => ended,
        () = resizing => unreachable!("the terminal is watched for ever"),
    };
    drop(raw);
    ended.map_err(|error| match &error {
        StreamError::Socket(_) => Broken::Lost(Failure::from_error(&error)),
        _ if error.is_broken_pipe() => Broken::Failed(Failure::silent(EXIT_BROKEN_PIPE)),
        _ => Broken::Failed(Failure::from_error(&error)),
    })
}

/// Why a stream or a wait did not come to its end.
#[derive(Debug)]
pub enum Broken {
    /// The daemon went away: the container does not know of it.
    Lost(Failure),
    /// Anything else.
    Failed(Failure),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Lost(failure) | Broken::Failed(failure) => failure,
        }
    }
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        if error.is_lost() { Self::Lost(error.into()) } else { Self::Failed(error.into()) }
    }
}

/// The end of an attach or exec that the user left, in docker's words and with its exit code.
pub fn read_escape_sequence() -> Failure {
    output::complain("read escape sequence\n");
    Failure::silent(EXIT_FAILURE)
}

/// Gives a terminal a size it does not have, so that the right one makes its program paint everything anew.
pub async fn nudge(client: &Client, target: Target<'_>) {
    if let Some((rows, columns)) = window_size() {
        resize(client, target, rows.saturating_add(1), columns.saturating_add(1)).await;
    }
}

/// A size that does not arrive is no reason to end: the process may just have ended.
async fn resize(client: &Client, target: Target<'_>, rows: u16, columns: u16) {
    let (rows, columns) = (i32::from(rows), i32::from(columns));
    let _ = match target {
        Target::Container(id) => {
            let options = ResizeContainerTTYOptionsBuilder::new().h(rows).w(columns).build();
            client.docker().resize_container_tty(id, options).await
        }
        Target::Exec(id) => {
            let options = ResizeExecOptionsBuilder::new().h(rows).w(columns).build();
            client.docker().resize_exec(id, options).await
        }
    };
}

/// Passes our signals on to the container, for ever.
pub async fn forward_signals(client: Arc<Client>, container: &str, signals: &mut Signals) {
    loop {
        let signal = signals.next().await;
        for _ in 0..SIGNAL_TRIES {
            let options = KillContainerOptionsBuilder::new().signal(signal.name).build();
            match client.docker().kill_container(container, Some(options)).await.map_err(ApiError::from) {
                // The daemon is being started again.
                Err(error) if error.is_lost() => tokio::time::sleep(SIGNAL_PAUSE).await,
                // A container that has just ended takes no signals; its exit code follows.
                _ => break,
            }
        }
    }
}

/// The answer of a wait call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Waited {
    status_code: i64,
    #[serde(default)]
    error: Option<WaitError>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WaitError {
    message: String,
}

/// The exit code from a wait call that was begun before.
///
/// # Errors
/// The daemon's error about the container, with exit code 125; or the daemon went away.
pub async fn exit_code(mut wait: JsonLines) -> Result<i32, Broken> {
    let lost = |error: ApiError| match Broken::from(error) {
        Broken::Lost(failure) => Broken::Lost(failure.with_code(EXIT_DAEMON)),
        Broken::Failed(failure) => Broken::Failed(failure.with_code(EXIT_DAEMON)),
    };
    let waited: Option<Waited> = wait.next().await.map_err(lost)?;
    match waited {
        Some(Waited { error: Some(error), .. }) if !error.message.is_empty() => {
            let text = format!("waiting for the container failed: {}", error.message);
            Err(Broken::Failed(Failure::new(text).with_code(EXIT_DAEMON)))
        }
        Some(waited) => Ok(i32::try_from(waited.status_code).unwrap_or(EXIT_DAEMON)),
        None => {
            Err(lost(ApiError::Broken(Box::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))))
        }
    }
}
