//! What is done to containers and processes, apart from how it is asked for.

use std::sync::Arc;
use std::time::SystemTime;

use hyper_protocol::agent::{self, Exit, Reply, Request, Target};
use hyper_protocol::shim::ExecConfig;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::args::is_id;
use crate::container::{self, Container, NewContainer, Rootfs};
use crate::devices;
use crate::error::ShimError;
use crate::events::Event;
use crate::phase::ProcessRequest;
use crate::pod::{Live, Machine, Pod};
use crate::process::{Process, State, Streams};
use crate::seccomp;
use crate::stdio::{self, JsonLog};
use crate::volumes::Volumes;

/// Signal numbers are 1 to this (`SIGRTMAX` on Linux).
const SIGNAL_MAX: u32 = 64;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// Makes a container: plugs its disks, while the guest may still be booting, and has the agent make it.
///
/// # Errors
/// Nothing is left of it then.
pub async fn create(pod: &Arc<Pod>, request: NewContainer) -> Result<(), ShimError> {
    if !is_id(&request.id) {
        return Err(ShimError::Invalid(format!("{:?} is no name for a container", request.id)));
    }
    pod.reserve(&request.id)?;
    let id = request.id.clone();
    let made = loop {
        match make(pod, &request).await {
            // A clone that failed, and a VM that boots takes its place.
            Err(Unmade { lost: Some(machine), .. }) if pod.replaces(&machine).await => {}
            made => break made,
        }
    };
    match made {
        Ok(bundle) => {
            pod.events.publish(Event::Create { container: id, bundle, pid: pod.vmm_pid() });
            Ok(())
        }
        Err(Unmade { error, .. }) => {
            pod.remove(&id);
            pod.stop_if_done();
            Err(error)
        }
    }
}

/// Why a container was not made.
struct Unmade {
    error: ShimError,
    /// The VM that it should have been made in, where that may be gone.
    lost: Option<Arc<Machine>>,
}

impl Unmade {
    fn within(machine: &Arc<Machine>) -> impl FnOnce(ShimError) -> Self {
        |error| {
            let gone = matches!(error, ShimError::Gone(_) | ShimError::Unanswered(_));
            Self { error, lost: gone.then(|| machine.clone()) }
        }
    }
}

impl From<ShimError> for Unmade {
    fn from(error: ShimError) -> Self {
        Self { error, lost: None }
    }
}

/// Makes a container and puts it into its reserved place; its bundle.
async fn make(pod: &Arc<Pod>, request: &NewContainer) -> Result<String, Unmade> {
    let mut spec = container::read_spec(&request.bundle)?;
    let filter = seccomp::take(&mut spec)?;
    let mut rootfs = Rootfs::open(&request.rootfs)?;
    let (volumes, images) = Volumes::open(&request.config.volumes)?;
    rootfs.images.volumes = images;
    rootfs.images.devices = devices::open(&request.config.devices).await?;
    let log = match request.config.log.clone() {
        None => None,
        Some(log) => Some(JsonLog::open(log.clone()).map_err(|error| {
            // Docker's words.
            ShimError::failed("failed to initialize logging driver", &error)
        })?),
    };
    let target = Target { container: request.id.clone(), exec: None };
    let config = &request.config;
    let process = Process::new(target, request.streams.clone(), config.stdin, config.stdin_once, log)?;
    let machine = pod.machine().await?;
    let start = SystemTime::now();
    let plugged = machine.disks.plug(&*machine.vm, rootfs.images).await.map_err(Unmade::within(&machine))?;
    pod.timeline.since("plug disks", start);
    let writable = Rootfs::writable(rootfs.tmpfs, &plugged);
    let moved = || ShimError::Gone("the pod has got another VM".into());
    let placed = match volumes.place(&machine, &plugged).await {
        Ok(placed) => placed,
        Err(error) => {
            process.release();
            machine.disks.unplug(&*machine.vm, &plugged).await;
            return Err(Unmade::within(&machine)(error));
        }
    };
    let created = async {
        let live = pod.live().await?;
        if !Arc::ptr_eq(&live.machine, &machine) {
            return Err(moved());
        }
        let start = SystemTime::now();
        let container = container::to_agent(request, spec, filter, writable, &plugged, &placed);
        live.guest.call(&Request::Create(Box::new(container))).await?;
        pod.timeline.since("create", start);
        Ok(())
    };
    if let Err(error) = created.await {
        process.release();
        placed.remove(&machine).await;
        machine.disks.unplug(&*machine.vm, &plugged).await;
        return Err(Unmade::within(&machine)(error));
    }
    let process = Arc::new(process);
    let container = Container::new(request.bundle.clone(), process.clone(), plugged, placed);
    if !pod.insert(&request.id, Arc::new(container), &machine) {
        process.release();
        return Err(Unmade::within(&machine)(moved()));
    }
    Ok(request.bundle.display().to_string())
}

