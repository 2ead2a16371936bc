//! From flags to the API's container description.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig,
    NetworkingConfig,
};

use super::files::read_bounded;
use super::mount::{parse_mount, split_volumes};
use super::ports::{Bindings, bindings};
use super::values::{
    parse_add_host, parse_cpus, parse_expose, parse_ip, parse_mac, parse_pair, parse_ulimit,
};
use super::{ContainerFlags, FlagError, environment, labels, parse_bytes, parse_restart};

/// Annotation that names the pod a container belongs to.
const POD: &str = "io.hyper.pod";
/// Annotation with the absolute path of the pod's kernel.
const KERNEL: &str = "io.hyper.kernel";
/// Annotation that says whether the VM may be a clone of a template.
const TEMPLATE: &str = "io.hyper.template";
/// Annotation that names the hypervisor.
const HYPERVISOR: &str = "io.hyper.hypervisor";
/// Largest seccomp profile, in bytes: far above any real one.
const MAX_PROFILE: u64 = 4 << 20;

/// What a create call needs.
#[derive(Debug)]
pub struct Request {
    /// The image as the user named it.
    pub image: String,
    /// The call's body.
    pub body: ContainerCreateBody,
}

/// Converts the flags of `run` or `create`. `lookup` gives our environment; `console` is rows and columns.
///
/// # Errors
/// [`FlagError`] names the flag and what is wrong with its value.
pub fn request(
    flags: &ContainerFlags,
    lookup: impl Fn(&str) -> Option<String>,
    console: Option<(u16, u16)>,
) -> Result<Request, FlagError> {
    let (image, command) =
        flags.words.split_first().ok_or_else(|| FlagError::new("image", "", "no image"))?;
    let attach = Attach::from(flags)?;
    let mut host_config = host_config(flags, console)?;
    let (binds, anonymous) = split_volumes(&flags.volume)?;
    host_config.binds = some(binds);
    let body = ContainerCreateBody {
        hostname: flags.hostname.clone(),
        domainname: flags.domainname.clone(),
        user: flags.user.clone(),
        attach_stdin: Some(attach.stdin),
        attach_stdout: Some(attach.stdout),
        attach_stderr: Some(attach.stderr),
        tty: Some(flags.tty),
        open_stdin: Some(flags.interactive),
        // Closes the container's input when the attached client goes.
        stdin_once: Some(flags.interactive && attach.stdin),
        env: some(environment(&flags.env_file, &flags.env, lookup)?),
        cmd: some(command.to_vec()),
        image: Some(image.clone()),
        volumes: some(anonymous),
        working_dir: flags.workdir.clone(),
        // An empty program resets the image's entry point.
        exposed_ports: some(expose(&flags.expose, host_config.port_bindings.as_ref())?),
        entrypoint: flags.entrypoint.clone().map(|program| vec![program]),
        labels: Some(labels(&flags.label_file, &flags.label)?),
        stop_signal: flags.stop_signal.clone(),
        stop_timeout: flags.stop_timeout,
        healthcheck: flags.health.config()?,
        networking_config: networking_config(flags)?,
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    Ok(Request { image: image.clone(), body })
}

struct Attach {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Attach {
    fn from(flags: &ContainerFlags) -> Result<Self, FlagError> {
        if flags.attach.is_empty() {
            return Ok(Self { stdin: flags.interactive, stdout: true, stderr: true });
        }
        let mut attach = Self { stdin: false, stdout: false, stderr: false };
        for stream in &flags.attach {
            match stream.to_ascii_lowercase().as_str() {
                "stdin" => attach.stdin = true,
                "stdout" => attach.stdout = true,
                "stderr" => attach.stderr = true,
                _ => {
                    return Err(FlagError::new(
                        "attach",
                        stream,
                        "valid streams are STDIN, STDOUT and STDERR",
                    ));
                }
            }
        }
        Ok(attach)
    }
}

fn host_config(flags: &ContainerFlags, console: Option<(u16, u16)>) -> Result<HostConfig, FlagError> {
    let each = |values: &[String], parse: &dyn Fn(&str) -> Result<String, FlagError>| {
        values.iter().map(|value| parse(value)).collect::<Result<Vec<_>, _>>().map(some)
    };
    let mut host = HostConfig {
        annotations: annotations(flags)?,
        auto_remove: Some(flags.rm),
        cap_add: some(flags.cap_add.clone()),
        cap_drop: some(flags.cap_drop.clone()),
        console_size: console.map(|(rows, columns)| vec![rows.into(), columns.into()]),
        container_id_file: flags.cidfile.as_ref().map(|path| path.display().to_string()),
        cpu_period: flags.cpu_period,
        cpu_quota: flags.cpu_quota,
        cpu_shares: flags.cpu_shares,
        dns: each(&flags.dns, &|text| parse_ip("dns", text))?,
        dns_options: some(flags.dns_option.clone()),
        dns_search: some(flags.dns_search.clone()),
        extra_hosts: each(&flags.add_host, &parse_add_host)?,
        group_add: some(flags.group_add.clone()),
        init: flags.init.then_some(true),
        ipc_mode: flags.ipc.clone(),
        log_config: log_config(flags)?,
        memory: bytes("memory", flags.memory.as_deref())?,
        memory_reservation: bytes("memory-reservation", flags.memory_reservation.as_deref())?,
        memory_swap: match flags.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            text => bytes("memory-swap", text)?,
        },
        mounts: some(flags.mount.iter().map(|text| parse_mount(text)).collect::<Result<_, _>>()?),
        nano_cpus: flags.cpus.as_deref().map(parse_cpus).transpose()?,
        network_mode: Some(network_mode(flags)?),
        oom_score_adj: flags.oom_score_adj.map(oom_score).transpose()?,
        pid_mode: flags.pid.clone(),
        pids_limit: flags.pids_limit,
        port_bindings: Some(bindings(&flags.publish)?).filter(|bindings| !bindings.is_empty()),
        privileged: Some(flags.privileged),
        publish_all_ports: flags.publish_all.then_some(true),
        readonly_rootfs: Some(flags.read_only),
        restart_policy: Some(parse_restart(flags.restart.as_deref().unwrap_or("no"))?),
        security_opt: some(
            flags.security_opt.iter().map(|text| security_opt(text)).collect::<Result<_, _>>()?,
        ),
        shm_size: bytes("shm-size", flags.shm_size.as_deref())?,
        storage_opt: pairs("storage-opt", &flags.storage_opt)?,
        sysctls: pairs("sysctl", &flags.sysctl)?,
        tmpfs: tmpfs(&flags.tmpfs)?,
        ulimits: some(flags.ulimit.iter().map(|text| parse_ulimit(text)).collect::<Result<_, _>>()?),
        volume_driver: flags.volume_driver.clone(),
        volumes_from: some(flags.volumes_from.clone()),
        ..HostConfig::default()
    };
    flags.hardware.add_to(&mut host)?;
    Ok(host)
}

fn bytes(flag: &str, text: Option<&str>) -> Result<Option<i64>, FlagError> {
    text.map(|text| parse_bytes(flag, text)).transpose()
}

/// What is published is exposed.
fn expose(texts: &[String], published: Option<&Bindings>) -> Result<Vec<String>, FlagError> {
    let ports = texts.iter().map(|text| parse_expose(text)).collect::<Result<Vec<_>, _>>()?;
    let mut ports = ports.concat();
    ports.extend(published.into_iter().flat_map(Bindings::keys).cloned());
    ports.sort();
    ports.dedup();
    Ok(ports)
}

fn some<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

fn pairs(flag: &str, texts: &[String]) -> Result<Option<HashMap<String, String>>, FlagError> {
    let pairs = texts.iter().map(|text| parse_pair(flag, text)).collect::<Result<HashMap<_, _>, _>>()?;
    Ok((!pairs.is_empty()).then_some(pairs))
}

fn annotations(flags: &ContainerFlags) -> Result<Option<HashMap<String, String>>, FlagError> {
    let mut annotations = pairs("annotation", &flags.annotation)?.unwrap_or_default();
    if let Some(pod) = &flags.pod {
        if pod.is_empty() {
            return Err(FlagError::new("pod", pod, "the pod needs a name"));
        }
        annotations.insert(POD.to_owned(), pod.clone());
    }
    if let Some(hypervisor) = &flags.hypervisor {
        annotations.insert(HYPERVISOR.to_owned(), hypervisor.clone());
    }
    if let Some(template) = &flags.template {
        annotations.insert(TEMPLATE.to_owned(), template.clone());
    }
    if let Some(kernel) = &flags.kernel {
        annotations.insert(KERNEL.to_owned(), kernel_path(kernel)?);
    }
    Ok((!annotations.is_empty()).then_some(annotations))
}

/// The kernel's absolute path: the daemon has a working directory of its own.
///
/// # Errors
/// A path that is no file.
pub fn kernel_path(kernel: &Path) -> Result<String, FlagError> {
    let shown = kernel.display().to_string();
    let failed = |reason: &str| FlagError::new("kernel", &shown, reason);
    let absolute = fs::canonicalize(kernel).map_err(|error| failed(&error.to_string()))?;
    if !absolute.is_file() {
        return Err(failed("not a file"));
    }
    absolute.into_os_string().into_string().map_err(|_| failed("the path is not UTF-8"))
}

fn log_config(flags: &ContainerFlags) -> Result<Option<HostConfigLogConfig>, FlagError> {
    let options = pairs("log-opt", &flags.log_opt)?;
    if flags.log_driver.as_deref() == Some("none")
        && let Some(key) = options.iter().flat_map(HashMap::keys).next()
    {
        return Err(FlagError::new("log-opt", key, "invalid logging opts for driver none"));
    }
    if flags.log_driver.is_none() && options.is_none() {
        return Ok(None);
    }
    Ok(Some(HostConfigLogConfig { typ: flags.log_driver.clone(), config: options }))
}

/// A value of `--network`: a name, or docker's long form.
fn parse_network(text: &str) -> Result<(String, EndpointSettings), FlagError> {
    let bad = |why: String| FlagError::new("network", text, &why);
    if !text.contains(['=', ',']) {
        return Ok((text.to_owned(), EndpointSettings::default()));
    }
    let (mut name, mut aliases) = (String::new(), Vec::new());
    let (mut endpoint, mut ipam) = (EndpointSettings::default(), EndpointIpamConfig::default());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| bad(format!("invalid field {field}")))?;
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        match key.as_str() {
            "name" => value.clone_into(&mut name),
            "alias" => aliases.push(value.to_owned()),
            "ip" => ipam.ipv4_address = Some(parse_ip("network", value)?),
            "ip6" => ipam.ipv6_address = Some(parse_ip("network", value)?),
            "mac-address" => endpoint.mac_address = Some(parse_mac(value)?),
            "link-local-ip" | "driver-opt" | "gw-priority" => {
                return Err(bad(format!("{key} is not supported")));
            }
            _ => return Err(bad(format!("invalid field key {key}"))),
        }
    }
    if name.is_empty() {
        return Err(bad("network name/target is not set".to_owned()));
    }
    endpoint.aliases = some(aliases);
    endpoint.ipam_config = (ipam != EndpointIpamConfig::default()).then_some(ipam);
    Ok((name, endpoint))
}

