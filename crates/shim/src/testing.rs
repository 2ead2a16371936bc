//! Doubles for tests: a VM without a machine, and an agent that speaks over its link.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hyper_link::channel::{Receiver, Sender};
use hyper_link::{GuestLink, Stream, read_frame, write_frame};
use hyper_protocol::agent::{Exit, Failure, FailureKind, Output, Reply, Request, Target};
use hyper_protocol::shim::{PodConfig, TemplateManifest};
use hyper_vm::*;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::container::{Mount, NewContainer};
use crate::error::ShimError;
use crate::events::Events;
use crate::pod::Pod;
use crate::process::Streams;
use crate::templates;

/// The process in the guest that a test plays.
#[derive(Default)]
pub struct FakeProcess {
    pub stdout: Sender,
    pub stderr: Sender,
    pub stdin: Mutex<Vec<u8>>,
    exit: watch::Sender<Option<Exit>>,
}

impl FakeProcess {
    /// Ends the process with its outputs.
    pub fn exit(&self, code: u32) {
        self.stdout.finish();
        self.stderr.finish();
        self.exit_with_open_outputs(code);
    }

    /// Ends the process; something else holds its outputs open.
    pub fn exit_with_open_outputs(&self, code: u32) {
        self.exit.send_replace(Some(Exit { code, unix_time_ns: 1, oom_killed: false }));
    }
}

/// What is wrong with clones, and not with VMs that boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// The VMM does not take the template.
    Launch,
    /// The agent does not answer.
    Mute,
    /// The VM ends before the agent answers.
    Death,
    /// The agent does not want to be the pod.
    Refusal,
    /// The VM ends when a container is made.
    DeathInCreate,
    /// The VM ends when a container is started.
    DeathInStart,
}

/// The guest, shared by the VM, the sessions and the test.
#[derive(Default)]
pub struct FakeGuest {
    processes: Mutex<BTreeMap<Target, Arc<FakeProcess>>>,
    session: Mutex<Option<JoinHandle<()>>>,
    pub requests: Mutex<Vec<Request>>,
    units: AtomicU16,
    /// How each VM was launched.
    pub launches: Mutex<Vec<Start>>,
    // That of the VM launched last.
    exit: Mutex<watch::Sender<Option<VmExit>>>,
    /// What is wrong with clones.
    pub flaw: Mutex<Flaw>,
    /// How many boots nothing is heard of.
    pub mute_boots: AtomicUsize,
    /// It does not power off when it is asked to.
    pub stubborn: AtomicBool,
    pub plugged: Mutex<Vec<DiskAddress>>,
}

impl FakeGuest {
    /// A process by its container's name; made at need.
    pub fn process(&self, container: &str) -> Arc<FakeProcess> {
        let target = Target { container: container.into(), exec: None };
        self.of(&target)
    }

    /// Breaks the session, as a byte stream that closes does.
    pub fn lose_session(&self) {
        self.session.lock().unwrap().take().expect("there is a session").abort();
    }

    fn end(&self, kind: ExitKind, reason: &str) {
        end(&self.exit.lock().unwrap(), kind, reason);
    }

    /// What is wrong with the VM launched last.
    fn flaw(&self) -> Flaw {
        let launches = self.launches.lock().unwrap();
        let boots = launches.iter().filter(|start| **start == Start::Boot).count();
        match launches.last() {
            Some(Start::Clone(_)) => *self.flaw.lock().unwrap(),
            _ if boots <= self.mute_boots.load(Ordering::Relaxed) => Flaw::Mute,
            _ => Flaw::None,
        }
    }

