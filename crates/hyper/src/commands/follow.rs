//! Staying with a container until it ends, whatever becomes of the daemon.
//!
//! The container does not notice when the daemon is ended: the shim goes on. So do we: the daemon is started again as at
//! first use, and the session with the shim, which counts the bytes either way, goes on where it was.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use http1::Method;

use super::App;
use super::attach::Attachable;
use super::run::start;
use super::session::{Broken, Session, Target, converse, exit_code};
use crate::client::{ApiError, Hijacked, JsonLines, Place, path};
use crate::error::{EXIT_DAEMON, Failure};
use crate::output;
use crate::stream::{End, Traffic};

/// How long one loss of the daemon may last: a little less than the shim keeps a session.
const PATIENCE: Duration = Duration::from_secs(28);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Most losses that one command survives.
const LOSSES_MAX: usize = 100;

/// A container's streams and the wait for its end.
pub struct Attached {
    stream: Hijacked,
    wait: JsonLines,
    /// Of the session, if the daemon gave one.
    key: Option<String>,
}

/// How it ended for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The user detached.
    Detached,
    /// The container ended with this code.
    Exited(i32),
}

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The container does not run.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

impl Condition {
    /// For a container that is about to be started.
    pub fn of_start(auto_remove: bool) -> Self {
        if auto_remove { Self::Removed } else { Self::NextExit }
    }

    fn name(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NextExit => "next-exit",
            Self::Removed => "removed",
        }
    }

    /// For a container that has been started and may have ended since.
    fn again(self) -> Self {
        if self == Self::NextExit { Self::NotRunning } else { self }
    }
}

/// Attaches to a container and begins to wait for it, in this order.
///
/// # Errors
/// [`ApiError`]
pub async fn attach(
    app: &App,
    session: &Session<'_>,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<Attached, ApiError> {
    let key = random_key();
    let place = key.as_deref().map(|key| Place { key, received: None });
    let stream = open(app, session, place).await?;
    if let Some(position) = stream.position {
        traffic.begin(position);
    }
    let wait = wait(app, session.target, condition).await?;
    let key = key.filter(|_| stream.position.is_some());
    Ok(Attached { stream, wait, key })
}

