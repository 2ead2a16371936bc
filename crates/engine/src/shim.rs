//! The engine's side of a shim: starting it, finding it again, calling it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, Mount, PauseRequest, ResizePtyRequest,
    ResumeRequest, StartRequest, StateRequest, Status, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as ProtoTimestamp;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::context::Context;
use hyper_protocol::shim::{
    CONTAINER_CONFIG_URL, ContainerConfig, DIRECT, EXEC_CONFIG_URL, ExecConfig, POD_CONFIG_URL, PodConfig,
    files,
};
use serde::Serialize;
use tokio::process::Command;

use crate::clock::Timestamp;
use crate::error::{EngineError, Kind, Result};

/// Type URL of resources, as containerd's clients send them.
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Namespace that hyperd's shims are in, beside containerd's own (`k8s.io`, `moby`, …).
const NAMESPACE: &str = "hyper";

/// How long `start` may take until it has printed the address.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a shim may take to answer what needs no guest.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a call to a shim may take that waits for the guest.
const GUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a shim may take to accept a connection when hyperd comes back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Seconds the VM gets to power off by itself.
const STOP_SECONDS: u32 = 3;

/// How long a process may take to end by itself, and then to die.
const PATIENCE: Duration = Duration::from_secs(5);

/// Name of the file with the VMM's process number, in a pod's directory.
pub(crate) const VMM_PID: &str = "qemu.pid";

/// Most bytes that `start` may print.
const ADDRESS_MAX: usize = 4096;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskExit {
    /// Exit code, 128+n for signal n.
    pub(crate) code: u32,
    /// When.
    pub(crate) at: Option<Timestamp>,
}

/// What a shim says about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskState {
    /// Made, not started.
    Created,
    /// Runs, with this process number in the guest.
    Running(u32),
    /// Frozen.
    Paused(u32),
    /// Has ended.
    Stopped(TaskExit),
    /// The shim does not know it.
    Unknown,
}

/// A read-only layer or the writable one, bottom first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layer {
    /// An EROFS image, and the files that follow it on its disk.
    ReadOnly { image: PathBuf, devices: Vec<PathBuf> },
    /// An ext4 image, and whether the host is to cache what is in it: the guest does so already, but what goes with its
    /// container may never have to be written to the host's disk.
    Writable { image: PathBuf, cached: bool },
}

impl Layer {
    /// A read-only layer of one file.
    pub(crate) fn read_only(image: PathBuf) -> Self {
        Self::ReadOnly { image, devices: Vec::new() }
    }

    /// As containerd's snapshotters name mounts.
    fn mount(&self) -> Mount {
        let (kind, source, options) = match self {
            Self::ReadOnly { image, devices } => {
                let devices = devices.iter().map(|device| format!("device={}", device.display()));
                ("erofs", image, std::iter::once("ro".to_owned()).chain(devices).collect())
            }
            Self::Writable { image, cached: true } => ("ext4", image, Vec::new()),
            Self::Writable { image, cached: false } => ("ext4", image, vec![DIRECT.to_owned()]),
        };
        let source = source.to_string_lossy().into_owned();
        Mount { type_: kind.to_owned(), source, options, ..Mount::default() }
    }
}

