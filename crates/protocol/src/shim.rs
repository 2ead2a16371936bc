//! What an engine tells a shim beyond containerd's own API, and the shim's small service of its own.
//!
//! [`PodConfig`] travels as the options of `CreateSandbox`, [`ContainerConfig`] as those of `Create`, [`ExecConfig`]
//! beside the process of `Exec`: each a protobuf `Any` with the type URL named here and JSON as its value.
//! [`PodRequest`] and [`PodReply`] are spoken on the pod's own socket, one JSON line each way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::agent::{Exit, RootDirectory, Stats};
use crate::port::{PortRequest, Published};

/// Type URL of [`PodConfig`].
pub const POD_CONFIG_URL: &str = "io.hyper.v1.PodConfig";

/// Type URL of [`ContainerConfig`].
pub const CONTAINER_CONFIG_URL: &str = "io.hyper.v1.ContainerConfig";

/// Type URL of [`ExecConfig`], as the `spec` of `Exec`.
pub const EXEC_CONFIG_URL: &str = "io.hyper.v1.ExecConfig";

/// Option of a mount of the writable layer: keep its image out of the host's page cache, where its filesystem is able. A
/// name of our own, in the form that `mount(8)` leaves to programs.
pub const DIRECT: &str = "x-hyper.direct";

/// Names in a pod's directory ([`PodConfig::dir`]).
pub mod files {
    /// Process number of the shim.
    pub const SHIM_PID: &str = "shim.pid";
    /// The shim's ttrpc address, as `start` printed it.
    pub const ADDRESS: &str = "address";
    /// Socket of the shim's own service.
    pub const POD_SOCKET: &str = "pod.sock";
    /// The guest's console, at most the last [`super::CONSOLE_KEPT`] bytes.
    pub const CONSOLE: &str = "console.log";
    /// Directory with one `<container>.json` ([`super::ExitRecord`]) for each container that has ended.
    pub const EXITS: &str = "exits";
    /// The shim's own log.
    pub const SHIM_LOG: &str = "shim.log";
}

/// Bytes of a guest's console that are kept.
pub const CONSOLE_KEPT: u64 = 1 << 20;

/// A pod to make a VM for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodConfig {
    /// The pod's directory; exists, mode 0700, holds only this pod's files.
    pub dir: PathBuf,
    /// Guest kernel, a PVH `vmlinux`.
    pub kernel: PathBuf,
    /// Initial filesystem with the agent.
    pub initramfs: PathBuf,
    /// Words added to the kernel's command line.
    #[serde(default)]
    pub kernel_args: Vec<String>,
    /// Hypervisor driver by name (`qemu`); `None` for the shim's choice.
    #[serde(default)]
    pub hypervisor: Option<String>,
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Memory of the VM, in MiB.
    pub memory_mib: u32,
    /// Host name.
    pub hostname: String,
    /// NIS domain name; empty for none.
    #[serde(default)]
    pub domainname: String,
    /// Kernel parameters of the pod's network and IPC namespaces.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Interfaces.
    #[serde(default)]
    pub interfaces: Vec<TapInterface>,
    /// NIC slots, at least those that [`PodConfig::interfaces`] need: the others are for [`PodRequest::Interfaces`].
    #[serde(default)]
    pub nic_slots: u32,
    /// Stop the VM when the last container has ended.
    pub autostop: bool,
    /// How long the guest may take until its agent answers, in milliseconds. A clone gets a quarter of it before the guest
    /// boots, and a boot that is begun anew half of it in addition: all tries together may take 1.75 times this.
    pub boot_timeout_ms: u64,
    /// Directory of templates to clone the VM from where one fits; `None` to boot it in any case.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Its containers may have [`VolumeSource::Host`]. The VM boots then, for its memory cannot be a template's.
    #[serde(default)]
    pub share: bool,
}

