//! What a shim asks of the agent in its guest.
//!
//! One stream of the link carries one call: a [`Request`], then a [`Reply`]. After the reply to
//! [`Request::ReadOutput`] and [`Request::WriteInput`] the stream carries a [`crate::channel`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::files::{Files, PathStat};

/// Name of a container or of an exec in it: at most 128 bytes of `[a-zA-Z0-9_.-]`, as containerd has it.
pub type Id = String;

/// Annotation of a specification: `true` makes the agent's own init the container's first process, and the program its
/// child.
pub const INIT_ANNOTATION: &str = "io.hyper.init";

/// Annotation of a specification without a PID namespace: `true` puts the container into the one that the containers of
/// its pod share.
pub const SHARED_PIDS_ANNOTATION: &str = "io.hyper.shared-pids";

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answers [`Reply::Pong`].
    Ping,
    /// Makes this guest a certain pod: hostname, network, clock, entropy. Sent once per session, and when the pod changes;
    /// what is already so is left alone. Answers [`Reply::Done`].
    Configure(Box<Pod>),
    /// Mounts the root filesystem of a container and prepares its namespaces and cgroup. Answers
    /// [`Reply::Done`].
    Create(Box<Container>),
    /// Starts the first process of a container, or an added one. Answers [`Reply::Started`].
    Start(Target),
    /// Adds a process to a running container; [`Request::Start`] starts it. Answers [`Reply::Done`].
    Exec(Box<Exec>),
    /// Sends a signal. Answers [`Reply::Done`].
    Signal {
        /// To which process.
        target: Target,
        /// Signal number of Linux on x86-64.
        signal: i32,
        /// To every process of the container instead of the one.
        all: bool,
    },
    /// Sets the window size of a process with a terminal. Answers [`Reply::Done`].
    Resize {
        /// The process.
        target: Target,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Answers [`Reply::Exited`] when the process has ended; at once if it already has.
    Wait(Target),
    /// Forgets a process that has ended or was never started; for the first process, the whole container:
    /// kills what is left in it, unmounts, removes its cgroup. Answers [`Reply::Done`].
    Delete(Target),
    /// Answers [`Reply::Steps`].
    Steps,
    /// Answers [`Reply::Containers`] with everything the agent knows, for a shim that lost the session.
    List,
    /// Answers [`Reply::Stats`].
    Stats(Id),
    /// Answers [`Reply::Processes`].
    Processes(Id),
    /// Freezes every process of a container. Answers [`Reply::Done`].
    Pause(Id),
    /// Undoes [`Request::Pause`]. Answers [`Reply::Done`].
    Resume(Id),
    /// Changes the limits of a container: the `linux.resources` object of the runtime specification.
    /// Answers [`Reply::Done`].
    Update {
        /// The container.
        id: Id,
        /// `linux.resources`.
        resources: serde_json::Value,
    },
    /// Opens the output of a process, from `offset` on. Answers [`Reply::Done`]; then the agent sends. A newer
    /// reader replaces an older one.
    ReadOutput {
        /// The process.
        target: Target,
        /// Which output; with a terminal there is only [`Output::Stdout`].
        output: Output,
        /// Bytes that the reader already has. Bytes before an acknowledged offset are gone.
        offset: u64,
    },
    /// Opens the input of a process. Answers [`Reply::Offset`]; then the shim sends from that offset on. The
    /// end of the stream closes the process's standard input.
    WriteInput(Target),
    /// Gives some of [`Container::files`] another content, where the container has not changed them. Answers
    /// [`Reply::Done`].
    Rewrite {
        /// The container.
        id: Id,
        /// Content, by path.
        files: BTreeMap<String, String>,
    },
    /// Works on the files of a container; see [`crate::files`].
    Files(Files),
    /// Writes guest filesystems out to their disks. Answers [`Reply::Done`].
    Sync,
    /// Kills every container, syncs, unmounts and powers off. Answers [`Reply::Done`] before powering off.
    Shutdown,
}

/// A process: the first one of a container, or one added by [`Request::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The container.
    pub container: Id,
    /// The added process; `None` is the container's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Id>,
}

/// An output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a guest needs to be a certain pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Host name, one DNS label or a dotted name, at most 64 bytes.
    pub hostname: String,
    /// NIS domain name; empty for none.
    #[serde(default)]
    pub domainname: String,
    /// Network interfaces, beside `lo`, which is always brought up. NICs in other slots lose their drivers.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Kernel parameters of the pod (network and IPC namespaces), by their dotted names.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// The time: nanoseconds since 1970-01-01 UTC.
    pub unix_time_ns: i64,
    /// Seed for the guest's random generator, base64 of 32 to 512 bytes.
    pub entropy: String,
}

