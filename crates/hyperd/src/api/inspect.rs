//! Containers as `inspect` and `ps` show them.

use std::collections::BTreeMap;

use hyper_engine::{
    ContainerInfo, ContainerRecord, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, DEFAULT_SHM_SIZE, Filters,
    LIST_FILTERS, ListQuery, Timestamp, short_id,
};
use serde_json::{Map, Value, json};

use super::create_host::log_config;
use super::ports;
use crate::http::{ApiError, Result, blamed_if, ok};
use crate::route::Call;

/// Most bytes of the command that `ps` is sent.
const COMMAND_MAX: usize = 4096;

pub(crate) async fn inspect(call: Call, id: &str) -> Result {
    let info = call.app.engine.inspect(id, call.query.bool("size"))?;
    let mut shown = container(&info, &call);
    let steps = call.app.engine.timeline(id).await?;
    if !steps.is_empty() {
        shown["Hyper"]["Timeline"] = super::stats::phases(&steps);
    }
    ok(&shown)
}

pub(crate) async fn list(call: Call) -> Result {
    let limit: i64 = call.query.number("limit").map_err(ApiError::blamed)?.unwrap_or(0);
    let mut filters = call.query.get("filters").to_owned();
    // Before filters, clients had parameters of their own for two of them.
    for name in ["since", "before"] {
        let value = call.query.get(name);
        if !value.is_empty() && filters.is_empty() {
            filters = json!({name: [value]}).to_string();
        }
    }
    let query = ListQuery {
        all: call.query.bool("all"),
        limit: usize::try_from(limit).unwrap_or(0),
        size: call.query.bool("size"),
        filters: Filters::parse(&filters, LIST_FILTERS).map_err(ApiError::from)?,
    };
    let infos = call.app.engine.list(&query).await;
    let infos = infos.map_err(blamed_if(|error| error.message.starts_with("error while looking up for")))?;
    let now = Timestamp::now();
    ok(&infos
        .iter()
        .map(|info| summary(info, call.app.engine.shown_mounts(&info.record), now))
        .collect::<Vec<_>>())
}

/// The command in one line: arguments with blanks in quotes, as docker shows them.
fn shown_command(words: &[String]) -> String {
    let shown = words.iter().enumerate().map(|(place, word)| match place > 0 && word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

pub(super) fn summary(info: &ContainerInfo, mounts: Vec<Value>, now: Timestamp) -> Value {
    let record = &info.record;
    let mut command = shown_command(&record.command());
    if command.len() > COMMAND_MAX {
        let end = (0..=COMMAND_MAX).rev().find(|at| command.is_char_boundary(*at)).unwrap_or(0);
        command.truncate(end);
    }
    let mut host = json!({"NetworkMode": info.network_mode()});
    if !record.options.annotations.is_empty() {
        host["Annotations"] = json!(record.options.annotations);
    }
    let mut summary = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": info.image_name,
        "ImageID": record.image_id,
        "Command": command,
        "Created": record.created.seconds(),
        "Ports": ports::summary(info),
        "Labels": record.options.labels,
        "State": record.state.status(),
        "Status": info.describe(now),
        "HostConfig": host,
        "NetworkSettings": {"Networks": networks(info)},
        "Mounts": mounts,
    });
    if let Some((writable, image)) = info.sizes {
        summary["SizeRw"] = writable.into();
        summary["SizeRootFs"] = (writable + image).into();
    }
    summary
}

fn container(info: &ContainerInfo, call: &Call) -> Value {
    let record = &info.record;
    let mut command = record.command().into_iter();
    let path = command.next().unwrap_or_default();
    let directory = call.app.engine.places().container(&record.id);
    let log_path = info.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut value = json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": path,
        "Args": command.collect::<Vec<_>>(),
        "State": state(info),
        "Image": record.image_id,
        // These files are made inside the VM; nothing of them is on the host.
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": log_path,
        "Name": format!("/{}", record.name),
        "RestartCount": record.state.restart_count,
        "Driver": "erofs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if info.execs.is_empty() { Value::Null } else { json!(info.execs) },
        "HostConfig": host_config(info),
        "GraphDriver": {
            "Data": {"Writable": directory.join("rw.ext4").display().to_string()},
            "Name": "erofs",
        },
        "Mounts": call.app.engine.shown_mounts(record),
        "Config": config(info),
        "NetworkSettings": network_settings(info),
        "Hyper": {
            "Pod": {
                "Id": info.pod.id,
                "Name": info.pod.name,
                "VCPUs": info.pod.options.vcpus,
                "MemoryMiB": info.pod.options.memory_mib,
            },
        },
    });
    if let Some((writable, image)) = info.sizes {
        value["SizeRw"] = writable.into();
        value["SizeRootFs"] = (writable + image).into();
    }
    value
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| Timestamp::NEVER.to_owned(), |time| time.to_string())
}

