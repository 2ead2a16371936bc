//! What a container was asked to be, and what it became.

use std::collections::BTreeMap;

use hyper_network::Endpoint;
use hyper_protocol::port::Published;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::devices::DeviceOptions;
use crate::error::{EngineError, Result};
use crate::mounts::MountOptions;
use crate::networks::{EndpointOptions, Placed};
use crate::publish::PortOptions;
use crate::restart::RestartPolicy;

/// Bytes of `/dev/shm` unless told otherwise: docker's default.
pub const DEFAULT_SHM_SIZE: i64 = 64 << 20;

/// Seconds between the stop signal and the kill unless told otherwise: docker's default.
pub const DEFAULT_STOP_TIMEOUT: i64 = 10;

/// What a container is asked to be. Everything that the caller left out has its default here; what the image
/// says is already merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerOptions {
    /// The image as the caller named it.
    pub image: String,
    /// What always runs; `None` when neither caller nor image say.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or the command itself.
    pub cmd: Option<Vec<String>>,
    /// Environment, `NAME=value`; a `NAME` alone takes the variable away.
    pub env: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// `USER[:GROUP]` by name or number; empty for root.
    pub user: String,
    /// Additional groups by name or number.
    pub group_add: Vec<String>,
    /// Has a terminal.
    pub tty: bool,
    /// Standard input can be attached to.
    pub open_stdin: bool,
    /// Standard input ends when the first client attached to it goes.
    pub stdin_once: bool,
    /// The caller said that he attaches: kept for `inspect`.
    pub attach: AttachFlags,
    /// Host name of the pod; empty for the short id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations, those of ours (`io.hyper.…`) included.
    pub annotations: BTreeMap<String, String>,
    /// Ports that the image or the caller declares: metadata.
    pub exposed_ports: Vec<String>,
    /// Paths the image declares as volumes.
    pub image_volumes: Vec<String>,
    /// Volumes and files of the host.
    pub mounts: MountOptions,
    /// The image's ONBUILD lines, for `inspect`.
    pub on_build: Vec<String>,
    /// The image's SHELL, for `inspect`.
    pub shell: Vec<String>,
    /// How its health is asked for.
    pub healthcheck: Option<hyper_image::Healthcheck>,
    /// The signal that asks it to stop; `None` for `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Seconds between that and the kill; negative for never; `None` for `DEFAULT_STOP_TIMEOUT`.
    pub stop_timeout: Option<i64>,
    /// Remove it when it has ended.
    pub auto_remove: bool,
    /// Its program is the child of an init; `None` when nothing was said.
    pub init: Option<bool>,
    /// Whether it starts again when it has ended.
    pub restart: RestartPolicy,
    /// Where output goes.
    pub log: LogOptions,
    /// Limits.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// Devices.
    pub devices: DeviceOptions,
    /// The runtime by the name that the caller gave it, for `inspect`.
    pub runtime: String,
    /// The isolation as the caller wrote it, for `inspect`: there is one.
    pub isolation: String,
    /// Mounts of memory: path to options (`size=64m,mode=1777`).
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`; 0 for [`DEFAULT_SHM_SIZE`].
    pub shm_size: i64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of the writable layer; `None` for the daemon's default.
    pub storage_size: Option<u64>,
    /// The network.
    pub network: NetworkMode,
    /// Ethernet address on the default network.
    pub mac: Option<String>,
    /// Connected to the default network, or taken off it, whatever its mode is.
    pub bridge: Option<bool>,
    /// User-defined networks, by id; as the caller named them until the container is made.
    pub endpoints: BTreeMap<String, EndpointOptions>,
    /// Names.
    pub names: NameOptions,
    /// Ports on the host.
    pub ports: PortOptions,
    /// Joins the PID namespace of this container of the same pod.
    pub pid_of: Option<String>,
    /// Size of the caller's terminal, rows and columns.
    pub console_size: [u32; 2],
}

/// Which streams the caller of `create` said he would attach to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachFlags {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// Where a container's output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogOptions {
    /// Nowhere.
    None,
    /// In a file of JSON lines.
    JsonFile {
        /// Bytes after which a new file is begun.
        max_size: Option<u64>,
        /// Files kept.
        max_files: u32,
        /// The options as the caller wrote them, for `inspect`.
        config: BTreeMap<String, String>,
    },
    /// In a file of lines, as compact as they come.
    Local {
        /// Bytes after which a new file is begun.
        max_size: u64,
        /// Files kept.
        max_files: u32,
        /// The options as the caller wrote them.
        config: BTreeMap<String, String>,
    },
    /// To a syslog daemon, and in a file for `logs`.
    Syslog {
        /// The options as the caller wrote them.
        config: BTreeMap<String, String>,
    },
    /// To systemd's journal, and in a file for `logs`.
    Journald {
        /// The options as the caller wrote them.
        config: BTreeMap<String, String>,
    },
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::JsonFile { max_size: None, max_files: 1, config: BTreeMap::new() }
    }
}

/// Limits of a container; zero means none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processor time in thousand millionths of a CPU.
    pub nano_cpus: i64,
    /// Processor time per period, in microseconds.
    pub cpu_quota: i64,
    /// The period, in microseconds.
    pub cpu_period: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Processors of the VM that it may use (`0-1,3`); empty for all.
    pub cpuset_cpus: String,
    /// Nodes of the VM's memory; there is one.
    pub cpuset_mems: String,
    /// Bytes of memory.
    pub memory: i64,
    /// Most bytes of memory and swap together: 0 and -1, or at least `memory`. There is no swap, so it never takes more.
    pub memory_swap: i64,
    /// How readily memory is swapped out, which has no meaning without swap: taken away by the checks, with a warning.
    #[serde(skip)]
    pub memory_swappiness: Option<i64>,
    /// Bytes of memory that are kept for it under pressure.
    pub memory_reservation: i64,
    /// Processes; `None`, 0 or negative for no limit.
    pub pids_limit: Option<i64>,
    /// Preference of the out-of-memory killer, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As `ulimit` calls it (`nofile`).
    pub name: String,
    /// What is enforced; -1 for no limit.
    pub soft: i64,
    /// What it may be raised to.
    pub hard: i64,
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Everything, within its VM.
    pub privileged: bool,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// The options as the caller wrote them, for `inspect`.
    pub options: Vec<String>,
    /// Programs cannot gain privileges.
    pub no_new_privileges: bool,
    /// The seccomp filter.
    pub seccomp: Seccomp,
    /// The root filesystem cannot be written.
    pub readonly_rootfs: bool,
    /// Paths hidden; `None` for the defaults.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that cannot be written; `None` for the defaults.
    pub readonly_paths: Option<Vec<String>>,
}

/// A container's system call filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default one.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The caller's, in docker's profile format.
    Profile(serde_json::Value),
}

/// Where a container's packets go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The default bridge network.
    #[default]
    Bridge,
    /// Nowhere.
    None,
    /// Into the pod of this container (id), whose network it shares.
    Container(String),
    /// To a user-defined network, as the caller named it.
    Named(String),
}

/// Name resolution of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameOptions {
    /// Name servers; empty for the host's.
    pub servers: Vec<String>,
    /// Search domains; empty for the host's.
    pub search: Vec<String>,
    /// Resolver options; empty for the host's.
    pub options: Vec<String>,
    /// `NAME:ADDRESS` lines for `/etc/hosts`.
    pub hosts: Vec<String>,
}

/// What the VM of a pod is made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodOptions {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory of the VM, in MiB.
    pub memory_mib: u32,
    /// Host name.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Kernel parameters of the network and IPC namespaces.
    pub sysctl: BTreeMap<String, String>,
    /// On the bridge network; else without any.
    pub network: bool,
    /// Its Ethernet address there; `None` for one that follows from the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// User-defined networks by id, in the order of its NICs.
    pub networks: Vec<(String, EndpointOptions)>,
    /// Guest kernel; `None` for the installed one.
    pub kernel: Option<String>,
    /// Hypervisor driver; `None` for the shim's choice.
    pub hypervisor: Option<String>,
    /// Whether its VM may be a clone of a template.
    #[serde(default)]
    pub template: TemplateUse,
    /// Its containers share one PID namespace.
    pub share_pids: bool,
    /// Further words for the kernel's command line.
    pub kernel_args: Vec<String>,
    /// Name resolution of containers that say nothing of it themselves.
    pub names: NameOptions,
    /// Text files that every container gets, by path.
    pub files: BTreeMap<String, String>,
    /// Labels, for pods made by name.
    pub labels: BTreeMap<String, String>,
}

/// Whether a pod's VM may be a clone of a template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateUse {
    /// If there is one; else it boots, and one is made for the next.
    #[default]
    Auto,
    /// It boots: nothing of its memory, not even the layout of its kernel's addresses, is any other's.
    Never,
}

impl TemplateUse {
    /// From the word that users write.
    ///
    /// # Errors
    /// A word that is neither `auto` nor `never`.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "" | "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            _ => Err(EngineError::invalid(format!("template {word:?} is neither \"auto\" nor \"never\""))),
        }
    }

    /// The word that users write.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Never ran.
    Created,
    /// On its way to [`Phase::Running`]; after a crash the shim tells whether it got there.
    Starting,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Has ended.
    Exited,
    /// Has ended, and will be started again by its restart policy.
    Restarting,
    /// Is being removed.
    Removing,
    /// Could not be removed entirely.
    Dead,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// Number of its first process in the guest; 0 when it does not run.
    pub pid: u32,
    /// How it ended last.
    pub exit_code: i64,
    /// Why it could not start or was lost; empty when all is well.
    pub error: String,
    /// The out-of-memory killer took a process.
    pub oom_killed: bool,
    /// When it started last.
    pub started_at: Option<Timestamp>,
    /// When it ended last.
    pub finished_at: Option<Timestamp>,
    /// How often its policy has restarted it since a user or the daemon started it.
    #[serde(default)]
    pub restart_count: u32,
    /// A user ended it; kept for containers with a restart policy.
    #[serde(default)]
    pub manually_stopped: bool,
    /// Ports that it has on the host while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Published>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            restart_count: 0,
            manually_stopped: false,
            ports: Vec::new(),
        }
    }
}

impl State {
    /// Has processes: [`Phase::Running`] or [`Phase::Paused`].
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// Docker's word for the phase.
    pub fn status(&self) -> &'static str {
        match self.phase {
            Phase::Created => "created",
            Phase::Starting if self.restart_count > 0 => "restarting",
            Phase::Starting if self.finished_at.is_some() => "exited",
            Phase::Starting => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Exited => "exited",
            Phase::Restarting => "restarting",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Docker's sentence for `ps`: `Up 3 seconds`, `Exited (7) 2 minutes ago`.
    pub fn describe(&self, now: Timestamp) -> String {
        let since = |time: Option<Timestamp>| {
            crate::clock::human_duration(now.0.saturating_sub(time.map_or(now.0, |time| time.0)))
        };
        match self.status() {
            "running" => format!("Up {}", since(self.started_at)),
            "paused" => format!("Up {} (Paused)", since(self.started_at)),
            "restarting" => format!("Restarting ({}) {} ago", self.exit_code, since(self.finished_at)),
            "removing" => "Removal In Progress".to_owned(),
            "dead" => "Dead".to_owned(),
            "exited" => format!("Exited ({}) {} ago", self.exit_code, since(self.finished_at)),
            _ => "Created".to_owned(),
        }
    }
}

/// A container as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Id of its image, `sha256:…`.
    pub image_id: String,
    /// Id of its pod.
    pub pod: String,
    /// What it was asked to be.
    pub options: ContainerOptions,
    /// What it is.
    pub state: State,
}

impl ContainerRecord {
    /// Program and arguments, as they will be executed.
    pub fn command(&self) -> Vec<String> {
        let parts = [self.options.entrypoint.as_deref(), self.options.cmd.as_deref()];
        parts.into_iter().flatten().flatten().cloned().collect()
    }
}

/// A pod as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodRecord {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// Its name; `None` for the pod of one container.
    pub name: Option<String>,
    /// Made by name: stays when its containers are gone, and so does its VM.
    pub explicit: bool,
    /// When it was made.
    pub created: Timestamp,
    /// What its VM is made of.
    pub options: PodOptions,
    /// Its place in the network while it has one.
    pub endpoint: Option<Endpoint>,
    /// NIC slot of that place.
    pub slot: u32,
    /// Its places on user-defined networks while it has them.
    pub endpoints: Vec<Placed>,
    /// A shim may be running for it.
    pub up: bool,
    /// When its VM came up last; `None` before the first time.
    pub started: Option<Timestamp>,
}

impl ContainerOptions {
    /// Whether it is on the default network, by itself.
    pub fn on_bridge(&self) -> bool {
        self.bridge.unwrap_or(self.network == NetworkMode::Bridge)
    }
}

impl PodRecord {
    /// The place that its default route leads by, or the first.
    pub fn primary(&self) -> Option<&Endpoint> {
        let way = self.endpoints.iter().find(|placed| placed.gateway).or(match self.endpoint {
            Some(_) => None,
            None => self.endpoints.first(),
        });
        way.map(|placed| &placed.endpoint).or(self.endpoint.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_are_dockers() {
        let second = 1_000_000_000;
        let now = Timestamp(1000 * second);
        let mut state = State::default();
        assert_eq!(state.describe(now), "Created");
        state.phase = Phase::Running;
        state.started_at = Some(Timestamp(997 * second));
        assert_eq!(state.describe(now), "Up 3 seconds");
        state.phase = Phase::Paused;
        assert_eq!(state.describe(now), "Up 3 seconds (Paused)");
        state.phase = Phase::Exited;
        state.exit_code = 7;
        state.finished_at = Some(Timestamp(880 * second));
        assert_eq!(state.describe(now), "Exited (7) 2 minutes ago");
    }

    #[test]
    fn options_written_by_an_older_version_are_read() {
        let options: ContainerOptions = serde_json::from_str("{\"image\":\"x\"}").unwrap();
        assert_eq!(options.image, "x");
        assert_eq!(options.log, LogOptions::default());
    }
}
