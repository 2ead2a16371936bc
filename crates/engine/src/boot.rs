//! A pod's VM: booting it for its first container, ending it after its last.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_network::Endpoint;
use hyper_protocol::shim::{Phase as Step, PodConfig, TapInterface, files};

use crate::clock::Timestamp;
use crate::db::Durability;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Result};
use crate::networks::{NETWORKS_MAX, NETWORKS_WITH_SHARE_MAX};
use crate::options::{PodOptions, PodRecord};
use crate::registry::{Pod, Vm};
use crate::shim::{self, Shim};

/// How long a guest may take until its agent answers: under pure emulation on a loaded host a boot of a second
/// has been seen to take twenty.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Name of the pod's interface in the guest, as docker's containers have it.
const INTERFACE: &str = "eth0";

/// Lines of a failed guest's console that the user is shown.
const CONSOLE_LINES: usize = 12;

/// Most bytes of the console that are looked at for them.
const CONSOLE_TAIL: u64 = 8 << 10;

/// A VM that has come up.
struct Booted {
    shim: Shim,
    /// How the making of a container went meanwhile.
    made: Result<()>,
    config: PodConfig,
}

/// When steps began and ended, for the timeline.
#[derive(Debug, Default)]
pub(crate) struct Steps(std::sync::Mutex<Vec<Step>>);

impl Steps {
    /// Runs a step and notes when it began and ended.
    pub(crate) async fn time<T>(&self, name: &str, work: impl Future<Output = T>) -> T {
        let start_us = Timestamp::now().0 / 1000;
        let result = work.await;
        let step = Step {
            name: name.to_owned(),
            start_us,
            end_us: Timestamp::now().0 / 1000,
            clock: "host".to_owned(),
        };
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(step);
        result
    }

    pub(crate) fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Engine {
    /// Makes a container a member of its pod, whose VM is booted if there is none, and has `make` make it there:
    /// while the VM boots, where it does. The second `make` is for the VM that replaces one kept ready which is lost
    /// before anything is in it.
    pub(crate) async fn enter_pod(
        &self,
        pod: &Arc<Pod>,
        container: &str,
        steps: &Steps,
        make: [impl AsyncFnOnce(&Shim) -> Result<()>; 2],
    ) -> Result<Arc<Shim>> {
        let mut vm = pod.vm.lock().await;
        if vm.members.is_empty()
            && let Some(shim) = vm.shim.clone()
            && !vm_runs(&shim).await
        {
            self.shared.end_vm(pod, &mut vm).await;
        }
        if let Some(shim) = vm.shim.clone() {
            // A member before it is made: the VM must not end meanwhile.
            vm.members.insert(container.to_owned());
            drop(vm);
            let [make, _] = make;
            return make(&shim).await.map(|()| shim);
        }
        let Booted { shim, made, config } = self.shared.boot_vm(pod, steps, make).await?;
        let shim = Arc::new(shim);
        pod.set_shim(&mut vm, Some(shim.clone()));
        vm.members.insert(container.to_owned());
        let record = pod.record();
        self.shared.pod_event(&pod.id, record.name.as_deref(), "start");
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Ok(state) = crate::podsock::inspect(&config.dir).await {
                if let Some(why) = state.unheard {
                    tracing::warn!(dir = %config.dir.display(), why, "nothing was heard of a guest, and it was booted again");
                }
                let learning = shared.clone();
                let learn = move || learning.learn_accelerator(&state.accelerator);
                let _ = tokio::task::spawn_blocking(learn).await;
                shared.note_origin(state.origin, config).await;
            }
            shared.refill();
        });
        made.map(|()| shim)
    }

    /// Ends a container's membership; a pod not made by name ends with its last member.
    pub(crate) async fn leave_pod(&self, pod: &Arc<Pod>, container: &str) {
        let mut vm = pod.vm.lock().await;
        vm.members.remove(container);
        if !vm.members.is_empty() {
            return;
        }
        let gone = match &vm.shim {
            Some(shim) => pod.lock().explicit && vm_runs(shim).await,
            None => true,
        };
        if !gone {
            self.shared.end_vm(pod, &mut vm).await;
        }
    }

    /// As [`Engine::leave_pod`], for a container of which nothing is kept: a VM that ends with it is not shut down, its
    /// plug is pulled.
    pub(crate) async fn drop_from_pod(&self, pod: &Arc<Pod>, container: &str) {
        let mut vm = pod.vm.lock().await;
        let ends = vm.members.len() <= 1 && vm.members.contains(container) && !pod.lock().explicit;
        // Other containers of the pod may have files in it that are kept.
        let others = self.shared.registry.in_pod(&pod.id).iter().any(|other| other.id != container);
        if ends && !others {
            vm.members.clear();
            pod.set_shim(&mut vm, None);
            self.shared.clear_pod(pod).await;
            return;
        }
        if let Some(shim) = vm.shim.clone()
            && let Err(error) = shim.delete(container, "").await
        {
            tracing::debug!(container, error = %error.report(), "cannot delete a task");
        }
        drop(vm);
        self.leave_pod(pod, container).await;
    }
}

