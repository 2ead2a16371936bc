//! The pod: its phase, its containers, and what happens to them.

mod machine;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper_protocol::agent::{Exit, Request};
use hyper_protocol::shim::{ExitRecord, Identity, Origin, Phase as Step, PodConfig, PodState, TapInterface};
use hyper_vm::Pausing;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::boot::{self, Choose};
use crate::clock;
use crate::container::Container;
use crate::error::ShimError;
use crate::events::{Event, Events};
use crate::exits;
use crate::guest::Guest;
use crate::phase::{self, PodPhase, PodRequest, Verdict};
use crate::ports::Ports;
use crate::process::{Process, State};
use crate::timeline::Timeline;

pub use machine::Machine;

/// Most containers of a pod.
const CONTAINERS_MAX: usize = 256;
/// How long a guest may take to write its filesystems out and power off, unless the request says otherwise.
pub const STOP: Duration = Duration::from_secs(10);
/// How long the ends of processes may take to be recorded once the VM is gone: longer than a stuck client holds one
/// up.
const SETTLE: Duration = Duration::from_secs(15);
/// Exit code of a process that went with its VM, however that ended: that of `SIGKILL`. Why is in the exit's record.
const CODE_GONE: u32 = 137;

/// A pod that has, or had, a VM.
pub struct Live {
    /// Its configuration when it was brought up.
    pub config: Arc<PodConfig>,
    /// Its interfaces now. Held while they are changed.
    pub interfaces: tokio::sync::Mutex<Vec<TapInterface>>,
    /// The VM and its disks.
    pub machine: Arc<Machine>,
    /// The agent in it.
    pub guest: Guest,
}

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// In words.
    pub reason: String,
    /// It was asked for.
    pub wanted: bool,
    /// Why its VM never ran.
    pub boot_error: Option<ShimError>,
    /// When, in nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
}

impl Ending {
    fn now(reason: String, wanted: bool) -> Self {
        Self { reason, wanted, boot_error: None, unix_ns: clock::unix_ns() }
    }

    fn failed(error: ShimError) -> Self {
        Self { boot_error: Some(error.clone()), ..Self::now(error.to_string(), false) }
    }
}

/// The phase of a pod, with what is alive in it.
#[derive(Clone)]
pub enum Phase {
    /// Nothing is known yet.
    Empty,
    /// Configured.
    Created(Arc<PodConfig>),
    /// The VM is on the way.
    Booting(Arc<PodConfig>, Boot),
    /// The agent answers.
    Running(Arc<Live>),
    /// The VM is being stopped.
    Stopping(Arc<PodConfig>),
    /// The VM is gone.
    Stopped(Option<Arc<PodConfig>>, Ending),
}

/// How far a VM is that is on the way.
#[derive(Clone)]
pub enum Boot {
    /// There is none yet.
    Launching,
    /// Its guest would not notice a disk.
    Silent(Arc<Machine>),
    /// Disks can be plugged into it; whether the guest is the pod already is not known.
    Listening(Arc<Machine>),
}

impl Phase {
    fn kind(&self) -> PodPhase {
        match self {
            Self::Empty => PodPhase::Empty,
            Self::Created(_) => PodPhase::Created,
            Self::Booting(..) => PodPhase::Booting,
            Self::Running(_) => PodPhase::Running,
            Self::Stopping(_) => PodPhase::Stopping,
            Self::Stopped(..) => PodPhase::Stopped,
        }
    }

    /// The configuration, once there is one.
    pub fn config(&self) -> Option<&Arc<PodConfig>> {
        match self {
            Self::Empty => None,
            Self::Created(config) | Self::Booting(config, _) | Self::Stopping(config) => Some(config),
            Self::Running(live) => Some(&live.config),
            Self::Stopped(config, _) => config.as_ref(),
        }
    }

    /// The VM that there is.
    fn machine(&self) -> Option<&Arc<Machine>> {
        match self {
            Self::Booting(_, Boot::Silent(machine) | Boot::Listening(machine)) => Some(machine),
            Self::Running(live) => Some(&live.machine),
            _ => None,
        }
    }
}

/// A container, or the place of one that is being made.
enum Slot {
    Coming,
    Here(Arc<Container>),
}

