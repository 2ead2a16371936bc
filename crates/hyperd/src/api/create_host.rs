//! The `HostConfig` of a request for a container.

use hyper_engine::{
    ContainerOptions, DeviceOptions, DeviceRequest, LogOptions, NetworkMode, Resources, RestartPolicy,
    Seccomp, Ulimit,
};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::http::{ApiError, Result};

/// Names under which clients may ask for this runtime.
///
/// `runc` is what docker's default is called, and clients that write it want the default.
const RUNTIMES: [&str; 4] = ["", "hyper", "io.containerd.hyper.v2", "runc"];

/// Fields that are refused unless neutral, what else is neutral, and why.
const REFUSED: [(&str, &str, &str); 23] = [
    ("Links", "", "links are docker's of old: on a network of your own containers find each other by name"),
    ("Cgroup", "", "a container's cgroup is in its own VM"),
    ("CgroupParent", "", "a container's cgroup is in its own VM"),
    ("CgroupnsMode", "\"private\"", "a container always has its own cgroup namespace"),
    ("UTSMode", "", "a VM cannot share the host's name"),
    ("UsernsMode", "\"host\"", "user namespaces are not supported; the VM isolates"),
    ("DeviceRequests", "", "a container has a kernel of its own, which has no drivers of such devices"),
    ("BlkioWeight", "", "limits of disk bandwidth come later"),
    ("BlkioWeightDevice", "", "limits of disk bandwidth come later"),
    ("BlkioDeviceReadBps", "", "limits of disk bandwidth come later"),
    ("BlkioDeviceWriteBps", "", "limits of disk bandwidth come later"),
    ("BlkioDeviceReadIOps", "", "limits of disk bandwidth come later"),
    ("BlkioDeviceWriteIOps", "", "limits of disk bandwidth come later"),
    ("CpuRealtimePeriod", "", "real-time scheduling is not supported"),
    ("CpuRealtimeRuntime", "", "real-time scheduling is not supported"),
    ("KernelMemory", "", "the kernel has no such limit any more"),
    ("KernelMemoryTCP", "", "the kernel has no such limit any more"),
    ("OomKillDisable", "", "cgroup v2 has no such switch"),
    ("CpuCount", "", "it is for Windows containers"),
    ("CpuPercent", "", "it is for Windows containers"),
    ("IOMaximumIOps", "", "it is for Windows containers"),
    ("IOMaximumBandwidth", "", "it is for Windows containers"),
    ("Capabilities", "", "use CapAdd and CapDrop"),
];

/// Refuses what no container can have.
pub(super) fn refuse_unsupported(host: &mut Fields) -> Result<()> {
    for (name, also, reason) in REFUSED {
        let also: Vec<Value> = serde_json::from_str(also).into_iter().collect();
        host.refuse(name, &also, reason)?;
    }
    Ok(())
}

/// Adds a `HostConfig` to a container's options.
pub(super) fn read(mut host: Fields, options: &mut ContainerOptions) -> Result<()> {
    refuse_unsupported(&mut host)?;
    // Where the client wrote the id to: nothing for the daemon to do.
    host.string("ContainerIDFile")?;
    options.restart = read_restart_policy(&mut host)?;
    options.init = match host.take("Init") {
        Value::Null => None,
        Value::Bool(init) => Some(init),
        _ => return Err(ApiError::invalid("invalid JSON: HostConfig.Init must be true or false")),
    };
    let runtime = host.string("Runtime")?;
    // What was said beside the `HostConfig` holds where it says nothing.
    if !runtime.is_empty() {
        options.runtime = runtime;
    }
    if !RUNTIMES.contains(&options.runtime.as_str()) {
        return Err(ApiError::invalid(format!("unknown or invalid runtime name: {}", options.runtime)));
    }
    options.isolation = host.string("Isolation")?;
    if !matches!(options.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "Invalid isolation: \"{}\" - linux only supports 'default'",
            options.isolation
        )));
    }
    options.devices = read_devices(&mut host)?;
    options.auto_remove = host.bool("AutoRemove")?;
    options.log = read_log(&mut host)?;
    options.annotations = host.string_map("Annotations")?;
    options.group_add = host.strings("GroupAdd")?;
    options.tmpfs = host.string_map("Tmpfs")?;
    options.shm_size = host.int("ShmSize")?;
    options.sysctls = host.string_map("Sysctls")?;
    options.storage_size = read_storage(&mut host)?;
    options.names.servers = host.strings("Dns")?;
    options.names.search = host.strings("DnsSearch")?;
    options.names.options = host.strings("DnsOptions")?;
    options.names.hosts = host.strings("ExtraHosts")?;
    options.ports = super::ports::read(&mut host)?;
    options.resources = read_resources(&mut host)?;
    if let Value::Array(size) = host.take("ConsoleSize") {
        options.console_size = serde_json::from_value(Value::Array(size))
            .map_err(|_| ApiError::invalid("invalid JSON: HostConfig.ConsoleSize must be two numbers"))?;
    }
    super::create_mounts::read(&mut host, options)?;
    read_security(&mut host, options)?;
    read_modes(&mut host, options)?;
    host.finish()
}

pub(super) fn read_restart_policy(host: &mut Fields) -> Result<RestartPolicy> {
    let mut policy = host.object("RestartPolicy")?;
    let name = policy.string("Name")?;
    let retries = policy.int("MaximumRetryCount")?;
    policy.finish()?;
    Ok(RestartPolicy::parse(&name, retries)?)
}

fn read_log(host: &mut Fields) -> Result<LogOptions> {
    let mut log = host.object("LogConfig")?;
    let driver = log.string("Type")?;
    let config = log.string_map("Config")?;
    log.finish()?;
    Ok(LogOptions::parse(&driver, config)?)
}