/// A network interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Position of the NIC slot as the VM's device order has it, from 0.
    pub slot: u32,
    /// Name in the guest (`eth0`), at most 15 bytes.
    pub name: String,
    /// MAC address, `02:42:ac:11:00:02`.
    pub mac: String,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// A disk as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskAddress {
    /// On the SCSI controller.
    Scsi {
        /// Target.
        target: u16,
        /// Logical unit.
        lun: u16,
    },
    /// A virtio block device with this serial number.
    VirtioBlk {
        /// At most 20 bytes of ASCII.
        serial: String,
    },
}

/// Modification time of an upper directory that is new, in seconds since 1970-01-01 UTC: the agent gives it the
/// attributes of the root directory. (2015-05-14, when Hyper was first announced; any time that no image has.)
pub const NEW_UPPER_MTIME: i64 = 1_431_561_600;

/// Where a container's writable layer lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Writable {
    /// A disk with an ext4 filesystem. Upper and work directories are `upper` and `work` in it, made at need; an upper
    /// one of [`NEW_UPPER_MTIME`] is new.
    Ext4(DiskAddress),
    /// The guest's memory.
    Tmpfs {
        /// Most bytes; 0 for half of the guest's memory.
        size: u64,
    },
}

/// Something put at a path of a container that is not of its root filesystem. A mount of the specification of type
/// [`Volume::MOUNT_TYPE`] says where; its source is the volume's number in [`Container::volumes`], from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where its files are.
    pub source: VolumeSource,
    /// The part of it that is meant, looked up without leaving it; empty for all.
    #[serde(default)]
    pub subpath: String,
    /// If it is empty, it gets a copy of what the root filesystem has at the destination.
    #[serde(default)]
    pub populate: bool,
}

impl Volume {
    /// Type of the mounts that are volumes.
    pub const MOUNT_TYPE: &'static str = "hyper-volume";
}

/// Where the files of a [`Volume`] are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeSource {
    /// On the host: a file or directory by this name in the root of the virtio-fs device [`SHARE_TAG`].
    Share(String),
    /// On a disk with an ext4 filesystem, in its directory `data`, which is made at need.
    Ext4(DiskAddress),
    /// On a server.
    Nfs(Nfs),
}

/// Files on a server, as `mount(8)` takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nfs {
    /// `nfs` or `nfs4`.
    pub kind: String,
    /// `:/path` or `server:/path`.
    pub device: String,
    /// Options, separated by commas; `addr` is an IP address.
    pub options: String,
}

/// Name of the virtio-fs device with the shared files of the host.
pub const SHARE_TAG: &str = "hyper";

/// Attributes of a root directory. An overlay shows those of its writable layer, and the topmost layer of an image
/// need not describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootDirectory {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// And nanoseconds, below 1 000 000 000.
    pub mtime_nanoseconds: u32,
}

/// A seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemCallFilter {
    /// `struct sock_filter` after `struct sock_filter`, 1 to 4096 of them, in base64.
    pub program: String,
    /// `SECCOMP_FILTER_FLAG_*` of `linux/seccomp.h`.
    pub flags: u64,
}

/// A container to create.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its name.
    pub id: Id,
    /// The OCI runtime specification (`config.json`). `root.path` is ignored in favour of the disks here, and
    /// `linux.seccomp` comes compiled.
    pub spec: serde_json::Value,
    /// What `linux.seccomp` compiles to; for every process of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<SystemCallFilter>,
    /// Read-only EROFS layers, bottom first, at most 500 (overlayfs's own bound).
    pub layers: Vec<DiskAddress>,
    /// The writable layer.
    pub writable: Writable,
    /// What the root directory of a new writable layer is to look like; `None` for that of the topmost layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootDirectory>,
    /// `USER[:GROUP]` by name or number, looked up in the container's own `/etc/passwd` and `/etc/group`; replaces
    /// `process.user.uid` and `gid` when given, and sets `HOME` where the specification has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Additional groups by name or number, looked up likewise.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Keep standard input open; otherwise it is `/dev/null` (with a terminal: the terminal).
    pub stdin: bool,
    /// Text files made by the agent and bind-mounted over paths in the container (`/etc/hosts`,
    /// `/etc/hostname`, `/etc/resolv.conf`). Path to content, at most 1 MiB each.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Share the PID namespace of this container instead of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_of: Option<Id>,
    /// What the mounts of type [`Volume::MOUNT_TYPE`] are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Disks that appear as devices, beside those of the specification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
}