/// The pod of this shim.
pub struct Pod {
    /// Its name.
    pub id: String,
    /// Where `start` ran.
    pub bundle: PathBuf,
    /// When its steps were.
    pub timeline: Arc<Timeline>,
    /// Where events go.
    pub events: Events,
    /// The shim shall end.
    pub quit: Notify,
    /// Clients that are attached at this moment.
    pub clients: AtomicUsize,
    /// Ports of the host that lead to its containers.
    pub ports: Ports,
    /// A guest that is shutting down need not finish.
    hurry: Notify,
    phase: watch::Sender<Phase>,
    containers: Mutex<BTreeMap<String, Slot>>,
    choose: Box<Choose>,
    kernel: Mutex<Option<String>>,
    origin: Mutex<Origin>,
    unheard: Mutex<Option<String>>,
    guest_steps: Mutex<Vec<Step>>,
    autostop: AtomicBool,
}

impl Pod {
    /// A pod of which nothing is known but its name.
    pub fn new(id: String, bundle: PathBuf, events: Events, choose: Box<Choose>) -> Arc<Self> {
        Arc::new(Self {
            id,
            bundle,
            timeline: Arc::default(),
            events,
            quit: Notify::new(),
            clients: AtomicUsize::new(0),
            ports: Ports::default(),
            hurry: Notify::new(),
            phase: watch::channel(Phase::Empty).0,
            containers: Mutex::default(),
            choose,
            kernel: Mutex::new(None),
            origin: Mutex::default(),
            unheard: Mutex::default(),
            guest_steps: Mutex::default(),
            autostop: AtomicBool::new(false),
        })
    }

    /// Its phase now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Gives it its configuration.
    ///
    /// # Errors
    /// [`ShimError::AlreadyExists`] when it has one, [`ShimError::Invalid`].
    pub fn configure(&self, config: PodConfig) -> Result<(), ShimError> {
        boot::check(&config)?;
        let mut refused = true;
        self.phase.send_if_modified(|phase| {
            refused = phase::pod(phase.kind(), PodRequest::Configure) != Verdict::Allowed;
            if !refused {
                self.autostop.store(config.autostop, Ordering::Relaxed);
                *phase = Phase::Created(Arc::new(config));
            }
            !refused
        });
        if refused { Err(ShimError::AlreadyExists(format!("pod {} exists", self.id))) } else { Ok(()) }
    }

    /// Begins to boot its VM, if it can be booted and is not.
    pub fn begin_boot(self: &Arc<Self>) {
        let mut booting = None;
        self.phase.send_if_modified(|phase| match (phase::pod(phase.kind(), PodRequest::Boot), &phase) {
            (Verdict::Allowed, Phase::Created(config)) => {
                booting = Some(config.clone());
                *phase = Phase::Booting(config.clone(), Boot::Launching);
                true
            }
            _ => false,
        });
        if let Some(config) = booting {
            // A task of its own: the one who asked may go away, the VM goes on.
            tokio::spawn(self.clone().bring_up(config));
        }
    }

    /// Boots its VM and returns when the agent answers; a second call waits for the first.
    ///
    /// # Errors
    /// Why it did not boot; the pod is stopped then.
    pub async fn boot(self: &Arc<Self>) -> Result<Arc<Live>, ShimError> {
        self.begin_boot();
        match (self.live().await, self.phase()) {
            (Err(_), Phase::Stopped(_, Ending { boot_error: Some(error), .. })) => Err(error),
            (live, _) => live,
        }
    }

