//! The daemon itself: version, info, disk usage, health.

use std::collections::BTreeMap;

use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use hyper_engine::{DEFAULT_MEMORY_MIB, ListQuery, OVERHEAD_MIB, Timestamp, host_cpus};
use serde_json::{Value, json};

use super::image;
use crate::http::{ApiError, Reply, Result, blamed_if, ok, text};
use crate::path::{API_VERSION, MIN_API_VERSION};
use crate::route::Call;

pub(crate) fn ping() -> Reply {
    let mut reply = text("OK");
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    reply
}

/// Release of the host's kernel and name of the host.
fn host() -> (String, String) {
    let uname = rustix::system::uname();
    (uname.release().to_string_lossy().into_owned(), uname.nodename().to_string_lossy().into_owned())
}

pub(crate) async fn version(_call: Call) -> Result {
    let version = env!("CARGO_PKG_VERSION");
    let (kernel, _) = host();
    ok(&json!({
        "Platform": {"Name": "Hyper"},
        "Components": [{
            "Name": "Engine",
            "Version": version,
            "Details": {
                "ApiVersion": API_VERSION,
                "Arch": "amd64",
                "Experimental": "false",
                "KernelVersion": kernel,
                "MinAPIVersion": MIN_API_VERSION,
                "Os": "linux",
            },
        }],
        "Version": version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

/// The host's operating system, from `os-release`.
fn os_release() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

pub(crate) async fn info(call: Call) -> Result {
    let engine = &call.app.engine;
    let containers = engine.list(&ListQuery { all: true, ..ListQuery::default() }).await?;
    let count = |status: &str| containers.iter().filter(|info| info.record.state.status() == status).count();
    let (running, paused) = (count("running"), count("paused"));
    let images = image::all(engine).await?.len();
    let (kernel, name) = host();
    let os = os_release();
    let sysinfo = rustix::system::sysinfo();
    let memory = sysinfo.totalram * u64::from(sysinfo.mem_unit);
    let mut value = json!({
        "ID": engine.id(),
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused,
        "Images": images,
        "Driver": "erofs",
        "DriverStatus": [["Layers", "read-only EROFS disks"], ["Writable layer", "ext4 disk"]],
        "Plugins": {
            "Volume": [], "Network": ["bridge", "null"], "Authorization": null, "Log": ["json-file", "none"],
        },
        "MemoryLimit": true,
        "SwapLimit": false,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": false,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "BridgeNfIptables": false,
        "BridgeNfIp6tables": false,
    });
    let second = json!({
        "Debug": call.app.debug,
        "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        "OomKillDisable": false,
        "NGoroutines": 0,
        "SystemTime": Timestamp::now().to_string(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "none",
        "CgroupVersion": "2",
        "NEventsListener": engine.event_listeners(),
        "KernelVersion": kernel,
        "OperatingSystem": os.get("PRETTY_NAME").cloned().unwrap_or_else(|| "Linux".to_owned()),
        "OSVersion": os.get("VERSION_ID").cloned().unwrap_or_default(),
        "OSType": "linux",
        "Architecture": "x86_64",
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(engine),
        "NCPU": host_cpus(),
        "MemTotal": memory,
        "GenericResources": null,
        "DockerRootDir": engine.places().root.display().to_string(),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": name,
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Runtimes": {"hyper": {"path": "containerd-shim-hyper-v2"}},
        "DefaultRuntime": "hyper",
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "CDISpecDirs": [],
        "Warnings": null,
    });
    if let (Value::Object(first), Value::Object(second)) = (&mut value, second) {
        first.extend(second);
    }
    ok(&value)
}

fn registries(engine: &hyper_engine::Engine) -> Value {
    let config = engine.registries();
    let (cidrs, hosts): (Vec<&String>, Vec<&String>) =
        config.insecure.iter().partition(|entry| entry.contains('/'));
    let mirrors = config.mirrors.get("docker.io").cloned().unwrap_or_default();
    let mut index = serde_json::Map::new();
    index.insert(
        "docker.io".to_owned(),
        json!({"Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true}),
    );
    for host in hosts {
        index.insert(host.clone(), json!({"Name": host, "Mirrors": [], "Secure": false, "Official": false}));
    }
    let cidrs: Vec<Value> = cidrs.into_iter().map(|cidr| json!(cidr)).chain([json!("127.0.0.0/8")]).collect();
    json!({
        "AllowNondistributableArtifactsCIDRs": null,
        "AllowNondistributableArtifactsHostnames": null,
        "InsecureRegistryCIDRs": cidrs,
        "IndexConfigs": index,
        "Mirrors": mirrors,
    })
}

/// What docker's `info` has no field for.
pub(crate) async fn hyper_info(call: Call) -> Result {
    let engine = &call.app.engine;
    let places = engine.places();
    let hypervisor = engine.hypervisor_report().await;
    let guest =
        |name: &str| places.guest_file(name).map(|path| path.display().to_string()).unwrap_or_default();
    let pods = engine.list_pods().await;
    let templates = engine.templates().await?;
    let pool = engine.pool().await;
    ok(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "root": places.root.display().to_string(),
        "run": places.run.display().to_string(),
        "hypervisor": hypervisor,
        "guest": {"kernel": guest("vmlinux"), "initramfs": guest("initramfs.cpio")},
        "pods": {"total": pods.len(), "running": pods.iter().filter(|pod| pod.vm.is_some()).count()},
        "pool": {"wanted": pool.wanted, "ready": pool.ready, "bytes": pool.bytes},
        "templates": {
            "enabled": engine.clones(),
            "count": templates.len(),
            "bytes": templates.iter().map(|template| template.bytes).sum::<u64>(),
        },
        "defaults": {
            "memory_mib": DEFAULT_MEMORY_MIB,
            "memory_overhead_mib": OVERHEAD_MIB,
        },
    }))
}

pub(crate) async fn doctor(call: Call) -> Result {
    ok(&call.app.engine.doctor().await)
}

/// What `GET /system/df?type=` may name, and the answer's fields for it.
const USAGE: [(&str, &str); 4] =
    [("container", "Containers"), ("image", "Images"), ("volume", "Volumes"), ("build-cache", "BuildCache")];

pub(crate) async fn disk_usage(call: Call) -> Result {
    let engine = &call.app.engine;
    let wanted = call.query.all("type");
    if let Some(unknown) = wanted.iter().find(|kind| !USAGE.iter().any(|(known, _)| known == kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let containers = engine.list(&ListQuery { all: true, size: true, ..ListQuery::default() }).await?;
    let images = image::all(engine).await?;
    let mut layers: BTreeMap<_, u64> = BTreeMap::new();
    for image in &images {
        for layer in &image.layers {
            layers.insert(layer.blob.clone(), layer.blob_size);
        }
    }
    let used = |image: &hyper_engine::image::Image| {
        containers.iter().filter(|info| info.record.image_id == image.id.to_string()).count()
    };
    let mut users: BTreeMap<_, u64> = BTreeMap::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        *users.entry(&layer.blob).or_default() += 1;
    }
    let images: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut summary = image::summary(image, i64::try_from(used(image)).unwrap_or(-1));
            let shared = image.layers.iter().filter(|layer| users.get(&layer.blob) > Some(&1));
            summary["SharedSize"] = shared.map(|layer| layer.blob_size).sum::<u64>().into();
            summary
        })
        .collect();
    let now = Timestamp::now();
    let containers: Vec<Value> = containers
        .iter()
        .map(|info| super::inspect::summary(info, engine.shown_mounts(&info.record), now))
        .collect();
    let volumes = engine.volumes(&hyper_engine::Filters::default(), true).await?;
    let mut usage = json!({
        "LayersSize": layers.values().sum::<u64>(),
        "Images": images,
        "Containers": containers,
        "Volumes": volumes.iter().map(super::volume::volume).collect::<Vec<_>>(),
        "BuildCache": [],
    });
    for (kind, field) in USAGE {
        if !wanted.is_empty() && !wanted.iter().any(|known| known == kind) {
            usage[field] = Value::Null;
            if kind == "image" {
                usage["LayersSize"] = 0.into();
            }
        }
    }
    ok(&usage)
}

/// A network with the containers that run in it.
async fn network_value(call: &Call, name: &str) -> Result<Value> {
    let engine = &call.app.engine;
    let mut containers = serde_json::Map::new();
    let mut ipam = Vec::new();
    if name == "bridge" {
        for info in engine.list(&ListQuery::default()).await? {
            let Some(endpoint) = info.endpoint() else { continue };
            containers.insert(
                info.record.id.clone(),
                json!({
                    "Name": info.record.name,
                    "EndpointID": super::inspect::endpoint_id(endpoint),
                    "MacAddress": endpoint.mac.to_string(),
                    "IPv4Address": endpoint.address.to_string(),
                    "IPv6Address": "",
                }),
            );
        }
        ipam.extend(
            engine.bridge_subnet().map(|(subnet, gateway)| json!({"Subnet": subnet, "Gateway": gateway})),
        );
    }
    Ok(json!({
        "Name": name,
        "Id": engine.network_id(name),
        "Created": Timestamp::NEVER,
        "Scope": "local",
        "Driver": if name == "none" { "null" } else { "bridge" },
        "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": ipam},
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": {},
        "Labels": {},
    }))
}

/// The two networks that there are.
pub(crate) async fn networks(call: &Call) -> Result {
    let filters = hyper_engine::Filters::parse(
        call.query.get("filters"),
        &["name", "id", "driver", "label", "scope", "type", "dangling"],
    )?;
    let nothing = BTreeMap::new();
    let mut values = Vec::new();
    for name in ["bridge", "none"] {
        let value = network_value(call, name).await?;
        let field = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let fits = filters.any("name", &|wanted| name.contains(wanted))
            && filters.any("id", &|wanted| field("Id").starts_with(wanted))
            && filters.any("driver", &|wanted| field("Driver") == wanted)
            && filters.any("scope", &|wanted| wanted == "local")
            && filters.any("type", &|wanted| wanted == "builtin")
            && filters.boolean("dangling")? != Some(true)
            && filters.matches_labels(&nothing);
        if fits {
            values.push(value);
        }
    }
    let custom = call.app.engine.networks(&filters);
    let custom = custom.map_err(blamed_if(|error| error.message.starts_with("invalid filter: 'type'")))?;
    values.extend(custom.iter().map(|record| super::networks::value(call, record)));
    ok(&values)
}

pub(crate) async fn network(call: &Call, name: &str) -> Result {
    // All there is to tell is always told.
    call.query.strict_bool("verbose")?;
    if !matches!(call.query.get("scope"), "" | "local") {
        return Err(ApiError::new(hyper::StatusCode::NOT_FOUND, format!("network {name} not found")));
    }
    let engine = &call.app.engine;
    let known = ["bridge", "none"]
        .into_iter()
        .find(|known| *known == name || (name.len() >= 12 && engine.network_id(known).starts_with(name)));
    match known {
        Some(name) => ok(&network_value(call, name).await?),
        None => ok(&super::networks::value(call, &engine.find_network(name)?)),
    }
}
