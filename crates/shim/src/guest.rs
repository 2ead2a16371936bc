//! The agent in the guest, over a link that may be lost and found again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hyper_link::{CallError, HostLink, Stream};
use hyper_protocol::agent::{self, Reply, Request};
use hyper_protocol::shim::Phase;
use hyper_vm::Vm;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::boot;
use crate::error::{ShimError, chain};
use crate::timeline::{Timeline, guest_phases};

/// How often a guest is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a guest may be silent, over an open link or a lost one, before it counts as dead. A guest that swaps or
/// runs in software on a busy host is silent for seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a guest may take to tell its steps: nobody's start waits for it.
const STEPS: Duration = Duration::from_secs(1);
/// How long one try to find a lost link may take.
const RECONNECT: Duration = Duration::from_secs(10);

/// The guest of a running pod.
pub struct Guest {
    vm: Arc<dyn Vm>,
    session: watch::Sender<Session>,
    // What each session makes the guest anew.
    pod: Mutex<agent::Pod>,
    // Nothing is asked of it: it is paused.
    resting: watch::Sender<bool>,
    // Bytes that the agent takes, as it last told; 0 before.
    agent_rss: AtomicU64,
}

#[derive(Clone)]
enum Session {
    Open(HostLink),
    Lost,
    Gone(String),
}

impl Guest {
    /// Opens the first session, waiting for the agent without bound, calls `listening`, and configures the guest.
    ///
    /// # Errors
    /// The VM ended, or the agent refused.
    pub async fn open(
        vm: Arc<dyn Vm>,
        pod: agent::Pod,
        timeline: &Timeline,
        listening: impl FnOnce(),
    ) -> Result<Self, ShimError> {
        let start = SystemTime::now();
        let link = loop {
            match connect(&*vm).await {
                Ok(link) => break link,
                // An agent of another version stays one.
                Err(error @ CallError::Link(hyper_link::LinkError::Version { .. })) => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "no session with the guest yet");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        };
        timeline.since("agent hello", start);
        listening();
        let start = SystemTime::now();
        link.call(&boot::configure(&pod)).await?;
        timeline.since("configure", start);
        Ok(Self {
            vm,
            session: watch::channel(Session::Open(link)).0,
            pod: Mutex::new(pod),
            resting: watch::channel(false).0,
            agent_rss: AtomicU64::new(0),
        })
    }

    /// Whether it is paused: then it is not asked whether it is there.
    pub fn set_resting(&self, resting: bool) {
        self.resting.send_replace(resting);
    }

    /// Bytes of the guest's memory that its agent takes, as it last told; `None` before it has.
    pub fn agent_rss(&self) -> Option<u64> {
        Some(self.agent_rss.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0)
    }

    /// Takes note of the bytes that the agent says it takes.
    pub fn set_agent_rss(&self, bytes: u64) {
        self.agent_rss.store(bytes, Ordering::Relaxed);
    }

    /// Its steps since `begin` (microseconds since 1970-01-01 UTC); `None` of a guest that does not answer at once.
    pub async fn steps(&self, begin: i64) -> Option<Vec<Phase>> {
        match timeout(STEPS, self.call(&Request::Steps)).await {
            Ok(Ok(Reply::Steps { now_ns, steps })) => {
                Some(guest_phases(steps, now_ns, SystemTime::now(), begin))
            }
            _ => None,
        }
    }

    /// Asks the guest from time to time; returns when it has been silent for too long.
    async fn listen(&self, link: &HostLink) -> String {
        let mut resting = self.resting.subscribe();
        loop {
            sleep(PING_EVERY).await;
            if resting.wait_for(|resting| !resting).await.is_err() {
                return "the shim is shutting down".to_owned();
            }
            match timeout(SILENCE, link.call(&Request::Ping)).await {
                // A link that broke is the other branch's business.
                Ok(Err(CallError::Link(_))) => link.closed().await,
                Ok(Ok(Reply::Pong { rss, .. })) => self.set_agent_rss(rss),
                Ok(_) => {}
                // It was paused while it was asked.
                Err(_) if *resting.borrow() => {}
                Err(_) => return format!("the guest has not answered for {} s", SILENCE.as_secs()),
            }
        }
    }