/// A NIC backed by a tap of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapInterface {
    /// NIC slot, from 0.
    #[serde(default)]
    pub slot: u32,
    /// Name of a persistent tap in the shim's network namespace.
    pub tap: String,
    /// Name in the guest.
    pub name: String,
    /// MAC address in the guest.
    pub mac: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways.
    pub gateways: Vec<IpAddr>,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// A container beyond its runtime specification.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerConfig {
    /// As [`crate::agent::Container::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// As [`crate::agent::Container::groups`].
    #[serde(default)]
    pub groups: Vec<String>,
    /// As [`crate::agent::Container::root`].
    #[serde(default)]
    pub root: Option<RootDirectory>,
    /// As [`crate::agent::Container::files`].
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Standard input can be attached to.
    #[serde(default)]
    pub stdin: bool,
    /// Close standard input when the first client attached to it goes.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output is logged; `None` for nowhere.
    #[serde(default)]
    pub log: Option<Log>,
    /// As [`crate::agent::Container::pid_of`].
    #[serde(default)]
    pub pid_of: Option<String>,
    /// As [`crate::agent::Container::volumes`], as the host has them.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// As [`crate::agent::Container::devices`], as the host has them.
    #[serde(default)]
    pub devices: Vec<Device>,
}

/// A block device of the host that a container has as one of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The host's node.
    pub host: PathBuf,
    /// As [`crate::agent::Device::path`].
    pub path: String,
    /// As [`crate::agent::Device::access`]; without `w` the disk cannot be written, whatever the guest tries.
    pub access: String,
    /// As [`crate::agent::Device::mode`].
    pub mode: u32,
    /// As [`crate::agent::Device::uid`].
    pub uid: u32,
    /// As [`crate::agent::Device::gid`].
    pub gid: u32,
}

/// Files of the host, or on a disk image of the host's, that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where they are.
    pub source: VolumeSource,
    /// The part that is meant, looked up without leaving the source; empty for all.
    #[serde(default)]
    pub subpath: String,
    /// As [`crate::agent::Volume::populate`].
    #[serde(default)]
    pub populate: bool,
}

/// Where the files of a [`Volume`] are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeSource {
    /// A directory or regular file of the host.
    Host {
        /// Its path; links in it are followed.
        path: PathBuf,
        /// The guest cannot write to it, whatever its kernel tries.
        read_only: bool,
    },
    /// An image of an ext4 filesystem, for one VM at a time.
    Disk(PathBuf),
    /// On a server that the guest speaks to.
    Nfs(crate::agent::Nfs),
}

/// A log in docker's json-file format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The file.
    pub path: PathBuf,
    /// Bytes after which a new file is begun; `None` for never.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// Files kept, at least 1: `path`, `path.1`, …
    pub max_files: u32,
    /// How entries are written.
    #[serde(default)]
    pub format: LogFormat,
    /// Written with every entry, in [`LogFormat::Json`].
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Where entries go besides.
    #[serde(default)]
    pub remote: Option<RemoteLog>,
}

/// How entries of a log are written: one a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Docker's json-file.
    #[default]
    Json,
    /// `o` or `e` for the stream (a capital where the line goes on in the next entry), nanoseconds since 1970-01-01 UTC in
    /// decimal, a blank, the line.
    Compact,
}

/// The host's own logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RemoteLog {
    /// A syslog daemon.
    Syslog(Syslog),
    /// systemd's journal.
    Journald {
        /// Fields of every entry.
        fields: BTreeMap<String, String>,
    },
}

/// A syslog daemon and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// Where it is.
    pub address: SyslogAddress,
    /// Facility, 0 to 23.
    pub facility: u8,
    /// The form of messages.
    pub format: SyslogFormat,
    /// Who speaks.
    pub tag: String,
}

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogAddress {
    /// On this host, wherever that is usual.
    Local,
    /// A unix socket, of streams or datagrams.
    Unix(PathBuf),
    /// A unix socket of datagrams.
    UnixDatagram(PathBuf),
    /// Host and port.
    Udp(String),
    /// Host and port.
    Tcp(String),
}

/// The form of syslog messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// As local daemons expect: RFC 3164 without a host.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// A process to add.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// The `process` object of the runtime specification.
    pub process: serde_json::Value,
    /// As [`crate::agent::Container::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// Standard input will be attached to.
    #[serde(default)]
    pub stdin: bool,
}