    fn of(&self, target: &Target) -> Arc<FakeProcess> {
        self.processes.lock().unwrap().entry(target.clone()).or_default().clone()
    }

    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let Ok(mut link) = GuestLink::accept(stream).await else { return };
        let mut calls = tokio::task::JoinSet::new();
        while let Some(stream) = link.next().await {
            calls.spawn(self.clone().answer(stream));
        }
    }

    async fn answer(self: Arc<Self>, mut stream: Stream) {
        let Ok(Some(request)) = read_frame::<Request>(&mut stream).await else { return };
        self.requests.lock().unwrap().push(request.clone());
        let reply = match &request {
            Request::Configure(_) if self.flaw() == Flaw::Refusal => {
                Reply::Failed(Failure { kind: FailureKind::System, message: "no".into() })
            }
            Request::Create(_) if self.flaw() == Flaw::DeathInCreate => {
                return self.end(ExitKind::Panic, "it panicked");
            }
            Request::Start(_) if self.flaw() == Flaw::DeathInStart => {
                return self.end(ExitKind::Panic, "it panicked");
            }
            Request::Ping => {
                Reply::Pong { agent: "1".into(), kernel: "6.12.0".into(), uptime_ns: 1, rss: 4096 }
            }
            Request::Start(_) => Reply::Started { pid: 2 },
            Request::Wait(target) => {
                let process = self.of(target);
                let mut exit = process.exit.subscribe();
                let exit = exit.wait_for(Option::is_some).await.unwrap().clone().unwrap();
                Reply::Exited(exit)
            }
            Request::WriteInput(target) => Reply::Offset(self.of(target).stdin.lock().unwrap().len() as u64),
            Request::Signal { target, signal, .. } => {
                self.of(target).exit(128 + *signal as u32);
                Reply::Done
            }
            _ => Reply::Done,
        };
        if write_frame(&mut stream, &reply).await.is_err() {
            return;
        }
        match request {
            Request::Shutdown if !self.stubborn.load(Ordering::Relaxed) => {
                self.end(ExitKind::Guest, "the guest powered off");
            }
            Request::ReadOutput { target, output, offset } => {
                let process = self.of(&target);
                let sender = if output == Output::Stdout { &process.stdout } else { &process.stderr };
                let _ = sender.serve(stream, offset).await;
            }
            Request::WriteInput(target) => {
                let process = self.of(&target);
                let mut receiver = Receiver::new();
                let _ = receiver
                    .run(stream, async move |bytes: &[u8]| {
                        process.stdin.lock().unwrap().extend(bytes);
                        Ok(())
                    })
                    .await;
            }
            _ => {}
        }
    }
}

fn end(exit: &watch::Sender<Option<VmExit>>, kind: ExitKind, reason: &str) {
    let end = VmExit { kind, reason: reason.into() };
    exit.send_if_modified(|now| now.is_none() && now.replace(end).is_none());
}

/// The driver.
pub struct FakeHypervisor(pub Arc<FakeGuest>);

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn abilities(&self) -> Abilities {
        unreachable!("the shim does not ask")
    }

    async fn health(&self) -> Health {
        unreachable!("the shim does not ask")
    }

    async fn launch(&self, config: VmConfig) -> Result<Arc<dyn Vm>, LaunchError> {
        self.0.launches.lock().unwrap().push(config.start);
        if self.0.flaw() == Flaw::Launch {
            return Err(LaunchError::Config("no such machine".into()));
        }
        let exit = watch::Sender::default();
        *self.0.exit.lock().unwrap() = exit.clone();
        let info = VmInfo {
            hypervisor: "fake",
            version: "1".into(),
            accelerator: Accelerator::Tcg,
            pid: 4_000_000,
            steps: vec![],
        };
        Ok(Arc::new(FakeVm { info, guest: self.0.clone(), exit }))
    }

    fn template_kind(&self, _: &VmConfig) -> Option<String> {
        Some("fake".into())
    }
}

struct FakeVm {
    info: VmInfo,
    guest: Arc<FakeGuest>,
    exit: watch::Sender<Option<VmExit>>,
}

#[async_trait]
impl Vm for FakeVm {
    fn info(&self) -> &VmInfo {
        &self.info
    }

    async fn link(&self) -> Result<UnixStream, VmError> {
        if self.exit.borrow().is_some() {
            return Err(VmError::Gone("killed".into()));
        }
        let (host, guest) = UnixStream::pair().unwrap();
        match self.guest.flaw() {
            Flaw::Mute => {
                tokio::spawn(async move {
                    let _guest = guest;
                    std::future::pending::<()>().await;
                });
                return Ok(host);
            }
            Flaw::Death => {
                self.guest.end(ExitKind::Lost, "it ended");
                return Err(VmError::Gone("it ended".into()));
            }
            _ => {}
        }
        *self.guest.session.lock().unwrap() = Some(tokio::spawn(self.guest.clone().serve(guest)));
        Ok(host)
    }

    async fn plug_disks(&self, disks: Vec<DiskConfig>) -> Result<Vec<DiskAddress>, VmError> {
        if self.exit.borrow().is_some() {
            return Err(VmError::Gone("it ended".into()));
        }
        let address =
            |_| DiskAddress::Scsi { target: 0, lun: self.guest.units.fetch_add(1, Ordering::Relaxed) };
        let addresses: Vec<_> = disks.iter().map(address).collect();
        self.guest.plugged.lock().unwrap().extend(&addresses);
        Ok(addresses)
    }

    async fn unplug_disk(&self, address: DiskAddress) -> Result<(), VmError> {
        self.guest.plugged.lock().unwrap().retain(|plugged| *plugged != address);
        Ok(())
    }