/// Adds a process to a running container.
///
/// # Errors
/// See [`ShimError`].
pub async fn exec(
    pod: &Arc<Pod>,
    id: &str,
    exec: &str,
    streams: Streams,
    config: ExecConfig,
) -> Result<(), ShimError> {
    let container = pod.container(id)?;
    container.process.admit(ProcessRequest::Exec)?;
    let target = Target { container: id.to_owned(), exec: Some(exec.to_owned()) };
    let mut process = config.process;
    match process.as_object_mut() {
        Some(object) => object.insert("terminal".into(), streams.tty.into()),
        None => return Err(ShimError::Invalid("the process to add is no JSON object".into())),
    };
    let stdin = config.stdin || !streams.stdin.is_empty();
    // An added process has one client and no life beyond it.
    let added = Arc::new(Process::new(target.clone(), streams, stdin, true, None)?);
    container.add_exec(exec, added.clone())?;
    let request = agent::Exec {
        container: id.to_owned(),
        id: exec.to_owned(),
        process,
        user: config.user,
        groups: Vec::new(),
        stdin,
    };
    let live = pod.live().await;
    let answer = match live {
        Ok(live) => live.guest.call(&Request::Exec(Box::new(request))).await,
        Err(error) => Err(error),
    };
    if let Err(error) = answer {
        container.remove_exec(exec);
        added.release();
        return Err(error);
    }
    pod.events.publish(Event::ExecAdded(target));
    Ok(())
}

/// Starts a process and follows it to its end.
///
/// # Errors
/// It can be started again or deleted then.
pub async fn start(pod: &Arc<Pod>, process: &Arc<Process>) -> Result<(), ShimError> {
    let _turn = process.turn.lock().await;
    process.admit(ProcessRequest::Start)?;
    let live = pod.live().await?;
    live.machine.note_started();
    // The way for its streams and its end is opened while it starts, not after.
    let following = Following::begin(pod, &live, process);
    let start = SystemTime::now();
    let pid = match live.guest.call(&Request::Start(process.target.clone())).await {
        Ok(Reply::Started { pid }) => pid,
        Ok(reply) => {
            following.abort();
            return Err(ShimError::Failed(format!("the agent answers a start with {reply:?}")));
        }
        Err(error) => match known(&live, &process.target).await {
            // The link was lost behind the request, not before it.
            Some(agent::Known { pid: Some(pid), .. }) => pid,
            _ => {
                following.abort();
                return Err(error);
            }
        },
    };
    pod.timeline.since("start", start);
    tracing::info!(process = %process.name(), pid, "started");
    process.set_state(State::Running { pid });
    let target = process.target.clone();
    pod.events.publish(match target.exec {
        None => Event::Start { container: target.container, pid: pod.vmm_pid() },
        Some(_) => Event::ExecStarted(target, pod.vmm_pid()),
    });
    tokio::spawn(follow(pod.clone(), process.clone(), following));
    Ok(())
}

/// What the agent knows of a process; asked only after a failure.
async fn known(live: &Live, target: &Target) -> Option<agent::Known> {
    match live.guest.repeat(&Request::List).await {
        Ok(Reply::Containers(known)) => known.into_iter().find(|known| known.target == *target),
        _ => None,
    }
}

