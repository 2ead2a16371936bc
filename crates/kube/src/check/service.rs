//! Services.

use std::collections::HashSet;

use super::{meta, paths};
use crate::fault::Report;
use crate::model::{ServicePort, ServiceSpec, ServiceType};
use crate::place::At;
use crate::value::dns_label;

/// Ports of the host that services are published on, as API servers have it unless told otherwise.
const NODE_PORTS: std::ops::RangeInclusive<i32> = 30000..=32767;

/// Longest time that a client stays with a pod.
const LONGEST_AFFINITY: i64 = 86400;

/// A Service.
pub(super) fn service(spec: &ServiceSpec, at: &At, report: &mut Report) {
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports_at = at.field("ports");
    if spec.ports.is_empty() && !headless {
        report.required(&ports_at, "");
    }
    addresses(spec, headless, at, report);
    meta::labels(&spec.selector, &at.field("selector"), report);
    let (mut names, mut numbers, mut published) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let at = ports_at.index(index);
        name(port, spec.ports.len() > 1, &mut names, &at, report);
        paths::port(port.port, &at.field("port"), report);
        if let Some(target) = &port.target_port {
            paths::port_or_name(target, &at.field("targetPort"), report);
        }
        if !numbers.insert((port.protocol, port.port)) {
            report.duplicate(&at, &format!("{}/{}", port.protocol, port.port));
        }
        let Some(number) = port.node_port else { continue };
        let at = at.field("nodePort");
        if spec.reach == ServiceType::ClusterIp {
            report.forbidden(&at, "may not be used when `type` is 'ClusterIP'");
        }
        if !NODE_PORTS.contains(&number) {
            let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            report.invalid(&at, number, why);
        }
        if !published.insert((port.protocol, number)) {
            report.duplicate(&at, &format!("{}/{number}", port.protocol));
        }
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.map(|client| i64::from(client.timeout_seconds));
    if let Some(seconds) = seconds.filter(|seconds| !(1..=LONGEST_AFFINITY).contains(seconds)) {
        let at = at.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds");
        report.invalid(&at, seconds, format!("must be greater than 0 and less than {LONGEST_AFFINITY}"));
    }
}

fn addresses(spec: &ServiceSpec, headless: bool, at: &At, report: &mut Report) {
    let (one_at, all_at) = (at.field("clusterIP"), at.field("clusterIPs"));
    if headless && spec.reach == ServiceType::NodePort {
        report.invalid_text(&one_at, "None", ["may not be set to 'None' for NodePort services"]);
    }
    for address in spec.cluster_ip.iter().filter(|address| *address != "None") {
        paths::address(address, &one_at, report);
    }
    for (index, address) in spec.cluster_ips.iter().enumerate().filter(|(_, address)| *address != "None") {
        paths::address(address, &all_at.index(index), report);
    }
    if spec.cluster_ips.len() > 2 {
        report.invalid(&all_at, spec.cluster_ips.len(), "may only hold up to 2 values");
    }
    match (&spec.cluster_ip, spec.cluster_ips.first()) {
        (Some(one), Some(first)) if one != first => {
            report.invalid_text(&all_at, first, ["first value must match `clusterIP`"]);
        }
        (None, Some(_)) => report.required(&one_at, "must be set when `clusterIPs` is specified"),
        _ => {}
    }
    if spec.ip_families.len() > 2 {
        report.invalid(&at.field("ipFamilies"), spec.ip_families.len(), "may only hold up to 2 values");
    }
    if let [first, second] = spec.ip_families[..]
        && first == second
    {
        report.duplicate(&at.field("ipFamilies").index(1), second.name());
    }
}

fn name<'a>(port: &'a ServicePort, needed: bool, names: &mut HashSet<&'a str>, at: &At, report: &mut Report) {
    let at = at.field("name");
    match port.name.as_deref() {
        None if needed => report.required(&at, ""),
        None => {}
        Some(name) => {
            report.invalid_text(&at, name, dns_label(name));
            if !names.insert(name) {
                report.duplicate(&at, name);
            }
        }
    }
}
