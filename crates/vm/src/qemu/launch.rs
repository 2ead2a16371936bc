//! Starting QEMU.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hyper_sys::holes;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;
use tokio::process::Child;

use super::argv::{self, Descriptors, command_line};
use super::disks::{DISK_FILES_MAX, DISKS_MAX};
use super::qmp::Qmp;
use super::templates;
use super::vm::{QemuVm, Started, end_in_words, set_link};
use crate::abilities::Abilities;
use crate::config::{Accelerator, Start, VmConfig, Wire};
use crate::console::Console;
use crate::error::{LaunchError, VmError};
use crate::hypervisor::{Health, Hypervisor, Remark, Step, Vm, VmInfo};
use crate::kernel::check_kernel;
use crate::kvm::{Probe, Verdict};

/// The program, as Debian's `qemu-system-x86` has it.
const PROGRAM: &str = "qemu-system-x86_64";
/// How to get it.
const REMEDY: &str = "install QEMU: apt install qemu-system-x86";
/// The first version with all that we use and the one that Debian 12 has.
const VERSION_MIN: (u32, u32) = (7, 2);
/// [`VERSION_MIN`] in words.
const VERSION_MIN_TEXT: &str = "7.2";
/// How long QEMU may take from exec to its greeting; measured 20 to 60 ms, on a busy machine some seconds.
const GREETING: Duration = Duration::from_secs(30);
/// NIC slots that microvm has transports for beside its other devices (8 of virtio-mmio in all, 4 taken).
const NIC_SLOTS_MAX: u32 = 4;
/// The same with a share, which takes one.
const NIC_SLOTS_WITH_SHARE_MAX: u32 = 3;
/// Virtual processors that microvm takes.
const VCPUS_MAX: u32 = 255;
/// Longest kernel command line on x86-64 (`COMMAND_LINE_SIZE`), less room for what is added here.
const KERNEL_ARGS_MAX: usize = 2048 - 512;

/// The driver for QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: Option<PathBuf>,
    probe: Probe,
}

impl Qemu {
    /// The driver with the program found in `PATH`, using KVM if `probe` says that it is good.
    pub fn new(probe: Probe) -> Self {
        Self { program: find_program(PROGRAM), probe }
    }

