//! A container's options: what the image adds, and whether they make sense.

use std::collections::BTreeMap;
use std::path::Path;

use hyper_image::Image;

use crate::error::{EngineError, Result};
use crate::options::{ContainerOptions, LogOptions, NetworkMode, Resources, Seccomp};
use crate::publish;
use crate::signal;
use crate::spec;
use crate::{cpuset, devices, health, layer, restart};

/// Most bytes of a host name (`sethostname(2)`).
const HOSTNAME_MAX: usize = 64;

/// Most bytes of all of a container's options' text, far above what the kernel lets a process start with.
const TEXT_MAX: usize = 4 << 20;

/// Kernel parameters that belong to the IPC namespace: docker's list.
const IPC_SYSCTLS: [&str; 7] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Kernel parameters of a network namespace that docker sets: unprivileged processes may use low ports and ping.
const DEFAULT_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Docker's words on a host without swap: the limit holds, and nothing ever comes near it.
const NO_SWAP: &str = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited \
                       without swap.";

/// Docker's words where the kernel has no such parameter (cgroup version 2 has none, and a VM no swap).
const NO_SWAPPINESS: &str = "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. \
                             Memory swappiness discarded.";

/// First bytes of an ELF file.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Adds what the image says where the caller said nothing, by docker's rules.
pub(crate) fn merge_image(options: &mut ContainerOptions, image: &Image) {
    let config = &image.config.config;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let no_entrypoint = options.entrypoint.as_ref().is_none_or(Vec::is_empty);
    if no_entrypoint {
        if options.cmd.as_ref().is_none_or(Vec::is_empty) {
            options.cmd = some(&config.cmd);
        }
        if options.entrypoint.is_none() {
            options.entrypoint = some(&config.entrypoint);
        }
    }
    // `--entrypoint ""` takes the image's away.
    if options.entrypoint.as_ref().is_some_and(|words| words.len() == 1 && words[0].is_empty()) {
        options.entrypoint = None;
    }
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    for variable in &config.env {
        if !options.env.iter().any(|given| name(given) == name(variable)) {
            options.env.push(variable.clone());
        }
    }
    for (key, value) in &config.labels {
        options.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if options.working_dir.is_empty() {
        options.working_dir.clone_from(&config.working_dir);
    }
    if options.user.is_empty() {
        options.user.clone_from(&config.user);
    }
    if options.stop_signal.is_none() {
        options.stop_signal.clone_from(&config.stop_signal);
    }
    if options.stop_timeout.is_none() {
        options.stop_timeout = config.stop_timeout;
    }
    for port in config.exposed_ports.keys() {
        if !options.exposed_ports.contains(port) {
            options.exposed_ports.push(port.clone());
        }
    }
    options.image_volumes = config.volumes.keys().cloned().collect();
    options.mounts.anonymous.extend(options.image_volumes.iter().cloned());
    options.on_build.clone_from(&config.on_build);
    options.shell.clone_from(&config.shell);
    health::merge(&mut options.healthcheck, config.healthcheck.as_ref());
}

/// Checks options, and brings some into their final form; returns what the caller should know.
pub(crate) fn check(options: &mut ContainerOptions) -> Result<Vec<String>> {
    check_process(options)?;
    let warnings = check_resources(&options.resources)?;
    options.resources.memory_swappiness = None;
    devices::check(&options.devices)?;
    if options.shm_size < 0 {
        return Err(EngineError::invalid("SHM size can not be less than 0"));
    }
    if let Some(size) = options.storage_size
        && !(layer::MIN_SIZE..=layer::MAX_SIZE).contains(&size)
    {
        return Err(EngineError::invalid("storage size must be between 32 MiB and 16 TiB"));
    }
    for (destination, given) in &options.tmpfs {
        spec::check_tmpfs(destination, given)?;
    }
    if let LogOptions::JsonFile { max_files: 0, .. } = options.log {
        return Err(EngineError::invalid("max-file cannot be less than 1"));
    }
    check_network(options)?;
    restart::check(options)?;
    health::check(options)?;
    publish::requests(options)?;
    if options.security.privileged {
        options.security.seccomp = match std::mem::take(&mut options.security.seccomp) {
            Seccomp::Default => Seccomp::Unconfined,
            given => given,
        };
    }
    Ok(warnings)
}

fn check_process(options: &ContainerOptions) -> Result<()> {
    if options.entrypoint.as_deref().unwrap_or_default().is_empty()
        && options.cmd.as_deref().unwrap_or_default().is_empty()
    {
        return Err(EngineError::invalid("no command specified"));
    }
    let words = options.entrypoint.iter().chain(&options.cmd).flatten().chain(&options.env);
    let mut length = 0;
    for word in words.chain(options.labels.values()).chain([&options.working_dir, &options.user]) {
        length += word.len();
        if word.contains('\0') {
            return Err(EngineError::invalid("options must not contain NUL bytes"));
        }
    }
    if length > TEXT_MAX {
        return Err(EngineError::invalid("command, environment and labels are too long"));
    }
    if let Some(bad) = options.env.iter().find(|variable| variable.is_empty() || variable.starts_with('=')) {
        return Err(EngineError::invalid(format!("invalid environment variable: {bad}")));
    }
    if !options.working_dir.is_empty() && !options.working_dir.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            options.working_dir
        )));
    }
    if let Some(name) = &options.stop_signal {
        signal::parse(name)?;
    }
    Ok(())
}

