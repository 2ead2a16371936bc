//! Devices of containers: disks of the host, and what the cgroup lets a container's processes use.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use hyper_protocol::shim::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{EngineError, Kind, Result};

/// Most rules of a container: far above any use, and within the agent's bound.
const RULES_MAX: usize = 1024;

/// Most devices of a container: the shim's bound.
const DEVICES_MAX: usize = 64;

/// What a container is asked to have of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceOptions {
    /// Block devices of the host.
    pub disks: Vec<DeviceRequest>,
    /// Rules of the cgroup as docker writes them (`c 7:128 rwm`); the numbers are the guest's kernel's.
    pub rules: Vec<String>,
}

/// A device of the host that a container is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The host's node.
    pub host: String,
    /// Where it is in the container.
    pub path: String,
    /// What may be done with it: of `r`, `w` and `m`.
    pub access: String,
}

/// Checks what is asked for. Whether a device is there is found out at the start, as docker does.
///
/// # Errors
/// A rule that is none, a path that makes no sense, or a device that no VM can have.
pub(crate) fn check(devices: &DeviceOptions) -> Result<()> {
    if devices.disks.len() > DEVICES_MAX {
        return Err(EngineError::invalid(format!("a container has at most {DEVICES_MAX} devices")));
    }
    for device in &devices.disks {
        for path in [&device.host, &device.path] {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(EngineError::invalid(format!("{path} is not an absolute path")));
            }
        }
        if !is_access(&device.access) {
            return Err(EngineError::invalid(format!("bad mode specified: {}", device.access)));
        }
        if fs::metadata(&device.host).is_ok_and(|found| found.file_type().is_char_device()) {
            return Err(EngineError::unsupported(format!(
                "device {} is not supported: a container has a kernel of its own, so of the host's devices it can have \
                 disks (block devices) only",
                device.host
            )));
        }
    }
    if devices.rules.len() > RULES_MAX {
        return Err(EngineError::invalid(format!("a container has at most {RULES_MAX} device cgroup rules")));
    }
    devices.rules.iter().try_for_each(|text| rule(text).map(drop))
}

/// What the shim is told of a container's disks.
///
/// # Errors
/// One is not there or no disk, in docker's words.
pub(crate) fn to_plug(devices: &DeviceOptions) -> Result<Vec<Device>> {
    devices.disks.iter().map(found).collect()
}

fn found(device: &DeviceRequest) -> Result<Device> {
    let wrong = |reason: String| {
        EngineError::new(
            Kind::System,
            format!(
                "error gathering device information while adding custom device \"{}\": {reason}",
                device.host
            ),
        )
    };
    let status = fs::metadata(&device.host).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("no such file or directory".to_owned()),
        _ => wrong(error.to_string()),
    })?;
    if !status.file_type().is_block_device() {
        return Err(wrong("not a device node".to_owned()));
    }
    Ok(Device {
        host: PathBuf::from(&device.host),
        path: device.path.clone(),
        access: device.access.clone(),
        mode: status.mode() & 0o7777,
        uid: status.uid(),
        gid: status.gid(),
    })
}

/// The rules as the runtime specification has them.
///
/// # Errors
/// As [`check`].
pub(crate) fn rules(devices: &DeviceOptions) -> Result<Vec<Value>> {
    devices.rules.iter().map(|text| rule(text)).collect()
}

/// `TYPE MAJOR:MINOR ACCESS`, each number or `*`.
fn rule(text: &str) -> Result<Value> {
    let wrong = || EngineError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(wrong()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if !is_access(access) {
        return Err(wrong());
    }
    let mut rule = json!({"allow": true, "type": kind, "access": access});
    for (name, number) in [("major", major), ("minor", minor)] {
        if number != "*" {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.then(|| number.parse::<u32>().ok()).flatten().ok_or_else(wrong)?;
            rule[name] = number.into();
        }
    }
    Ok(rule)
}

/// Whether letters say what may be done with a device: reading, writing, making its node.
pub(crate) fn is_access(letters: &str) -> bool {
    (1..=3).contains(&letters.len()) && letters.bytes().all(|letter| b"rwm".contains(&letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_make_no_sense_are_refused_in_dockers_words() {
        let of = |host: &str, path: &str, access: &str| {
            let disk = DeviceRequest { host: host.into(), path: path.into(), access: access.into() };
            let devices = DeviceOptions { disks: vec![disk], ..DeviceOptions::default() };
            check(&devices).and_then(|()| to_plug(&devices)).unwrap_err().message
        };
        for (host, path, access, words) in [
            ("/dev/x", "x", "rwm", "x is not an absolute path"),
            ("/dev/x", "/x", "q", "bad mode specified: q"),
            (
                "/dev/null",
                "/x",
                "r",
                "device /dev/null is not supported: a container has a kernel of its own",
            ),
            ("/nosuch", "/x", "r", "custom device \"/nosuch\": no such file or directory"),
            ("/etc", "/x", "r", "custom device \"/etc\": not a device node"),
        ] {
            let message = of(host, path, access);
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
    }

    #[test]
    fn rules_are_read_as_docker_does() {
        let read =
            |text: &str| rules(&DeviceOptions { rules: vec![text.into()], ..DeviceOptions::default() });
        assert_eq!(
            read("c 7:128 rwm").unwrap(),
            [json!({"allow": true, "type": "c", "major": 7, "minor": 128, "access": "rwm"})]
        );
        assert_eq!(read("a *:* r").unwrap(), [json!({"allow": true, "type": "a", "access": "r"})]);
        for wrong in
            ["", "c", "x 1:2 r", "c 1 r", "c 1:2", "c 1:2 q", "c 1:2 rwmr", "c +1:2 r", "c :2 r", "c 1:2  r"]
        {
            let message = read(wrong).unwrap_err().message;
            assert_eq!(message, format!("invalid device cgroup rule format: '{wrong}'"));
        }
    }
}
