//! What the agent knows, and the calls that change it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hyper_link::{LinkError, Stream};
use hyper_protocol::agent::{
    Container as Wanted, Exec, FailureKind, INIT_ANNOTATION, Id, Known, Output, Reply, Request,
    SHARED_PIDS_ANNOTATION, Target,
};
use hyper_protocol::files::Files;
use hyper_sys::child::{PidNamespace, SIGNAL_MAX};
use tokio::sync::{Notify, Semaphore};

use crate::cgroup::{self, Cgroup};
use crate::container::devices;
use crate::container::filter::Filter;
use crate::container::launch::{Launch, Place};
use crate::container::root;
use crate::disks::Disks;
use crate::failure::{Attempt, Failed};
use crate::files::{self, Place as FilePlace, Works};
use crate::pids::SharedPids;
use crate::pod;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::rootfs::Rootfs;
use crate::spec::{self, Resources, Spec};
use crate::volumes::{Held, Volumes};
use crate::{devicefilter, memory, steps, usage};

/// Most containers of a pod.
const MAX_CONTAINERS: usize = 256;
/// Most processes added to one container that the shim has not deleted.
const MAX_EXECS: usize = 256;
/// Longest name, as containerd has it.
const MAX_ID: usize = 128;
/// Longest file to be put into a container, in bytes, and most of them.
const MAX_FILE: usize = 1 << 20;
const MAX_FILES: usize = 64;

/// Where the agent keeps things in its guest.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory on a tmpfs, for mounts and files of containers.
    pub run: PathBuf,
    /// The cgroup (version 2) under which containers get theirs.
    pub cgroups: PathBuf,
    /// The pod's shared memory, a tmpfs.
    pub shm: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            run: PathBuf::from("/run/hyper"),
            cgroups: PathBuf::from("/sys/fs/cgroup"),
            shm: PathBuf::from("/dev/shm"),
        }
    }
}

/// The pod's containers and what can be done with them. Lives on one thread, inside a
/// [`tokio::task::LocalSet`]; outlives every session of the link.
pub struct Agent {
    places: Places,
    disks: Box<dyn Disks>,
    usual_devices: devicefilter::Usual,
    volumes: Volumes,
    reaper: Reaper,
    pids: SharedPids,
    containers: RefCell<BTreeMap<Id, Rc<Container>>>,
    /// Names whose containers are being made or deleted.
    changing: RefCell<BTreeSet<Id>>,
    power: Notify,
    file_works: Semaphore,
    pub(crate) calls: Cell<usize>,
}

struct Container {
    init: Rc<Process>,
    execs: RefCell<BTreeMap<Id, Rc<Process>>>,
    cgroup: Rc<Cgroup>,
    devices: RefCell<Option<devicefilter::Attached>>,
    /// `None` once it is released.
    rootfs: RefCell<Option<Rootfs>>,
    volumes: RefCell<Held>,
    directory: PathBuf,
    /// Its text files by their paths in it: where each lies, and what was written to it last.
    texts: RefCell<BTreeMap<String, (PathBuf, String)>>,
    paused: Cell<bool>,
    filter: Option<Rc<Filter>>,
    works: Works,
}

/// A name taken until dropped.
struct Claim<'a> {
    agent: &'a Agent,
    id: Id,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.agent.changing.borrow_mut().remove(&self.id);
    }
}

