//! Listening, connections, and the end.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_engine::Engine;
use hyper_util::rt::{TokioIo, TokioTimer};
use listenfd::ListenFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::http::Request;
use crate::metrics::{self, Metrics};
use crate::preupgrade::Connection;
use crate::tls::Tcp;

/// Group whose members may use the socket.
const GROUP: &str = "hyper";

/// How long a client may take to send a request's head; also how long a connection may idle.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;

/// Most header lines of a request.
const HEADERS_MAX: usize = 128;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// What every handler has.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) debug: bool,
    /// Counters, where they are served.
    pub(crate) metrics: Option<Arc<Metrics>>,
}

/// Serves until the daemon is told to end. Pods go on without it.
pub(crate) async fn run(config: &Config, engine: Engine) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let given = given_socket()?;
    let ours = given.is_none();
    let listener = match given {
        Some(listener) => listener,
        None => listen(&config.socket)?,
    };
    let metrics = config.metrics.map(|_| Metrics::new().map(Arc::new)).transpose()?;
    let app = Arc::new(App { engine, debug: config.debug, metrics });
    if let Some(address) = config.metrics {
        metrics::serve(address, app.clone()).await?;
    }
    tracing::info!(socket = %config.socket.display(), activated = !ours, "serving");
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    if let Some((address, files)) = &config.tcp {
        let tcp = Arc::new(Tcp::listen(address, files).await?);
        tracing::info!(address, "serving with mutual TLS");
        tokio::spawn(serve_tcp(tcp, app.clone(), slots.clone()));
    }
    // Nobody minds who is not systemd's.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        tokio::select! {
            (accepted, slot) = accept => match accepted {
                Ok((stream, _)) => {
                    let app = app.clone();
                    tokio::spawn(async move {
                        connection(app, stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: they come back when a connection ends.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ending; pods go on");
    if ours {
        let _ = std::fs::remove_file(&config.socket);
    }
    app.engine.close().await;
    Ok(())
}

/// Accepts remote clients for ever; each that has a certificate is served as a local one.
async fn serve_tcp(tcp: Arc<Tcp>, app: Arc<App>, slots: Arc<Semaphore>) {
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match tcp.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tcp, app) = (tcp.clone(), app.clone());
        tokio::spawn(async move {
            match tcp.admit(stream, slot).await {
                Ok(stream) => connection(app, stream).await,
                Err(error) => tracing::debug!(error = format!("{error:#}"), "a client was not admitted"),
            }
        });
    }
}

/// The socket that systemd listens on for us, if it does.
fn given_socket() -> anyhow::Result<Option<UnixListener>> {
    let given = ListenFd::from_env().take_unix_listener(0).context("cannot take the socket from systemd")?;
    let Some(given) = given else { return Ok(None) };
    given.set_nonblocking(true).context("cannot use the socket from systemd")?;
    Ok(Some(UnixListener::from_std(given).context("cannot use the socket from systemd")?))
}

async fn connection(app: Arc<App>, stream: UnixStream) {
    let stream = match Connection::accept(stream, HEAD_TIMEOUT).await {
        Ok(stream) => stream,
        Err(error) => return tracing::trace!(%error, "a connection ended before its first request"),
    };
    let service = service_fn(move |request: Request| {
        let app = app.clone();
        async move { Ok::<_, std::convert::Infallible>(metrics::observed(app, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Listens on the socket, in the place of a dead daemon's; for root and the group, nobody else.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!("another daemon listens on {}", path.display());
            }
            std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(_) => bail!("{} exists and is no socket", path.display()),
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    // Nobody else gets in between the socket's birth and its permissions.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = bound.with_context(|| format!("cannot listen on {}", path.display()))?;
    if let Some(group) = group_id(GROUP) {
        std::os::unix::fs::chown(path, None, Some(group))
            .with_context(|| format!("cannot give {} to group {GROUP}", path.display()))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set permissions of {}", path.display()))?;
    Ok(listener)
}

/// The number of a group, from `/etc/group`.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
