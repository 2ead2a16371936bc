//! VMs kept ready: clones of the default kind that have rehearsed the start of a container and rest.
//!
//! A start that takes one plugs its disks and says who it is; what costs time is behind it. Above all where guests are
//! emulated: code that has run once is translated. A spare has a pod's id, and the container that is to have it
//! gets that pod.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_image::LayerError;
use hyper_network::Endpoint;
use hyper_protocol::shim::{ContainerConfig, Identity, Origin, PodConfig};
use tokio::sync::SetOnce;

use crate::admission::kib_of;
use crate::boot::{BOOT_TIMEOUT, Steps, interface, make_pod_dir};
use crate::clock::Timestamp;
use crate::db::Durability;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::layer::Journal;
use crate::options::{ContainerOptions, ContainerRecord, NetworkMode, PodOptions, PodRecord, State};
use crate::registry::Pod;
use crate::shim::{Layer, Shim};
use crate::stats::of_processes;
use crate::{ids, names, podsock, size, spec, validate};

/// How long after a start nothing is made: it shall have the processors.
const QUIET: Duration = Duration::from_millis(500);
/// How long a spare is kept for a container that was made and not started.
const RESERVED: Duration = Duration::from_secs(30);
/// Containers that are rehearsed: the second one finds what the first had to make.
const REHEARSALS: usize = 2;
/// Memory of the host, in MiB, of which at least so much must be free for one more spare.
const FREE_MIB_FOR_EACH: u64 = 4 << 10;
/// Most spares where nobody says how many.
const AUTO_MAX: u64 = 2;
/// Version of what [`make_rehearsal_disk`] makes, part of its disk's name.
const REHEARSAL_VERSION: u32 = 1;
/// The program that is rehearsed with.
const PROGRAM: &str = "/rehearse";

/// A VM that is ready.
#[derive(Debug)]
struct Spare {
    id: String,
    shim: Shim,
    endpoint: Option<Endpoint>,
    config: PodConfig,
}

/// The VMs that are ready.
#[derive(Debug)]
pub(crate) struct Pool {
    wanted: usize,
    spares: Mutex<Spares>,
    /// Held by the one who makes spares.
    refilling: Arc<tokio::sync::Mutex<()>>,
    /// Set when the daemon ends: who makes a spare stops.
    ending: SetOnce<()>,
    /// Held while a spare is ended whose pod may just be starting: that must not find half of it.
    expiry: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Spares {
    ready: Vec<Spare>,
    /// Promised to the pod of a container that was made.
    reserved: BTreeMap<String, Spare>,
    /// The daemon is ending.
    closed: bool,
}

/// The VMs kept ready, as people see them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolInfo {
    /// How many there shall be.
    pub wanted: usize,
    /// How many there are.
    pub ready: usize,
    /// Memory of the host that they have for themselves and their part of what they share (PSS).
    pub bytes: u64,
}

impl Pool {
    pub(crate) fn new(wanted: Option<usize>) -> Self {
        let wanted = wanted.unwrap_or_else(fitting);
        Self {
            wanted,
            spares: Mutex::default(),
            refilling: Arc::default(),
            ending: SetOnce::new(),
            expiry: tokio::sync::Mutex::default(),
        }
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the daemon ends.
    pub(crate) async fn ending(&self) {
        self.ending.wait().await;
    }

    fn lacks(&self) -> bool {
        let spares = self.spares();
        !spares.closed && spares.ready.len() < self.wanted
    }
}

/// How many spares fit the host's free memory.
fn fitting() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = kib_of(&meminfo, "MemAvailable:").unwrap_or(0);
    usize::try_from((kib >> 10) / FREE_MIB_FOR_EACH).unwrap_or(0).min(AUTO_MAX as usize)
}

/// What spares are.
fn default_kind(accelerated: bool) -> Result<PodOptions> {
    Ok(PodOptions {
        vcpus: size::vcpus(0, accelerated)?,
        memory_mib: size::DEFAULT_MEMORY_MIB,
        network: true,
        ..PodOptions::default()
    })
}