impl Agent {
    /// An agent that knows no containers. `orphans`: collect every child that ends, as process 1 must.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub fn new(places: Places, disks: Box<dyn Disks>, orphans: bool) -> Result<Rc<Agent>, Failed> {
        // No container has such a name.
        let volumes = Volumes::new(places.run.join("@volumes"));
        Ok(Rc::new(Agent {
            volumes,
            places,
            disks,
            usual_devices: devicefilter::Usual::load(),
            reaper: Reaper::start(orphans)?,
            pids: SharedPids::default(),
            containers: RefCell::default(),
            changing: RefCell::default(),
            power: Notify::new(),
            file_works: files::limit(),
            calls: Cell::new(0),
        }))
    }

    /// Returns when the machine is to be powered off; everything is unmounted by then.
    pub async fn powered_off(&self) {
        self.power.notified().await;
    }

    /// To be called when the answer to [`Request::Shutdown`] is on its way.
    pub(crate) fn power_off(&self) {
        self.power.notify_one();
    }

    /// Answers a call other than those that turn into channels.
    pub(crate) async fn answer(&self, request: Request) -> Reply {
        match self.carry_out(request).await {
            Ok(reply) => reply,
            Err(failed) => Reply::Failed(failed.to_failure()),
        }
    }

    async fn carry_out(&self, request: Request) -> Result<Reply, Failed> {
        match request {
            Request::Ping => return Ok(pod::pong()),
            Request::Configure(pod) => pod::configure(&pod).await?,
            Request::Create(container) => self.create(*container).await?,
            Request::Start(target) => return self.start(&target).await,
            Request::Exec(exec) => self.exec(*exec)?,
            Request::Signal { target, signal, all } => self.signal(&target, signal, all)?,
            Request::Resize { target, width, height } => self.process(&target)?.resize(width, height)?,
            Request::Wait(target) => return self.process(&target)?.wait().await.map(Reply::Exited),
            Request::Delete(target) => self.delete(&target).await?,
            Request::Steps => return Ok(steps::told()),
            Request::List => return Ok(Reply::Containers(self.list())),
            Request::Stats(id) => {
                return Ok(Reply::Stats(Box::new(usage::stats(&self.container(&id)?.cgroup))));
            }
            Request::Processes(id) => {
                return Ok(Reply::Processes(usage::processes(&self.container(&id)?.cgroup)));
            }
            Request::Pause(id) => self.freeze(&id, true).await?,
            Request::Resume(id) => self.freeze(&id, false).await?,
            Request::Update { id, resources } => self.update(&id, resources)?,
            Request::Rewrite { id, files } => self.rewrite(&id, files)?,
            Request::Sync => rustix::fs::sync(),
            Request::Shutdown => self.shut_down().await,
            Request::ReadOutput { .. } | Request::WriteInput(_) | Request::Files(_) => {
                return Err(Failed::invalid("a call that becomes a channel"));
            }
        }
        Ok(Reply::Done)
    }

    fn container(&self, id: &str) -> Result<Rc<Container>, Failed> {
        let containers = self.containers.borrow();
        containers.get(id).cloned().ok_or_else(|| Failed::not_found(format!("no container {id:?}")))
    }

    /// The process that a target names.
    pub(crate) fn process(&self, target: &Target) -> Result<Rc<Process>, Failed> {
        let container = self.container(&target.container)?;
        let Some(exec) = &target.exec else { return Ok(Rc::clone(&container.init)) };
        let execs = container.execs.borrow();
        execs.get(exec).cloned().ok_or_else(|| {
            Failed::not_found(format!("no process {exec:?} in container {:?}", target.container))
        })
    }

    /// The channel of an output.
    pub(crate) fn output(
        &self,
        target: &Target,
        output: Output,
    ) -> Result<Rc<hyper_link::channel::Sender>, Failed> {
        let process = self.process(target)?;
        match (output, &process.stderr) {
            (Output::Stdout, _) => Ok(process.stdout.sender()),
            (Output::Stderr, Some(stderr)) => Ok(stderr.sender()),
            (Output::Stderr, None) => Err(Failed::invalid("a process with a terminal has one output")),
        }
    }

    /// Works on the files of a container, over the stream that asked for it.
    pub(crate) async fn files(&self, asked: &Files, stream: Stream) -> Result<(), LinkError> {
        match self.file_place(&asked.container) {
            Ok((container, place)) => {
                files::serve(&container.works, &self.file_works, &self.reaper, &place, &asked.work, stream)
                    .await
            }
            Err(failed) => crate::session::refuse(stream, failed).await,
        }
    }

    fn file_place(&self, id: &str) -> Result<(Rc<Container>, FilePlace), Failed> {
        let container = self.container(id)?;
        let place = {
            let rootfs = container.rootfs.borrow();
            let rootfs =
                rootfs.as_ref().ok_or_else(|| Failed::wrong_state("the container has no root filesystem"))?;
            FilePlace {
                process: container.init.inside()?,
                root: rootfs.path().to_owned(),
                upper: rootfs.upper().to_owned(),
                lower: rootfs.lower().to_vec(),
            }
        };
        Ok((container, place))
    }

    fn claim(&self, id: &str) -> Result<Claim<'_>, Failed> {
        if !self.changing.borrow_mut().insert(id.to_owned()) {
            return Err(Failed::wrong_state(format!("container {id:?} is being made or deleted")));
        }
        Ok(Claim { agent: self, id: id.to_owned() })
    }

    async fn create(&self, wanted: Wanted) -> Result<(), Failed> {
        check_id(&wanted.id)?;
        let claim = self.claim(&wanted.id)?;
        if self.containers.borrow().contains_key(&wanted.id) {
            return Err(exists(&wanted.id));
        }
        if self.containers.borrow().len() + self.changing.borrow().len() > MAX_CONTAINERS {
            return Err(Failed::invalid(format!("the pod has {MAX_CONTAINERS} containers already")));
        }
        let id = wanted.id.clone();
        let container = self.make(wanted).await?;
        self.containers.borrow_mut().insert(id, container);
        drop(claim);
        Ok(())
    }

    /// Makes a container whole, or leaves nothing of it.
    async fn make(&self, wanted: Wanted) -> Result<Rc<Container>, Failed> {
        let start = steps::now();
        let mut spec = Spec::parse(wanted.spec)?;
        let process =
            spec.process.clone().ok_or_else(|| Failed::invalid("the specification has no process"))?;
        steps::since("read specification", start);
        let filter = wanted.filter.as_ref().map(Filter::decode).transpose()?.map(Rc::new);
        let init = spec.annotations.get(INIT_ANNOTATION).is_some_and(|value| value == "true");
        let launch = Launch::new(process, wanted.user, wanted.groups, filter.clone())?.with_init(init);
        cgroup::check(&spec.linux.resources)?;
        let pid_of = match &wanted.pid_of {
            Some(other) => Some(self.container(other)?.init.pidfd()?),
            None if spec.lists_namespace("pid") => None,
            None if spec.annotations.get(SHARED_PIDS_ANNOTATION).is_some_and(|value| value == "true") => {
                Some(self.pids.holder(&self.reaper)?)
            }
            None => return Err(Failed::unsupported("not supported in a guest: the pod's own PID namespace")),
        };
        if !spec.lists_namespace("mount") {
            return Err(Failed::invalid("the specification lists no mount namespace"));
        }
        pod::set_parameters(&spec.linux.sysctl)?;
        memory::share(&mut spec, &self.places.shm, self.containers.borrow().is_empty())?;
        let directory = self.places.run.join(&wanted.id);
        fs::create_dir_all(&directory).attempt(|| "make the container's directory".to_owned())?;
        let rootfs = Rootfs::assemble(
            &*self.disks,
            &wanted.layers,
            &wanted.writable,
            wanted.root,
            &directory.join("fs"),
        )
        .await;
        let rootfs = match rootfs {
            Ok(mut rootfs) => match devices::add(&*self.disks, &wanted.devices, &mut spec).await {
                Ok(()) => Ok(rootfs),
                Err(failed) => {
                    rootfs.release(|node| self.uses(node)).await;
                    Err(failed)
                }
            },
            Err(failed) => Err(failed),
        };
        let held = match &rootfs {
            Ok(_) => self.volumes.hold(&*self.disks, &wanted.volumes).await,
            Err(_) => Ok(Held::default()),
        };
        let (rootfs, held) = match (rootfs, held) {
            (Ok(mut rootfs), Err(failed)) => {
                rootfs.release(|node| self.uses(node)).await;
                (Err(failed), Held::default())
            }
            (rootfs, held) => (rootfs, held.unwrap_or_default()),
        };
        let cgroup =
            rootfs.and_then(|rootfs| Ok((rootfs, Cgroup::create(&self.places.cgroups, &wanted.id)?)));
        let (rootfs, cgroup) = match cgroup {
            Ok(made) => made,
            Err(failed) => {
                self.volumes.release(held).await;
                let _ = fs::remove_dir_all(&directory);
                return Err(failed);
            }
        };
        let cgroup = Rc::new(cgroup);
        let container = Rc::new(Container {
            init: Rc::new(Process::new(launch, Rc::clone(&cgroup), wanted.stdin)),
            execs: RefCell::default(),
            cgroup,
            devices: RefCell::default(),
            rootfs: RefCell::new(Some(rootfs)),
            volumes: RefCell::new(held),
            directory,
            texts: RefCell::default(),
            paused: Cell::new(false),
            filter,
            works: Works::default(),
        });
        let prepared = self.prepare(&container, &spec, &wanted.files, pid_of.as_deref()).await;
        if let Err(failed) = prepared {
            self.dismantle(&container).await?;
            return Err(failed);
        }
        Ok(container)
    }

    async fn prepare(
        &self,
        container: &Rc<Container>,
        spec: &Spec,
        files: &BTreeMap<String, String>,
        pid_of: Option<&OwnedFd>,
    ) -> Result<(), Failed> {
        let start = steps::now();
        container.cgroup.apply(&spec.linux.resources)?;
        let start = steps::since("apply limits", start);
        let devices = devicefilter::attach(
            container.cgroup.path(),
            &spec.linux.resources.devices,
            &self.usual_devices,
            None,
        )?;
        container.devices.replace(Some(devices));
        let start = steps::since("filter devices", start);
        let files = write_files(&container.directory, files)?;
        let places = files.iter().map(|(path, (place, _))| (path.clone(), place.clone())).collect();
        container.texts.replace(files);
        let root = container.rootfs.borrow().as_ref().map(|rootfs| rootfs.path().to_owned());
        let root = root.ok_or_else(|| Failed::wrong_state("the container has no root filesystem"))?;
        let volumes = container.volumes.borrow().places.clone();
        let plan = root::Plan::new(spec, root, places, &volumes)?;
        let names = own_names(spec);
        steps::since("plan files", start);
        let place = Place::New {
            root: &plan,
            names: names.as_ref().map(|(host, domain)| (host.as_str(), domain.as_str())),
            cgroup_namespace: spec.lists_namespace("cgroup"),
        };
        let namespace = pid_of.map_or(PidNamespace::New, |process| PidNamespace::Of(process.as_fd()));
        container.init.prepare(place, namespace, &self.reaper).await
    }

    async fn start(&self, target: &Target) -> Result<Reply, Failed> {
        let container = self.container(&target.container)?;
        let process = self.process(target)?;
        if target.exec.is_some() {
            if !container.init.is_running() {
                return Err(Failed::wrong_state(format!("container {:?} is not running", target.container)));
            }
            if container.paused.get() {
                return Err(Failed::wrong_state(format!("container {:?} is paused", target.container)));
            }
            let beside = container.init.pidfd()?;
            let beside = beside.as_fd();
            process.prepare(Place::Beside(beside), PidNamespace::Of(beside), &self.reaper).await?;
        }
        process.start().await.map(|pid| Reply::Started { pid })
    }

    fn exec(&self, exec: Exec) -> Result<(), Failed> {
        check_id(&exec.id)?;
        let container = self.container(&exec.container)?;
        if !container.init.is_running() {
            return Err(Failed::wrong_state(format!("container {:?} is not running", exec.container)));
        }
        let mut execs = container.execs.borrow_mut();
        if execs.contains_key(&exec.id) {
            return Err(exists(&exec.id));
        }
        if execs.len() >= MAX_EXECS {
            return Err(Failed::invalid(format!("the container has {MAX_EXECS} added processes already")));
        }
        let process = spec::Process::parse(exec.process)?;
        let launch = Launch::new(process, exec.user, exec.groups, container.filter.clone())?;
        let process = Process::new(launch, Rc::clone(&container.cgroup), exec.stdin);
        execs.insert(exec.id, Rc::new(process));
        Ok(())
    }

    fn signal(&self, target: &Target, signal: i32, all: bool) -> Result<(), Failed> {
        if !(0..=SIGNAL_MAX).contains(&signal) {
            return Err(Failed::invalid(format!("no signal {signal}")));
        }
        let process = self.process(target)?;
        if !all {
            return process.signal(signal);
        }
        let container = self.container(&target.container)?;
        if signal == KILL {
            return container.cgroup.kill();
        }
        for pid in container.cgroup.processes() {
            // One that ends meanwhile needs no signal.
            let _ = hyper_sys::child::kill(pid, signal);
        }
        Ok(())
    }

    async fn freeze(&self, id: &str, frozen: bool) -> Result<(), Failed> {
        let container = self.container(id)?;
        if container.paused.get() == frozen {
            let words = if frozen { "paused already" } else { "not paused" };
            return Err(Failed::wrong_state(format!("container {id:?} is {words}")));
        }
        if !container.init.is_running() {
            return Err(Failed::wrong_state(format!("container {id:?} is not running")));
        }
        container.cgroup.freeze(frozen).await?;
        container.paused.set(frozen);
        Ok(())
    }

    fn update(&self, id: &str, resources: serde_json::Value) -> Result<(), Failed> {
        let container = self.container(id)?;
        let resources = Resources::parse(resources)?;
        container.cgroup.apply(&resources)?;
        if !resources.devices.is_empty() {
            let devices = devicefilter::attach(
                container.cgroup.path(),
                &resources.devices,
                &self.usual_devices,
                container.devices.borrow().as_ref(),
            )?;
            container.devices.replace(Some(devices));
        }
        Ok(())
    }

    /// Gives text files another content, where the container has not changed them.
    fn rewrite(&self, id: &str, files: BTreeMap<String, String>) -> Result<(), Failed> {
        let container = self.container(id)?;
        let mut texts = container.texts.borrow_mut();
        for (path, content) in files {
            let (file, written) = texts
                .get_mut(&path)
                .ok_or_else(|| Failed::not_found(format!("{path} is no file that was put there")))?;
            // Bound into the container, whose file it is: its content alone changes, and nothing beyond a bound is read.
            let mut now = String::new();
            let most = written.len() as u64 + 1;
            let read = fs::File::open(&*file).and_then(|file| file.take(most).read_to_string(&mut now));
            if read.is_ok() && now == *written {
                write_file(&path, file, &content)?;
                *written = content;
            }
        }
        Ok(())
    }

    async fn delete(&self, target: &Target) -> Result<(), Failed> {
        let container = self.container(&target.container)?;
        let process = self.process(target)?;
        if process.is_running() {
            return Err(Failed::wrong_state("the process is running"));
        }
        if let Some(exec) = &target.exec {
            process.abandon();
            container.execs.borrow_mut().remove(exec);
            return Ok(());
        }
        let _claim = self.claim(&target.container)?;
        self.dismantle(&container).await?;
        self.containers.borrow_mut().remove(&target.container);
        Ok(())
    }

    /// Kills what is left of a container, unmounts it and removes its cgroup and files.
    async fn dismantle(&self, container: &Rc<Container>) -> Result<(), Failed> {
        container.works.end().await;
        container.init.abandon();
        container.cgroup.remove().await?;
        let rootfs = container.rootfs.borrow_mut().take();
        if let Some(mut rootfs) = rootfs {
            rootfs.release(|node| self.uses(node)).await;
        }
        let held = container.volumes.take();
        self.volumes.release(held).await;
        container.execs.borrow_mut().clear();
        fs::remove_dir_all(&container.directory).attempt(|| "remove the container's files".to_owned())
    }

    /// Whether the root filesystem of a container is mounted from this disk.
    fn uses(&self, node: &Path) -> bool {
        let containers = self.containers.borrow();
        containers.values().any(|other| other.rootfs.borrow().as_ref().is_some_and(|r| r.uses(node)))
    }

    fn list(&self) -> Vec<Known> {
        let mut known = Vec::new();
        for (id, container) in self.containers.borrow().iter() {
            let mut add = |exec: Option<&Id>, process: &Process| {
                known.push(Known {
                    target: Target { container: id.clone(), exec: exec.cloned() },
                    pid: process.is_running().then(|| process.pid()).flatten(),
                    exit: process.exit(),
                    paused: container.paused.get(),
                });
            };
            add(None, &container.init);
            for (exec, process) in container.execs.borrow().iter() {
                add(Some(exec), process);
            }
        }
        known
    }

    /// Kills every container and brings all disks to rest.
    pub async fn shut_down(&self) {
        let containers: Vec<_> = std::mem::take(&mut *self.containers.borrow_mut()).into_values().collect();
        for container in &containers {
            // First a signal to all, so that they end side by side.
            let _ = container.cgroup.kill();
        }
        for container in &containers {
            if let Err(failed) = self.dismantle(container).await {
                crate::console::say(format_args!("shutdown: {}", failed.to_failure().message));
            }
        }
        rustix::fs::sync();
    }
}