    async fn plug_nic(&self, _: u32, _: OwnedFd) -> Result<(), VmError> {
        Ok(())
    }

    async fn unplug_nic(&self, _: u32) -> Result<(), VmError> {
        Ok(())
    }

    async fn kill(&self) {
        end(&self.exit, ExitKind::Killed, "the VM was stopped");
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
        // What was plugged into it is plugged no more.
        self.guest.plugged.lock().unwrap().clear();
        exit.clone().unwrap()
    }

    fn console_tail(&self) -> Vec<u8> {
        Vec::new()
    }

    fn pausing(&self) -> Option<&dyn Pausing> {
        None
    }

    fn saving(&self) -> Option<&dyn Saving> {
        None
    }
}

/// A pod that runs on a fake guest.
pub async fn pod(dir: &Path, autostop: bool) -> (Arc<Pod>, Arc<FakeGuest>) {
    let (pod, guest) = configured(dir, PodConfig { autostop, ..config(dir) });
    pod.boot().await.unwrap();
    (pod, guest)
}

/// A pod that has not been started.
pub fn configured(dir: &Path, config: PodConfig) -> (Arc<Pod>, Arc<FakeGuest>) {
    let guest = Arc::new(FakeGuest::default());
    let hypervisor = guest.clone();
    let choose = Box::new(move |_: &PodConfig| -> Result<Box<dyn Hypervisor>, ShimError> {
        Ok(Box::new(FakeHypervisor(hypervisor.clone())))
    });
    let pod = Pod::new("pod".into(), dir.into(), Events::none(), choose);
    pod.configure(config).unwrap();
    (pod, guest)
}

/// The configuration of a pod in `dir`.
pub fn config(dir: &Path) -> PodConfig {
    PodConfig {
        share: false,
        dir: dir.into(),
        kernel: "/kernel".into(),
        initramfs: "/initramfs".into(),
        kernel_args: vec![],
        hypervisor: None,
        vcpus: 1,
        memory_mib: 64,
        hostname: "pod".into(),
        domainname: String::new(),
        sysctl: BTreeMap::new(),
        interfaces: vec![],
        nic_slots: 0,
        autostop: false,
        boot_timeout_ms: 10_000,
        templates: None,
    }
}

/// A pod in `dir` that is going to be cloned from a template; its key.
pub fn to_be_cloned(dir: &Path) -> (Arc<Pod>, Arc<FakeGuest>, String) {
    let templates = dir.join("templates");
    let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| {
        std::fs::write(dir.join(name), name).unwrap();
        dir.join(name)
    });
    let config = PodConfig { kernel, initramfs, templates: Some(templates.clone()), ..config(dir) };
    let vm_config = crate::boot::vm_config("pod", &config).unwrap();
    let key = templates::key(&FakeHypervisor(Arc::default()), &vm_config).unwrap().unwrap();
    template(&templates, &key, 4096);
    let (pod, guest) = configured(dir, config);
    (pod, guest, key)
}

/// A template whose files have so many bytes.
pub fn template(root: &Path, key: &str, size: u64) {
    let dir = root.join(key);
    std::fs::create_dir_all(&dir).unwrap();
    let mut files = BTreeMap::new();
    for name in [Start::MEMORY, Start::STATE] {
        let path = dir.join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        files.insert(name.to_owned(), templates::mark(&std::fs::symlink_metadata(path).unwrap()));
    }
    let manifest = TemplateManifest {
        key: key.into(),
        hypervisor: "qemu".into(),
        accelerator: "tcg".into(),
        version: "7.2".into(),
        vcpus: 1,
        memory_mib: 1,
        nic_slots: 1,
        kernel: "/k".into(),
        kernel_args: vec![],
        created_unix_ns: 0,
        took_ms: 1,
        files,
    };
    std::fs::write(dir.join(TemplateManifest::FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// A container to make, of `layers` files in `dir` and memory.
pub fn container(dir: &Path, id: &str, layers: &[&str]) -> NewContainer {
    let bundle = dir.join(format!("bundle-{id}"));
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), "{}").unwrap();
    let mount = |kind: &str, source: String| Mount { kind: kind.into(), source, options: vec![] };
    let layer = |name: &&str| {
        let path = dir.join(name);
        std::fs::write(&path, name).unwrap();
        mount("erofs", path.display().to_string())
    };
    let mut rootfs: Vec<_> = layers.iter().map(layer).collect();
    rootfs.push(mount("tmpfs", String::new()));
    NewContainer { id: id.into(), bundle, rootfs, streams: Streams::default(), config: Default::default() }
}