/// A disk that is a device of a container. Its numbers are the guest's, so only the agent can make its node and let the
/// container use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The disk.
    pub address: DiskAddress,
    /// Absolute path of the node in the container.
    pub path: String,
    /// What the cgroup allows: of `r`, `w` and `m`.
    pub access: String,
    /// Permission bits of the node, at most `0o7777`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A process to add to a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The container.
    pub container: Id,
    /// The process's own name.
    pub id: Id,
    /// The `process` object of the runtime specification.
    pub process: serde_json::Value,
    /// As [`Container::user`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As [`Container::groups`].
    #[serde(default)]
    pub groups: Vec<String>,
    /// As [`Container::stdin`].
    pub stdin: bool,
}

/// Answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// To [`Request::Ping`].
    Pong {
        /// Version of the agent's package.
        agent: String,
        /// Release of the guest kernel (`uname -r`).
        kernel: String,
        /// Nanoseconds of the guest's `CLOCK_BOOTTIME`.
        uptime_ns: u64,
        /// Memory of the host that the agent itself takes in the guest, in bytes (its resident set).
        rss: u64,
    },
    /// To [`Request::Steps`].
    Steps {
        /// Now, in nanoseconds of the guest's `CLOCK_BOOTTIME`, which begins with its kernel.
        now_ns: u64,
        /// The newest steps, in order of their ends.
        steps: Vec<Step>,
    },
    /// To [`Request::Start`].
    Started {
        /// The process's number in the guest.
        pid: u32,
    },
    /// To [`Request::Wait`].
    Exited(Exit),
    /// To [`Request::List`].
    Containers(Vec<Known>),
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::Processes`].
    Processes(Vec<Process>),
    /// To [`Request::WriteInput`]: bytes that the process's input has taken.
    Offset(u64),
    /// To [`crate::files::FileWork::Stat`] and `Read`.
    Path(PathStat),
    /// It could not be done.
    Failed(Failure),
}

/// Something that the agent has done on the way to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What was done (`mount layer`, `filter devices`, …).
    pub name: String,
    /// When it began, in nanoseconds of the guest's `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Exit code, 128+n for a process ended by signal n.
    pub code: u32,
    /// When, in nanoseconds since 1970-01-01 UTC by the guest's clock.
    pub unix_time_ns: i64,
    /// The kernel's out-of-memory killer took a process of the container.
    pub oom_killed: bool,
}

/// A container or added process that the agent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Which.
    pub target: Target,
    /// Its number, once started.
    pub pid: Option<u32>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// Frozen by [`Request::Pause`].
    pub paused: bool,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was attempted and why it failed, the whole chain in one line.
    pub message: String,
}

/// Kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request makes no sense (a bad specification, a bad name).
    Invalid,
    /// No such container or process.
    NotFound,
    /// Name taken.
    AlreadyExists,
    /// Not in this state.
    WrongState,
    /// The program is not there (exit code 127).
    ProgramNotFound,
    /// The program cannot be executed (exit code 126).
    ProgramNotExecutable,
    /// The user or group is not in the container's files.
    NoSuchUser,
    /// The guest cannot do this.
    Unsupported,
    /// Anything else: a system call failed.
    System,
}

/// A process as `top` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number as the container's guest sees it.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// When it started: seconds since 1970-01-01 UTC.
    pub started_unix: i64,
    /// Processor time used, in milliseconds.
    pub cpu_ms: u64,
    /// Controlling terminal (`pts/0`), or `?`.
    pub tty: String,
    /// Its name, as the kernel has it.
    #[serde(default)]
    pub name: String,
    /// Command line, arguments joined by spaces.
    pub command: String,
}

/// What a container uses, from its cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Processor time, in microseconds (`cpu.stat`).
    pub cpu_usage_us: u64,
    /// Of it in user mode.
    pub cpu_user_us: u64,
    /// Of it in kernel mode.
    pub cpu_system_us: u64,
    /// Periods in which a bandwidth limit could apply.
    pub cpu_periods: u64,
    /// Periods in which it did.
    pub cpu_throttled_periods: u64,
    /// Time it cost, in microseconds.
    pub cpu_throttled_us: u64,
    /// Processors of the guest.
    pub cpus: u32,
    /// Processor time of the whole guest, in microseconds.
    pub guest_cpu_us: u64,
    /// Memory in use, in bytes (`memory.current`).
    pub memory_usage: u64,
    /// Limit, in bytes; the guest's memory if there is none.
    pub memory_limit: u64,
    /// `memory.stat`.
    pub memory_stat: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of them, 0 for none.
    pub pids_limit: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub write_bytes: u64,
    /// Read operations.
    pub read_ops: u64,
    /// Write operations.
    pub write_ops: u64,
    /// The pod's interfaces by name.
    pub networks: BTreeMap<String, InterfaceStats>,
}

/// Counters of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceStats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receipt.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on sending.
    pub tx_dropped: u64,
}