    /// How it will execute instructions.
    pub fn accelerator(&self) -> Accelerator {
        argv::accelerator(&self.probe)
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            disk_plug: Some(DISKS_MAX),
            disk_files: Some(DISK_FILES_MAX),
            nic_plug: Some(NIC_SLOTS_MAX),
            pause: true,
            snapshot: true,
            memory_resize: false,
            vcpu_resize: false,
            share: true,
            balloon: true,
        }
    }

    async fn health(&self) -> Health {
        let fatal = |problem: String| Remark { problem, remedy: REMEDY.to_owned(), fatal: true };
        let mut remarks = Vec::new();
        let mut program = None;
        match &self.program {
            None => remarks.push(fatal(format!("{PROGRAM} is not installed"))),
            Some(path) => match program_version(path).await {
                Ok((version, recent)) => {
                    if !recent {
                        remarks.push(fatal(format!("{version}: at least {VERSION_MIN_TEXT} is needed")));
                    }
                    program = Some(format!("{} ({version})", path.display()));
                }
                Err(error) => remarks.push(fatal(format!("{} --version fails: {error}", path.display()))),
            },
        }
        let usable = remarks.is_empty();
        remarks.extend(without_kvm(&self.probe));
        let (accelerator, reason) = (self.accelerator(), self.probe.reason.clone());
        Health { usable, program, accelerator, reason, remarks }
    }

    async fn launch(&self, config: VmConfig) -> Result<Arc<dyn Vm>, LaunchError> {
        check(&config)?;
        let Some(program) = &self.program else {
            return Err(LaunchError::Missing { program: PROGRAM.into(), hint: REMEDY });
        };
        let accelerator = self.accelerator();
        let exec = SystemTime::now();
        let sockets = Sockets::open(&config)?;
        let console = Console::create(&config.dir.join(VmConfig::CONSOLE_FILE), config.console_kept)
            .map_err(file("create", &config.dir.join(VmConfig::CONSOLE_FILE)))?;
        let console = Arc::new(Mutex::new(console));
        let (child, ours) = spawn(program, &config, &self.probe, sockets)?;
        let mut started = Started::new(child, ours.link, console, ours.console)
            .map_err(|source| LaunchError::Spawn { program: PROGRAM.into(), source })?;
        let pid_file = config.dir.join(VmConfig::PID_FILE);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&pid_file)
            .and_then(|mut pid| io::Write::write_all(&mut pid, format!("{}\n", started.pid).as_bytes()))
            .map_err(file("write", &pid_file))?;
        started.pid_file = Some(pid_file);
        let spawned = SystemTime::now();
        let greeted = greet(ours.qmp, &mut started).await;
        let ready = SystemTime::now();
        let set_up = match greeted {
            Ok(qmp) => set_up(&qmp, &config, ours.state).await.map(|()| qmp),
            Err(error) => Err(error),
        };
        let qmp = match set_up {
            Ok(qmp) => qmp,
            Err(error) => {
                started.end().await;
                return Err(with_last_words(error, &started));
            }
        };
        let mut steps = vec![
            Step { name: "qemu exec", start: exec, end: spawned },
            Step { name: "qmp ready", start: spawned, end: ready },
        ];
        if let Start::Clone(_) = config.start {
            steps.push(Step { name: "restore", start: ready, end: SystemTime::now() });
        }
        let info = VmInfo {
            hypervisor: "qemu",
            version: qmp.version().to_owned(),
            accelerator,
            pid: started.pid,
            steps,
        };
        Ok(Arc::new(QemuVm::new(info, &config, qmp, started)))
    }

    fn template_kind(&self, config: &VmConfig) -> Option<String> {
        let program = self.program.as_ref()?;
        // Asking it for its version would take as long as starting it.
        let file = fs::metadata(program).ok()?;
        let identity =
            [file.dev(), file.ino(), file.size(), file.mtime().cast_unsigned(), file.mtime_nsec() as u64];
        // What the guest sees of the processor is that of this machine.
        let processors = fs::File::open("/proc/cpuinfo").ok()?;
        // The first says it all, and on a large machine the rest takes the kernel long to tell.
        let one = io::BufRead::lines(io::BufReader::new(processors))
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty());
        let fixed: Vec<_> = one
            .filter(|line| ["model name", "microcode", "flags"].iter().any(|name| line.starts_with(name)))
            .collect();
        let machine = argv::template_kind(config, &self.probe);
        Some(format!("{} {identity:?}\n{machine}\n{}", program.display(), fixed.join("\n")))
    }
}

/// What is to be said over QMP before the VM can be used.
async fn set_up(qmp: &Qmp, config: &VmConfig, state: Option<RawFd>) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Silent { program: PROGRAM.into(), source };
    let connected = matches!(config.wire, Some(Wire::Tap(_)));
    match state {
        None => take_links_down(qmp, u32::from(connected)..config.nic_slots).await,
        // The links of the template were down.
        Some(state) => {
            templates::restore(qmp, state).await.map_err(failed)?;
            match connected {
                true => qmp.execute(set_link(0, true)).await.map(drop).map_err(failed),
                false => Ok(()),
            }
        }
    }
}

/// Why a template was not taken is written to QEMU's standard error alone.
fn with_last_words(error: LaunchError, started: &Started) -> LaunchError {
    let words = started.last_words();
    match error {
        LaunchError::Silent { program, source } if !words.is_empty() => {
            LaunchError::Ended { program, status: source.to_string(), output: words }
        }
        error => error,
    }
}