/// `SIGKILL`.
const KILL: i32 = 9;

fn exists(id: &str) -> Failed {
    Failed::new(FailureKind::AlreadyExists, format!("{id:?} exists already"))
}

fn check_id(id: &str) -> Result<(), Failed> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(good) || id.bytes().all(|b| b == b'.') {
        let shown: String = id.chars().take(MAX_ID).collect();
        return Err(Failed::invalid(format!(
            "{shown:?} is no name: 1 to {MAX_ID} bytes of letters, digits, '_', '.' and '-'"
        )));
    }
    Ok(())
}

/// Writes the files to be bound into a container; where each lies by the container's path.
fn write_files(
    directory: &Path,
    files: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, (PathBuf, String)>, Failed> {
    if files.len() > MAX_FILES {
        return Err(Failed::invalid(format!("{} files, at most {MAX_FILES} are allowed", files.len())));
    }
    let mut written = BTreeMap::new();
    for (index, (path, content)) in files.iter().enumerate() {
        let file = directory.join(format!("file-{index}"));
        write_file(path, &file, content)?;
        written.insert(path.clone(), (file, content.clone()));
    }
    Ok(written)
}

fn write_file(path: &str, file: &Path, content: &str) -> Result<(), Failed> {
    if content.len() > MAX_FILE {
        return Err(Failed::invalid(format!("the file {path} is longer than {MAX_FILE} bytes")));
    }
    fs::write(file, content).attempt(|| format!("write the file {path}"))
}

/// Host and domain name that a specification wants when they are not the pod's.
fn own_names(spec: &Spec) -> Option<(String, String)> {
    let pod = rustix::system::uname();
    let (host, domain) = (pod.nodename().to_string_lossy(), pod.domainname().to_string_lossy());
    let or = |wanted: &str, pod: &str| if wanted.is_empty() { pod.to_owned() } else { wanted.to_owned() };
    let wanted = (or(&spec.hostname, &host), or(&spec.domainname, &domain));
    (wanted.0 != host || wanted.1 != domain).then_some(wanted)
}