/// Whether the VM behind a shim is still there: a pod that emptied may have been ended by its shim.
pub(crate) async fn vm_runs(shim: &Shim) -> bool {
    matches!(crate::podsock::inspect(shim.dir()).await, Ok(state) if state.vmm_pid.is_some())
}

impl Shared {
    /// Boots a VM for the pod. Whatever fails, nothing is left of the attempt.
    async fn boot_vm(
        &self,
        pod: &Arc<Pod>,
        steps: &Steps,
        make: [impl AsyncFnOnce(&Shim) -> Result<()>; 2],
    ) -> Result<Booted> {
        let booted = self.try_boot(pod, steps, make).await;
        if booted.is_err() {
            self.clear_pod(pod).await;
        }
        booted
    }

    async fn try_boot(
        &self,
        pod: &Arc<Pod>,
        steps: &Steps,
        make: [impl AsyncFnOnce(&Shim) -> Result<()>; 2],
    ) -> Result<Booted> {
        let shares =
            self.registry.in_pod(&pod.id).iter().any(|member| member.lock().options.mounts.needs_share());
        // A VM that was kept ready cannot share anything.
        let woken = if shares { None } else { self.wake(pod, steps).await };
        let [make, again] = make;
        let make = if let Some((shim, config)) = woken {
            let made = make(&shim).await;
            if made.is_ok() || vm_runs(&shim).await {
                return Ok(Booted { shim, made, config });
            }
            // It was lost before there was anything in it: as good as never woken.
            tracing::warn!(pod = pod.id, "a VM kept ready ended before its container was made");
            drop(shim);
            let endpoint = {
                let mut record = pod.lock();
                record.up = false;
                record.endpoint.take()
            };
            self.clear_runtime(&pod.id, endpoint).await;
            again
        } else {
            make
        };
        let _room = self.admission.admit()?;
        let _turn = steps.time("wait for a turn", self.admission.turn()).await;
        let PodRecord { options, explicit, .. } = pod.record();
        let dir = self.config.places.pod(&pod.id);
        let mut config = self.pod_config(dir.clone(), &options, !explicit)?;
        let program = self.shim_program()?;
        make_pod_dir(&dir)?;
        let shim = steps.time("start shim", Shim::start(&program, &pod.id, &dir));
        let endpoint = steps.time("reserve address", self.reserve_address(&pod.id, &options));
        let endpoints = self.attach_networks(&pod.id, &options);
        let (shim, endpoint, endpoints) = tokio::join!(shim, endpoint, endpoints);
        {
            let mut record = pod.lock();
            // Given back whatever fails from here on.
            record.endpoint = endpoint.as_ref().ok().cloned().flatten();
            record.slot = 0;
            record.endpoints = endpoints.as_ref().ok().cloned().unwrap_or_default();
        }
        let (shim, _, _) = (shim?, endpoint?, endpoints?);
        {
            let mut record = pod.lock();
            record.up = true;
            record.started = Some(Timestamp::now());
        }
        let record = pod.record();
        config.interfaces = interfaces(&record);
        config.share = shares;
        if shares {
            config.nic_slots = config.nic_slots.min(NETWORKS_WITH_SHARE_MAX);
        }
        let configured = shim.configure(&config).await;
        let booted = async {
            configured?;
            steps.time("boot pod", shim.boot(BOOT_TIMEOUT)).await
        };
        let attached = steps.time("attach network", self.attach_network(&pod.id, &options));
        let written = steps.time("write pod record", self.db.put_pod(record, Durability::Written));
        let (booted, attached, written, made) = tokio::join!(booted, attached, written, make(&shim));
        if let Err(error) = attached.map(drop).and(booted).and(written) {
            let console = console_tail(&dir);
            shim.shutdown().await;
            return Err(with_console(error, &console));
        }
        Ok(Booted { shim, made, config })
    }

    /// What the shim is told of a pod with these options, apart from its interfaces.
    pub(crate) fn pod_config(&self, dir: PathBuf, options: &PodOptions, autostop: bool) -> Result<PodConfig> {
        let places = &self.config.places;
        Ok(PodConfig {
            dir,
            kernel: match &options.kernel {
                Some(path) => PathBuf::from(path),
                None => places.guest_file("vmlinux")?,
            },
            initramfs: places.guest_file("initramfs.cpio")?,
            kernel_args: options.kernel_args.clone(),
            hypervisor: options.hypervisor.clone(),
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            hostname: options.hostname.clone(),
            domainname: options.domainname.clone(),
            sysctl: options.sysctl.clone(),
            interfaces: Vec::new(),
            nic_slots: match options.network || !options.networks.is_empty() {
                true => NETWORKS_MAX,
                false => 0,
            },
            autostop,
            boot_timeout_ms: BOOT_TIMEOUT.as_millis() as u64,
            templates: self.templates.directory_for(options.template),
            share: false,
        })
    }