/// What could be better about running guests in software.
fn without_kvm(probe: &Probe) -> Option<Remark> {
    let remedy = match probe.verdict {
        Verdict::Good => return None,
        Verdict::Unreadable => "let hyperd's user open /dev/kvm (group kvm)",
        Verdict::TooSlow => "run on a host that gives its guests hardware virtualisation",
        Verdict::Absent => "turn virtualisation on in the firmware and load kvm-intel or kvm-amd",
    };
    let problem = format!("guests run in software, several times slower: {}", probe.reason);
    Some(Remark { problem, remedy: remedy.to_owned(), fatal: false })
}

/// Refuses what QEMU would refuse in worse words, or accept and then hang.
fn check(config: &VmConfig) -> Result<(), LaunchError> {
    let refuse = |text: String| Err(LaunchError::Config(text));
    let name_bytes = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if config.name.is_empty() || config.name.len() > 128 || !config.name.bytes().all(name_bytes) {
        return refuse(format!("{:?} is no name for a VM", config.name));
    }
    if config.vcpus == 0 || config.vcpus > VCPUS_MAX {
        return refuse(format!("a VM has 1 to {VCPUS_MAX} virtual processors, not {}", config.vcpus));
    }
    if config.memory_mib < VmConfig::MEMORY_MIN_MIB {
        let (asked, least) = (config.memory_mib, VmConfig::MEMORY_MIN_MIB);
        return refuse(format!("{asked} MiB of memory are too few to boot, at least {least} MiB are needed"));
    }
    let shares = config.share.is_some();
    let nic_slots_max = if shares { NIC_SLOTS_WITH_SHARE_MAX } else { NIC_SLOTS_MAX };
    if config.nic_slots > nic_slots_max {
        let with = if shares { " that shares directories of the host" } else { "" };
        return refuse(format!(
            "a VM{with} has at most {nic_slots_max} network interfaces, not {}",
            config.nic_slots
        ));
    }
    if config.wire.is_some() && config.nic_slots == 0 {
        return refuse("a VM without NIC slots has nothing to wire".into());
    }
    if shares && config.start != Start::Boot {
        return refuse(
            "a VM that shares directories of the host boots: it is no template and no clone".into(),
        );
    }
    let words = &config.kernel_args;
    if words.iter().any(|word| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c == '\0')) {
        return refuse("a kernel argument is empty or has white space in it".into());
    }
    // What follows it goes to init, and QEMU adds the guest's devices at the end.
    if words.iter().any(|word| word == "--") {
        return refuse("the kernel arguments cannot have \"--\" among them".into());
    }
    if words.iter().map(|word| word.len() + 1).sum::<usize>() > KERNEL_ARGS_MAX {
        return refuse(format!("the kernel arguments are longer than {KERNEL_ARGS_MAX} bytes"));
    }
    match &config.start {
        Start::Clone(dir) => {
            let memory = dir.join(Start::MEMORY);
            let size = fs::metadata(&memory).map_err(file("find", &memory))?.len();
            if size != u64::from(config.memory_mib) << 20 {
                return refuse(format!(
                    "{} has {size} bytes, not {} MiB",
                    memory.display(),
                    config.memory_mib
                ));
            }
        }
        Start::Boot | Start::Template(_) => {
            check_kernel(&config.kernel)
                .map_err(|source| LaunchError::Kernel { path: config.kernel.clone(), source })?;
            fs::File::open(&config.initramfs).map_err(file("open", &config.initramfs))?;
        }
    }
    Ok(())
}

/// What is open before QEMU starts.
struct Sockets {
    qmp: (std::os::unix::net::UnixStream, std::os::unix::net::UnixStream),
    link: (OwnedFd, OwnedFd),
    console: (OwnedFd, OwnedFd),
    /// State of the template's devices.
    state: Option<OwnedFd>,
    /// Server of the share.
    share: Option<OwnedFd>,
    /// Tap of the first NIC slot.
    wire: Option<OwnedFd>,
}

