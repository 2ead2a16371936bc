//! A hypervisor that keeps the contract in memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use hyper_vm::{
    Abilities, Accelerator, DiskAddress, DiskConfig, ExitKind, Health, Hypervisor, LaunchError, Pausing,
    Saving, Step, Vm, VmConfig, VmError, VmExit, VmInfo, Wire,
};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// The driver.
pub struct Fake;

#[async_trait]
impl Hypervisor for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            disk_plug: Some(64),
            disk_files: None,
            nic_plug: Some(4),
            pause: false,
            snapshot: false,
            memory_resize: false,
            vcpu_resize: false,
            share: false,
            balloon: false,
        }
    }

    async fn health(&self) -> Health {
        Health {
            usable: true,
            program: None,
            accelerator: Accelerator::Tcg,
            reason: "nothing is executed".into(),
            remarks: vec![],
        }
    }

    async fn launch(&self, config: VmConfig) -> Result<Arc<dyn Vm>, LaunchError> {
        if config.memory_mib < VmConfig::MEMORY_MIN_MIB {
            return Err(LaunchError::Config("too little memory".into()));
        }
        if config.share.is_some() {
            return Err(LaunchError::Config("this driver has no ability \"share\"".into()));
        }
        if config.wire.is_some() && config.nic_slots == 0 {
            return Err(LaunchError::Config("there is no NIC slot to wire".into()));
        }
        hyper_vm::check_kernel(&config.kernel)
            .map_err(|source| LaunchError::Kernel { path: config.kernel.clone(), source })?;
        let now = SystemTime::now();
        let info = VmInfo {
            hypervisor: "fake",
            version: "1".into(),
            accelerator: Accelerator::Tcg,
            pid: std::process::id(),
            steps: vec![Step { name: "launch", start: now, end: now }],
        };
        let wired = config.wire.is_some().then_some(0);
        let nics = wired.filter(|_| matches!(config.wire, Some(Wire::Tap(_)))).into_iter().collect();
        let state = State { nic_slots: config.nic_slots, wired, nics, ..State::default() };
        Ok(Arc::new(FakeVm { info, state: state.into(), exit: watch::channel(None).0 }))
    }

    fn template_kind(&self, _config: &VmConfig) -> Option<String> {
        None
    }
}

#[derive(Default)]
struct State {
    disks: BTreeSet<u16>,
    next: u16,
    nic_slots: u32,
    wired: Option<u32>,
    nics: BTreeSet<u32>,
    guest: Option<UnixStream>,
}

struct FakeVm {
    info: VmInfo,
    state: Mutex<State>,
    exit: watch::Sender<Option<VmExit>>,
}

impl FakeVm {
    fn alive(&self) -> Result<(), VmError> {
        match &*self.exit.borrow() {
            Some(exit) => Err(VmError::Gone(exit.reason.clone())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Vm for FakeVm {
    fn info(&self) -> &VmInfo {
        &self.info
    }

    async fn link(&self) -> Result<UnixStream, VmError> {
        self.alive()?;
        let (host, guest) = UnixStream::pair().unwrap();
        self.state.lock().unwrap().guest = Some(guest);
        Ok(host)
    }

    async fn plug_disks(&self, disks: Vec<DiskConfig>) -> Result<Vec<DiskAddress>, VmError> {
        self.alive()?;
        if disks.iter().any(|disk| !disk.more.is_empty()) {
            return Err(VmError::Unable(Abilities::DISK_FILES));
        }
        for disk in &disks {
            let metadata = File::from(disk.image.try_clone().unwrap()).metadata().unwrap();
            if !metadata.is_file() || metadata.len() == 0 {
                return Err(VmError::Address("no image".into()));
            }
        }
        let mut state = self.state.lock().unwrap();
        if state.disks.len() + disks.len() > 64 {
            return Err(VmError::Full("64 disks at most".into()));
        }
        let mut addresses = Vec::new();
        for _ in disks {
            let lun = state.next;
            state.next += 1;
            state.disks.insert(lun);
            addresses.push(DiskAddress::Scsi { target: 0, lun });
        }
        Ok(addresses)
    }

    async fn unplug_disk(&self, address: DiskAddress) -> Result<(), VmError> {
        self.alive()?;
        let DiskAddress::Scsi { lun, .. } = address;
        match self.state.lock().unwrap().disks.remove(&lun) {
            true => Ok(()),
            false => Err(VmError::Address("no such disk".into())),
        }
    }

    async fn plug_nic(&self, slot: u32, _tap: OwnedFd) -> Result<(), VmError> {
        self.alive()?;
        let mut state = self.state.lock().unwrap();
        if slot >= state.nic_slots || Some(slot) == state.wired || !state.nics.insert(slot) {
            return Err(VmError::Address("no such slot".into()));
        }
        Ok(())
    }

    async fn unplug_nic(&self, slot: u32) -> Result<(), VmError> {
        self.alive()?;
        match self.state.lock().unwrap().nics.remove(&slot) {
            true => Ok(()),
            false => Err(VmError::Address("not connected".into())),
        }
    }

    async fn kill(&self) {
        let exit = VmExit { kind: ExitKind::Killed, reason: "the VM was stopped".into() };
        self.exit.send_if_modified(|now| now.is_none() && now.replace(exit).is_none());
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
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