fn state(info: &ContainerInfo) -> Value {
    let state = &info.record.state;
    let status = state.status();
    let mut shown = json!({
        "Status": status,
        // Docker calls a container between two runs running.
        "Running": state.is_running() || status == "restarting",
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    });
    if let Some(health) = &info.health {
        shown["Health"] = super::health::show(health);
    }
    shown
}

/// A list as Go writes it: `null` when it is empty.
fn list_or_null(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn set(names: &[String]) -> Value {
    Value::Object(names.iter().map(|name| (name.clone(), json!({}))).collect())
}

fn config(info: &ContainerInfo) -> Value {
    let options = &info.record.options;
    let mut config = json!({
        "Hostname": info.pod.options.hostname,
        "Domainname": info.pod.options.domainname,
        "User": options.user,
        "AttachStdin": options.attach.stdin,
        "AttachStdout": options.attach.stdout,
        "AttachStderr": options.attach.stderr,
        "Tty": options.tty,
        "OpenStdin": options.open_stdin,
        "StdinOnce": options.stdin_once,
        "Env": options.env,
        "Cmd": options.cmd,
        "Image": options.image,
        "Volumes": if options.mounts.anonymous.is_empty() { Value::Null } else { set(&options.mounts.anonymous) },
        "WorkingDir": options.working_dir,
        "Entrypoint": options.entrypoint,
        "OnBuild": list_or_null(&options.on_build),
        "Labels": options.labels,
    });
    let optional = [
        ("ExposedPorts", (!options.exposed_ports.is_empty()).then(|| set(&options.exposed_ports))),
        ("StopSignal", options.stop_signal.as_ref().map(|signal| json!(signal))),
        ("StopTimeout", options.stop_timeout.map(|timeout| json!(timeout))),
        ("Shell", (!options.shell.is_empty()).then(|| json!(options.shell))),
        ("Healthcheck", options.healthcheck.as_ref().map(|check| json!(check))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            config[name] = value;
        }
    }
    config
}

fn host_config(info: &ContainerInfo) -> Value {
    let options = &info.record.options;
    let (limits, security) = (&options.resources, &options.security);
    let paths = |given: &Option<Vec<String>>, default: &[&str]| match given {
        Some(paths) => json!(paths),
        None if security.privileged => Value::Null,
        None => json!(default),
    };
    let ulimits: Vec<_> = limits
        .ulimits
        .iter()
        .map(|limit| json!({"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft}))
        .collect();
    let devices: Vec<_> = options
        .devices
        .disks
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": device.host,
                "PathInContainer": device.path,
                "CgroupPermissions": device.access,
            })
        })
        .collect();
    let mut host = host_config_of_later();
    let pid_mode = options.pid_of.as_ref().map(|id| format!("container:{id}")).unwrap_or_default();
    let ours = json!({
        "LogConfig": log_config(&options.log),
        "NetworkMode": info.network_mode(),
        "AutoRemove": options.auto_remove,
        "ConsoleSize": options.console_size,
        "CapAdd": list_or_null(&security.cap_add),
        "CapDrop": list_or_null(&security.cap_drop),
        "Dns": options.names.servers,
        "DnsOptions": options.names.options,
        "DnsSearch": options.names.search,
        "ExtraHosts": list_or_null(&options.names.hosts),
        "GroupAdd": list_or_null(&options.group_add),
        "OomScoreAdj": limits.oom_score_adj,
        "PidMode": pid_mode,
        "RestartPolicy": {"Name": options.restart.name(), "MaximumRetryCount": options.restart.retries()},
        "PortBindings": ports::asked(&options.ports),
        "PublishAllPorts": options.ports.all,
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.readonly_rootfs,
        "SecurityOpt": list_or_null(&security.options),
        "ShmSize": if options.shm_size > 0 { options.shm_size } else { DEFAULT_SHM_SIZE },
        "CpuShares": limits.cpu_shares,
        "Memory": limits.memory,
        "NanoCpus": limits.nano_cpus,
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "Devices": devices,
        "DeviceCgroupRules": list_or_null(&options.devices.rules),
        "Runtime": if options.runtime.is_empty() { "hyper" } else { &options.runtime },
        "Isolation": options.isolation,
        "MemoryReservation": limits.memory_reservation,
        // A VM has no swap: memory and swap together are the memory.
        "MemorySwap": if limits.memory_swap == 0 { limits.memory } else { limits.memory_swap },
        "PidsLimit": limits.pids_limit.filter(|limit| *limit > 0),
        "Ulimits": ulimits,
        "MaskedPaths": paths(&security.masked_paths, &DEFAULT_MASKED_PATHS),
        "ReadonlyPaths": paths(&security.readonly_paths, &DEFAULT_READONLY_PATHS),
    });
    for (name, value) in ours.as_object().into_iter().flatten() {
        host.insert(name.clone(), value.clone());
    }
    if let Some(init) = options.init {
        host.insert("Init".to_owned(), init.into());
    }
    super::create_mounts::show(options, &mut host);
    let maps: [(&str, BTreeMap<String, String>); 4] = [
        ("Annotations", options.annotations.clone()),
        ("Tmpfs", options.tmpfs.clone()),
        ("Sysctls", options.sysctls.clone()),
        (
            "StorageOpt",
            options.storage_size.map(|size| ("size".to_owned(), size.to_string())).into_iter().collect(),
        ),
    ];
    for (name, map) in maps {
        if !map.is_empty() {
            host.insert(name.to_owned(), json!(map));
        }
    }
    Value::Object(host)
}