impl Sockets {
    fn open(config: &VmConfig) -> Result<Self, LaunchError> {
        let io = |source: io::Error| LaunchError::File {
            attempt: "make sockets in",
            path: config.dir.clone(),
            source,
        };
        let qmp = std::os::unix::net::UnixStream::pair().map_err(io)?;
        qmp.0.set_nonblocking(true).map_err(io)?;
        let console =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| io(error.into()))?;
        let state = match &config.start {
            Start::Clone(dir) => {
                let path = dir.join(Start::STATE);
                Some(fs::File::open(&path).map_err(file("open", &path))?.into())
            }
            Start::Boot | Start::Template(_) => None,
        };
        let share = config.share.as_ref().map(|share| share.socket.try_clone()).transpose().map_err(io)?;
        let wire = match &config.wire {
            None => None,
            Some(Wire::Tap(tap)) => Some(tap.try_clone().map_err(io)?),
            Some(Wire::Nowhere) => Some(hyper_sys::tap::loose().map_err(LaunchError::Tap)?),
        };
        Ok(Self { qmp, link: link_socket(&config.dir).map_err(io)?, console, state, share, wire })
    }
}

/// A listening socket and the only way to connect to it: its name is gone from the directory at once, and what
/// remains is a descriptor of its inode.
fn link_socket(dir: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    const NAME: &str = "link.sock";
    let directory = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // By way of the descriptor the name is short enough for a socket address however long the path is.
    let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
    let _ = fs::remove_file(dir.join(NAME));
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    let inode = rustix::fs::openat(
        &directory,
        NAME,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    );
    fs::remove_file(dir.join(NAME))?;
    Ok((listener.into(), inode?))
}

/// Our ends.
struct Ours {
    qmp: std::os::unix::net::UnixStream,
    link: OwnedFd,
    console: OwnedFd,
    /// Number by which QEMU knows the state of the template's devices.
    state: Option<RawFd>,
}

fn spawn(
    program: &Path,
    config: &VmConfig,
    probe: &Probe,
    sockets: Sockets,
) -> Result<(Child, Ours), LaunchError> {
    let theirs = (OwnedFd::from(sockets.qmp.1), sockets.link.0, sockets.console.1);
    let descriptors = Descriptors {
        qmp: theirs.0.as_raw_fd(),
        link: theirs.1.as_raw_fd(),
        console: theirs.2.as_raw_fd(),
        share: sockets.share.as_ref().map(AsRawFd::as_raw_fd),
        wire: sockets.wire.as_ref().map(AsRawFd::as_raw_fd),
    };
    let mut command = std::process::Command::new(program);
    command
        .args(command_line(config, probe, descriptors))
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    hyper_sys::spawn::die_with_parent(&mut command);
    if argv::accelerator(probe) == Accelerator::Tcg && config.start == Start::Boot {
        // Huge pages save walks of page tables, which no hardware does here for the guest's memory; clearing them for
        // memory and translations that a small guest uses a little of takes 25 to 250 ms of a start.
        hyper_sys::spawn::without_huge_pages(&mut command);
    }
    let state = sockets.state.as_ref().map(AsRawFd::as_raw_fd);
    let mut inherited = vec![theirs.0, theirs.1, theirs.2];
    inherited.extend(sockets.state);
    inherited.extend(sockets.share);
    inherited.extend(sockets.wire);
    hyper_sys::spawn::inherit_only(&mut command, inherited);
    let failed = |source| LaunchError::Spawn { program: program.display().to_string(), source };
    let kept = match &config.start {
        Start::Clone(dir) => Some((dir.join(Start::MEMORY), holes::ask(&mut command).map_err(failed)?)),
        _ => None,
    };
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(failed)?;
    if let Some((memory, asked)) = kept
        && let Some(questions) = asked.questions().map_err(failed)?
    {
        keep_whole(&memory, questions).map_err(failed)?;
    }
    Ok((child, Ours { qmp: sockets.qmp.0, link: sockets.link.1, console: sockets.console.0, state }))
}