/// The tasks that wait for what a process writes and for its end.
struct Following {
    outputs: Vec<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
    exit: JoinHandle<Result<Reply, ShimError>>,
}

impl Following {
    /// Begins; the agent answers before the process has been started as well as after.
    fn begin(pod: &Arc<Pod>, live: &Arc<Live>, process: &Arc<Process>) -> Self {
        let mut outputs = Vec::new();
        for &output in process.outputs() {
            let (timeline, live, process) = (pod.timeline.clone(), live.clone(), process.clone());
            outputs.push(tokio::spawn(async move {
                let first = move || timeline.since("first byte", SystemTime::now());
                stdio::pump_output(&live.guest, &process.target, output, process.fanout.clone(), first).await;
            }));
        }
        let input = process.input.exists().then(|| {
            let (live, process) = (live.clone(), process.clone());
            tokio::spawn(async move { stdio::pump_input(&live.guest, &process.target, &process.input).await })
        });
        let exit = tokio::spawn({
            let (live, target) = (live.clone(), process.target.clone());
            async move { live.guest.repeat(&Request::Wait(target)).await }
        });
        for task in outputs.iter().chain(&input) {
            process.adopt(task.abort_handle());
        }
        Self { outputs, input, exit }
    }

    /// Ends it: the process was not started.
    fn abort(&self) {
        for task in self.outputs.iter().chain(&self.input) {
            task.abort();
        }
        self.exit.abort();
    }
}

/// From a process's start to its end: waits for it and for its outputs, and records it.
async fn follow(pod: Arc<Pod>, process: Arc<Process>, following: Following) {
    let (exit, error) = match following.exit.await {
        Ok(Ok(Reply::Exited(exit))) => (exit, None),
        Ok(Ok(reply)) => (Pod::lost_exit(), Some(format!("the agent answers a wait with {reply:?}"))),
        Ok(Err(error)) => (Pod::lost_exit(), Some(error.to_string())),
        Err(error) => (Pod::lost_exit(), Some(error.to_string())),
    };
    pod.timeline.since("exit", SystemTime::now());
    process.input.finish();
    let mut outputs = tokio::spawn(async move {
        for output in following.outputs {
            // An aborted one has ended as well.
            let _ = output.await;
        }
    });
    let drained = stdio::drain(async { drop((&mut outputs).await) }, &process.fanout).await;
    if drained {
        process.fanout.close();
    } else {
        let fanout = process.fanout.clone();
        process.adopt(outputs.abort_handle());
        tokio::spawn(async move {
            let _ = outputs.await;
            fanout.close();
        });
    }
    pod.record(&process, exit, error);
    if process.target.exec.is_none() {
        pod.note_guest_steps().await;
        pod.stop_if_done();
    }
}

/// Sends a signal.
///
/// # Errors
/// See [`ShimError`].
pub async fn signal(pod: &Arc<Pod>, process: &Arc<Process>, signal: u32, all: bool) -> Result<(), ShimError> {
    if signal == 0 || signal > SIGNAL_MAX {
        return Err(ShimError::Invalid(format!("there is no signal {signal}")));
    }
    process.admit(ProcessRequest::Signal)?;
    if process.state() == State::Created {
        let _turn = process.turn.lock().await;
        if process.state() == State::Created {
            return end_unstarted(pod, process, signal);
        }
    }
    let live = pod.live().await?;
    let request = Request::Signal { target: process.target.clone(), signal: signal as i32, all };
    live.guest.call(&request).await.map(drop)
}

/// There is nobody to take a signal yet; one that would end the process ends its life before it began.
fn end_unstarted(pod: &Arc<Pod>, process: &Process, signal: u32) -> Result<(), ShimError> {
    if ![SIGKILL, SIGTERM].contains(&signal) {
        return Err(ShimError::WrongState(format!("{} has not been started", process.name())));
    }
    let exit = Exit { code: 128 + signal, unix_time_ns: crate::clock::unix_ns(), oom_killed: false };
    pod.record(process, exit, None);
    process.release();
    if process.target.exec.is_none() {
        pod.stop_if_done();
    }
    Ok(())
}

