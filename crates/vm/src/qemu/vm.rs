//! A running QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::argv;
use super::disks::{self, Units};
use super::qmp::{Command, Event, Qmp};
use super::templates;
use crate::config::{DiskAddress, DiskConfig, Start, VmConfig, Wire};
use crate::console::Console;
use crate::error::VmError;
use crate::hypervisor::{ExitKind, Pausing, Saving, Vm, VmExit, VmInfo};

/// How long QEMU has to follow `quit` before it is killed.
const QUIT: Duration = Duration::from_millis(500);
/// How long the guest has to let go of a device that is taken away.
const RELEASE: Duration = Duration::from_secs(5);
/// How often something is tried again that QEMU is about to be ready for.
const RETRY: Duration = Duration::from_millis(10);
/// Bytes of QEMU's standard error that are kept.
const LAST_WORDS: usize = 2 << 10;

/// The process and our ends of its pipes, before and after there is a VM.
pub struct Started {
    /// Process number.
    pub pid: u32,
    /// File to remove when the process is gone.
    pub pid_file: Option<PathBuf>,
    child: Child,
    link: OwnedFd,
    console: Arc<Mutex<Console>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Started {
    /// Begins to read what the process and the guest write.
    pub fn new(
        mut child: Child,
        link: OwnedFd,
        console: Arc<Mutex<Console>>,
        pipe: OwnedFd,
    ) -> io::Result<Self> {
        let pid = child.id().ok_or_else(|| io::Error::other("it has ended already"))?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let mut readers = vec![tokio::spawn(read_console(pipe, console.clone()))];
        if let Some(pipe) = child.stderr.take() {
            readers.push(tokio::spawn(read_stderr(pipe, stderr.clone())));
        }
        Ok(Self { pid, pid_file: None, child, link, console, stderr, readers })
    }

    /// Kills the process if it has not ended, reaps it, reads what is left in the pipes and removes its file.
    pub async fn end(&mut self) -> Option<ExitStatus> {
        let ended = timeout(QUIT, self.child.wait()).await;
        let status = match ended {
            Ok(status) => status.ok(),
            Err(_) => {
                let _ = self.child.start_kill();
                self.child.wait().await.ok()
            }
        };
        for reader in self.readers.drain(..) {
            let _ = timeout(QUIT, reader).await;
        }
        if let Some(path) = self.pid_file.take() {
            let _ = fs::remove_file(path);
        }
        status
    }

    /// What QEMU complained about, or else the end of the guest's console.
    pub fn last_words(&self) -> String {
        let stderr = lock(&self.stderr).clone();
        let text = if stderr.is_empty() { lock(&self.console).tail().to_vec() } else { stderr };
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

async fn read_console(mut pipe: pipe::Receiver, console: Arc<Mutex<Console>>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        lock(&console).write(&buffer[..read]);
        // A guest that floods its console must not keep the rest of the process from running.
        tokio::task::yield_now().await;
    }
}

async fn read_stderr(mut pipe: ChildStderr, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; LAST_WORDS];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = lock(&kept);
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..excess);
    }
}

/// What has become of a NIC slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nic {
    /// Nothing is plugged.
    Free,
    /// A tap is plugged.
    Plugged,
    /// Wired to its tap.
    Wired,
    /// It was wired; QEMU joins a device to its network end once. So is one that was wired to nowhere.
    Cut,
}

/// The NIC slots of a VM in its beginning.
fn nics(config: &VmConfig) -> BTreeMap<u32, Nic> {
    let first = match config.wire {
        None => Nic::Free,
        Some(Wire::Tap(_)) => Nic::Wired,
        Some(Wire::Nowhere) => Nic::Cut,
    };
    (0..config.nic_slots).map(|slot| (slot, if slot == 0 { first } else { Nic::Free })).collect()
}

/// The command that gives a NIC slot a carrier or takes it.
pub fn set_link(slot: u32, up: bool) -> Command {
    Command::new("set_link", json!({ "name": argv::nic(slot), "up": up }))
}

/// An exit status in words.
pub fn end_in_words(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("killed by signal {signal}"),
        _ => "unknown exit status".to_owned(),
    }
}

