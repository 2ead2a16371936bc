//! Block devices of the host that become disks of a container's VM.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hyper_protocol::agent;
use hyper_protocol::shim::Device;
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;

use crate::disks::Plugged;
use crate::error::ShimError;

/// How long a pod may take to end that has a device: longer than a guest is given to write everything out.
const ENDING: Duration = Duration::from_secs(15);
/// How often it is looked whether it has.
const AGAIN: Duration = Duration::from_millis(20);
/// Most devices of a container.
const DEVICES_MAX: usize = 64;

/// Opens devices for plugging; whether each is only to be read. One to be written is taken for this container alone: it
/// is refused where the host has it mounted or another has it.
///
/// # Errors
/// One does not exist, is no block device, or is taken.
pub async fn open(devices: &[Device]) -> Result<Vec<(OwnedFd, bool)>, ShimError> {
    if devices.len() > DEVICES_MAX {
        return Err(ShimError::Invalid(format!("a container has at most {DEVICES_MAX} devices")));
    }
    let mut opened = Vec::with_capacity(devices.len());
    for device in devices {
        let read_only = !device.access.contains('w');
        opened.push((open_one(device, read_only).await?, read_only));
    }
    Ok(opened)
}

async fn open_one(device: &Device, read_only: bool) -> Result<OwnedFd, ShimError> {
    let path = device.host.display();
    // Of a block device, `O_EXCL` alone asks to be its only user (open(2)).
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR | OFlags::EXCL };
    let begun = Instant::now();
    let descriptor = loop {
        match rustix::fs::open(&device.host, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
            Ok(descriptor) => break descriptor,
            Err(Errno::BUSY) if begun.elapsed() < ENDING => tokio::time::sleep(AGAIN).await,
            Err(Errno::BUSY) => {
                return Err(ShimError::WrongState(format!(
                    "device {path} is in use: the host has it mounted, or another container has it"
                )));
            }
            Err(error) => return Err(ShimError::failed(&format!("cannot open device {path}"), &error)),
        }
    };
    let status = fstat(&descriptor).map_err(|error| ShimError::failed("cannot look at a device", &error))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::BlockDevice => Ok(descriptor),
        _ => Err(ShimError::Invalid(format!("{path} is no block device"))),
    }
}

/// What the agent is told of devices that were plugged.
pub fn to_agent(devices: Vec<Device>, plugged: &Plugged) -> Vec<agent::Device> {
    let told = devices.into_iter().zip(plugged.devices()).map(|(device, address)| agent::Device {
        address,
        path: device.path,
        access: device.access,
        mode: device.mode,
        uid: device.uid,
        gid: device.gid,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_block_device_is_refused() {
        for host in ["/dev/null", "/nosuch", "/etc/passwd"] {
            let device = Device { host: host.into(), access: "r".into(), ..Device::default() };
            assert!(open(&[device]).await.is_err(), "{host}");
        }
    }
}
