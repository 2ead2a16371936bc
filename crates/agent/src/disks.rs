//! Disks as the guest finds them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_protocol::agent::DiskAddress;

use crate::failure::{Attempt, Failed};
use crate::uevent::until;

/// How long a disk may take from being plugged to being found: milliseconds, but the host may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A plugged disk announces itself; only when it has not by then is the bus asked, and again at this pace.
const SCAN_AFTER: Duration = Duration::from_millis(50);

/// Where disks are found. The product's answer is [`Sysfs`].
pub trait Disks {
    /// The device node of a disk, if it is there.
    ///
    /// # Errors
    /// The machine cannot be asked.
    fn find(&self, address: &DiskAddress) -> io::Result<Option<PathBuf>>;

    /// Asks the bus to look again for a disk that has not announced itself.
    fn scan(&self, address: &DiskAddress);
}

/// Disks of this machine, by `/sys` and `/dev`.
#[derive(Debug, Default)]
pub struct Sysfs;

impl Disks for Sysfs {
    fn find(&self, address: &DiskAddress) -> io::Result<Option<PathBuf>> {
        let name = match address {
            DiskAddress::Scsi { target, lun } => scsi_block_device(*target, *lun)?,
            DiskAddress::VirtioBlk { serial } => virtio_block_device(serial)?,
        };
        // The node appears a moment before the kernel lets anybody open it (`ENXIO` until then).
        Ok(name.map(|name| Path::new("/dev").join(name)).filter(|node| fs::File::open(node).is_ok()))
    }

    fn scan(&self, address: &DiskAddress) {
        let DiskAddress::Scsi { target, lun } = address else { return };
        for host in fs::read_dir("/sys/class/scsi_host").into_iter().flatten().flatten() {
            // A bus that cannot be asked finds nothing, which the caller tells.
            let _ = fs::write(host.path().join("scan"), format!("0 {target} {lun}"));
        }
    }
}

fn scsi_block_device(target: u16, lun: u16) -> io::Result<Option<String>> {
    for host in fs::read_dir("/sys/class/scsi_host")?.flatten() {
        let host = host.file_name();
        let Some(number) = host.to_str().and_then(|name| name.strip_prefix("host")) else { continue };
        // Hundreds of layers are looked up one by one: the path is known, no directory is searched for it.
        let blocks = format!("/sys/bus/scsi/devices/{number}:0:{target}:{lun}/block");
        if let Some(block) = fs::read_dir(blocks).into_iter().flatten().flatten().next() {
            return Ok(block.file_name().into_string().ok());
        }
    }
    Ok(None)
}

fn virtio_block_device(serial: &str) -> io::Result<Option<String>> {
    for block in fs::read_dir("/sys/block")?.flatten() {
        if fs::read_to_string(block.path().join("serial")).is_ok_and(|found| found.trim_end() == serial) {
            return Ok(block.file_name().into_string().ok());
        }
    }
    Ok(None)
}

/// Waits for a disk and returns its device node.
pub(crate) async fn wait(disks: &dyn Disks, address: &DiskAddress) -> Result<PathBuf, Failed> {
    let mut found = disks.find(address);
    let mut asked = Instant::now();
    until(PATIENCE, || {
        if matches!(found, Ok(None)) && asked.elapsed() >= SCAN_AFTER {
            disks.scan(address);
            asked = Instant::now();
        }
        if matches!(found, Ok(None)) {
            found = disks.find(address);
        }
        !matches!(found, Ok(None))
    })
    .await;
    found
        .attempt(|| format!("look for the disk {address:?}"))?
        .ok_or_else(|| Failed::not_found(format!("no disk {address:?} appeared within {PATIENCE:?}")))
}