/// Whether a spare can become a pod with these options: all but what [`Identity`] has, and labels, is as spares are.
fn suits(options: &PodOptions, accelerated: bool) -> bool {
    default_kind(accelerated).is_ok_and(|kind| {
        let kind = PodOptions {
            hostname: options.hostname.clone(),
            domainname: options.domainname.clone(),
            sysctl: options.sysctl.clone(),
            labels: options.labels.clone(),
            ..kind
        };
        kind == *options
    })
}

impl Engine {
    /// The VMs kept ready.
    pub async fn pool(&self) -> PoolInfo {
        let pool = &self.shared.pool;
        let dirs: Vec<PathBuf> = {
            let spares = pool.spares();
            spares.ready.iter().map(|spare| spare.shim.dir().to_owned()).collect()
        };
        let ready = dirs.len();
        let sum = tokio::task::spawn_blocking(move || dirs.iter().map(|dir| memory_of(dir)).sum()).await;
        PoolInfo { wanted: pool.wanted, ready, bytes: sum.unwrap_or_default() }
    }
}

/// Memory of the processes named in a pod's directory, in bytes.
fn memory_of(dir: &Path) -> u64 {
    let rollups = of_processes(dir, "smaps_rollup");
    rollups.iter().flatten().filter_map(|text| kib_of(text, "Pss:")).sum::<u64>() << 10
}

