//! Which logical units are taken, and the commands that plug and unplug disks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, OFlags};
use serde_json::{Value, json};

use super::argv::{FIRST_DISK_SET, SCSI};
use super::qmp::Command;
use crate::config::{DiskAddress, DiskConfig};
use crate::error::VmError;

/// Most disks at a time: overlayfs takes at most 500 lower layers, and a pod has several containers; virtio-scsi has
/// 16384 units on a target.
pub const DISKS_MAX: u16 = 4096;

/// Most files of a disk: what an image of the most layers that overlayfs takes (500) could need, and the one that
/// says how they belong together. The descriptor that names them is far from the 1 MiB that QEMU reads of one.
pub const DISK_FILES_MAX: u16 = 501;
/// Descriptor sets below this number belong to the command line and to what is opened as a disk's image.
const FIRST_MORE_SET: u64 = FIRST_DISK_SET + DISKS_MAX as u64;

/// Logical units of the one target, with the number of files behind the first of each. Numbers are given in turn, so that one just freed is not used again before
/// the guest has noticed that its disk is gone.
#[derive(Debug, Default)]
pub struct Units {
    taken: BTreeMap<u16, u16>,
    next: u16,
}

impl Units {
    /// Takes a unit for each number of further files, or none.
    pub fn take(&mut self, more: &[u16]) -> Result<Vec<u16>, VmError> {
        if self.taken.len() + more.len() > usize::from(DISKS_MAX) {
            return Err(VmError::Full(format!("a VM has at most {DISKS_MAX} disks")));
        }
        let mut units = Vec::with_capacity(more.len());
        while units.len() < more.len() {
            let unit = self.next;
            self.next = (self.next + 1) % DISKS_MAX;
            if let Entry::Vacant(entry) = self.taken.entry(unit) {
                entry.insert(more[units.len()]);
                units.push(unit);
            }
        }
        Ok(units)
    }

    /// Gives one back; whether it was taken.
    pub fn give(&mut self, unit: u16) -> bool {
        self.taken.remove(&unit).is_some()
    }

    /// How many files there are behind the first of its disk, if it is taken.
    pub fn more(&self, unit: u16) -> Option<u16> {
        self.taken.get(&unit).copied()
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

/// The set of what QEMU opens as the disk's image: its one file, or the descriptor of several.
fn descriptor_set(unit: u16) -> u64 {
    FIRST_DISK_SET + u64::from(unit)
}

/// The set of one of several files.
fn file_set(unit: u16, index: u16) -> u64 {
    FIRST_MORE_SET + u64::from(unit) * u64::from(DISK_FILES_MAX) + u64::from(index)
}

fn add_fd(set: u64, descriptor: OwnedFd) -> Command {
    Command { execute: "add-fd", arguments: json!({ "fdset-id": set }), descriptor: Some(descriptor) }
}

/// A disk with what QEMU needs to open it.
#[derive(Debug)]
pub struct Prepared {
    disk: DiskConfig,
    /// Whether its image is read and written past the host's page cache.
    direct: bool,
    /// For a disk of several files: what says that they are one.
    descriptor: Option<OwnedFd>,
    /// The image is a block device.
    device: bool,
}

impl Prepared {
    /// Prepares a disk for a unit. `sectors` has the length of each of its files.
    pub fn new(unit: u16, disk: DiskConfig, sectors: &[u64]) -> io::Result<Self> {
        let descriptor = match disk.more.is_empty() {
            true => None,
            false => Some(in_memory(descriptor(unit, sectors).as_bytes())?),
        };
        let direct = rustix::fs::fcntl_getfl(&disk.image)?.contains(OFlags::DIRECT);
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&disk.image)?.st_mode);
        Ok(Self { disk, direct, descriptor, device: kind == FileType::BlockDevice })
    }
}

/// What QEMU's VMDK driver reads: a disk of flat extents, one after the other. Each file is opened by QEMU as a file
/// and nothing else, whatever it begins with. There must be no empty line: QEMU would take the next one twice.
fn descriptor(unit: u16, sectors: &[u64]) -> String {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n",
    );
    for (index, sectors) in (0..).zip(sectors) {
        // QEMU skips extents with any other access; what it may do is said of the disk.
        text.push_str(&format!("RW {sectors} FLAT \"/dev/fdset/{}\" 0\n", file_set(unit, index)));
    }
    text
}

