//! Pods.

use super::{container, mounts, paths, resources, security, volume};
use crate::fault::Report;
use crate::model::{DnsPolicy, PodDNSConfig, PodSpec};
use crate::place::At;
use crate::value::{dns_label, dns_subdomain};

/// Most name servers, as in the C library.
const MOST_SERVERS: usize = 3;

/// Most search domains.
const MOST_SEARCHES: usize = 32;

/// Most characters of all search domains, with the spaces between them.
const MOST_SEARCH_CHARACTERS: usize = 2048;

/// Longest host name, as in the kernel.
const LONGEST_HOST_NAME: usize = 64;

/// What runs in a pod.
pub(super) fn spec(spec: &PodSpec, at: &At, report: &mut Report) {
    volume::volumes(&spec.volumes, &at.field("volumes"), report);
    container::all(spec, at, report);
    mounts::all(spec, at, report);
    resources::of_pod(spec, at, report);
    if let Some(context) = &spec.security_context {
        security::of_pod(context, &at.field("securityContext"), report);
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        report.in_range(&at.field("activeDeadlineSeconds"), seconds, 1, i32::MAX.into());
    }
    names(spec, at, report);
    dns(spec.dns_config.as_ref(), spec.dns_policy, &at.field("dnsConfig"), report);
    for (index, alias) in spec.host_aliases.iter().enumerate() {
        let at = at.field("hostAliases").index(index);
        paths::address(&alias.ip, &at.field("ip"), report);
        for (index, name) in alias.hostnames.iter().enumerate() {
            report.invalid_text(&at.field("hostnames").index(index), name, dns_subdomain(name));
        }
    }
}

fn names(spec: &PodSpec, at: &At, report: &mut Report) {
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name {
            report.invalid_text(&at.field(field), name, dns_label(name));
        }
    }
    if let Some(name) = &spec.runtime_class_name {
        report.invalid_text(&at.field("runtimeClassName"), name, dns_subdomain(name));
    }
    if let Some(name) = &spec.hostname_override {
        let at = at.field("hostnameOverride");
        report.invalid_text(&at, name, dns_subdomain(name));
        if name.len() > LONGEST_HOST_NAME {
            report.invalid_text(&at, name, [format!("must be no more than {LONGEST_HOST_NAME} bytes")]);
        }
        if spec.set_hostname_as_fqdn {
            report.forbidden(&at, "may not be specified when `setHostnameAsFQDN` is true");
        }
    }
}

fn dns(config: Option<&PodDNSConfig>, policy: DnsPolicy, at: &At, report: &mut Report) {
    let servers_at = at.field("nameservers");
    if policy == DnsPolicy::None {
        match config {
            None => report.required(at, "must provide `dnsConfig` when `dnsPolicy` is None"),
            Some(config) if config.nameservers.is_empty() => {
                let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                report.required(&servers_at, why);
            }
            Some(_) => {}
        }
    }
    let Some(config) = config else { return };
    if config.nameservers.len() > MOST_SERVERS {
        let why = format!("must not have more than {MOST_SERVERS} nameservers");
        report.invalid(&servers_at, config.nameservers.len(), why);
    }
    for (index, server) in config.nameservers.iter().enumerate() {
        paths::address(server, &servers_at.index(index), report);
    }
    let searches_at = at.field("searches");
    if config.searches.len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        report.invalid(&searches_at, config.searches.len(), why);
    }
    let characters = config.searches.iter().map(|search| search.len() + 1).sum::<usize>().saturating_sub(1);
    if characters > MOST_SEARCH_CHARACTERS {
        let why = format!(
            "must not have more than {MOST_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        report.invalid(&searches_at, characters, why);
    }
    for (index, search) in config.searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        // Underscores are allowed here alone.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "0");
        report.invalid_text(&searches_at.index(index), search, dns_subdomain(&name));
    }
}