/// What every container has, since nothing else can be asked for yet.
fn host_config_of_later() -> Map<String, Value> {
    let value = json!({
        "ContainerIDFile": "",
        "CgroupnsMode": "private",
        "IpcMode": "private",
        "Cgroup": "",
        "Links": null,
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "DeviceRequests": null,
        "MemorySwappiness": null,
        "OomKillDisable": false,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The endpoints as both `ps` and `inspect` have them.
fn networks(info: &ContainerInfo) -> Value {
    let running = info.record.state.is_running();
    let mut networks = Map::new();
    match info.network_mode().as_str() {
        // Those are the other container's.
        mode if mode.starts_with("container:") => return Value::Object(networks),
        "none" => {
            networks.insert("none".to_owned(), endpoint_value(None, &info.network_id));
        }
        _ if info.pod.options.network => {
            networks.insert("bridge".to_owned(), endpoint_value(info.endpoint(), &info.network_id));
        }
        _ => {}
    }
    for record in &info.networks {
        let placed = info.pod.endpoints.iter().find(|placed| placed.network == record.id);
        let endpoint = placed.map(|placed| &placed.endpoint).filter(|_| running);
        let mut shown = endpoint_value(endpoint, &record.id);
        if let Some(asked) = info.record.options.endpoints.get(&record.id) {
            let mut names = vec![info.record.name.clone()];
            names.extend(asked.aliases.iter().cloned());
            names.push(short_id(&info.record.id).to_owned());
            shown["DNSNames"] = json!(names);
            shown["Aliases"] = list_or_null(&asked.aliases);
            if let (None, Some(mac)) = (endpoint, &asked.mac) {
                shown["MacAddress"] = json!(mac);
            }
            let mut ipam = Map::new();
            if let Some(address) = asked.address {
                ipam.insert("IPv4Address".to_owned(), json!(address.to_string()));
            }
            if let Some(address) = asked.address6 {
                ipam.insert("IPv6Address".to_owned(), json!(address.to_string()));
            }
            shown["IPAMConfig"] = if ipam.is_empty() { Value::Null } else { Value::Object(ipam) };
        }
        networks.insert(record.request.name.clone(), shown);
    }
    Value::Object(networks)
}

fn endpoint_value(endpoint: Option<&hyper_engine::Endpoint>, network: &str) -> Value {
    let text = |value: Option<String>| value.unwrap_or_default();
    let six = endpoint.and_then(|endpoint| endpoint.address6);
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "MacAddress": text(endpoint.map(|endpoint| endpoint.mac.to_string())),
        "DriverOpts": null,
        "NetworkID": if endpoint.is_some() { network } else { "" },
        "EndpointID": text(endpoint.map(endpoint_id)),
        "Gateway": text(endpoint.map(|endpoint| endpoint.gateway.to_string())),
        "IPAddress": text(endpoint.map(|endpoint| endpoint.address.addr().to_string())),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.address.prefix_len()),
        "IPv6Gateway": text(endpoint.and_then(|e| e.gateway6).map(|address| address.to_string())),
        "GlobalIPv6Address": text(six.map(|address| address.addr().to_string())),
        "GlobalIPv6PrefixLen": six.map_or(0, |address| address.prefix_len()),
        "DNSNames": null,
    })
}

/// The id of a pod's place in the network.
pub(super) fn endpoint_id(endpoint: &hyper_engine::Endpoint) -> String {
    hyper_engine::derived_id(&format!("endpoint {} of {}", endpoint.tap, endpoint.pod))
}

fn network_settings(info: &ContainerInfo) -> Value {
    // The fields beside `Networks` are those of the default network.
    let endpoint = endpoint_value(info.endpoint(), &info.network_id);
    let of = |name: &str| endpoint[name].clone();
    json!({
        "Bridge": "",
        "SandboxID": sandbox(&info.record),
        "SandboxKey": "",
        "Ports": ports::settings(info),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": of("EndpointID"),
        "Gateway": of("Gateway"),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": of("IPAddress"),
        "IPPrefixLen": of("IPPrefixLen"),
        "IPv6Gateway": "",
        "MacAddress": of("MacAddress"),
        "Networks": networks(info),
    })
}

/// The pod stands for docker's network sandbox.
fn sandbox(record: &ContainerRecord) -> String {
    if record.state.is_running() { short_id(&record.pod).to_owned() } else { String::new() }
}
