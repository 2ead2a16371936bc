//! Which logical units are taken, and the commands that plug and unplug disks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::argv::{FIRST_DISK_SET, SCSI};
use super::qmp::Command;
use crate::config::{DiskAddress, DiskConfig};
use crate::error::VmError;

/// Most disks at a time: overlayfs takes at most 500 lower layers, and a pod has several containers; virtio-scsi has
/// 16384 units on a target.
pub const DISKS_MAX: u16 = 4096;

/// Logical units of the one target. Numbers are given in turn, so that one just freed is not used again before
/// the guest has noticed that its disk is gone.
#[derive(Debug, Default)]
pub struct Units {
    taken: BTreeSet<u16>,
    next: u16,
}

impl Units {
    /// Takes `count` units, or none.
    pub fn take(&mut self, count: usize) -> Result<Vec<u16>, VmError> {
        if self.taken.len() + count > usize::from(DISKS_MAX) {
            return Err(VmError::Full(format!("a VM has at most {DISKS_MAX} disks")));
        }
        let mut units = Vec::with_capacity(count);
        while units.len() < count {
            let unit = self.next;
            self.next = (self.next + 1) % DISKS_MAX;
            if self.taken.insert(unit) {
                units.push(unit);
            }
        }
        Ok(units)
    }

    /// Gives one back; whether it was taken.
    pub fn give(&mut self, unit: u16) -> bool {
        self.taken.remove(&unit)
    }

    /// Whether it is taken.
    pub fn has(&self, unit: u16) -> bool {
        self.taken.contains(&unit)
    }
}

/// The address of a unit.
pub fn address(unit: u16) -> DiskAddress {
    DiskAddress::Scsi { target: 0, lun: unit }
}

/// The unit at an address.
pub fn unit(address: DiskAddress) -> Result<u16, VmError> {
    match address {
        DiskAddress::Scsi { target: 0, lun } => Ok(lun),
        DiskAddress::Scsi { target, .. } => {
            Err(VmError::Address(format!("there is no SCSI target {target}")))
        }
    }
}

/// Identifier of a disk's device in QEMU.
pub fn device_id(unit: u16) -> String {
    format!("d{unit}")
}

fn node_name(unit: u16) -> String {
    format!("i{unit}")
}

fn descriptor_set(unit: u16) -> u64 {
    FIRST_DISK_SET + u64::from(unit)
}

/// The commands that plug a disk. They are as short as can be: QEMU reads its control socket byte by byte, each a turn
/// of its main loop (measured: 7 µs, and several times that while the guest boots).
pub fn plug(unit: u16, disk: DiskConfig) -> Vec<Command> {
    let set = descriptor_set(unit);
    let add =
        Command { execute: "add-fd", arguments: json!({ "fdset-id": set }), descriptor: Some(disk.image) };
    let mut file = json!({ "driver": "file", "filename": format!("/dev/fdset/{set}") });
    let mut image = json!({ "driver": "raw", "node-name": node_name(unit) });
    let mut device = json!({
        "driver": "scsi-hd",
        "bus": format!("{SCSI}.0"),
        "id": device_id(unit),
        "drive": node_name(unit),
        "scsi-id": 0,
        "lun": unit,
    });
    if disk.read_only {
        file["read-only"] = true.into();
        image["read-only"] = true.into();
    } else {
        // Blocks that the guest's filesystem frees become holes.
        file["discard"] = "unmap".into();
        image["discard"] = "unmap".into();
        // QEMU would stop the VM when the host's disk is full; the guest's filesystem knows better what to do.
        device["werror"] = "report".into();
    }
    image["file"] = file;
    vec![add, Command::new("blockdev-add", image), Command::new("device_add", device)]
}

/// Takes the device away from the guest.
pub fn remove_device(unit: u16) -> Command {
    Command::new("device_del", json!({ "id": device_id(unit) }))
}

/// Closes the image.
pub fn close_image(unit: u16) -> Command {
    Command::new("blockdev-del", json!({ "node-name": node_name(unit) }))
}

/// Closes the descriptor that was passed; QEMU has made a duplicate for the image.
pub fn close_set(unit: u16) -> Command {
    Command::new("remove-fd", json!({ "fdset-id": descriptor_set(unit) }))
}

/// Whether an event says that a unit's device is gone.
pub fn is_removal(data: &Value, unit: u16) -> bool {
    data.get("device").and_then(Value::as_str) == Some(&device_id(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_unit_is_not_given_again_at_once() {
        let mut units = Units::default();
        assert_eq!(units.take(3).unwrap(), [0, 1, 2]);
        assert!(units.give(1));
        assert!(!units.give(1));
        assert_eq!(units.take(1).unwrap(), [3]);
    }

    #[test]
    fn units_are_all_or_none_and_come_round_again() {
        let mut units = Units::default();
        units.take(4000).unwrap();
        assert!(matches!(units.take(97), Err(VmError::Full(_))));
        units.take(96).unwrap();
        assert!(units.take(1).is_err());
        units.give(17);
        assert_eq!(units.take(1).unwrap(), [17]);
    }
}