fn read_storage(host: &mut Fields) -> Result<Option<u64>> {
    let mut size = None;
    for (name, value) in host.string_map("StorageOpt")? {
        if name != "size" {
            return Err(ApiError::invalid(format!(
                "HostConfig.StorageOpt \"{name}\" is not known: there is \"size\""
            )));
        }
        size = Some(hyper_engine::parse_size(&value)?);
    }
    Ok(size)
}

pub(super) fn read_resources(host: &mut Fields) -> Result<Resources> {
    let mut ulimits = Vec::new();
    if let Value::Array(list) = host.take("Ulimits") {
        for limit in list {
            let mut limit = Fields::of(limit, "HostConfig.Ulimits")?;
            ulimits.push(Ulimit {
                name: limit.string("Name")?,
                soft: limit.int("Soft")?,
                hard: limit.int("Hard")?,
            });
            limit.finish()?;
        }
    }
    Ok(Resources {
        nano_cpus: host.int("NanoCpus")?,
        cpu_quota: host.int("CpuQuota")?,
        cpu_period: host.int("CpuPeriod")?,
        cpu_shares: host.int("CpuShares")?,
        cpuset_cpus: host.string("CpusetCpus")?,
        cpuset_mems: host.string("CpusetMems")?,
        memory: host.int("Memory")?,
        memory_swap: host.int("MemorySwap")?,
        memory_swappiness: host.optional_int("MemorySwappiness")?.filter(|value| *value != -1),
        memory_reservation: host.int("MemoryReservation")?,
        pids_limit: host.optional_int("PidsLimit")?,
        oom_score_adj: i32::try_from(host.int("OomScoreAdj")?)
            .map_err(|_| ApiError::invalid("invalid JSON: HostConfig.OomScoreAdj is out of range"))?,
        ulimits,
    })
}

fn read_devices(host: &mut Fields) -> Result<DeviceOptions> {
    let devices = match host.take("Devices") {
        Value::Null => Vec::new(),
        Value::Array(devices) => devices,
        _ => return Err(ApiError::invalid("invalid JSON: HostConfig.Devices must be a list")),
    };
    let disks = devices.into_iter().map(|device| {
        let mut device = Fields::of(device, "HostConfig.Devices")?;
        let host = device.string("PathOnHost")?;
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let path = or(device.string("PathInContainer")?, &host);
        let access = or(device.string("CgroupPermissions")?, "rwm");
        device.finish()?;
        Ok(DeviceRequest { host, path, access })
    });
    Ok(DeviceOptions { disks: disks.collect::<Result<_>>()?, rules: host.strings("DeviceCgroupRules")? })
}

fn read_security(host: &mut Fields, options: &mut ContainerOptions) -> Result<()> {
    let security = &mut options.security;
    security.privileged = host.bool("Privileged")?;
    security.cap_add = host.strings("CapAdd")?;
    security.cap_drop = host.strings("CapDrop")?;
    security.readonly_rootfs = host.bool("ReadonlyRootfs")?;
    security.masked_paths = host.optional_strings("MaskedPaths")?;
    security.readonly_paths = host.optional_strings("ReadonlyPaths")?;
    security.options = host.strings("SecurityOpt")?;
    for option in security.options.clone() {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((&option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => security.seccomp = Seccomp::Default,
            ("seccomp", profile) => {
                let profile = serde_json::from_str(profile).map_err(|error| {
                    ApiError::invalid(format!("Decoding seccomp profile failed: {error}"))
                })?;
                security.seccomp = Seccomp::Profile(profile);
            }
            // There is neither in the guest: nothing confines by labels or profiles.
            ("label", "disable") | ("apparmor", "unconfined") => {}
            ("systempaths", "unconfined") => {
                security.masked_paths = Some(Vec::new());
                security.readonly_paths = Some(Vec::new());
            }
            _ => {
                return Err(ApiError::unsupported(format!(
                    "HostConfig.SecurityOpt \"{option}\" is not supported"
                )));
            }
        }
    }
    Ok(())
}

fn read_modes(host: &mut Fields, options: &mut ContainerOptions) -> Result<()> {
    let network = host.string("NetworkMode")?;
    let container = |mode: &str| mode.strip_prefix("container:").map(str::to_owned);
    match network.as_str() {
        "" | "default" | "bridge" => {}
        "none" => options.network = NetworkMode::None,
        "host" => {
            return Err(ApiError::unsupported(
                "network mode host is not supported: a VM cannot share the host's network",
            ));
        }
        mode => match container(mode) {
            Some(other) if !other.is_empty() => options.network = NetworkMode::Container(other),
            Some(_) => return Err(ApiError::invalid("invalid container format container:<name|id>")),
            None => options.network = NetworkMode::Named(mode.to_owned()),
        },
    }
    match host.string("PidMode")?.as_str() {
        "" | "private" => {}
        mode => match container(mode) {
            Some(other) if !other.is_empty() => options.pid_of = Some(other),
            _ => {
                return Err(ApiError::unsupported(format!(
                    "HostConfig.PidMode \"{mode}\" is not supported: a VM cannot share the host's processes"
                )));
            }
        },
    }
    let ipc = host.string("IpcMode")?;
    let shares = match (ipc.as_str(), &options.network) {
        ("" | "private" | "shareable", _) => true,
        (mode, NetworkMode::Container(other)) => container(mode).as_ref() == Some(other),
        _ => false,
    };
    if !shares {
        return Err(ApiError::unsupported(format!(
            "HostConfig.IpcMode \"{ipc}\" is not supported: the containers of a pod share their IPC, others do not"
        )));
    }
    Ok(())
}

/// The log's options as `inspect` shows them.
pub(super) fn log_config(log: &LogOptions) -> Value {
    json!({"Type": log.driver(), "Config": log.config()})
}