/// First line on the pod's socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PodRequest {
    /// Attach to a process, started or not. After [`PodReply::Attached`] the connection carries the process's
    /// output (docker's 8-byte headers before each piece, or raw with a terminal) and, the other way, its
    /// input; the shim closes its side when the output has ended.
    ///
    /// With a session the input is framed: each piece has its length before it, 32 bits big-endian and at most
    /// [`INPUT_PIECE_MAX`], and a length of zero is the input's end. A connection that ends without more ado was lost
    /// then: the session stays for [`SESSION_KEPT_MS`], and another connection goes on with it.
    Attach {
        /// The container.
        container: String,
        /// The added process; `None` for the first.
        #[serde(default)]
        exec: Option<String>,
        /// Send input.
        stdin: bool,
        /// Receive standard output (with a terminal: everything).
        stdout: bool,
        /// Receive standard error.
        stderr: bool,
        /// A place at the streams that outlives the connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<Session>,
    },
    /// Forgets a session whose client does not come back. Answers [`PodReply::Released`], also when there is none.
    Release {
        /// The container.
        container: String,
        /// [`Session::key`].
        key: String,
    },
    /// Answers [`PodReply::Timeline`].
    Timeline,
    /// Answers [`PodReply::Stats`] for a container.
    Stats {
        /// The container.
        container: String,
    },
    /// Answers [`PodReply::Processes`] for a container.
    Processes {
        /// The container.
        container: String,
    },
    /// Works on the files of a container. After [`PodReply::Files`] the connection carries what [`crate::files`] says,
    /// the agent's answer first.
    Files(crate::files::Files),
    /// Answers [`PodReply::Pod`].
    Inspect,
    /// Stops the pod's processors until [`PodRequest::Wake`]: it is kept in reserve. Answers [`PodReply::Done`].
    Rest,
    /// Listens on ports of the host for a container, until that ends, and carries what comes to the pod. What the pod
    /// carries already goes to the new address too. Answers [`PodReply::Published`] or, with nothing published,
    /// [`PodReply::PortTaken`].
    Publish {
        /// The container.
        container: String,
        /// Address of the pod.
        to: IpAddr,
        /// The ports.
        ports: Vec<PortRequest>,
    },
    /// Makes these the interfaces of the running pod: connects and disconnects NIC slots, and has the agent set up what is
    /// new. Answers [`PodReply::Done`]; when it fails all is as before.
    Interfaces(Vec<TapInterface>),
    /// Gives text files of a container ([`ContainerConfig::files`]) another content, where the container has not changed
    /// them. Answers [`PodReply::Done`].
    Rewrite {
        /// The container.
        container: String,
        /// Content, by path.
        files: BTreeMap<String, String>,
    },
    /// Lets a resting pod run, as another than it was configured to be. Answers [`PodReply::Done`] when it is that.
    Wake(Box<Identity>),
}

/// What of a pod can be decided after its VM has come up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// As [`PodConfig::hostname`].
    pub hostname: String,
    /// As [`PodConfig::domainname`].
    pub domainname: String,
    /// As [`PodConfig::sysctl`].
    pub sysctl: BTreeMap<String, String>,
    /// As [`PodConfig::autostop`].
    pub autostop: bool,
}

/// The line that answers a [`PodRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PodReply {
    /// The stream begins.
    Attached {
        /// The process has a terminal: the stream is raw.
        tty: bool,
        /// With a session: what comes next in either direction.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
    },
    /// The session is forgotten.
    Released,
    /// The agent is asked.
    Files,
    /// When the pod's steps began and ended.
    Timeline(Vec<Phase>),
    /// What a container uses.
    Stats(Box<Stats>),
    /// The processes of a container.
    Processes(Vec<crate::agent::Process>),
    /// The pod's VM.
    Pod(PodState),
    /// The ports that are published for the container.
    Published(Vec<Published>),
    /// A port of the host is not to be had.
    PortTaken {
        /// Which.
        what: Published,
        /// Why, in the kernel's words.
        why: String,
    },
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
        /// The container or process does not exist.
        not_found: bool,
    },
}

/// A client's place at a process's streams, which outlives its connection: nothing is lost and nothing comes twice when
/// what lies between client and shim is ended and started anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Chosen by the client at random: 1 to 64 bytes of `[0-9a-zA-Z]`.
    pub key: String,
    /// To go on with the session: bytes of standard output and of standard error, since the process began, that
    /// the client has. `None` for a new session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<[u64; 2]>,
}

