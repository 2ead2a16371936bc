//! Containers.

use std::collections::HashSet;

use super::{env, paths, probe, resources, security};
use crate::fault::Report;
use crate::model::{Container, ContainerPort, Lifecycle, PodSpec};
use crate::place::At;
use crate::value::{dns_label, port_name};

/// The signals that can be asked for. Those of real time follow.
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Why an init container has no probes.
const NO_SIDECAR: &str = "may not be set for init containers without restartPolicy=Always";

/// All containers of a pod.
pub(super) fn all(spec: &PodSpec, at: &At, report: &mut Report) {
    let (containers_at, init_at) = (at.field("containers"), at.field("initContainers"));
    if spec.containers.is_empty() {
        report.required(&containers_at, "");
    }
    let mut names = HashSet::new();
    let mut published = HashSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let at = containers_at.index(index);
        common(container, spec, &at, &mut names, report);
        host_ports(&container.ports, &at.field("ports"), &mut published, report);
        supervised(container, spec, &at, report);
        if container.restart_policy.is_some() {
            report.forbidden(&at.field("restartPolicy"), "may not be set for non-init containers");
        }
    }
    for (index, container) in spec.init_containers.iter().enumerate() {
        let at = init_at.index(index);
        common(container, spec, &at, &mut names, report);
        host_ports(&container.ports, &at.field("ports"), &mut HashSet::new(), report);
        if container.is_sidecar() {
            supervised(container, spec, &at, report);
            continue;
        }
        for (field, is_set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if is_set {
                report.forbidden(&at.field(field), NO_SIDECAR);
            }
        }
    }
}

/// What holds for containers of any sort.
fn common<'a>(
    container: &'a Container,
    spec: &PodSpec,
    at: &At,
    names: &mut HashSet<&'a str>,
    report: &mut Report,
) {
    let name_at = at.field("name");
    report.invalid_text(&name_at, &container.name, dns_label(&container.name));
    if !names.insert(&container.name) {
        report.duplicate(&name_at, &container.name);
    }
    match container.image.as_deref() {
        None => report.required(&at.field("image"), ""),
        Some(image) if image.trim() != image => {
            report.invalid_text(&at.field("image"), image, ["must not have leading or trailing whitespace"]);
        }
        Some(_) => {}
    }
    ports(&container.ports, &at.field("ports"), report);
    env::variables(&container.env, &at.field("env"), report);
    env::sources(&container.env_from, &at.field("envFrom"), report);
    if let Some(required) = &container.resources {
        resources::requirements(required, &at.field("resources"), report);
    }
    if let Some(context) = &container.security_context {
        security::of_container(context, &at.field("securityContext"), report);
    }
    if let Some(lifecycle) = &container.lifecycle {
        stop_signal(lifecycle, spec, &at.field("lifecycle").field("stopSignal"), report);
    }
}

fn ports(ports: &[ContainerPort], at: &At, report: &mut Report) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        if let Some(name) = &port.name {
            let at = at.field("name");
            report.invalid_text(&at, name, port_name(name));
            if !names.insert(name) {
                report.duplicate(&at, name);
            }
        }
        paths::port(port.container_port, &at.field("containerPort"), report);
        if let Some(host_port) = port.host_port {
            paths::port(host_port, &at.field("hostPort"), report);
        }
        if let Some(address) = &port.host_ip {
            paths::address(address, &at.field("hostIP"), report);
        }
    }
}

/// Ports of the host, each of which is published once.
fn host_ports(ports: &[ContainerPort], at: &At, published: &mut HashSet<String>, report: &mut Report) {
    for (index, port) in ports.iter().enumerate() {
        let Some(host_port) = port.host_port else { continue };
        let address = port.host_ip.as_deref().unwrap_or_default();
        let name = format!("{}/{address}/{host_port}", port.protocol);
        if !published.insert(name.clone()) {
            report.duplicate(&at.index(index).field("hostPort"), &name);
        }
    }
}

/// Probes and hooks of a container that runs on.
fn supervised(container: &Container, spec: &PodSpec, at: &At, report: &mut Report) {
    if let Some(lifecycle) = &container.lifecycle {
        probe::hooks(lifecycle, spec.termination_grace_period_seconds, &at.field("lifecycle"), report);
    }
    let once = "must be 1";
    for (field, probed) in
        [("livenessProbe", &container.liveness_probe), ("startupProbe", &container.startup_probe)]
    {
        if let Some(probed) = probed {
            let at = at.field(field);
            probe::probe(probed, &at, report);
            if probed.success_threshold != 1 {
                report.invalid(&at.field("successThreshold"), probed.success_threshold, once);
            }
        }
    }
    if let Some(probed) = &container.readiness_probe {
        let at = at.field("readinessProbe");
        probe::probe(probed, &at, report);
        if let Some(seconds) = probed.termination_grace_period_seconds {
            let why = "must not be set for readinessProbes";
            report.invalid(&at.field("terminationGracePeriodSeconds"), seconds, why);
        }
    }
}

fn stop_signal(lifecycle: &Lifecycle, spec: &PodSpec, at: &At, report: &mut Report) {
    let Some(signal) = lifecycle.stop_signal.as_deref() else { return };
    if spec.os.is_none() {
        report.forbidden(at, "may not be set for containers of pods without `spec.os.name`");
    }
    let known = signal.strip_prefix("SIG").is_some_and(|name| {
        let offset =
            |name: &str, most: u8| name.parse::<u8>().is_ok_and(|number| (1..=most).contains(&number));
        let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => rest.is_empty() || rest.strip_prefix('+').is_some_and(|rest| offset(rest, 15)),
            (_, Some(rest)) => rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| offset(rest, 14)),
            _ => false,
        };
        real_time || SIGNALS.contains(&name)
    });
    if !known {
        report.invalid_text(at, signal, ["must be the name of a signal, like SIGTERM"]);
    }
}