impl Shared {
    /// Keeps a spare for a new pod; its id is to be the pod's.
    pub(crate) fn reserve(self: &Arc<Self>, options: &PodOptions) -> Option<String> {
        if !suits(options, self.accelerated()) {
            return None;
        }
        let id = {
            let mut spares = self.pool.spares();
            let spare = spares.ready.pop()?;
            let id = spare.id.clone();
            spares.reserved.insert(id.clone(), spare);
            id
        };
        let (shared, key) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(RESERVED).await;
            let expiry = shared.pool.expiry.lock().await;
            let unused = shared.pool.spares().reserved.remove(&key);
            if let Some(spare) = unused {
                shared.discard(spare).await;
                drop(expiry);
                shared.refill();
            }
        });
        Some(id)
    }

    /// Makes a spare the VM of a pod, if one was kept for it. One that fails is ended, and the pod boots.
    pub(crate) async fn wake(&self, pod: &Arc<Pod>, steps: &Steps) -> Option<(Shim, PodConfig)> {
        let expiry = self.pool.expiry.lock().await;
        let spare = self.pool.spares().reserved.remove(&pod.id);
        drop(expiry);
        let spare = spare?;
        let record = {
            let mut record = pod.lock();
            record.endpoint.clone_from(&spare.endpoint);
            record.slot = 0;
            record.up = true;
            record.started = Some(Timestamp::now());
            record.clone()
        };
        let identity = Identity {
            hostname: record.options.hostname.clone(),
            domainname: record.options.domainname.clone(),
            sysctl: record.options.sysctl.clone(),
            autostop: !record.explicit,
        };
        let (woken, written) = tokio::join!(
            steps.time("wake a spare VM", podsock::wake(spare.shim.dir(), identity)),
            steps.time("write pod record", self.db.put_pod(record, Durability::Written)),
        );
        match woken.and(written) {
            Ok(()) => Some((spare.shim, spare.config)),
            Err(error) => {
                tracing::warn!(pod = pod.id, error = %error.report(), "a VM kept ready is of no use");
                {
                    let mut record = pod.lock();
                    record.endpoint = None;
                    record.up = false;
                }
                self.discard(spare).await;
                None
            }
        }
    }

    /// Takes a spare that is promised to nobody, for work that belongs to no pod, and wakes it.
    pub(crate) async fn take_spare(self: &Arc<Self>) -> Option<(String, Shim, Option<Endpoint>)> {
        let spare = self.pool.spares().ready.pop()?;
        let identity = Identity {
            hostname: spare.id.clone(),
            domainname: String::new(),
            sysctl: Default::default(),
            autostop: false,
        };
        let woken = podsock::wake(spare.shim.dir(), identity).await;
        self.refill();
        match woken {
            Ok(()) => Some((spare.id, spare.shim, spare.endpoint)),
            Err(error) => {
                tracing::warn!(spare = spare.id, error = %error.report(), "a VM kept ready is of no use");
                self.discard(spare).await;
                None
            }
        }
    }

    /// Makes spares in the background as far as they lack.
    pub(crate) fn refill(self: &Arc<Self>) {
        if !self.pool.lacks() {
            return;
        }
        let Ok(refilling) = self.pool.refilling.clone().try_lock_owned() else { return };
        let shared = self.clone();
        tokio::spawn(async move {
            let _refilling = refilling;
            tokio::time::sleep(QUIET).await;
            while shared.pool.lacks() {
                match shared.make_spare().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(error = %error.report(), "cannot keep a VM ready");
                        break;
                    }
                }
            }
        });
    }

    /// Ends all spares: the daemon is ending.
    pub(crate) async fn drain_pool(&self) {
        let spares = {
            let mut spares = self.pool.spares();
            spares.closed = true;
            let _ = self.pool.ending.set(());
            let reserved = std::mem::take(&mut spares.reserved);
            spares.ready.drain(..).chain(reserved.into_values()).collect::<Vec<_>>()
        };
        futures::future::join_all(spares.into_iter().map(|spare| self.discard(spare))).await;
        // One that is being made is ended by its maker as soon as it is there.
        let _ = tokio::time::timeout(BOOT_TIMEOUT, self.pool.refilling.lock()).await;
    }

    async fn discard(&self, spare: Spare) {
        self.clear_runtime(&spare.id, spare.endpoint).await;
    }

    /// Makes one more spare; `false` where there is no template yet.
    async fn make_spare(self: &Arc<Self>) -> Result<bool> {
        let engine = Engine { shared: self.clone() };
        if self.pool.spares().closed || engine.templates().await?.is_empty() {
            return Ok(false);
        }
        // On a host that has become full they wait for the next start.
        let Ok(_room) = self.admission.admit() else { return Ok(false) };
        let id = ids::pod_id();
        let options = PodOptions { hostname: id.clone(), ..default_kind(self.accelerated())? };
        make_pod_dir(&self.config.places.pod(&id))?;
        let endpoint = match self.attach_network(&id, &options).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                self.clear_runtime(&id, None).await;
                return Err(error);
            }
        };
        let brought_up = tokio::select! {
            biased;
            _ = self.pool.ending.wait() => Ok(None),
            brought_up = self.bring_up_spare(&id, options, endpoint.clone()) => brought_up,
        };
        match brought_up {
            Ok(Some((shim, config))) => {
                self.keep(Spare { id, shim, endpoint, config }).await;
                Ok(true)
            }
            other => {
                self.clear_runtime(&id, endpoint).await;
                other.map(|_| false)
            }
        }
    }

    /// Puts a spare into the pool, unless the daemon is ending.
    async fn keep(&self, spare: Spare) {
        let too_late = {
            let mut spares = self.pool.spares();
            if spares.closed {
                Some(spare)
            } else {
                spares.ready.push(spare);
                None
            }
        };
        if let Some(spare) = too_late {
            self.discard(spare).await;
        }
    }

    /// Clones a VM, has it rehearse, and lets it rest; `None` where it is no clone.
    async fn bring_up_spare(
        self: &Arc<Self>,
        id: &str,
        options: PodOptions,
        endpoint: Option<Endpoint>,
    ) -> Result<Option<(Shim, PodConfig)>> {
        let dir = self.config.places.pod(id);
        let mut config = self.pod_config(dir.clone(), &options, false)?;
        config.interfaces = endpoint.iter().map(interface).collect();
        let shim = Shim::start(&self.shim_program()?, id, &dir).await?;
        shim.configure(&config).await?;
        shim.boot(BOOT_TIMEOUT).await?;
        let state = podsock::inspect(&dir).await?;
        let key = match state.origin {
            Origin::Cloned(key) => key,
            origin => {
                let shared = self.clone();
                tokio::spawn(async move {
                    shared.note_origin(origin, config).await;
                    shared.refill();
                });
                return Ok(None);
            }
        };
        let pod = PodRecord {
            id: id.to_owned(),
            name: None,
            explicit: false,
            created: Timestamp::now(),
            options,
            endpoint,
            slot: 0,
            endpoints: Vec::new(),
            up: true,
            started: None,
        };
        for number in 0..REHEARSALS {
            let rehearsal = self.prepare_rehearsal(&dir, &pod, number).await?;
            let rehearsed = tokio::time::timeout(BOOT_TIMEOUT, rehearsal.run(&shim)).await;
            let rehearsed = rehearsed.unwrap_or_else(|_| {
                Err(EngineError::new(Kind::System, "a rehearsed container does not come to its end"))
            });
            if let Err(error) = rehearsed {
                let (shared, why) = (self.clone(), error.report());
                tokio::spawn(async move {
                    shared.doubt_template(key, &why, config).await;
                    shared.refill();
                });
                return Err(error);
            }
        }
        podsock::rest(&dir).await?;
        Ok(Some((shim, config)))
    }

    /// Makes what a container needs that is run to be rehearsed with.
    async fn prepare_rehearsal(
        self: &Arc<Self>,
        dir: &Path,
        pod: &PodRecord,
        number: usize,
    ) -> Result<Rehearsal> {
        let id = format!("rehearsal{number}");
        let bundle = dir.join(&id);
        let failed = |error| EngineError::system("cannot prepare a rehearsal", error);
        tokio::fs::create_dir(&bundle).await.map_err(failed)?;
        let writable = bundle.join("rw.ext4");
        let layer = self.layers.create(&writable, self.config.storage_size, Journal::Kept);
        let (disk, created) = tokio::join!(self.rehearsal_disk(), layer);
        created?;
        let layers = [Layer::read_only(disk?), Layer::Writable { image: writable, cached: true }];
        let mut options = ContainerOptions {
            cmd: Some(vec![PROGRAM.to_owned()]),
            network: NetworkMode::Bridge,
            ..Default::default()
        };
        validate::check(&mut options)?;
        let record = ContainerRecord {
            id: id.clone(),
            name: id.clone(),
            created: Timestamp::now(),
            image_id: String::new(),
            pod: pod.id.clone(),
            options,
            state: State::default(),
        };
        let text = serde_json::to_vec(&spec::build(&record, &pod.options)?)
            .map_err(|error| EngineError::system("cannot encode the runtime specification", error))?;
        tokio::fs::write(bundle.join("config.json"), text).await.map_err(failed)?;
        let engine = Engine { shared: self.clone() };
        let config =
            ContainerConfig { files: names::files(&engine, &record, pod).await?, ..Default::default() };
        Ok(Rehearsal { id, bundle, layers, config })
    }

    /// The disk that rehearsals run from, made at first use.
    async fn rehearsal_disk(&self) -> Result<PathBuf> {
        let path = self.config.places.cache().join(format!("rehearsal-v{REHEARSAL_VERSION}.erofs"));
        let made = path.clone();
        tokio::task::spawn_blocking(move || -> Result<()> {
            if made.exists() {
                return Ok(());
            }
            let failed = |error| EngineError::system(format!("cannot make {}", made.display()), error);
            let names =
                ["partial", "scratch.partial", "map.partial"].map(|suffix| made.with_extension(suffix));
            let open = |path: &PathBuf| -> std::io::Result<File> {
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
            };
            let disk = open(&names[0]).map_err(failed)?;
            let scratch = (open(&names[1]).map_err(failed)?, open(&names[2]).map_err(failed)?);
            let converted = make_rehearsal_disk(disk, scratch);
            for scratch in &names[1..] {
                let _ = fs::remove_file(scratch);
            }
            converted.map_err(|error| EngineError::system("cannot make the disk for rehearsals", error))?;
            fs::rename(&names[0], &made).map_err(failed)
        })
        .await
        .map_err(|error| EngineError::system("the disk for rehearsals: work ended early", error))??;
        Ok(path)
    }
}