/// Freezes or thaws a container.
///
/// # Errors
/// See [`ShimError`].
pub async fn set_paused(pod: &Arc<Pod>, id: &str, paused: bool) -> Result<(), ShimError> {
    let container = pod.container(id)?;
    let process = &container.process;
    let _turn = process.turn.lock().await;
    process.admit(if paused { ProcessRequest::Pause } else { ProcessRequest::Resume })?;
    let live = pod.live().await?;
    let request = if paused { Request::Pause(id.to_owned()) } else { Request::Resume(id.to_owned()) };
    live.guest.repeat(&request).await?;
    if let State::Running { pid } | State::Paused { pid } = process.state() {
        process.set_state(if paused { State::Paused { pid } } else { State::Running { pid } });
    }
    pod.events.publish(if paused { Event::Paused(id.to_owned()) } else { Event::Resumed(id.to_owned()) });
    Ok(())
}

/// Forgets a process that has ended or was never started; for the first one, the whole container. Says how it ended.
///
/// # Errors
/// [`ShimError::WrongState`] while it runs.
pub async fn delete(pod: &Arc<Pod>, id: &str, exec: &str) -> Result<Exit, ShimError> {
    let container = pod.container(id)?;
    let process = container.process(exec)?;
    let turn = process.turn.lock().await;
    process.admit(ProcessRequest::Delete)?;
    let exit = match process.state() {
        State::Stopped { exit, .. } => exit,
        _ => Exit { code: 0, unix_time_ns: crate::clock::unix_ns(), oom_killed: false },
    };
    // A pod that is being stopped, or is gone, takes its containers with it.
    if let Ok(live) = pod.live().await {
        match live.guest.repeat(&Request::Delete(process.target.clone())).await {
            Ok(_) | Err(ShimError::NotFound(_) | ShimError::Gone(_)) => {}
            Err(error) => return Err(error),
        }
        if exec.is_empty() {
            // Not later: the images may be used again, in another VM, as soon as this is answered.
            container.placed.remove(&live.machine).await;
            // A guest that is powering off lets go of nothing any more; its end gives everything back.
            tokio::select! {
                () = live.machine.disks.unplug(&*live.machine.vm, &container.plugged) => {}
                _ = live.machine.vm.wait() => {}
            }
        }
    }
    drop(turn);
    pod.events.publish(Event::Delete {
        target: process.target.clone(),
        pid: pod.vmm_pid(),
        exit: exit.clone(),
    });
    if exec.is_empty() {
        for process in container.processes() {
            process.release();
        }
        pod.remove(id);
        pod.stop_if_done();
    } else {
        process.release();
        container.remove_exec(exec);
    }
    Ok(exit)
}

/// Changes the limits of a container.
///
/// # Errors
/// See [`ShimError`].
pub async fn update(pod: &Arc<Pod>, id: &str, resources: Value) -> Result<(), ShimError> {
    pod.container(id)?.process.admit(ProcessRequest::Update)?;
    let request = Request::Update { id: id.to_owned(), resources };
    pod.live().await?.guest.call(&request).await.map(drop)
}

/// What a container uses.
///
/// # Errors
/// See [`ShimError`].
pub async fn stats(pod: &Arc<Pod>, id: &str) -> Result<Box<agent::Stats>, ShimError> {
    pod.container(id)?.process.admit(ProcessRequest::Measure)?;
    match pod.live().await?.guest.repeat(&Request::Stats(id.to_owned())).await? {
        Reply::Stats(stats) => Ok(stats),
        reply => Err(ShimError::Failed(format!("the agent answers a measurement with {reply:?}"))),
    }
}

/// The processes of a container, as its guest numbers them.
///
/// # Errors
/// See [`ShimError`].
pub async fn processes(pod: &Arc<Pod>, id: &str) -> Result<Vec<agent::Process>, ShimError> {
    pod.container(id)?.process.admit(ProcessRequest::Measure)?;
    match pod.live().await?.guest.repeat(&Request::Processes(id.to_owned())).await? {
        Reply::Processes(processes) => Ok(processes),
        reply => Err(ShimError::Failed(format!("the agent answers a list with {reply:?}"))),
    }
}

