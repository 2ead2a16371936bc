//! Device nodes and the links beside them in a container's `/dev`.

use std::fs::symlink_metadata;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chmodat, chownat, major, makedev, minor, mknodat, stat};
use rustix::io::Errno;

use crate::disks::{self, Disks};
use crate::failure::{Attempt, Failed};
use crate::spec;

/// The devices that the runtime specification gives every container: path, major and minor number.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that the runtime specification gives every container.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Refuses device entries that make no sense.
pub(crate) fn check(devices: &[spec::Device]) -> Result<(), Failed> {
    for device in devices {
        let number = |n: i64| (0..=i64::from(u32::MAX)).contains(&n);
        if !device.path.starts_with('/') || device.path.contains('\0') {
            return Err(Failed::invalid(format!("device path {:?} is not absolute", device.path)));
        }
        if file_type(&device.kind).is_none() || !number(device.major) || !number(device.minor) {
            return Err(Failed::invalid(format!(
                "device {}: no such device {:?} {}:{}",
                device.path, device.kind, device.major, device.minor
            )));
        }
    }
    Ok(())
}

fn file_type(kind: &str) -> Option<FileType> {
    match kind {
        "c" | "u" => Some(FileType::CharacterDevice),
        "b" => Some(FileType::BlockDevice),
        "p" => Some(FileType::Fifo),
        _ => None,
    }
}

/// Adds disks of the pod to a specification as devices, and to its rules for them. Waits until they are there.
pub(crate) async fn add(
    finder: &dyn Disks,
    devices: &[hyper_protocol::agent::Device],
    spec: &mut spec::Spec,
) -> Result<(), Failed> {
    for device in devices {
        let node = disks::wait(finder, &device.address).await?;
        let number = stat(&node).attempt(|| format!("look at {}", node.display()))?.st_rdev;
        let (major, minor) = (major(number).into(), minor(number).into());
        // Of two for one path the later one counts.
        spec.linux.devices.retain(|other| other.path != device.path);
        spec.linux.devices.push(spec::Device {
            kind: "b".to_owned(),
            path: device.path.clone(),
            major,
            minor,
            file_mode: Some(device.mode),
            uid: device.uid,
            gid: device.gid,
        });
        spec.linux.resources.devices.push(spec::DeviceRule {
            allow: true,
            kind: "b".to_owned(),
            major: Some(major),
            minor: Some(minor),
            access: device.access.clone(),
        });
    }
    Ok(())
}

/// Makes the default devices and links and the specification's own devices, in the root that this process has.
/// Its umask must be 0.
pub(crate) fn make(devices: &[spec::Device]) -> Result<(), Failed> {
    for (path, major, minor) in DEFAULTS {
        if devices.iter().all(|device| device.path != path) {
            node(path, FileType::CharacterDevice, 0o666, (major, minor), (0, 0))?;
        }
    }
    for device in devices {
        let Some(kind) = file_type(&device.kind) else { continue };
        let number = (device.major as u32, device.minor as u32);
        node(
            &device.path,
            kind,
            device.file_mode.unwrap_or(0o666) & 0o7777,
            number,
            (device.uid, device.gid),
        )?;
    }
    for (path, target) in LINKS {
        match symlink(target, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).attempt(|| format!("make the link {path}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn node(path: &str, kind: FileType, mode: u32, number: (u32, u32), owner: (u32, u32)) -> Result<(), Failed> {
    let failed = || format!("make the device {path}");
    if let Some(parent) = Path::new(path).parent() {
        super::root::make_directory(parent).attempt(failed)?;
    }
    let mode = Mode::from_raw_mode(mode);
    match mknodat(CWD, path, kind, mode, makedev(number.0, number.1)) {
        Ok(()) => {}
        // What the image brings (a device, or a link some image made of it) stays; runc leaves it as well.
        Err(Errno::EXIST) if symlink_metadata(path).is_ok() => return Ok(()),
        Err(error) => return Err(error).attempt(failed),
    }
    chmodat(CWD, path, mode, rustix::fs::AtFlags::empty()).attempt(failed)?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    chownat(CWD, path, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).attempt(failed)
}