/// What [`attach`] and a start began, when the daemon was lost during the start: the container may have been started
/// or not.
///
/// # Errors
/// The daemon does not come back, or the container cannot be started.
pub async fn begin_again(
    app: &App,
    session: &Session<'_>,
    before: Attached,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<Attached, Failure> {
    let began = Instant::now();
    let mut attached = before;
    loop {
        match start_again(app, session, &mut attached, condition, traffic).await {
            Ok(()) => return Ok(attached),
            Err(Broken::Lost(_)) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(broken) => return Err(broken.into()),
        }
    }
}

async fn start_again(
    app: &App,
    session: &Session<'_>,
    attached: &mut Attached,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<(), Broken> {
    app.client.come_back().await.map_err(|error| Broken::Failed(error.into()))?;
    let id = container(session.target);
    let now: Attachable = app.client.json(&path("containers", id, "/json")?, &[]).await?;
    // The daemon says so of what it finds on the way.
    if now.state.error.contains("while the container was being started") {
        *attached = attach(app, session, condition, traffic).await?;
        return Ok(start(app, id, session.detach_keys).await?);
    }
    // Otherwise the start has succeeded, or failed with an exit code: as if the daemon had been lost after it.
    Ok(())
}

/// Moves the bytes until the container ends or the user detaches.
///
/// # Errors
/// A broken stream of a daemon without sessions, or a daemon that does not come back.
pub async fn follow(
    app: &App,
    session: &Session<'_>,
    attached: Attached,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<Ending, Failure> {
    let Attached { stream, mut wait, key } = attached;
    let mut stream = Some(stream);
    for _ in 0..LOSSES_MAX {
        let conversed = match stream.take() {
            Some(stream) => converse(app, session, stream, traffic).await,
            None => Ok(End::Finished),
        };
        let ended = match conversed {
            Ok(End::Detached) => return Ok(Ending::Detached),
            Ok(End::Finished) => exit_code(wait).await,
            Err(broken) => Err(broken),
        };
        let lost = match ended {
            Ok(code) => return Ok(Ending::Exited(code)),
            Err(Broken::Failed(failure)) => return Err(failure),
            Err(Broken::Lost(failure)) => failure,
        };
        let Some(key) = &key else { return Err(lost) };
        (stream, wait) = come_back(app, session, key, condition.again(), traffic).await?;
    }
    Err(Failure::new("the daemon was lost too often").with_code(EXIT_DAEMON))
}

/// Finds daemon and session again. Without a stream there is no more output.
async fn come_back(
    app: &App,
    session: &Session<'_>,
    key: &str,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<(Option<Hijacked>, JsonLines), Failure> {
    let began = Instant::now();
    loop {
        match try_again(app, session, key, condition, traffic).await {
            Ok(found) => return Ok(found),
            Err(Broken::Lost(_)) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(broken) => return Err(Failure::from(broken).with_code(EXIT_DAEMON)),
        }
    }
}

async fn try_again(
    app: &App,
    session: &Session<'_>,
    key: &str,
    condition: Condition,
    traffic: &mut Traffic,
) -> Result<(Option<Hijacked>, JsonLines), Broken> {
    app.client.come_back().await.map_err(|error| Broken::Failed(error.into()))?;
    let wait = wait(app, session.target, condition).await?;
    let place = Place { key, received: Some(traffic.received()) };
    match open(app, session, Some(place)).await {
        Ok(stream) => match stream.position {
            Some(position) if !traffic.go_on(position) => {
                Err(Broken::Failed(Failure::new("some of the input was lost with the daemon")))
            }
            Some(_) => Ok((Some(stream), wait)),
            None => Err(Broken::Failed(Failure::new("the daemon that came back knows no sessions"))),
        },
        Err(error) if error.is_not_found() => Ok((begin_anew(app, session, key, traffic).await?, wait)),
        Err(error) if error.is_lost() => Err(error.into()),
        Err(error) => {
            let failure =
                Failure::from_error(&error).with_hint("`hyper logs` shows what the container writes");
            output::complain(&failure.render());
            Ok((None, wait))
        }
    }
}

/// What becomes of a session that is not known any more. It ended with the container's output, of which we have
/// everything; or it was given up because the daemon was away for too long.
async fn begin_anew(
    app: &App,
    session: &Session<'_>,
    key: &str,
    traffic: &mut Traffic,
) -> Result<Option<Hijacked>, Broken> {
    let path = path("containers", container(session.target), "/json")?;
    let running = match app.client.json::<Attachable>(&path, &[]).await {
        Ok(container) => container.state.running,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error.into()),
    };
    if !running {
        return Ok(None);
    }
    output::complain(
        "hyper: some output may be missing, the daemon was away for too long; `hyper logs` has it\n",
    );
    let stream = open(app, session, Some(Place { key, received: None })).await?;
    if let Some(position) = stream.position {
        traffic.begin(position);
    }
    Ok(Some(stream))
}

/// Opens the streams.
async fn open(app: &App, session: &Session<'_>, place: Option<Place<'_>>) -> Result<Hijacked, ApiError> {
    let flag = |on: bool| if on { "1" } else { "0" };
    let mut query = vec![
        ("stream", "1"),
        ("stdin", flag(session.stdin)),
        ("stdout", flag(session.stdout)),
        ("stderr", flag(session.stderr)),
    ];
    if !session.detach_keys.is_empty() {
        query.push(("detachKeys", session.detach_keys));
    }
    app.client.hijack(&path("containers", container(session.target), "/attach")?, &query, None, place).await
}

/// Begins to wait: what happens from now on is not missed.
async fn wait(app: &App, target: Target<'_>, condition: Condition) -> Result<JsonLines, ApiError> {
    let path = path("containers", container(target), "/wait")?;
    app.client.lines(Method::POST, &path, &[("condition", condition.name())], &[]).await
}

fn container(target: Target<'_>) -> &str {
    match target {
        Target::Container(id) | Target::Exec(id) => id,
    }
}

/// A session's key: 128 random bits. Without them there is no session.
fn random_key() -> Option<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Waits for a container that runs or has ended, over as many daemons as it takes; the exit code.
///
/// # Errors
/// No such container, or a daemon that does not come back.
pub async fn wait_for_end(app: &App, id: &str) -> Result<i32, Broken> {
    let mut lost = None;
    for _ in 0..LOSSES_MAX {
        if lost.is_some() {
            app.client.come_back().await?;
        }
        let waited = match wait(app, Target::Container(id), Condition::NotRunning).await {
            Ok(wait) => exit_code(wait).await,
            Err(error) => Err(error.into()),
        };
        match waited {
            Err(Broken::Lost(failure)) => {
                lost = Some(failure);
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
    Err(Broken::Failed(lost.unwrap_or_else(|| Failure::new("the daemon was lost too often"))))
}