/// A file of memory, open for reading alone: QEMU takes a passed descriptor only for the very access it has.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// The commands that plug a disk. They are as short as can be: QEMU reads its control socket byte by byte, each a turn
/// of its main loop (measured: 7 µs, and several times that while the guest boots).
pub fn plug(unit: u16, prepared: Prepared) -> Vec<Command> {
    let Prepared { disk, direct, descriptor, device: of_host } = prepared;
    let set = descriptor_set(unit);
    let driver = if descriptor.is_some() { "vmdk" } else { "raw" };
    let mut commands = Vec::with_capacity(disk.more.len() + 4);
    match descriptor {
        None => commands.push(add_fd(set, disk.image)),
        Some(descriptor) => {
            let files = std::iter::once(disk.image).chain(disk.more);
            commands.extend((0..).zip(files).map(|(index, file)| add_fd(file_set(unit, index), file)));
            commands.push(add_fd(set, descriptor));
        }
    }
    let protocol = if of_host { "host_device" } else { "file" };
    let mut file = json!({ "driver": protocol, "filename": format!("/dev/fdset/{set}") });
    let mut image = json!({ "driver": driver, "node-name": node_name(unit) });
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
        if direct {
            // Else QEMU would take the flag off the descriptor.
            file["cache"] = json!({ "direct": true });
            image["cache"] = json!({ "direct": true });
        }
        // QEMU would stop the VM when the host's disk is full; the guest's filesystem knows better what to do.
        device["werror"] = "report".into();
    }
    image["file"] = file;
    commands.extend([Command::new("blockdev-add", image), Command::new("device_add", device)]);
    commands
}

/// Takes the device away from the guest.
pub fn remove_device(unit: u16) -> Command {
    Command::new("device_del", json!({ "id": device_id(unit) }))
}

/// Closes the image.
pub fn close_image(unit: u16) -> Command {
    Command::new("blockdev-del", json!({ "node-name": node_name(unit) }))
}

/// Closes the descriptors that were passed, also those of `more` further files; QEMU has made duplicates.
pub fn close_sets(unit: u16, more: u16) -> Vec<Command> {
    let files = if more > 0 { more + 1 } else { 0 };
    let sets = std::iter::once(descriptor_set(unit)).chain((0..files).map(|index| file_set(unit, index)));
    sets.map(|set| Command::new("remove-fd", json!({ "fdset-id": set }))).collect()
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
        assert_eq!(units.take(&[0, 7, 0]).unwrap(), [0, 1, 2]);
        assert_eq!((units.more(1), units.more(3)), (Some(7), None));
        assert!(units.give(1));
        assert!(!units.give(1));
        assert_eq!(units.take(&[0]).unwrap(), [3]);
    }

    #[test]
    fn units_are_all_or_none_and_come_round_again() {
        let mut units = Units::default();
        units.take(&[0; 4000]).unwrap();
        assert!(matches!(units.take(&[0; 97]), Err(VmError::Full(_))));
        units.take(&[0; 96]).unwrap();
        assert!(units.take(&[0]).is_err());
        units.give(17);
        assert_eq!(units.take(&[0]).unwrap(), [17]);
    }

    #[test]
    fn image_opened_past_the_page_cache_stays_so() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        for direct in [false, true] {
            let more = if direct { OFlags::DIRECT } else { OFlags::empty() };
            let image = rustix::fs::open(&path, OFlags::RDWR | more, rustix::fs::Mode::empty()).unwrap();
            let commands = plug(1, Prepared::new(1, DiskConfig::new(image, false), &[8]).unwrap());
            let image = &commands[1].arguments;
            let expected = if direct { json!({"direct": true}) } else { Value::Null };
            assert_eq!((&image["cache"], &image["file"]["cache"]), (&expected, &expected));
        }
    }

    #[test]
    fn several_files_are_one_disk_of_flat_extents() {
        let null = || File::open("/dev/null").unwrap().into();
        let disk = DiskConfig { image: null(), more: vec![null(), null()], read_only: true };
        let commands = plug(2, Prepared::new(2, disk, &[8, 16, 800]).unwrap());
        let names: Vec<_> = commands.iter().map(|command| command.execute).collect();
        assert_eq!(names, ["add-fd", "add-fd", "add-fd", "add-fd", "blockdev-add", "device_add"]);
        let sets: Vec<_> =
            commands[..4].iter().map(|command| command.arguments["fdset-id"].as_u64()).collect();
        assert_eq!(sets, [Some(5114), Some(5115), Some(5116), Some(18)]);
        let closed = close_sets(2, 2);
        assert!(
            sets.iter()
                .all(|set| closed.iter().any(|command| command.arguments["fdset-id"].as_u64() == *set))
        );
        assert_eq!(
            commands[4].arguments,
            json!({"driver": "vmdk", "node-name": "i2", "read-only": true,
                "file": {"driver": "file", "filename": "/dev/fdset/18", "read-only": true}})
        );
        assert_eq!(
            descriptor(2, &[8, 16, 800]),
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
             createType=\"twoGbMaxExtentFlat\"\nRW 8 FLAT \"/dev/fdset/5114\" 0\n\
             RW 16 FLAT \"/dev/fdset/5115\" 0\nRW 800 FLAT \"/dev/fdset/5116\" 0\n"
        );
    }
}
