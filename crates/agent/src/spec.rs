//! The parts of the OCI runtime specification (`config.json`, version 1.2) that a guest acts on.
//!
//! What it knows but cannot do is kept as [`Refused`], so that it is refused by name instead of ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Attempt, Failed};

/// A field that is understood only well enough to be refused when it is set.
pub(crate) type Refused = Option<Value>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) process: Option<Process>,
    pub(crate) root: Root,
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: BTreeMap<String, Vec<Value>>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) linux: Linux,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    pub(crate) readonly: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Process {
    pub(crate) terminal: bool,
    pub(crate) console_size: ConsoleSize,
    pub(crate) user: User,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) apparmor_profile: String,
    pub(crate) selinux_label: String,
    pub(crate) scheduler: Refused,
    pub(crate) io_priority: Refused,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Refused,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsoleSize {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    pub(crate) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) bounding: Vec<String>,
    pub(crate) effective: Vec<String>,
    pub(crate) inheritable: Vec<String>,
    pub(crate) permitted: Vec<String>,
    pub(crate) ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) hard: u64,
    pub(crate) soft: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
    pub(crate) uid_mappings: Vec<Value>,
    pub(crate) gid_mappings: Vec<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Linux {
    pub(crate) uid_mappings: Vec<Value>,
    pub(crate) gid_mappings: Vec<Value>,
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) devices: Vec<Device>,
    pub(crate) net_devices: BTreeMap<String, Value>,
    pub(crate) seccomp: Option<Value>,
    pub(crate) rootfs_propagation: String,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    pub(crate) mount_label: String,
    pub(crate) intel_rdt: Refused,
    pub(crate) memory_policy: Refused,
    pub(crate) personality: Refused,
    pub(crate) time_offsets: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) path: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Device {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resources {
    pub(crate) devices: Vec<DeviceRule>,
    pub(crate) memory: Memory,
    pub(crate) cpu: Cpu,
    pub(crate) pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub(crate) block_io: BlockIo,
    pub(crate) hugepage_limits: Vec<HugepageLimit>,
    pub(crate) network: Network,
    pub(crate) rdma: BTreeMap<String, Value>,
    pub(crate) unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) access: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Memory {
    pub(crate) limit: Option<i64>,
    pub(crate) reservation: Option<i64>,
    pub(crate) swap: Option<i64>,
    pub(crate) kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub(crate) kernel_tcp: Option<i64>,
    pub(crate) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(crate) disable_oom_killer: bool,
    pub(crate) check_before_update: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cpu {
    pub(crate) shares: Option<u64>,
    pub(crate) quota: Option<i64>,
    pub(crate) burst: Option<u64>,
    pub(crate) period: Option<u64>,
    pub(crate) realtime_runtime: Option<i64>,
    pub(crate) realtime_period: Option<u64>,
    pub(crate) cpus: String,
    pub(crate) mems: String,
    pub(crate) idle: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pids {
    pub(crate) limit: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BlockIo {
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
    pub(crate) weight_device: Vec<WeightDevice>,
    pub(crate) throttle_read_bps_device: Vec<ThrottleDevice>,
    pub(crate) throttle_write_bps_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleReadIOPSDevice")]
    pub(crate) throttle_read_iops_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub(crate) throttle_write_iops_device: Vec<ThrottleDevice>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WeightDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ThrottleDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) rate: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HugepageLimit {
    pub(crate) page_size: String,
    pub(crate) limit: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Network {
    #[serde(rename = "classID")]
    pub(crate) class_id: Option<u32>,
    pub(crate) priorities: Vec<Value>,
}

impl Spec {
    /// Reads a specification and refuses what a guest cannot do.
    pub(crate) fn parse(spec: Value) -> Result<Spec, Failed> {
        let spec: Spec = serde_json::from_value(without_nulls(spec))
            .invalid(|| "the runtime specification is not valid".to_owned())?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), Failed> {
        if let Some((kind, _)) = self.hooks.iter().find(|(_, hooks)| !hooks.is_empty()) {
            return refuse(&format!(
                "hooks ({kind}): they are programs of the host, and the container is in a guest"
            ));
        }
        let linux = &self.linux;
        let refused = [
            ("linux.uidMappings", !linux.uid_mappings.is_empty()),
            ("linux.gidMappings", !linux.gid_mappings.is_empty()),
            ("linux.netDevices", !linux.net_devices.is_empty()),
            ("linux.mountLabel", !linux.mount_label.is_empty()),
            // It comes compiled.
            ("linux.seccomp", linux.seccomp.is_some()),
            ("linux.intelRdt", linux.intel_rdt.is_some()),
            ("linux.memoryPolicy", linux.memory_policy.is_some()),
            ("linux.personality", linux.personality.is_some()),
            ("linux.timeOffsets", !linux.time_offsets.is_empty()),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, set)| *set) {
            return refuse(name);
        }
        for mount in &self.mounts {
            if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
                return refuse(&format!("id-mapped mounts ({})", mount.destination));
            }
        }
        for namespace in &linux.namespaces {
            check_namespace(namespace)?;
        }
        if let Some(process) = &self.process {
            process.check()?;
        }
        Ok(())
    }

    /// The specification lists a namespace of this kind.
    pub(crate) fn lists_namespace(&self, kind: &str) -> bool {
        self.linux.namespaces.iter().any(|n| n.kind == kind)
    }
}

/// Network, IPC and UTS namespaces are the pod's whether listed or not, with or without the path that they had
/// on the host.
fn check_namespace(namespace: &Namespace) -> Result<(), Failed> {
    match (namespace.kind.as_str(), namespace.path.is_empty()) {
        ("network" | "ipc" | "uts", _) | ("mount" | "pid" | "cgroup", true) => Ok(()),
        ("mount" | "pid" | "cgroup", false) => refuse(&format!(
            "joining the {} namespace at {}, which is on the host",
            namespace.kind, namespace.path
        )),
        (kind @ ("user" | "time"), _) => refuse(&format!("{kind} namespaces")),
        (kind, _) => Err(Failed::invalid(format!("unknown namespace type {kind:?}"))),
    }
}

impl Process {
    /// Reads a `process` object and refuses what a guest cannot do.
    pub(crate) fn parse(process: Value) -> Result<Process, Failed> {
        let process: Process = serde_json::from_value(without_nulls(process))
            .invalid(|| "the process object is not valid".to_owned())?;
        process.check()?;
        Ok(process)
    }

    fn check(&self) -> Result<(), Failed> {
        let refused = [
            (
                "process.apparmorProfile: the guest's kernel has no AppArmor",
                !self.apparmor_profile.is_empty(),
            ),
            ("process.selinuxLabel: the guest's kernel has no SELinux", !self.selinux_label.is_empty()),
            ("process.scheduler", self.scheduler.is_some()),
            ("process.ioPriority", self.io_priority.is_some()),
            ("process.execCPUAffinity", self.exec_cpu_affinity.is_some()),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, set)| *set) {
            return refuse(name);
        }
        if self.args.is_empty() {
            return Err(Failed::invalid("process.args is empty: there is nothing to run"));
        }
        if !self.cwd.starts_with('/') {
            return Err(Failed::invalid(format!("process.cwd {:?} is not an absolute path", self.cwd)));
        }
        Ok(())
    }
}

impl Resources {
    /// Reads a `linux.resources` object.
    pub(crate) fn parse(resources: Value) -> Result<Resources, Failed> {
        serde_json::from_value(without_nulls(resources))
            .invalid(|| "the resources object is not valid".to_owned())
    }
}

fn refuse(what: &str) -> Result<(), Failed> {
    Err(Failed::unsupported(format!("not supported in a guest: {what}")))
}

/// Drops members that are null: Go writes absent lists and objects so.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(spec: Value) -> String {
        Spec::parse(spec).unwrap_err().to_failure().message
    }

    #[test]
    fn nulls_are_as_good_as_absent() {
        let spec = Spec::parse(json!({"mounts": null, "linux": {"resources": {"devices": null}}})).unwrap();
        assert!(spec.mounts.is_empty());
    }

    #[test]
    fn what_a_guest_cannot_do_is_refused_by_name() {
        let cases = [
            (json!({"hooks": {"createRuntime": [{"path": "/x"}]}}), "createRuntime"),
            (json!({"linux": {"namespaces": [{"type": "user"}]}}), "user namespaces"),
            (json!({"linux": {"namespaces": [{"type": "time"}]}}), "time namespaces"),
            (json!({"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}), "pid namespace"),
            (json!({"linux": {"intelRdt": {}}}), "intelRdt"),
            (json!({"process": {"args": ["a"], "cwd": "/", "apparmorProfile": "x"}}), "AppArmor"),
            (json!({"process": {"args": [], "cwd": "/"}}), "nothing to run"),
            (json!({"process": {"args": ["a"], "cwd": "x"}}), "absolute"),
        ];
        for (spec, word) in cases {
            let message = refusal(spec);
            assert!(message.contains(word), "{message}");
        }
    }
}
