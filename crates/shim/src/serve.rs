//! The shim itself: one thread, until it is asked to end.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::args::Args;
use crate::boot;
use crate::events::Events;
use crate::home::{self, Note};
use crate::pod::{Phase, Pod, STOP};
use crate::service;

/// Turns of the runtime in which the answer to the request that ended the shim gets from its handler to the socket; there
/// are about five tasks in between. One who ends a shim waits for the process to be gone, so this is no sleep.
const LAST_TURNS: usize = 64;
/// How often clients that are still attached are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long a shim waits for its first request that says what it is for.
const UNCONFIGURED: Duration = Duration::from_secs(30);
/// How long clients that are still attached may take to read what is meant for them.
const LAST_CLIENTS: Duration = Duration::from_secs(10);

/// Serves until the end, then removes what only a living shim has.
pub fn serve(args: &Args, bundle: &Path) -> anyhow::Result<()> {
    // Before anything else is opened.
    let socket = args.socket.and_then(hyper_sys::spawn::inherited);
    let listener = UnixListener::from(socket.context("serve is called by start, with a socket")?);
    log(args.debug);
    raise_descriptor_limit();
    // One thread: less memory, and the VM, which dies with the thread that launched it, dies with the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let done = runtime.block_on(run(args, bundle, listener));
    // Whatever is still in a system call need not be waited for.
    runtime.shutdown_background();
    done
}

async fn run(args: &Args, bundle: &Path, listener: UnixListener) -> anyhow::Result<()> {
    let events = match std::env::var("TTRPC_ADDRESS") {
        Ok(address) if !address.is_empty() => Events::to(address, args.namespace.clone()),
        _ => Events::none(),
    };
    let pod = Pod::new(args.id.clone(), bundle.to_owned(), events, Box::new(boot::choose));
    listener.set_nonblocking(true).context("cannot use the socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("cannot use the socket")?;
    let mut server =
        Server::new().register_service(service::services(&pod)).add_listener(Listener::from(listener));
    server.start().await.context("cannot serve")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle signals")?;
    tokio::select! {
        () = pod.quit.notified() => {}
        () = forgotten(&pod) => tracing::warn!("nobody said what this shim is for"),
        _ = terminate.recv() => pod.stop(STOP, "the shim was told to end").await,
        _ = interrupt.recv() => pod.stop(STOP, "the shim was told to end").await,
    }
    for _ in 0..LAST_TURNS {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    while pod.clients.load(Ordering::Relaxed) > 0 && start.elapsed() < LAST_CLIENTS {
        tokio::time::sleep(LOOK).await;
    }
    clean_up(&pod);
    tracing::info!(pod = %pod.id, "the shim ends");
    Ok(())
}

/// Returns when a pod has not been configured in time: the one who started the shim died in between.
async fn forgotten(pod: &Pod) {
    tokio::time::sleep(UNCONFIGURED).await;
    if !matches!(pod.phase(), Phase::Empty) {
        std::future::pending::<()>().await;
    }
}

/// A container can have hundreds of layers, each a descriptor here and one in the VMM, which inherits the limit.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn clean_up(pod: &Pod) {
    if let Some(config) = pod.phase().config() {
        home::close(&config.dir);
    }
    if let Some(note) = Note::read(&pod.bundle) {
        let _ = fs::remove_file(note.socket);
        Note::remove(&pod.bundle);
    }
}

fn log(debug: bool) {
    let default = if debug { "debug" } else { "info" };
    let chosen = std::env::var("HYPER_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| default.parse().expect("it is written by the rules"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
}