/// Sets the size of a process's terminal. Before the start the agent keeps it for then.
///
/// # Errors
/// [`ShimError::WrongState`] without a terminal or after the end.
pub async fn resize(pod: &Arc<Pod>, process: &Process, width: u32, height: u32) -> Result<(), ShimError> {
    process.admit(ProcessRequest::Resize)?;
    if !process.streams.tty {
        return Err(ShimError::WrongState(format!("{} has no terminal", process.name())));
    }
    let size =
        |value: u32| u16::try_from(value).map_err(|_| ShimError::Invalid(format!("{value} is no size")));
    let request =
        Request::Resize { target: process.target.clone(), width: size(width)?, height: size(height)? };
    pod.live().await?.guest.repeat(&request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Phase;
    use crate::stdio::Interest;
    use crate::testing::{container, pod};
    use hyper_protocol::shim::Log;
    use std::time::Duration;
    use tokio::time::timeout;

    const BOTH: Interest = Interest { stdout: true, stderr: true };

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), what).await.expect("it happens soon")
    }

    #[tokio::test]
    async fn output_goes_on_where_it_was_when_the_link_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        let mut request = container(dir.path(), "c1", &["layer"]);
        let log = dir.path().join("log");
        request.config.log = Some(Log { path: log.clone(), max_size: None, max_files: 1, ..Log::default() });
        create(&pod, request).await.unwrap();
        let process = pod.container("c1").unwrap().process.clone();
        let mut pieces = process.fanout.attach(BOTH).unwrap();
        start(&pod, &process).await.unwrap();
        let inside = guest.process("c1");
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(piece) = pieces.recv().await {
                all.extend_from_slice(&piece.bytes);
            }
            all
        });
        let mut wanted = Vec::new();
        for round in 0..5_u8 {
            let bytes = vec![b'a' + round; 100_000];
            inside.stdout.push(&bytes).await;
            wanted.extend(bytes);
            if round < 4 {
                guest.lose_session();
                let pinged = soon(pod.live().await.unwrap().guest.repeat(&Request::Ping)).await;
                assert!(matches!(pinged, Ok(Reply::Pong { .. })));
            }
        }
        inside.exit(3);
        assert_eq!(soon(process.wait()).await.0.code, 3);
        assert!(soon(reading).await.unwrap() == wanted, "nothing twice and nothing lost");
        let logged = std::fs::read_to_string(log).unwrap();
        assert!(logged.matches(['a', 'b', 'c', 'd', 'e']).count() > 500_000);
        soon(pod.stop(Duration::ZERO, "done")).await;
    }

    #[tokio::test]
    async fn input_of_several_clients_is_one_stream() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        let mut request = container(dir.path(), "c1", &["layer"]);
        request.config.stdin = true;
        create(&pod, request).await.unwrap();
        let process = pod.container("c1").unwrap().process.clone();
        assert!(process.input.write(b"early ").await);
        start(&pod, &process).await.unwrap();
        assert!(process.input.write(b"and late").await);
        process.close_input();
        let inside = guest.process("c1");
        soon(async {
            while *inside.stdin.lock().unwrap() != b"early and late" {
                tokio::task::yield_now().await;
            }
        })
        .await;
        inside.exit(0);
        soon(process.wait()).await;
    }

    #[tokio::test]
    async fn image_used_twice_is_plugged_once_and_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        create(&pod, container(dir.path(), "c1", &["base", "one"])).await.unwrap();
        create(&pod, container(dir.path(), "c2", &["base", "two"])).await.unwrap();
        assert_eq!(guest.plugged.lock().unwrap().len(), 3);
        delete(&pod, "c1", "").await.unwrap();
        assert_eq!(guest.plugged.lock().unwrap().len(), 2);
        delete(&pod, "c2", "").await.unwrap();
        assert_eq!(guest.plugged.lock().unwrap().len(), 0);
    }

    #[tokio::test]
    async fn exit_is_on_disk_before_anybody_hears_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        create(&pod, container(dir.path(), "c1", &["layer"])).await.unwrap();
        let process = pod.container("c1").unwrap().process.clone();
        start(&pod, &process).await.unwrap();
        guest.process("c1").exit(9);
        soon(process.wait()).await;
        assert_eq!(crate::exits::read(dir.path(), "c1").unwrap().exit.code, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn child_in_the_background_does_not_hold_the_exit_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        create(&pod, container(dir.path(), "c1", &["layer"])).await.unwrap();
        let process = pod.container("c1").unwrap().process.clone();
        let mut pieces = process.fanout.attach(BOTH).unwrap();
        start(&pod, &process).await.unwrap();
        let inside = guest.process("c1");
        inside.exit_with_open_outputs(0);
        timeout(Duration::from_secs(5), process.wait()).await.expect("two seconds, as with docker");
        // What comes later is not lost to those who are attached.
        inside.stdout.push(b"late").await;
        assert_eq!(&*pieces.recv().await.unwrap().bytes, b"late");
        inside.exit(0);
        assert!(pieces.recv().await.is_none());
    }

    #[tokio::test]
    async fn pod_ends_with_its_last_container_only() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), true).await;
        for id in ["c1", "c2"] {
            create(&pod, container(dir.path(), id, &["layer"])).await.unwrap();
            start(&pod, &pod.container(id).unwrap().process).await.unwrap();
        }
        guest.process("c1").exit(0);
        soon(pod.container("c1").unwrap().process.wait()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(matches!(pod.phase(), Phase::Running(_)));
        let second = pod.container("c2").unwrap().process.clone();
        signal(&pod, &second, SIGKILL, false).await.unwrap();
        assert_eq!(soon(second.wait()).await.0.code, 137);
        assert!(soon(pod.stopped()).await.wanted);
    }

    #[tokio::test]
    async fn stopped_pod_gives_unstarted_and_running_processes_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, _guest) = pod(dir.path(), false).await;
        for id in ["c1", "c2"] {
            create(&pod, container(dir.path(), id, &["layer"])).await.unwrap();
        }
        let running = pod.container("c1").unwrap().process.clone();
        start(&pod, &running).await.unwrap();
        soon(pod.stop(Duration::ZERO, "it was asked to")).await;
        assert_eq!(soon(running.wait()).await.0.code, 137);
        assert_eq!(soon(pod.container("c2").unwrap().process.wait()).await.0.code, 137);
        assert!(matches!(
            create(&pod, container(dir.path(), "c3", &["layer"])).await,
            Err(ShimError::Gone(_))
        ));
    }

    #[tokio::test]
    async fn gentle_stop_is_cut_short_by_one_who_is_in_a_hurry() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        guest.stubborn.store(true, std::sync::atomic::Ordering::Relaxed);
        create(&pod, container(dir.path(), "c1", &["layer"])).await.unwrap();
        let gentle = tokio::spawn({
            let pod = pod.clone();
            async move { pod.stop(Duration::from_secs(3600), "gently").await }
        });
        while !matches!(pod.phase(), Phase::Stopping(_)) {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        soon(pod.abandon("at once")).await;
        soon(gentle).await.unwrap();
        assert_eq!(pod.stopped().await.reason, "gently");
    }

    #[tokio::test]
    async fn killed_before_its_start_it_ends_without_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest) = pod(dir.path(), false).await;
        create(&pod, container(dir.path(), "c1", &["layer"])).await.unwrap();
        let process = pod.container("c1").unwrap().process.clone();
        assert!(matches!(signal(&pod, &process, 10, false).await, Err(ShimError::WrongState(_))));
        assert!(matches!(signal(&pod, &process, 65, false).await, Err(ShimError::Invalid(_))));
        signal(&pod, &process, SIGKILL, false).await.unwrap();
        assert_eq!(process.wait().await.0.code, 137);
        let asked =
            guest.requests.lock().unwrap().iter().any(|request| matches!(request, Request::Signal { .. }));
        assert!(!asked);
        delete(&pod, "c1", "").await.unwrap();
    }
}