/// Keeps holes out of a template's memory. For pages that the guest gives back QEMU 7.2 punches holes into the memory's
/// file, private mapping or not: into the template of all the others. It is told that it has, and forgets the pages of
/// its own mapping then, which is all that is wanted; what it reads there afterwards is the template's, and the guest
/// expects nothing in pages that it has given back.
fn keep_whole(memory: &Path, questions: holes::Questions) -> io::Result<()> {
    let identity = |file: &fs::Metadata| (file.dev(), file.ino());
    let memory = identity(&fs::metadata(memory)?);
    std::thread::Builder::new().name("holes".into()).stack_size(256 << 10).spawn(move || {
        while let Ok(Some(hole)) = questions.next() {
            let file = fs::metadata(format!("/proc/{}/fd/{}", hole.thread, hole.descriptor));
            let answer = match file {
                Ok(file) if identity(&file) != memory => holes::Answer::Punch,
                // One that cannot be looked at has been closed: the call will fail.
                Ok(_) | Err(_) => holes::Answer::Pretend,
            };
            if questions.answer(hole, answer).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Opens QMP, watching whether QEMU dies meanwhile.
async fn greet(socket: std::os::unix::net::UnixStream, started: &mut Started) -> Result<Qmp, LaunchError> {
    let silent = |source| LaunchError::Silent { program: PROGRAM.into(), source };
    let socket = UnixStream::from_std(socket)
        .map_err(|source| silent(VmError::Io { attempt: "open the VMM's control socket", source }))?;
    let opened = tokio::time::timeout(GREETING, Qmp::open(socket)).await;
    let qmp = match opened {
        Ok(Ok(qmp)) => qmp,
        Ok(Err(VmError::Gone(_) | VmError::Io { .. })) => {
            let status = started.end().await;
            let output = started.last_words();
            return Err(LaunchError::Ended { program: PROGRAM.into(), status: end_in_words(status), output });
        }
        Ok(Err(error)) => return Err(silent(error)),
        Err(_) => {
            return Err(silent(VmError::Timeout {
                command: "its greeting".into(),
                seconds: GREETING.as_secs(),
            }));
        }
    };
    if is_recent(qmp.version()) {
        return Ok(qmp);
    }
    let found = qmp.version().to_owned();
    Err(LaunchError::Version { program: PROGRAM.into(), found, wanted: VERSION_MIN_TEXT })
}

/// A packet that the guest sends into an empty hub would stay there and block all further ones; without a carrier it
/// sends none.
async fn take_links_down(qmp: &Qmp, nic_slots: Range<u32>) -> Result<(), LaunchError> {
    let commands = nic_slots.map(|slot| set_link(slot, false)).collect();
    let failed = qmp.execute_all(commands).await.into_iter().find_map(Result::err);
    failed.map_or(Ok(()), |source| Err(LaunchError::Silent { program: PROGRAM.into(), source }))
}

fn is_recent(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= VERSION_MIN
}

/// The first line of `--version` and whether it is recent enough.
async fn program_version(program: &Path) -> io::Result<(String, bool)> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(GREETING, output).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().chars().take(120).collect::<String>();
    let version = line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let recent = version.is_some_and(is_recent);
    if output.status.success() {
        Ok((line, recent))
    } else {
        Err(io::Error::other(end_in_words(Some(output.status))))
    }
}

/// A program by its name in `PATH`.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| {
        rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
    })
}

fn file(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::File { attempt, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_recent("7.2.22") && is_recent("10.0.0") && is_recent("7.10.0"));
        assert!(!is_recent("7.1.9") && !is_recent("5.2.0") && !is_recent("garbage"));
    }

    #[test]
    fn link_socket_leaves_no_name_and_can_be_connected_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (_listener, inode) = link_socket(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = format!("/proc/self/fd/{}", inode.as_raw_fd());
        let first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(first);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