/// The first network is the mode; others come with it.
fn network_mode(flags: &ContainerFlags) -> Result<String, FlagError> {
    let Some(first) = flags.network.first() else { return Ok("default".to_owned()) };
    let (mode, _) = parse_network(first)?;
    match mode.as_str() {
        "host" => Err(FlagError::new("network", first, "a virtual machine cannot be in the host's network")),
        "container:" => Err(FlagError::new("network", first, "name a container")),
        _ => Ok(mode),
    }
}

fn networking_config(flags: &ContainerFlags) -> Result<Option<NetworkingConfig>, FlagError> {
    let mut networks: Vec<(String, EndpointSettings)> =
        flags.network.iter().map(|text| parse_network(text)).collect::<Result<_, _>>()?;
    if networks.is_empty() {
        networks.push(("default".to_owned(), EndpointSettings::default()));
    }
    // The flags beside it speak of the first.
    let (_, first) = &mut networks[0];
    let both = |flag: &str, value: &str, what: &str| {
        Err(FlagError::new(
            flag,
            value,
            &format!("conflicting options: cannot specify both --{flag} and per-network {what}"),
        ))
    };
    if let Some(alias) = flags.network_alias.first() {
        if first.aliases.is_some() {
            return both("network-alias", alias, "alias");
        }
        first.aliases = Some(flags.network_alias.clone());
    }
    let mut ipam = first.ipam_config.take().unwrap_or_default();
    for (flag, given, place, what) in [
        ("ip", &flags.ip, &mut ipam.ipv4_address, "IPv4 address"),
        ("ip6", &flags.ip6, &mut ipam.ipv6_address, "IPv6 address"),
    ] {
        let Some(text) = given else { continue };
        if place.is_some() {
            return both(flag, text, what);
        }
        *place = Some(parse_ip(flag, text)?);
    }
    first.ipam_config = (ipam != EndpointIpamConfig::default()).then_some(ipam);
    if let Some(mac) = &flags.mac_address {
        if first.mac_address.is_some() {
            return both("mac-address", mac, "MAC address");
        }
        first.mac_address = Some(parse_mac(mac)?);
    }
    if networks.len() == 1 && networks[0].1 == EndpointSettings::default() {
        return Ok(None);
    }
    let alone = |name: &str| name == "host" || name == "none" || name.starts_with("container:");
    if alone(&networks[0].0) {
        let conflict =
            |flag: &str, value: &str| Err(FlagError::new(flag, value, "conflicts with the network mode"));
        if let Some(mac) = &flags.mac_address {
            return conflict("mac-address", mac);
        }
        if let Some(alias) = flags.network_alias.first() {
            return conflict("network-alias", alias);
        }
        if let Some(ip) = flags.ip.as_ref().or(flags.ip6.as_ref()) {
            return conflict("ip", ip);
        }
        return conflict("network", flags.network.last().map_or("", String::as_str));
    }
    if let Some((name, _)) = networks[1..].iter().find(|(name, _)| alone(name)) {
        return Err(FlagError::new("network", name, "conflicts with the network mode"));
    }
    Ok(Some(NetworkingConfig { endpoints_config: Some(networks.into_iter().collect()) }))
}