    /// The running pod; waits while it boots.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn live(&self) -> Result<Arc<Live>, ShimError> {
        let mut phase = self.phase.subscribe();
        loop {
            let now = phase.borrow_and_update().clone();
            match (&now, phase::pod(now.kind(), PodRequest::Ask)) {
                (Phase::Running(live), _) => return Ok(live.clone()),
                (_, Verdict::Later) => {}
                (other, _) => return Err(self.not_running(other)),
            }
            if phase.changed().await.is_err() {
                return Err(self.not_running(&now));
            }
        }
    }

    /// The VM as soon as its guest notices disks that are plugged into it.
    ///
    /// # Errors
    /// When it is neither booting nor running.
    pub async fn machine(&self) -> Result<Arc<Machine>, ShimError> {
        let mut phase = self.phase.subscribe();
        loop {
            let now = phase.borrow_and_update().clone();
            if phase::pod(now.kind(), PodRequest::CreateContainer) == Verdict::Refused {
                return Err(self.not_running(&now));
            }
            match &now {
                Phase::Running(live) => return Ok(live.machine.clone()),
                Phase::Booting(_, Boot::Listening(machine)) => return Ok(machine.clone()),
                _ => {}
            }
            if phase.changed().await.is_err() {
                return Err(self.not_running(&now));
            }
        }
    }

    /// Waits until it has stopped.
    pub async fn stopped(&self) -> Ending {
        let mut phase = self.phase.subscribe();
        let stopped = phase.wait_for(|phase| matches!(phase, Phase::Stopped(..))).await;
        match stopped.as_deref() {
            Ok(Phase::Stopped(_, ending)) => ending.clone(),
            _ => unreachable!("the sender lives in self, and the phase waited for is this one"),
        }
    }

    /// What it tells of its VM.
    pub fn inspect(&self) -> PodState {
        let phase = self.phase();
        let (kernel, origin) = (lock(&self.kernel).clone(), lock(&self.origin).clone());
        let agent_rss = match &phase {
            Phase::Running(live) => live.guest.agent_rss(),
            _ => None,
        };
        let taps = match &phase {
            Phase::Running(live) => live.interfaces.try_lock().ok(),
            _ => None,
        };
        let taps =
            taps.map(|now| now.iter().map(|interface| interface.tap.clone()).collect()).unwrap_or_default();
        let first = self.processes().into_iter().filter(|process| process.target.exec.is_none());
        let counted = first.map(|process| (process.target.container.clone(), process.fanout.sessions()));
        let sessions = counted.filter(|(_, count)| *count > 0).collect();
        let info = phase.machine().map(|machine| machine.vm.info());
        PodState {
            hypervisor: info.map_or_else(String::new, |info| info.hypervisor.to_owned()),
            accelerator: info.map_or_else(String::new, |info| info.accelerator.name().to_owned()),
            vmm_pid: info.map(|info| info.pid),
            kernel,
            origin,
            agent_rss,
            sessions,
            published: self.ports.published(),
            taps,
            unheard: lock(&self.unheard).clone(),
        }
    }

    /// When the steps of its start were, by the host's clock and the guest's.
    pub async fn steps(&self) -> Vec<Step> {
        self.note_guest_steps().await;
        let mut steps = self.timeline.phases();
        steps.extend(lock(&self.guest_steps).iter().cloned());
        steps
    }

    /// Takes the guest's steps down; they outlive the guest then.
    pub async fn note_guest_steps(&self) {
        let begin = self.timeline.phases().iter().map(|phase| phase.start_us).min();
        if let (Phase::Running(live), Some(begin)) = (self.phase(), begin)
            && let Some(steps) = live.guest.steps(begin).await
        {
            *lock(&self.guest_steps) = steps;
        }
    }

    /// Process number of the VMM, 0 when there is none: what containerd is told as the number of every process, for
    /// those in the guest have none on this host.
    pub fn vmm_pid(&self) -> u32 {
        self.inspect().vmm_pid.unwrap_or(0)
    }

    /// Reserves the name of a container.
    ///
    /// # Errors
    /// [`ShimError::AlreadyExists`], or when there are too many.
    pub fn reserve(&self, id: &str) -> Result<(), ShimError> {
        let mut containers = lock(&self.containers);
        if containers.contains_key(id) {
            return Err(ShimError::AlreadyExists(format!("container {id} exists")));
        }
        if containers.len() >= CONTAINERS_MAX {
            return Err(ShimError::Failed(format!("a pod has at most {CONTAINERS_MAX} containers")));
        }
        containers.insert(id.to_owned(), Slot::Coming);
        Ok(())
    }

    /// Puts a container that was made in this VM into its reserved place; `false` when the pod no longer has the VM.
    #[must_use]
    pub fn insert(&self, id: &str, container: Arc<Container>, machine: &Machine) -> bool {
        // What becomes of a lost VM is decided with this lock held.
        let mut containers = lock(&self.containers);
        let has = self.phase.borrow().machine().is_some_and(|now| std::ptr::eq(&**now, machine));
        if has {
            machine.note_made();
            containers.insert(id.to_owned(), Slot::Here(container));
        }
        has
    }

    /// Frees the name of a container.
    pub fn remove(&self, id: &str) {
        self.ports.remove(id);
        lock(&self.containers).remove(id);
    }

    /// A container by its name.
    ///
    /// # Errors
    /// [`ShimError::NotFound`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>, ShimError> {
        match lock(&self.containers).get(id) {
            Some(Slot::Here(container)) => Ok(container.clone()),
            _ => Err(ShimError::NotFound(format!("container {id} does not exist"))),
        }
    }

    /// Whether it has no containers, and none is being made.
    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }

    /// Stops its processors until it is woken.
    ///
    /// # Errors
    /// It is not running, or its VM cannot be paused.
    pub async fn rest(&self) -> Result<(), ShimError> {
        let live = self.live().await?;
        live.guest.set_resting(true);
        pausing(&live)?.pause().await.map_err(Into::into)
    }

    /// Lets it run again, as another pod.
    ///
    /// # Errors
    /// It is not running, or its guest does not become that pod.
    pub async fn wake(&self, identity: Identity) -> Result<(), ShimError> {
        boot::check_hostname(&identity.hostname)?;
        let live = self.live().await?;
        // What was before concerns nobody.
        self.timeline.clear();
        let start = SystemTime::now();
        pausing(&live)?.resume().await?;
        live.guest.set_resting(false);
        let Identity { hostname, domainname, sysctl, autostop } = identity;
        let change = |pod: &mut hyper_protocol::agent::Pod| {
            pod.hostname = hostname;
            pod.domainname = domainname;
            pod.sysctl = sysctl;
        };
        live.guest.become_pod(change).await?;
        self.autostop.store(autostop, Ordering::Relaxed);
        self.timeline.since("wake", start);
        Ok(())
    }

    /// Makes these its interfaces: connects what is new, has the guest follow, and disconnects what is gone.
    ///
    /// # Errors
    /// A tap or a slot is not there, or the guest does not follow; all is as before then.
    pub async fn set_interfaces(&self, wanted: Vec<TapInterface>) -> Result<(), ShimError> {
        let live = self.live().await?;
        let mut now = live.interfaces.lock().await;
        let has = |all: &[TapInterface], one: &TapInterface| {
            all.iter().any(|other| (other.slot, &other.tap) == (one.slot, &one.tap))
        };
        let fresh: Vec<&TapInterface> = wanted.iter().filter(|interface| !has(&now, interface)).collect();
        let taken = fresh.iter().find(|one| now.iter().any(|other| other.slot == one.slot));
        if let Some(interface) = taken {
            return Err(ShimError::Invalid(format!("NIC slot {} is connected", interface.slot)));
        }
        let mut plugged = Vec::new();
        let followed = async {
            for interface in &fresh {
                live.machine.vm.plug_nic(interface.slot, boot::open_tap(interface).await?).await?;
                plugged.push(interface.slot);
            }
            let interfaces = wanted.iter().map(boot::of_guest).collect();
            live.guest.become_pod(|pod| pod.interfaces = interfaces).await
        }
        .await;
        let gone: Vec<u32> = match &followed {
            Ok(()) => now.iter().filter(|one| !has(&wanted, one)).map(|one| one.slot).collect(),
            Err(_) => {
                let interfaces = now.iter().map(boot::of_guest).collect();
                if let Err(error) = live.guest.become_pod(|pod| pod.interfaces = interfaces).await {
                    tracing::warn!(%error, "the guest does not go back to the interfaces that it had");
                }
                plugged
            }
        };
        for slot in gone {
            if let Err(error) = live.machine.vm.unplug_nic(slot).await {
                tracing::warn!(slot, %error, "a NIC slot stays connected");
            }
        }
        if followed.is_ok() {
            *now = wanted;
        }
        followed
    }

    /// Stops its VM, giving the guest `grace` to write everything out, and returns when all is recorded.
    pub async fn stop(self: &Arc<Self>, grace: Duration, reason: &str) {
        let mut before = None;
        self.phase.send_if_modified(|phase| {
            if phase::pod(phase.kind(), PodRequest::Stop) != Verdict::Allowed {
                return false;
            }
            let after = match phase.config() {
                Some(config) => Phase::Stopping(config.clone()),
                None => return false,
            };
            before = Some(std::mem::replace(phase, after));
            true
        });
        match before {
            None => {
                if !matches!(self.phase(), Phase::Empty) {
                    self.stopped().await;
                }
            }
            Some(before) => {
                let stopping = tokio::spawn(self.clone().bring_down(before, grace, reason.to_owned()));
                // It does not panic, and nobody aborts it.
                let _ = stopping.await;
            }
        }
    }

    /// Stops its VM at once, also one that is being stopped gently. What the guest has not written out is lost.
    pub async fn abandon(self: &Arc<Self>, reason: &str) {
        self.hurry.notify_waiters();
        self.stop(Duration::ZERO, reason).await;
    }

    /// Records the end of a process; for the first one of a container on disk before anybody learns of it.
    pub fn record(&self, process: &Process, exit: Exit, error: Option<String>) {
        let target = &process.target;
        if target.exec.is_none() {
            self.ports.remove(&target.container);
        }
        if let (None, Some(config)) = (&target.exec, self.phase().config()) {
            let record = ExitRecord { exit: exit.clone(), error: error.clone() };
            if let Err(error) = exits::write(&config.dir, &target.container, &record) {
                tracing::error!(container = %target.container, %error, "the exit code is not on disk");
            }
        }
        tracing::info!(process = %process.name(), code = exit.code, error = error.as_deref(), "ended");
        self.events.publish(Event::Exit { target: target.clone(), pid: self.vmm_pid(), exit: exit.clone() });
        if exit.oom_killed {
            self.events.publish(Event::Oom { container: target.container.clone() });
        }
        process.set_state(State::Stopped { exit, error });
    }

    /// The exit of a process whose guest is gone.
    pub fn lost_exit() -> Exit {
        Exit { code: CODE_GONE, unix_time_ns: clock::unix_ns(), oom_killed: false }
    }

    /// Stops the VM if that is configured and no container has anything left to do.
    pub fn stop_if_done(self: &Arc<Self>) {
        let phase = self.phase();
        let autostop = matches!(phase, Phase::Running(_)) && self.autostop.load(Ordering::Relaxed);
        let done = lock(&self.containers).values().all(|slot| match slot {
            Slot::Coming => false,
            Slot::Here(container) => matches!(container.process.state(), State::Stopped { .. }),
        });
        if autostop && done {
            let pod = self.clone();
            tokio::spawn(async move { pod.stop(STOP, "its last container has ended").await });
        }
    }

    async fn bring_down(self: Arc<Self>, before: Phase, grace: Duration, reason: String) {
        tracing::info!(pod = %self.id, %reason, "the pod is being stopped");
        match before {
            Phase::Running(live) => {
                // With all containers deleted nothing is mounted any more, and there is nothing to write out.
                if !self.is_empty() && !grace.is_zero() {
                    let orderly = async {
                        live.guest.call(&Request::Shutdown).await?;
                        live.machine.vm.wait().await;
                        Ok::<_, ShimError>(())
                    };
                    let how = tokio::select! {
                        how = timeout(grace, orderly) => how,
                        () = self.hurry.notified() => Ok(Ok(())),
                    };
                    match how {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%error, "the guest is killed without a shutdown"),
                        Err(_) => tracing::warn!(?grace, "the guest is killed, it did not shut down in time"),
                    }
                }
                live.machine.vm.kill().await;
                live.guest.end(&reason);
            }
            Phase::Booting(_, Boot::Silent(machine) | Boot::Listening(machine)) => machine.vm.kill().await,
            // A launch that is under way finds out by itself.
            _ => {}
        }
        self.end(Ending::now(reason, true)).await;
    }

    /// The last step: every process gets its end, then the pod has its own.
    async fn end(&self, ending: Ending) {
        let settled = async {
            for process in self.processes() {
                match process.state() {
                    State::Running { .. } | State::Paused { .. } => drop(process.wait().await),
                    State::Created => {
                        self.record(&process, Self::lost_exit(), Some(ending.reason.clone()));
                        process.release();
                    }
                    State::Stopped { .. } => {}
                }
            }
        };
        if timeout(SETTLE, settled).await.is_err() {
            tracing::warn!("some processes have no end yet");
        }
        self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Stopped(..));
            if first {
                *phase = Phase::Stopped(phase.config().cloned(), ending);
            }
            first
        });
    }

    fn processes(&self) -> Vec<Arc<Process>> {
        let containers = lock(&self.containers);
        let here = containers.values().filter_map(|slot| match slot {
            Slot::Here(container) => Some(container.processes()),
            Slot::Coming => None,
        });
        here.flatten().collect()
    }

    /// Moves from one phase to the next unless something else happened.
    fn advance(&self, from: PodPhase, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let moves = phase.kind() == from;
            if moves {
                *phase = to;
            }
            moves
        })
    }

    fn not_running(&self, phase: &Phase) -> ShimError {
        let id = &self.id;
        match phase {
            Phase::Stopped(_, Ending { reason, wanted: false, .. }) => ShimError::Gone(reason.clone()),
            Phase::Stopped(_, Ending { reason, .. }) => {
                ShimError::Gone(format!("pod {id} was stopped: {reason}"))
            }
            Phase::Stopping(_) => ShimError::Gone(format!("pod {id} is being stopped")),
            Phase::Empty | Phase::Created(_) => {
                ShimError::WrongState(format!("pod {id} has not been started"))
            }
            Phase::Booting(..) | Phase::Running(_) => ShimError::Failed(format!("pod {id} is shutting down")),
        }
    }
}

fn pausing(live: &Live) -> Result<&dyn Pausing, ShimError> {
    live.machine
        .vm
        .pausing()
        .ok_or_else(|| ShimError::Unsupported("this hypervisor cannot pause a VM".into()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