/// A container that is run to be rehearsed with.
struct Rehearsal {
    id: String,
    bundle: PathBuf,
    layers: [Layer; 2],
    config: ContainerConfig,
}

impl Rehearsal {
    /// Runs it from its making to its removal.
    async fn run(&self, shim: &Shim) -> Result<()> {
        shim.create(&self.id, &self.bundle, &self.layers, false, &self.config).await?;
        shim.start_task(&self.id, "").await?;
        let exit = shim.wait(&self.id, "").await?;
        if exit.code != 0 {
            let why = format!("a rehearsed container ended with exit code {}", exit.code);
            return Err(EngineError::new(Kind::System, why));
        }
        shim.delete(&self.id, "").await?;
        tokio::fs::remove_dir_all(&self.bundle)
            .await
            .map_err(|error| EngineError::system("cannot clear away a rehearsal", error))
    }
}

/// Makes the disk that rehearsals run from: one program, which writes a line and ends.
fn make_rehearsal_disk(disk: File, scratch: (File, File)) -> std::result::Result<(), LayerError> {
    hyper_image::disk_of_file(PROGRAM.trim_start_matches('/'), 0o755, &program(), disk, scratch)
}

/// An ELF executable for x86-64: `write(1, "\n", 1); _exit(0)`.
fn program() -> Vec<u8> {
    /// Where it is loaded.
    const BASE: u64 = 0x40_0000;
    /// File header and one program header.
    const HEADERS: usize = 64 + 56;
    let code: &[u8] = &[
        0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0xbe, 0, 0, 0, 0, // mov esi, the line end's address
        0xba, 1, 0, 0, 0, // mov edx, 1
        0x0f, 0x05, // syscall
        0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
        0x31, 0xff, // xor edi, edi
        0x0f, 0x05, // syscall
        b'\n',
    ];
    let size = (HEADERS + code.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    half(&mut elf, &[2, 62]);
    elf.extend(1_u32.to_le_bytes());
    for value in [BASE + HEADERS as u64, 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    half(&mut elf, &[64, 56, 1, 64, 0, 0]);
    // One segment, readable and executable: the whole file.
    elf.extend(1_u32.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    for value in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    let line_end = (BASE + size - 1) as u32;
    elf[HEADERS + 11..HEADERS + 15].copy_from_slice(&line_end.to_le_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::TemplateUse;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn rehearsed_program_writes_a_line_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rehearse");
        fs::write(&path, program()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"\n");
    }

    #[test]
    fn rehearsal_is_a_sound_layer() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap()
        };
        make_rehearsal_disk(open("disk"), (open("a"), open("b"))).unwrap();
        let disk = fs::read(dir.path().join("disk")).unwrap();
        // EROFS_SUPER_MAGIC_V1, and the program is in it.
        assert_eq!(disk[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        assert!(disk.windows(program().len()).any(|window| window == program()));
    }

    #[test]
    fn only_pods_of_the_default_kind_take_a_spare() {
        let options = PodOptions {
            vcpus: size::vcpus(0, false).unwrap(),
            memory_mib: size::DEFAULT_MEMORY_MIB,
            hostname: "any".to_owned(),
            domainname: String::new(),
            sysctl: Default::default(),
            network: true,
            mac: None,
            networks: Vec::new(),
            kernel: None,
            hypervisor: None,
            template: TemplateUse::Auto,
            share_pids: false,
            kernel_args: Vec::new(),
            names: Default::default(),
            files: Default::default(),
            labels: Default::default(),
        };
        assert!(suits(&options, false));
        for other in [
            PodOptions { memory_mib: 1024, ..options.clone() },
            PodOptions { vcpus: 3, ..options.clone() },
            PodOptions { share_pids: true, ..options.clone() },
            PodOptions { network: false, ..options.clone() },
            PodOptions { kernel: Some("/k".to_owned()), ..options.clone() },
            PodOptions { template: TemplateUse::Never, ..options.clone() },
        ] {
            assert!(!suits(&other, false), "{other:?}");
        }
    }
}
