//! The whole specification.

use hyper_protocol::agent::{INIT_ANNOTATION, SHARED_PIDS_ANNOTATION};
use serde_json::{Value, json};

use crate::error::Result;
use crate::mounts;
use crate::options::{ContainerRecord, DEFAULT_SHM_SIZE, PodOptions, Seccomp};

use super::{capabilities, process, resources, seccomp, tmpfs};

/// Version of the runtime specification that this follows.
const OCI_VERSION: &str = "1.2.0";

/// Paths hidden from a container: docker's list.
pub const DEFAULT_MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths a container cannot write: docker's list.
pub const DEFAULT_READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The specification of a container in a pod. Network, IPC and host name are the pod's, so there are no namespaces
/// for them here.
///
/// # Errors
/// No command, an unknown capability, a malformed seccomp profile or tmpfs option.
pub(crate) fn build(record: &ContainerRecord, pod: &PodOptions) -> Result<Value> {
    let options = &record.options;
    let security = &options.security;
    let held = capabilities::of(security)?;
    let paths = |given: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        match given {
            Some(paths) => paths.clone(),
            None if security.privileged => Vec::new(),
            None => default.iter().map(|path| (*path).to_owned()).collect(),
        }
    };
    let mut linux = json!({
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
        "resources": resources::resources(options)?,
        "cgroupsPath": format!("/hyper/{}", record.id),
        "maskedPaths": paths(&security.masked_paths, &DEFAULT_MASKED_PATHS),
        "readonlyPaths": paths(&security.readonly_paths, &DEFAULT_READONLY_PATHS),
    });
    if options.pid_of.is_some() || pod.share_pids {
        linux["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    }
    let filter = match &security.seccomp {
        Seccomp::Default if security.privileged => None,
        choice => seccomp::filter(choice, &held)?,
    };
    if let Some(filter) = filter {
        linux["seccomp"] = filter;
    }
    let mut annotations = options.annotations.clone();
    if options.init == Some(true) {
        annotations.insert(INIT_ANNOTATION.to_owned(), "true".to_owned());
    }
    if pod.share_pids && options.pid_of.is_none() {
        annotations.insert(SHARED_PIDS_ANNOTATION.to_owned(), "true".to_owned());
    }
    Ok(json!({
        "ociVersion": OCI_VERSION,
        "process": process::process(record, pod)?,
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": all_mounts(record)?,
        "annotations": annotations,
        "linux": linux,
    }))
}

fn all_mounts(record: &ContainerRecord) -> Result<Value> {
    let options = &record.options;
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let shm_size = if options.shm_size > 0 { options.shm_size } else { DEFAULT_SHM_SIZE };
    let shm_size = format!("size={shm_size}");
    let access = if options.security.privileged { "rw" } else { "ro" };
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut added = Vec::new();
    let mut base = vec![
        mount("/proc", "proc", "proc", &quiet),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
    ];
    for (destination, given) in &options.tmpfs {
        base.retain(|mount| mount["destination"] != destination.as_str());
        let given = tmpfs::check(destination, given)?;
        let mount = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": given});
        added.push((destination.clone(), mount));
    }
    for (destination, mount) in mounts::in_spec(&options.mounts) {
        base.retain(|mount| mount["destination"] != destination.as_str());
        added.push((destination, mount));
    }
    added.sort_by_key(|(destination, _)| mounts::depth(destination));
    base.extend(added.into_iter().map(|(_, mount)| mount));
    Ok(Value::Array(base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::options::{ContainerOptions, Security, State};

    fn record(options: ContainerOptions) -> ContainerRecord {
        ContainerRecord {
            id: format!("abc{}", "0".repeat(61)),
            name: "web".into(),
            created: Timestamp(0),
            image_id: String::new(),
            pod: String::new(),
            options,
            state: State::default(),
        }
    }

    fn plain() -> ContainerOptions {
        ContainerOptions {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["a".into()]),
            env: vec!["FOO=bar".into()],
            ..ContainerOptions::default()
        }
    }

    #[test]
    fn plain_container_has_dockers_specification() {
        let mut spec = build(&record(plain()), &PodOptions::default()).unwrap();
        assert!(spec["linux"]["seccomp"]["syscalls"].as_array().unwrap().len() > 10);
        spec["linux"].as_object_mut().unwrap().remove("seccomp");
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE",
        ];
        assert_eq!(
            spec["process"],
            json!({
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["/entry", "a"],
                "env": [
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOSTNAME=abc000000000",
                    "FOO=bar",
                ],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "rlimits": [],
                "noNewPrivileges": false,
                "oomScoreAdj": 0,
            })
        );
        let places: Vec<_> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].clone()).collect();
        assert_eq!(
            places,
            ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]
        );
        assert_eq!(
            spec["linux"]["namespaces"],
            json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}])
        );
        assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 11);
    }

    #[test]
    fn privileged_container_has_everything_and_no_filter() {
        let security = Security { privileged: true, ..Security::default() };
        let spec = build(&record(ContainerOptions { security, ..plain() }), &PodOptions::default()).unwrap();
        assert_eq!(spec["linux"].get("seccomp"), None);
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    }

    #[test]
    fn tmpfs_takes_the_place_of_a_default_mount() {
        let tmpfs = [("/dev/shm".to_owned(), "size=1g".to_owned())].into();
        let spec = build(&record(ContainerOptions { tmpfs, ..plain() }), &PodOptions::default()).unwrap();
        let shm: Vec<_> =
            spec["mounts"].as_array().unwrap().iter().filter(|m| m["destination"] == "/dev/shm").collect();
        assert_eq!(shm.len(), 1);
        assert_eq!(shm[0]["options"], json!(["noexec", "nosuid", "nodev", "size=1g"]));
    }

    #[test]
    fn container_without_a_command_is_refused() {
        assert!(build(&record(ContainerOptions::default()), &PodOptions::default()).is_err());
    }
}