fn check_network(options: &ContainerOptions) -> Result<()> {
    let host = |name: &str| {
        name.len() <= HOSTNAME_MAX
            && name.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            })
    };
    for name in [&options.hostname, &options.domainname] {
        if !name.is_empty() && !host(name) {
            return Err(EngineError::invalid(format!("invalid hostname: {name}")));
        }
    }
    if matches!(options.network, NetworkMode::Container(_)) && !options.hostname.is_empty() {
        return Err(EngineError::invalid("conflicting options: hostname and the network mode"));
    }
    for name in options.sysctls.keys() {
        let allowed = IPC_SYSCTLS.contains(&name.as_str())
            || name == "kernel.shm_rmid_forced"
            || name.starts_with("fs.mqueue.")
            || name.starts_with("net.");
        if !allowed {
            return Err(EngineError::invalid(format!("sysctl '{name}' is not allowed")));
        }
    }
    for server in &options.names.servers {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(EngineError::invalid(format!("{server} is not an ip address")));
        }
    }
    let plain = |text: &String| !text.is_empty() && !text.contains(char::is_whitespace);
    if let Some(bad) = options.names.search.iter().chain(&options.names.options).find(|text| !plain(text)) {
        return Err(EngineError::invalid(format!("{bad:?} is not a valid DNS domain or option")));
    }
    for line in &options.names.hosts {
        let valid = line.split_once([':', '=']).is_some_and(|(name, address)| {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            !name.is_empty()
                && !name.contains(char::is_whitespace)
                && (address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok())
        });
        if !valid {
            return Err(EngineError::invalid(format!("invalid IP address in add-host: {line:?}")));
        }
    }
    Ok(())
}

/// Checks limits; returns what the caller should know.
pub(crate) fn check_resources(limits: &Resources) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    cpuset::check(limits)?;
    crate::size::vcpus(limits.nano_cpus, false)?;
    crate::size::memory_mib(limits.memory)?;
    let refuse = |text: &str| Err(EngineError::invalid(text));
    if limits.nano_cpus > 0 && (limits.cpu_quota != 0 || limits.cpu_period != 0) {
        return refuse("Conflicting options: Nano CPUs and CPU Quota or Period cannot both be set.");
    }
    if limits.cpu_period != 0 && !(1_000..=1_000_000).contains(&limits.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if limits.cpu_quota != 0 && limits.cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if limits.cpu_shares != 0 && !(2..=262_144).contains(&limits.cpu_shares) {
        return refuse("The CPU shares must be between 2 and 262144");
    }
    if limits.memory_reservation < 0 || (limits.memory > 0 && limits.memory_reservation > limits.memory) {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if limits.memory_swap > 0 && limits.memory == 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if limits.memory_swap < -1 || (limits.memory_swap > 0 && limits.memory_swap < limits.memory) {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limits.memory_swap > limits.memory {
        warnings.push(NO_SWAP.to_owned());
    }
    if let Some(swappiness) = limits.memory_swappiness {
        if !(0..=100).contains(&swappiness) {
            return refuse(&format!("invalid value: {swappiness}, valid memory swappiness range is 0-100"));
        }
        warnings.push(NO_SWAPPINESS.to_owned());
    }
    if !(-1000..=1000).contains(&limits.oom_score_adj) {
        return Err(EngineError::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            limits.oom_score_adj
        )));
    }
    for limit in &limits.ulimits {
        if !spec::ulimit_is_known(&limit.name) {
            return Err(EngineError::invalid(format!("invalid ulimit type: {}", limit.name)));
        }
        let unlimited = |value: i64| value < 0;
        if !unlimited(limit.hard) && (unlimited(limit.soft) || limit.soft > limit.hard) {
            return Err(EngineError::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            )));
        }
    }
    Ok(warnings)
}

