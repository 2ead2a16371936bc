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
    format!("disk{unit}")
}

fn node_name(unit: u16) -> String {
    format!("image{unit}")
}

fn descriptor_set(unit: u16) -> u64 {
    FIRST_DISK_SET + u64::from(unit)
}

/// The commands that plug a disk. QEMU duplicates the descriptor for itself, so the passed one is closed at once.
pub fn plug(unit: u16, disk: DiskConfig) -> Vec<Command> {
    let set = descriptor_set(unit);
    let node = node_name(unit);
    let add =
        Command { execute: "add-fd", arguments: json!({ "fdset-id": set }), descriptor: Some(disk.image) };
    let open = json!({
        "driver": "raw",
        "node-name": node,
        "read-only": disk.read_only,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": format!("/dev/fdset/{set}"),
            "read-only": disk.read_only,
            "auto-read-only": false,
            "discard": "unmap",
        },
    });
    let device = json!({
        "driver": "scsi-hd",
        "bus": format!("{SCSI}.0"),
        "id": device_id(unit),
        "drive": node,
        "channel": 0,
        "scsi-id": 0,
        "lun": unit,
    });
    vec![add, Command::new("blockdev-add", open), Command::new("device_add", device), close_set(unit)]
}

/// Takes the device away from the guest.
pub fn remove_device(unit: u16) -> Command {
    Command::new("device_del", json!({ "id": device_id(unit) }))
}

/// Closes the image.
pub fn close_image(unit: u16) -> Command {
    Command::new("blockdev-del", json!({ "node-name": node_name(unit) }))
}

/// Closes the descriptor that was passed.
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