/// Where the streams of a session are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Bytes of standard output and of standard error, since the process began, before the first that is sent.
    pub output: [u64; 2],
    /// Bytes of input taken from this client.
    pub input: u64,
}

/// How long a session is kept for a client whose connection was lost, in milliseconds: longer than a daemon takes to
/// start again.
pub const SESSION_KEPT_MS: u64 = 30_000;

/// Longest piece of input in a session.
pub const INPUT_PIECE_MAX: u32 = 64 << 10;

/// A step on the way from a request to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What was done (`qemu exec`, `kernel boot`, `agent hello`, `plug disks`, …).
    pub name: String,
    /// When it began, in microseconds since 1970-01-01 UTC.
    pub start_us: i64,
    /// When it ended.
    pub end_us: i64,
    /// `host` or `guest`: on whose clock it was measured.
    pub clock: String,
}

/// The VM of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodState {
    /// Driver that runs it.
    pub hypervisor: String,
    /// How instructions are executed: `kvm` or `tcg`.
    pub accelerator: String,
    /// Process number of the VMM; `None` once the VM is gone.
    pub vmm_pid: Option<u32>,
    /// Release of the guest kernel.
    pub kernel: Option<String>,
    /// How it came up.
    pub origin: Origin,
    /// Bytes of its memory that the agent takes, as it last told (every ten seconds).
    pub agent_rss: Option<u64>,
    /// How many sessions the first processes of containers have, by container. To a new daemon each is that of a client
    /// that may come back.
    #[serde(default)]
    pub sessions: BTreeMap<String, usize>,
    /// Ports that are published, by container.
    #[serde(default)]
    pub published: BTreeMap<String, Vec<Published>>,
    /// Taps of its interfaces, while it runs.
    #[serde(default)]
    pub taps: Vec<String>,
    /// Why its guest was booted once more, with the end of its console: nothing was heard of it the first time.
    #[serde(default)]
    pub unheard: Option<String>,
}

/// How a VM came up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// It booted, and no template was to be used.
    #[default]
    Booted,
    /// It was cloned from the template of this key.
    Cloned(String),
    /// It booted because there was no template of this key, or none that is sound.
    NoTemplate {
        /// Its key.
        key: String,
        /// What is wrong with the one that was there and has been thrown away; `None` where there was none.
        unsound: Option<String>,
    },
    /// It booted because its driver has no templates.
    Unable,
    /// It booted because it shares files of the host ([`PodConfig::share`]).
    Shares,
}

/// A template on disk, as its [`TemplateManifest::FILE`] tells of it. What the pods that it serves have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateManifest {
    /// Name of its directory: a digest of everything that it depends on.
    pub key: String,
    /// Driver that made it.
    pub hypervisor: String,
    /// How instructions are executed: `kvm` or `tcg`.
    pub accelerator: String,
    /// Version of the VMM.
    pub version: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// NIC slots.
    pub nic_slots: u32,
    /// Kernel that it booted.
    pub kernel: PathBuf,
    /// Words added to the kernel's command line.
    pub kernel_args: Vec<String>,
    /// When it was made: nanoseconds since 1970-01-01 UTC.
    pub created_unix_ns: i64,
    /// How long that took, in milliseconds.
    pub took_ms: u64,
    /// Its other files.
    pub files: BTreeMap<String, FileMark>,
}

impl TemplateManifest {
    /// Name of the file that holds it, in the template's directory; written last.
    pub const FILE: &'static str = "template.json";
    /// How the names of directories begin, beside the templates, that are being made or removed.
    pub const UNFINISHED: &'static str = ".new-";
    /// Name of the file, beside the templates, that is locked by whoever makes one.
    pub const LOCK: &'static str = "lock";
}

/// By what a change of a file is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMark {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its content: nanoseconds since 1970-01-01 UTC.
    pub modified_ns: i64,
    /// Last change of anything of it; no program can set it.
    pub changed_ns: i64,
}

/// What stays on disk of a container that has ended ([`files::EXITS`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    /// How it ended.
    pub exit: Exit,
    /// Why, where the container did not end by itself (`the pod's VM is gone: …`).
    #[serde(default)]
    pub error: Option<String>,
}