/// A connection to the shim of one pod.
pub(crate) struct Shim {
    pod: String,
    dir: PathBuf,
    task: TaskClient,
    sandbox: SandboxClient,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Shim {
    /// Starts a shim in the pod's directory and connects to it.
    ///
    /// # Errors
    /// The program fails, prints no address in time, or nobody listens there.
    pub(crate) async fn start(program: &Path, pod: &str, dir: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["-namespace", NAMESPACE, "-id", pod, "-address", "", "start"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let failed = |why: String| {
            EngineError::new(Kind::System, format!("cannot start shim {}: {why}", program.display()))
        };
        let output = tokio::time::timeout(START_TIMEOUT, command.output())
            .await
            .map_err(|_| failed(format!("it did not answer within {} s", START_TIMEOUT.as_secs())))?
            .map_err(|error| {
                EngineError::system(format!("cannot start shim {}", program.display()), error)
            })?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, last_line(&stderr))));
        }
        let address =
            parse_address(&output.stdout).ok_or_else(|| failed("it printed no address".to_owned()))?;
        Self::connect_to(&address, pod, dir).await
    }

    /// Finds the shim of a pod again by the address in its directory; `None` when there is none or nobody
    /// listens there.
    pub(crate) async fn find(pod: &str, dir: &Path) -> Option<Self> {
        let address = tokio::fs::read(dir.join(files::ADDRESS)).await.ok()?;
        let address = parse_address(&address)?;
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::connect_to(&address, pod, dir)).await {
            Ok(Ok(shim)) => Some(shim),
            Ok(Err(error)) => {
                tracing::debug!(pod, error = %error.report(), "no shim");
                None
            }
            Err(_) => None,
        }
    }

    async fn connect_to(address: &str, pod: &str, dir: &Path) -> Result<Self> {
        let client = Client::connect(address).await.map_err(|error| {
            EngineError::new(Kind::System, format!("cannot connect to shim at {address}: {error}"))
        })?;
        Ok(Self {
            pod: pod.to_owned(),
            dir: dir.to_owned(),
            task: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client),
        })
    }

    /// The pod's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Says which pod this is to be.
    pub(crate) async fn configure(&self, config: &PodConfig) -> Result<()> {
        let request = CreateSandboxRequest {
            sandbox_id: self.pod.clone(),
            bundle_path: self.dir.to_string_lossy().into_owned(),
            options: any(POD_CONFIG_URL, config)?,
            ..CreateSandboxRequest::default()
        };
        self.sandbox.create_sandbox(within(CALL_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Boots the pod's VM; a guest may take as long as its pod's configuration says, here `timeout` again, and all tries
    /// together less than twice that.
    pub(crate) async fn boot(&self, timeout: Duration) -> Result<()> {
        let request = StartSandboxRequest { sandbox_id: self.pod.clone(), ..StartSandboxRequest::default() };
        self.sandbox
            .start_sandbox(within(2 * timeout + CALL_TIMEOUT), &request)
            .await
            .map(drop)
            .map_err(failure)
    }

    /// Prepares a container in the guest. In a pod that is configured it waits for the boot to begin, and
    /// plugs the disks while the guest boots.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        layers: &[Layer],
        tty: bool,
        config: &ContainerConfig,
    ) -> Result<()> {
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: layers.iter().map(Layer::mount).collect(),
            terminal: tty,
            options: any(CONTAINER_CONFIG_URL, config)?,
            ..CreateTaskRequest::default()
        };
        self.task.create(within(GUEST_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Adds a process to a container; [`Shim::start_task`] starts it.
    pub(crate) async fn exec(&self, id: &str, exec: &str, tty: bool, config: &ExecConfig) -> Result<()> {
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            terminal: tty,
            spec: any(EXEC_CONFIG_URL, config)?,
            ..ExecProcessRequest::default()
        };
        self.task.exec(within(GUEST_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Starts a container's first process or an added one; returns its number in the guest.
    pub(crate) async fn start_task(&self, id: &str, exec: &str) -> Result<u32> {
        let request = StartRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..StartRequest::default() };
        self.task.start(within(GUEST_TIMEOUT), &request).await.map(|response| response.pid).map_err(failure)
    }

    /// Waits, however long, until a process has ended.
    pub(crate) async fn wait(&self, id: &str, exec: &str) -> Result<TaskExit> {
        let request = WaitRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..WaitRequest::default() };
        let response = self.task.wait(Context::default(), &request).await.map_err(failure)?;
        Ok(TaskExit { code: response.exit_status, at: timestamp(&response.exited_at) })
    }

    /// What the shim knows of a process.
    pub(crate) async fn state(&self, id: &str, exec: &str) -> Result<TaskState> {
        let request = StateRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..StateRequest::default() };
        let response = match self.task.state(within(CALL_TIMEOUT), &request).await.map_err(failure) {
            Ok(response) => response,
            Err(error) if error.kind == Kind::NotFound => return Ok(TaskState::Unknown),
            Err(error) => return Err(error),
        };
        Ok(match status(response.status) {
            Status::CREATED => TaskState::Created,
            Status::RUNNING => TaskState::Running(response.pid),
            Status::PAUSED | Status::PAUSING => TaskState::Paused(response.pid),
            Status::STOPPED => TaskState::Stopped(TaskExit {
                code: response.exit_status,
                at: timestamp(&response.exited_at),
            }),
            Status::UNKNOWN => TaskState::Unknown,
        })
    }

    /// Sends a signal to a container's first process or an added one.
    pub(crate) async fn kill(&self, id: &str, exec: &str, signal: i32) -> Result<()> {
        let request = KillRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal: u32::try_from(signal).unwrap_or(0),
            ..KillRequest::default()
        };
        self.task.kill(within(GUEST_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Sets a terminal's size.
    pub(crate) async fn resize(&self, id: &str, exec: &str, width: u16, height: u16) -> Result<()> {
        let request = ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            width: width.into(),
            height: height.into(),
            ..ResizePtyRequest::default()
        };
        self.task.resize_pty(within(CALL_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Changes a container's limits: the `linux.resources` object of the runtime specification.
    pub(crate) async fn update(&self, id: &str, resources: &serde_json::Value) -> Result<()> {
        let request = UpdateTaskRequest {
            id: id.to_owned(),
            resources: any(RESOURCES_URL, resources)?,
            ..UpdateTaskRequest::default()
        };
        self.task.update(within(CALL_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Freezes a container.
    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        let request = PauseRequest { id: id.to_owned(), ..PauseRequest::default() };
        self.task.pause(within(CALL_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Undoes [`Shim::pause`].
    pub(crate) async fn resume(&self, id: &str) -> Result<()> {
        let request = ResumeRequest { id: id.to_owned(), ..ResumeRequest::default() };
        self.task.resume(within(CALL_TIMEOUT), &request).await.map(drop).map_err(failure)
    }

    /// Forgets a process that has ended or never started. One that is not there is no error.
    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<()> {
        let request =
            DeleteRequest { id: id.to_owned(), exec_id: exec.to_owned(), ..DeleteRequest::default() };
        match self.task.delete(within(GUEST_TIMEOUT), &request).await.map_err(failure) {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Stops the VM and ends the shim. A shim that does not obey is killed, and its VM with it.
    pub(crate) async fn shutdown(&self) {
        let stop = StopSandboxRequest {
            sandbox_id: self.pod.clone(),
            timeout_secs: STOP_SECONDS,
            ..StopSandboxRequest::default()
        };
        if let Err(error) = self.sandbox.stop_sandbox(within(CALL_TIMEOUT), &stop).await {
            tracing::debug!(pod = self.pod, %error, "the VM did not stop as asked");
        }
        let shutdown =
            ShutdownSandboxRequest { sandbox_id: self.pod.clone(), ..ShutdownSandboxRequest::default() };
        if let Err(error) = self.sandbox.shutdown_sandbox(within(CALL_TIMEOUT), &shutdown).await {
            tracing::debug!(pod = self.pod, %error, "the shim did not answer its shutdown");
        }
        end_process(&self.pod, &self.dir).await;
    }
}

/// Waits shortly for a pod's shim to be gone, then kills it.
///
/// Only a process whose number is in the pod's directory and whose command line names the shim and the pod is
/// touched.
pub(crate) async fn end_process(pod: &str, dir: &Path) {
    let Some(pid) = shim_pid(pod, dir) else { return };
    let Some(process) = open_process(pid, || shim_pid(pod, dir)) else { return };
    let pod = pod.to_owned();
    let ended = tokio::task::spawn_blocking(move || {
        if ends_within(&process, PATIENCE) {
            return;
        }
        tracing::warn!(pod, pid = pid.as_raw_nonzero().get(), "killing a shim that did not end");
        let _ = rustix::process::pidfd_send_signal(process.as_fd(), rustix::process::Signal::KILL);
        ends_within(&process, PATIENCE);
    });
    let _ = ended.await;
}

/// Waits for a process to end.
fn ends_within(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = rustix::event::Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    // A process's descriptor becomes readable when the process ends (`pidfd_open(2)`).
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(ready) if ready > 0)
}

/// Kills a pod's shim at once; its VM dies with it (the VMM is told so by `PR_SET_PDEATHSIG`, and killed here if it is
/// not gone then). Waits for both.
pub(crate) async fn kill_process(pod: &str, dir: &Path) {
    let vmm = vmm_pid(pod, dir).and_then(|pid| open_process(pid, || vmm_pid(pod, dir)));
    let shim = shim_pid(pod, dir).and_then(|pid| open_process(pid, || shim_pid(pod, dir)));
    let processes: Vec<OwnedFd> = [shim, vmm].into_iter().flatten().collect();
    if processes.is_empty() {
        return;
    }
    let ended = tokio::task::spawn_blocking(move || {
        for process in processes {
            let _ = rustix::process::pidfd_send_signal(process.as_fd(), rustix::process::Signal::KILL);
            ends_within(&process, PATIENCE);
        }
    });
    let _ = ended.await;
}

/// A descriptor of a process whose number is still the same after opening it: numbers are given out again.
fn open_process(
    pid: rustix::process::Pid,
    look_again: impl FnOnce() -> Option<rustix::process::Pid>,
) -> Option<OwnedFd> {
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    (look_again() == Some(pid)).then_some(process)
}

/// The number of a pod's VMM: named in the pod's directory, and itself naming the pod, or on its way out.
fn vmm_pid(pod: &str, dir: &Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(dir.join(VMM_PID)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_pods = if command.is_empty() {
        // Its memory is gone with its first thread, but another may still be writing to the pod's disks. It may be
        // another pod's as well, which it does no harm to wait for.
        std::fs::read(format!("/proc/{pid}/comm")).ok()?.starts_with(b"qemu")
    } else {
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        program.windows(4).any(|part| part == b"qemu")
            && command.windows(pod.len().max(1)).any(|part| part == pod.as_bytes())
    };
    if is_pods { rustix::process::Pid::from_raw(pid) } else { None }
}

/// The number of the live shim of a pod.
fn shim_pid(pod: &str, dir: &Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(dir.join(files::SHIM_PID)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let is_shim = words.first().is_some_and(|program| program.ends_with(b"containerd-shim-hyper-v2"));
    let is_pods = words.contains(&pod.as_bytes());
    if is_shim && is_pods { rustix::process::Pid::from_raw(pid) } else { None }
}

/// The address in what `start` printed: the address alone, or a JSON object with it (containerd's bootstrap
/// protocol).
fn parse_address(printed: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(printed.get(..ADDRESS_MAX).unwrap_or(printed)).ok()?.trim();
    let address = if text.starts_with('{') {
        serde_json::from_str::<serde_json::Value>(text).ok()?.get("address")?.as_str()?.to_owned()
    } else {
        text.to_owned()
    };
    address.starts_with("unix://").then_some(address)
}

pub(crate) fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or("no reason given")
}

fn within(timeout: Duration) -> Context {
    ttrpc::context::with_duration(timeout)
}

fn any(url: &str, value: &impl Serialize) -> Result<MessageField<Any>> {
    let value = serde_json::to_vec(value)
        .map_err(|error| EngineError::system(format!("cannot encode {url}"), error))?;
    Ok(MessageField::some(Any { type_url: url.to_owned(), value, ..Any::default() }))
}

fn status(status: EnumOrUnknown<Status>) -> Status {
    status.enum_value().unwrap_or(Status::UNKNOWN)
}

fn timestamp(time: &MessageField<ProtoTimestamp>) -> Option<Timestamp> {
    time.as_ref()
        .filter(|time| time.seconds > 0)
        .map(|time| Timestamp::from_parts(time.seconds, time.nanos.into()))
}

/// A failed call as an error of the engine; the shim's words are the message.
fn failure(error: ttrpc::Error) -> EngineError {
    use ttrpc::Code;
    let ttrpc::Error::RpcStatus(status) = error else {
        return EngineError::new(Kind::Unavailable, format!("the shim does not answer: {error}"));
    };
    let kind = match status.code() {
        Code::NOT_FOUND => Kind::NotFound,
        Code::INVALID_ARGUMENT => Kind::Invalid,
        Code::ALREADY_EXISTS | Code::FAILED_PRECONDITION => Kind::Conflict,
        Code::UNIMPLEMENTED => Kind::Unsupported,
        Code::UNAVAILABLE => Kind::Unavailable,
        _ => Kind::System,
    };
    EngineError::new(kind, status.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_alone_and_in_json() {
        let expected = Some("unix:///run/x.sock".to_owned());
        assert_eq!(parse_address(b"unix:///run/x.sock\n"), expected);
        assert_eq!(
            parse_address(br#"{"version":3,"address":"unix:///run/x.sock","protocol":"ttrpc"}"#),
            expected
        );
        for bad in [&b""[..], b"tcp://1.2.3.4", b"{}", b"{", b"\xff\xfe"] {
            assert_eq!(parse_address(bad), None);
        }
    }

    #[test]
    fn only_a_shim_of_the_pod_counts_as_its_process() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shim_pid("p", dir.path()), None);
        std::fs::write(dir.path().join(files::SHIM_PID), std::process::id().to_string()).unwrap();
        assert_eq!(shim_pid("p", dir.path()), None);
    }

    #[test]
    fn a_vmm_counts_until_it_is_gone_altogether() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("qemu-fake");
        std::fs::copy("/bin/sleep", &program).unwrap();
        // Its second word is the pod's name, and a number to `sleep`.
        let mut vmm = std::process::Command::new(&program).arg("1234").spawn().unwrap();
        std::fs::write(dir.path().join(VMM_PID), vmm.id().to_string()).unwrap();
        let found = |pod| vmm_pid(pod, dir.path()).map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
        // Its words are there a moment after it is.
        while found("1234").is_none() {
            std::thread::yield_now();
        }
        assert_eq!((found("1234"), found("other")), (Some(vmm.id()), None));
        // As one of which a thread is left, it has no command line any more.
        vmm.kill().unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", vmm.id())).unwrap();
        while !stat().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(found("1234"), Some(vmm.id()));
        vmm.wait().unwrap();
        assert_eq!(found("1234"), None);
    }
}