/// A VM in a QEMU process.
pub struct QemuVm {
    info: VmInfo,
    qmp: Arc<Qmp>,
    link: OwnedFd,
    console: Arc<Mutex<Console>>,
    units: Mutex<Units>,
    // Whether each slot is connected. Plugging is several commands, and those for one slot must not mix.
    nics: tokio::sync::Mutex<BTreeMap<u32, Nic>>,
    // Where it is saved to, if it is to be a template.
    template: Option<PathBuf>,
    kill: watch::Sender<bool>,
    exit: watch::Receiver<Option<VmExit>>,
}

impl QemuVm {
    /// Takes over a started QEMU and waits for its end in the background.
    pub fn new(info: VmInfo, config: &VmConfig, qmp: Qmp, started: Started) -> Self {
        let qmp = Arc::new(qmp);
        let (kill, killed) = watch::channel(false);
        let (ended, exit) = watch::channel(None);
        let link = started.link.try_clone();
        let console = started.console.clone();
        tokio::spawn(hold(started, qmp.clone(), killed, ended));
        Self {
            info,
            qmp,
            link: link.expect(
                "duplicating one descriptor fails only at the process's limit, which is far off here",
            ),
            console,
            units: Mutex::default(),
            nics: nics(config).into(),
            template: match &config.start {
                Start::Template(dir) => Some(dir.clone()),
                Start::Boot | Start::Clone(_) => None,
            },
            kill,
            exit,
        }
    }

    /// Fails when the VM has ended, for a better message than that of a closed socket.
    fn alive(&self) -> Result<(), VmError> {
        match &*self.exit.borrow() {
            Some(exit) => Err(VmError::Gone(exit.reason.clone())),
            None => Ok(()),
        }
    }

    /// Undoes what a failed plug left, in QEMU and here.
    async fn forget_disks(&self, units: &[u16]) {
        let mut events = self.qmp.events();
        for &unit in units {
            self.remove_disk(unit, &mut events).await;
            lock(&self.units).give(unit);
        }
    }

    /// Removes device and image as far as they are there; the error of the image if it stays.
    async fn remove_disk(&self, unit: u16, events: &mut broadcast::Receiver<Event>) -> Option<VmError> {
        let deadline = Instant::now() + RELEASE;
        if self.qmp.execute(disks::remove_device(unit)).await.is_ok() {
            let removed =
                |event: &Event| event.name == "DEVICE_DELETED" && disks::is_removal(&event.data, unit);
            let _ = timeout_at(deadline, async {
                loop {
                    match events.recv().await {
                        Ok(event) if removed(&event) => return,
                        // Some were missed; the image tells whether it was ours.
                        Err(broadcast::error::RecvError::Lagged(_))
                        | Err(broadcast::error::RecvError::Closed) => {
                            return;
                        }
                        Ok(_) => {}
                    }
                }
            })
            .await;
        }
        // Fails only where the plug failed so early that there is none.
        let more = lock(&self.units).more(unit).unwrap_or(0);
        self.qmp.execute_all(disks::close_sets(unit, more)).await;
        // The device's reference to its image goes a little after the event.
        loop {
            match self.qmp.execute(disks::close_image(unit)).await {
                Ok(_) => return None,
                Err(VmError::Refused { message, .. })
                    if message.contains("in use") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Some(error),
            }
        }
    }
}