    /// Makes the guest another pod.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn become_pod(&self, change: impl FnOnce(&mut agent::Pod)) -> Result<(), ShimError> {
        let request = {
            let mut pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut pod);
            boot::configure(&pod)
        };
        self.repeat(&request).await.map(drop)
    }

    fn configure(&self) -> Request {
        boot::configure(&self.pod.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the session: finds a lost link again, notices a dead guest. Returns with the reason when the guest
    /// counts as dead.
    pub async fn keep(&self) -> String {
        loop {
            let session = self.session.borrow().clone();
            match session {
                Session::Gone(reason) => return reason,
                Session::Open(link) => tokio::select! {
                    () = link.closed() => {
                        tracing::warn!("the link to the guest was lost");
                        self.session.send_replace(Session::Lost);
                    }
                    reason = self.listen(&link) => return reason,
                },
                Session::Lost => match self.reconnect().await {
                    Ok(link) => {
                        tracing::info!("the link to the guest was found again");
                        self.session.send_replace(Session::Open(link));
                    }
                    Err(reason) => return reason,
                },
            }
        }
    }

    /// Notes that the guest is gone: whatever waits for it fails with `reason`.
    pub fn end(&self, reason: &str) {
        self.session.send_if_modified(|session| match session {
            Session::Gone(_) => false,
            _ => {
                *session = Session::Gone(reason.to_owned());
                true
            }
        });
    }

    /// One call. When the link is lost before the answer, whether it took effect is unknown, and it fails.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn call(&self, request: &Request) -> Result<Reply, ShimError> {
        let link = self.link().await?;
        Ok(self.or_gone(link.call(request)).await??)
    }

    /// One call that may as well happen twice; repeated when the link is lost.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn repeat(&self, request: &Request) -> Result<Reply, ShimError> {
        loop {
            let link = self.link().await?;
            match self.or_gone(link.call(request)).await? {
                Err(CallError::Link(_)) => self.changed_from(&link).await,
                answer => return Ok(answer?),
            }
        }
    }

    /// A call whose stream goes on as a channel; `None` when the link was lost.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn open_channel(&self, request: &Request) -> Result<Option<(Reply, Stream)>, ShimError> {
        let link = self.link().await?;
        match self.or_gone(link.start_call(request)).await? {
            Err(CallError::Link(_)) => {
                self.changed_from(&link).await;
                Ok(None)
            }
            answer => Ok(Some(answer?)),
        }
    }

    /// Asks on a stream of its own, on which everything comes that answers.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn ask(&self, request: &Request) -> Result<Stream, ShimError> {
        let link = self.link().await?;
        let asked = async {
            let mut stream = link.stream().await?;
            hyper_link::write_frame(&mut stream, request).await?;
            Ok::<_, CallError>(stream)
        };
        Ok(self.or_gone(asked).await??)
    }

    /// Returns when the guest is gone, with the reason.
    pub async fn gone(&self) -> String {
        let mut session = self.session.subscribe();
        loop {
            if let Session::Gone(reason) = &*session.borrow_and_update() {
                return reason.clone();
            }
            if session.changed().await.is_err() {
                return "the shim is shutting down".to_owned();
            }
        }
    }

    /// The open link; waits while it is lost.
    async fn link(&self) -> Result<HostLink, ShimError> {
        let mut session = self.session.subscribe();
        loop {
            match &*session.borrow_and_update() {
                Session::Open(link) if !link.is_closed() => return Ok(link.clone()),
                Session::Open(_) | Session::Lost => {}
                Session::Gone(reason) => return Err(gone(reason)),
            }
            if session.changed().await.is_err() {
                return Err(gone("the shim is shutting down"));
            }
        }
    }

    /// Runs a call and ends it when the guest is gone: a dead VM's socket may stay open and mute.
    async fn or_gone<T>(&self, call: impl Future<Output = T>) -> Result<T, ShimError> {
        tokio::select! {
            biased;
            answer = call => Ok(answer),
            reason = self.gone() => Err(gone(&reason)),
        }
    }

    /// Waits a little for the keeper to notice that `link` is lost, so that nobody tries it in a busy loop.
    async fn changed_from(&self, link: &HostLink) {
        let _ = timeout(Duration::from_millis(200), link.closed()).await;
    }

    async fn reconnect(&self) -> Result<HostLink, String> {
        let lost = Instant::now();
        loop {
            let tried = timeout(RECONNECT, async {
                let link = connect(&*self.vm).await?;
                link.call(&self.configure()).await?;
                Ok::<_, CallError>(link)
            });
            let why = match tried.await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => chain(&error),
                Err(_) => "it does not answer".to_owned(),
            };
            if lost.elapsed() > SILENCE {
                return Err(format!("the link to the guest was lost and not found again: {why}"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn connect(vm: &dyn Vm) -> Result<HostLink, CallError> {
    let stream = vm.link().await.map_err(|error| hyper_link::LinkError::Io(std::io::Error::other(error)))?;
    Ok(HostLink::open(stream).await?)
}

fn gone(reason: &str) -> ShimError {
    ShimError::Gone(format!("the pod's VM is gone: {reason}"))
}