/// Adds the network parameters that docker sets, where the caller set none of that name.
pub(crate) fn add_default_sysctls(sysctl: &mut BTreeMap<String, String>) {
    for (name, value) in DEFAULT_SYSCTLS {
        sysctl.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
}

/// Checks that a guest kernel can be one.
pub(crate) fn check_kernel(path: &str) -> Result<()> {
    use std::io::Read as _;
    if !Path::new(path).is_absolute() {
        return Err(EngineError::invalid(format!("kernel {path:?} must be an absolute path")));
    }
    let mut magic = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .map_err(|error| EngineError::invalid(format!("cannot read kernel {path}: {error}")))?;
    if magic == ELF_MAGIC {
        Ok(())
    } else {
        Err(EngineError::invalid(format!(
            "{path} is no kernel: it must be an uncompressed ELF file (vmlinux)"
        ))
        .with_hint("a bzImage (vmlinuz) does not work; use the vmlinux it was made from"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{NameOptions, Ulimit};

    fn plain() -> ContainerOptions {
        ContainerOptions { image: "x".into(), cmd: Some(vec!["true".into()]), ..ContainerOptions::default() }
    }

    fn refused(change: impl FnOnce(&mut ContainerOptions)) -> String {
        let mut options = plain();
        change(&mut options);
        check(&mut options).expect_err("must be refused").message
    }

    #[test]
    fn plain_options_pass() {
        assert_eq!(check(&mut plain()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_needs_swap_is_warned_of() {
        let mut options = plain();
        (options.resources.memory, options.resources.memory_swap) = (64 << 20, 128 << 20);
        options.resources.memory_swappiness = Some(40);
        assert_eq!(check(&mut options).unwrap(), [NO_SWAP, NO_SWAPPINESS]);
        assert_eq!(options.resources.memory_swappiness, None);
        options.resources.memory_swap = -1;
        assert_eq!(check(&mut options).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (change, word) in [
            ((|o| o.cmd = None) as fn(&mut ContainerOptions), "no command"),
            (|o| o.env = vec!["=x".into()], "invalid environment variable"),
            (|o| o.working_dir = "srv".into(), "working directory"),
            (|o| o.stop_signal = Some("NOSUCH".into()), "invalid signal"),
            (|o| o.resources.memory = 1 << 20, "Minimum memory limit allowed is 6MB"),
            (|o| o.resources.memory_swap = 1 << 30, "always set the Memory limit"),
            (
                |o| (o.resources.memory, o.resources.memory_swap) = (64 << 20, 32 << 20),
                "Minimum memoryswap limit should be larger",
            ),
            (|o| o.resources.memory_swappiness = Some(101), "swappiness range is 0-100"),
            (|o| o.resources.cpuset_cpus = "x".into(), "cpuset cpus"),
            (|o| o.devices.rules = vec!["x".into()], "device cgroup rule"),
            (|o| o.resources.nano_cpus = 1, "Range of CPUs"),
            (|o| o.resources.cpu_shares = 1, "CPU shares"),
            (|o| o.resources.oom_score_adj = 1001, "oom score"),
            (|o| o.resources.ulimits = vec![Ulimit { name: "x".into(), soft: 0, hard: 0 }], "ulimit type"),
            (|o| o.resources.ulimits = vec![Ulimit { name: "core".into(), soft: 2, hard: 1 }], "soft limit"),
            (|o| o.shm_size = -1, "SHM size"),
            (|o| o.hostname = "a b".into(), "invalid hostname"),
            (|o| o.hostname = "x".repeat(65), "invalid hostname"),
            (|o| o.sysctls = [("kernel.panic".into(), "1".into())].into(), "not allowed"),
            (
                |o| o.names = NameOptions { servers: vec!["x".into()], ..Default::default() },
                "not an ip address",
            ),
            (|o| o.names = NameOptions { hosts: vec!["a:b".into()], ..Default::default() }, "add-host"),
            (|o| o.tmpfs = [("x".into(), String::new())].into(), "mount path"),
            (|o| o.storage_size = Some(1), "storage size"),
        ] {
            let message = refused(change);
            assert!(message.contains(word), "{message:?} does not name {word:?}");
        }
    }

    #[test]
    fn kernel_must_be_an_elf_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let path = path.to_str().unwrap();
        assert!(check_kernel("vmlinux").is_err());
        assert!(check_kernel(path).is_err());
        std::fs::write(path, "MZ not a kernel").unwrap();
        assert!(check_kernel(path).unwrap_err().message.contains("no kernel"));
        std::fs::write(path, b"\x7fELF....").unwrap();
        check_kernel(path).unwrap();
    }
}