/// Owns the process: answers kills, collects its end.
async fn hold(
    mut started: Started,
    qmp: Arc<Qmp>,
    mut killed: watch::Receiver<bool>,
    ended: watch::Sender<Option<VmExit>>,
) {
    let mut events = qmp.events();
    let mut cause = None;
    let mut by_us = false;
    loop {
        tokio::select! {
            _ = started.child.wait() => break,
            () = requested(&mut killed) => {
                by_us = true;
                // Its answer does not matter, its death does, and that has its own deadline.
                let _ = timeout(QUIT, qmp.execute(Command::new("quit", json!({})))).await;
                break;
            }
            event = events.recv() => match event {
                Ok(event) if event.name == "SHUTDOWN" => {
                    cause = event.data.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned);
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    let status = started.end().await;
    while let Ok(event) = events.try_recv() {
        if event.name == "SHUTDOWN" {
            cause = event.data.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned);
        }
    }
    ended.send_replace(Some(describe(by_us, cause.as_deref(), status, &started)));
}

/// Waits until the VM shall be killed: asked for, or dropped.
async fn requested(killed: &mut watch::Receiver<bool>) {
    let _ = killed.wait_for(|kill| *kill).await;
}

fn describe(by_us: bool, cause: Option<&str>, status: Option<ExitStatus>, started: &Started) -> VmExit {
    let (kind, reason) = match cause {
        _ if by_us => (ExitKind::Killed, "the VM was stopped".to_owned()),
        Some("guest-shutdown" | "guest-reset") if panicked(&lock(&started.console)) => {
            (ExitKind::Panic, "the guest's kernel panicked".to_owned())
        }
        Some("guest-panic") => (ExitKind::Panic, "the guest's kernel panicked".to_owned()),
        Some("guest-shutdown" | "guest-reset") => (ExitKind::Guest, "the guest powered off".to_owned()),
        _ => {
            let stderr = String::from_utf8_lossy(&lock(&started.stderr)).trim().to_owned();
            let colon = if stderr.is_empty() { "" } else { ": " };
            (ExitKind::Lost, format!("qemu ended ({}){colon}{stderr}", end_in_words(status)))
        }
    };
    VmExit { kind, reason }
}

/// Whether the console ends in a panic: without ACPI a panic and a power-off look the same to QEMU.
fn panicked(console: &Console) -> bool {
    String::from_utf8_lossy(console.tail()).contains("Kernel panic - not syncing")
}

#[async_trait]
impl Vm for QemuVm {
    fn info(&self) -> &VmInfo {
        &self.info
    }

    async fn link(&self) -> Result<UnixStream, VmError> {
        let path = format!("/proc/self/fd/{}", self.link.as_raw_fd());
        loop {
            self.alive()?;
            match UnixStream::connect(&path).await {
                // QEMU lets one connection wait behind the open one; it takes the next when that is gone.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(RETRY).await,
                Err(source) => return Err(VmError::Io { attempt: "connect to the guest", source }),
                Ok(stream) => return Ok(stream),
            }
        }
    }

    async fn plug_disks(&self, disks: Vec<DiskConfig>) -> Result<Vec<DiskAddress>, VmError> {
        self.alive()?;
        let sectors: Vec<_> = disks.iter().map(check_disk).collect::<Result<_, _>>()?;
        let more: Vec<u16> = disks.iter().map(|disk| disk.more.len() as u16).collect();
        let units = lock(&self.units).take(&more)?;
        let prepare = |((&unit, disk), sectors): ((&u16, DiskConfig), Vec<u64>)| {
            disks::Prepared::new(unit, disk, &sectors).map(|prepared| disks::plug(unit, prepared))
        };
        let commands = units.iter().zip(disks).zip(sectors).map(prepare).collect::<io::Result<Vec<_>>>();
        let commands = match commands {
            Ok(commands) => commands.into_iter().flatten().collect(),
            Err(source) => {
                for unit in units {
                    lock(&self.units).give(unit);
                }
                return Err(VmError::Io { attempt: "describe a disk of several files", source });
            }
        };
        let results = self.qmp.execute_all(commands).await;
        match results.into_iter().find_map(Result::err) {
            None => Ok(units.into_iter().map(disks::address).collect()),
            Some(error) => {
                self.forget_disks(&units).await;
                Err(error)
            }
        }
    }

    async fn unplug_disk(&self, address: DiskAddress) -> Result<(), VmError> {
        self.alive()?;
        let unit = disks::unit(address)?;
        if lock(&self.units).more(unit).is_none() {
            return Err(VmError::Address(format!("there is no disk {unit}")));
        }
        let mut events = self.qmp.events();
        match self.remove_disk(unit, &mut events).await {
            Some(error) => Err(error),
            None => {
                lock(&self.units).give(unit);
                Ok(())
            }
        }
    }

    async fn plug_nic(&self, slot: u32, tap: OwnedFd) -> Result<(), VmError> {
        self.alive()?;
        let mut nics = self.nics.lock().await;
        match nics.get(&slot) {
            None => return Err(VmError::Address(format!("there is no NIC slot {slot}"))),
            Some(Nic::Plugged | Nic::Wired) => {
                return Err(VmError::Address(format!("NIC slot {slot} is connected")));
            }
            Some(Nic::Cut) => {
                return Err(VmError::Address(format!("NIC slot {slot} was wired once, and is no more")));
            }
            Some(Nic::Free) => {}
        }
        let (tap_id, plug_id, name) = (format!("tap{slot}"), format!("plug{slot}"), format!("tapfd{slot}"));
        let commands = vec![
            Command { execute: "getfd", arguments: json!({ "fdname": name }), descriptor: Some(tap) },
            Command::new("netdev_add", json!({ "type": "tap", "id": tap_id, "fd": name })),
            Command::new(
                "netdev_add",
                json!({ "type": "hubport", "id": plug_id, "hubid": slot, "netdev": tap_id }),
            ),
            set_link(slot, true),
        ];
        let results = self.qmp.execute_all(commands).await;
        let Some(error) = results.into_iter().find_map(Result::err) else {
            nics.insert(slot, Nic::Plugged);
            return Ok(());
        };
        for id in [plug_id, tap_id] {
            self.qmp.execute(Command::new("netdev_del", json!({ "id": id }))).await.ok();
        }
        self.qmp.execute(Command::new("closefd", json!({ "fdname": name }))).await.ok();
        Err(error)
    }

    async fn unplug_nic(&self, slot: u32) -> Result<(), VmError> {
        self.alive()?;
        let mut nics = self.nics.lock().await;
        let (ends, then) = match nics.get(&slot) {
            Some(Nic::Plugged) => (vec![format!("plug{slot}"), format!("tap{slot}")], Nic::Free),
            Some(Nic::Wired) => (vec![argv::net_end(slot)], Nic::Cut),
            _ => return Err(VmError::Address(format!("NIC slot {slot} is not connected"))),
        };
        self.qmp.execute(set_link(slot, false)).await?;
        for id in ends {
            self.qmp.execute(Command::new("netdev_del", json!({ "id": id }))).await?;
        }
        nics.insert(slot, then);
        Ok(())
    }

    async fn kill(&self) {
        self.kill.send_replace(true);
        self.wait().await;
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended
            .unwrap_or_else(|| VmExit { kind: ExitKind::Lost, reason: "the runtime is shutting down".into() })
    }

    fn console_tail(&self) -> Vec<u8> {
        lock(&self.console).tail().to_vec()
    }

    fn pausing(&self) -> Option<&dyn Pausing> {
        Some(self)
    }

    fn saving(&self) -> Option<&dyn Saving> {
        self.template.is_some().then_some(self as &dyn Saving)
    }
}

#[async_trait]
impl Saving for QemuVm {
    async fn save(&self) -> Result<(), VmError> {
        self.alive()?;
        let Some(dir) = &self.template else {
            return Err(VmError::Address("the VM was not launched to be a template".into()));
        };
        templates::save(&self.qmp, dir).await
    }
}

#[async_trait]
impl Pausing for QemuVm {
    async fn pause(&self) -> Result<(), VmError> {
        self.alive()?;
        self.qmp.execute(Command::new("stop", json!({}))).await.map(drop)
    }

    async fn resume(&self) -> Result<(), VmError> {
        self.alive()?;
        self.qmp.execute(Command::new("cont", json!({}))).await.map(drop)
    }
}

/// Refuses a disk of files that QEMU should not open, or not in a row; gives the sectors of each of several.
fn check_disk(disk: &DiskConfig) -> Result<Vec<u64>, VmError> {
    let refused = |problem: String| Err(VmError::Address(problem));
    let first = check_image(&disk.image)?;
    if disk.more.is_empty() {
        return Ok(Vec::new());
    }
    if !disk.read_only {
        return refused("a disk of several files is read-only".into());
    }
    if disk.more.len() >= usize::from(disks::DISK_FILES_MAX) {
        return refused(format!("a disk has at most {} files", disks::DISK_FILES_MAX));
    }
    let sizes: Vec<u64> = std::iter::once(Ok(first))
        .chain(disk.more.iter().map(check_image))
        .collect::<Result<_, VmError>>()?;
    match sizes.iter().find(|size| **size == 0 || !size.is_multiple_of(DiskConfig::SECTOR)) {
        Some(size) => refused(format!("one of a disk's files has {size} bytes, no number of sectors")),
        None => Ok(sizes.into_iter().map(|size| size / DiskConfig::SECTOR).collect()),
    }
}

/// Refuses an image that is no file or block device, before QEMU opens it; gives a file's size.
fn check_image(image: &OwnedFd) -> Result<u64, VmError> {
    let io =
        |source: rustix::io::Errno| VmError::Io { attempt: "look at a disk's image", source: source.into() };
    let stat = rustix::fs::fstat(image).map_err(io)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice) {
        return Err(VmError::Address(format!("a disk's image is a {kind:?}, not a file or block device")));
    }
    if kind == rustix::fs::FileType::RegularFile && stat.st_size == 0 {
        return Err(VmError::Address("a disk's image is empty".into()));
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