    async fn reserve_address(&self, pod: &str, options: &PodOptions) -> Result<Option<Endpoint>> {
        if !options.network {
            return Ok(None);
        }
        let network = self.network().await?;
        let mac = options.mac.as_ref().map(|mac| mac.parse()).transpose();
        let mac = mac.map_err(|error| EngineError::system("cannot use the MAC address", error))?;
        Ok(Some(network.reserve(pod, mac).await?))
    }

    pub(crate) async fn attach_network(&self, pod: &str, options: &PodOptions) -> Result<Option<Endpoint>> {
        if !options.network {
            return Ok(None);
        }
        let network = self.network().await?;
        Ok(Some(network.attach(pod).await?))
    }

    pub(crate) async fn detach_network(&self, pod: &str, endpoint: Option<Endpoint>) {
        let Some(endpoint) = endpoint else { return };
        let detached = match self.network().await {
            Ok(network) => network.detach(&endpoint).await.map_err(EngineError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = detached {
            tracing::warn!(pod, error = %error.report(), "cannot detach the pod from the network");
        }
    }

    /// Ends the pod's VM and gives back all it had.
    pub(crate) async fn end_vm(&self, pod: &Arc<Pod>, vm: &mut Vm) {
        if let Some(shim) = vm.shim.clone() {
            shim.shutdown().await;
            let name = pod.lock().name.clone();
            self.pod_event(&pod.id, name.as_deref(), "stop");
        }
        pod.set_shim(vm, None);
        self.clear_pod(pod).await;
    }

    /// Gives back what is on the host under a pod's id.
    pub(crate) async fn clear_runtime(&self, id: &str, endpoint: Option<Endpoint>) {
        let began = Instant::now();
        let dir = self.config.places.pod(id);
        // A tap can go before the VM that holds it.
        tokio::join!(shim::kill_process(id, &dir), self.detach_network(id, endpoint));
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = id, %error, "cannot remove the pod's runtime directory");
        }
        tracing::debug!(pod = id, took = ?began.elapsed(), "cleared a pod");
    }

    /// Gives back what a pod without a VM has left: its shim's process, its directory, its place in the network.
    pub(crate) async fn clear_pod(&self, pod: &Arc<Pod>) {
        let (endpoint, endpoints) = {
            let mut record = pod.lock();
            (record.endpoint.take(), std::mem::take(&mut record.endpoints))
        };
        self.clear_runtime(&pod.id, endpoint).await;
        self.detach_networks(&pod.id, endpoints).await;
        let known = self.registry.pod(&pod.id).is_ok();
        let goes = self.registry.in_pod(&pod.id).iter().all(|container| container.lock().options.auto_remove);
        let explicit = pod.lock().explicit;
        if !std::mem::take(&mut pod.lock().up) || !known || (goes && !explicit) {
            return;
        }
        if let Err(error) = self.db.put_pod(pod.record(), Durability::Written).await {
            tracing::warn!(pod = pod.id, error = %error.report(), "cannot record the pod's end");
        }
    }
}

pub(crate) fn make_pod_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.exists() {
        let _ = std::fs::remove_dir_all(dir);
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(|source| {
        EngineError::system(format!("cannot make runtime directory {}", dir.display()), source)
    })
}

/// A pod's interfaces, of which one has the default route.
pub(crate) fn interfaces(pod: &PodRecord) -> Vec<TapInterface> {
    let elsewhere = pod.endpoints.iter().any(|place| place.gateway);
    let first = pod.endpoint.iter().map(|endpoint| (pod.slot, endpoint, !elsewhere));
    let others = pod.endpoints.iter().map(|place| (place.slot, &place.endpoint, place.gateway));
    let made = first.chain(others).map(|(slot, endpoint, gateway)| {
        let mut interface = interface(endpoint);
        interface.slot = slot;
        interface.name = format!("eth{slot}");
        if !gateway {
            interface.gateways.clear();
        }
        interface
    });
    made.collect()
}

pub(crate) fn interface(endpoint: &Endpoint) -> TapInterface {
    TapInterface {
        slot: 0,
        tap: endpoint.tap.clone(),
        name: INTERFACE.to_owned(),
        mac: endpoint.mac.to_string(),
        addresses: std::iter::once((endpoint.address.addr().into(), endpoint.address.prefix_len()))
            .chain(endpoint.address6.map(|address| (address.addr().into(), address.prefix_len())))
            .collect(),
        gateways: std::iter::once(endpoint.gateway.into()).chain(endpoint.gateway6.map(IpAddr::V6)).collect(),
        mtu: endpoint.mtu,
    }
}

/// The last lines of a guest's console.
fn console_tail(dir: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(dir.join(files::CONSOLE))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(CONSOLE_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().unwrap_or_default();
    let text: String =
        String::from_utf8_lossy(&text).chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// Adds the console's last lines, unless the shim's error shows them already.
fn with_console(mut error: EngineError, console: &str) -> EngineError {
    let last = console.lines().last().unwrap_or_default();
    if !last.is_empty() && !error.message.contains(last) {
        error.message = format!("{}\nlast lines of the guest's console:\n{console}", error.message);
    }
    error
}