fn oom_score(score: i64) -> Result<i64, FlagError> {
    if (-1000..=1000).contains(&score) {
        return Ok(score);
    }
    Err(FlagError::new("oom-score-adj", &score.to_string(), "use -1000 to 1000"))
}

/// Passes a security option on; a seccomp profile's file is read here, as docker does.
fn security_opt(text: &str) -> Result<String, FlagError> {
    let failed = |reason: &str| FlagError::new("security-opt", text, reason);
    let (key, value) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
    match (key, value) {
        ("seccomp", "unconfined" | "builtin") => Ok(format!("seccomp={value}")),
        ("seccomp", path) if !path.is_empty() => {
            let profile = read_bounded(Path::new(path), MAX_PROFILE)
                .map_err(|error| failed(&format!("opening seccomp profile failed: {error}")))?;
            let profile: serde_json::Value = serde_json::from_slice(&profile)
                .map_err(|error| failed(&format!("compacting json for seccomp profile failed: {error}")))?;
            Ok(format!("seccomp={profile}"))
        }
        ("seccomp", _) => Err(failed("use seccomp=FILE, seccomp=unconfined or seccomp=builtin")),
        // The others are the daemon's to judge.
        _ => Ok(text.to_owned()),
    }
}

fn tmpfs(texts: &[String]) -> Result<Option<HashMap<String, String>>, FlagError> {
    let mut mounts = HashMap::new();
    for text in texts {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        if !path.starts_with('/') {
            return Err(FlagError::new("tmpfs", text, "the mount path must be absolute"));
        }
        mounts.insert(path.to_owned(), options.to_owned());
    }
    Ok((!mounts.is_empty()).then_some(mounts))
}
