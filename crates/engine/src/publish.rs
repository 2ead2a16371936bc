//! Ports of containers on the host: what is asked for, and carrying it out.
//!
//! The pod's shim listens on each (`crates/shim/src/ports.rs`), which is what keeps a port to one container; for packets
//! from elsewhere there is a rule besides (`hyper_network::Forwards`). Both outlive the daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError};

use hyper_network::{Forward, Ipv4Net, Protocol};
use hyper_protocol::port::{PortRequest, Published, Transport};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::options::{ContainerOptions, ContainerRecord, NetworkMode, PodRecord};
use crate::podsock;
use crate::registry::{Container, Pod};
use crate::shim::Shim;

/// Most ports of the host that one container can have: each is a socket.
const PORTS_MAX: usize = 4096;

/// Which ports a container has on the host, as the caller wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortOptions {
    /// Ports of the container (`80/tcp`) to where they are published.
    pub bindings: BTreeMap<String, Vec<HostBinding>>,
    /// Every port that is exposed, too.
    pub all: bool,
}

/// A place on the host for a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostBinding {
    /// Address; empty for all.
    pub ip: String,
    /// Port, or a range of which one is taken; empty for any.
    pub port: String,
}

impl PortOptions {
    /// Nothing is published.
    pub fn is_empty(&self) -> bool {
        !self.all && self.bindings.values().all(Vec::is_empty)
    }
}

/// Number and protocol of `80/tcp`, `80`.
pub(crate) fn parse_port(text: &str) -> Result<(u16, Transport)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = number.parse().ok().filter(|number| *number > 0);
    let number =
        number.ok_or_else(|| EngineError::invalid(format!("invalid port specification: \"{text}\"")))?;
    let protocol = protocol.to_ascii_lowercase();
    match Transport::parse(&protocol) {
        Some(transport) => Ok((number, transport)),
        None if protocol == "sctp" => {
            Err(EngineError::unsupported(format!("publishing {text} is not supported: ports are tcp or udp")))
        }
        None => Err(EngineError::invalid(format!("invalid proto: {protocol}"))),
    }
}

/// The ports that options ask for.
///
/// # Errors
/// Values that are no ports or addresses, too many ports, or a network that has none.
pub(crate) fn requests(options: &ContainerOptions) -> Result<Vec<PortRequest>> {
    if options.ports.is_empty() {
        return Ok(Vec::new());
    }
    match &options.network {
        NetworkMode::Container(_) => {
            return Err(EngineError::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        NetworkMode::None => {
            return Err(EngineError::invalid(
                "conflicting options: port publishing and the none network mode",
            ));
        }
        NetworkMode::Bridge | NetworkMode::Named(_) => {}
    }
    let mut requests = Vec::new();
    for (port, bindings) in &options.ports.bindings {
        let (port, transport) = parse_port(port)?;
        for binding in bindings {
            let (first, last) = host_ports(&binding.port)?;
            requests.push(PortRequest { transport, port, hosts: hosts(&binding.ip)?, first, last });
        }
    }
    if options.ports.all {
        for exposed in &options.exposed_ports {
            let (port, transport) = parse_port(exposed)?;
            if !requests.iter().any(|request| (request.port, request.transport) == (port, transport)) {
                requests.push(PortRequest { transport, port, hosts: hosts("")?, first: 0, last: 0 });
            }
        }
    }
    if requests.len() > PORTS_MAX {
        return Err(EngineError::invalid(format!("a container can publish at most {PORTS_MAX} ports")));
    }
    Ok(requests)
}

fn hosts(ip: &str) -> Result<Vec<IpAddr>> {
    if ip.is_empty() {
        return Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    }
    let bare = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(ip);
    match bare.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => Err(EngineError::invalid(format!("invalid IP address: {ip}"))),
    }
}

/// First and last port of `8080`, `8000-8010` or nothing.
fn host_ports(text: &str) -> Result<(u16, u16)> {
    let invalid = || EngineError::invalid(format!("invalid port specification: \"{text}\""));
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    if first > last || (first == 0 && last > 0) {
        return Err(invalid());
    }
    Ok((first, last))
}

impl Engine {
    /// Publishes a container's ports, if it has any, and notes where.
    ///
    /// # Errors
    /// A port is not to be had; nothing is published then.
    pub(crate) async fn publish_ports(
        &self,
        container: &Container,
        record: &ContainerRecord,
        pod: &Pod,
        shim: &Shim,
    ) -> Result<()> {
        let mut requests = requests(&record.options)?;
        if requests.is_empty() {
            return Ok(());
        }
        let way =
            pod.lock().endpoints.iter().find(|placed| placed.gateway).map(|placed| placed.network.clone());
        let binding = way.and_then(|id| self.shared.networks.by_id(&id)).and_then(|net| net.host_binding());
        if let Some(address) = binding.and_then(|address| address.parse().ok()) {
            // Two addresses are those of a port that is published at none.
            requests.iter_mut().filter(|r| r.hosts.len() == 2).for_each(|r| r.hosts = vec![address]);
        }
        let endpoint = pod.lock().primary().cloned();
        let Some(endpoint) = endpoint else {
            return Err(EngineError::invalid(
                "conflicting options: port publishing and a pod without a network",
            ));
        };
        let failed = |why: String| {
            EngineError::new(
                Kind::System,
                format!(
                    "driver failed programming external connectivity on endpoint {} ({}): {why}",
                    record.name,
                    crate::ids::derived_id(&format!("endpoint {} of {}", endpoint.tap, endpoint.pod))
                ),
            )
        };
        let to = endpoint.address.addr();
        let published = match podsock::publish(shim.dir(), &record.id, to.into(), requests).await? {
            Ok(published) => published,
            Err((what, why)) => return Err(failed(self.why_taken(&what, &why))),
        };
        let forwards = forwards(&published, endpoint.address);
        container.lock().state.ports = published;
        container.forwards.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&forwards);
        self.shared.forwards.add(&forwards).await.map_err(EngineError::from)
    }

    /// Leads a running container's ports to where its pod's default route is now.
    pub(crate) async fn redirect_ports(&self, container: &Container, pod: &PodRecord) -> Result<()> {
        let ports = container.lock().state.ports.clone();
        if ports.is_empty() {
            return Ok(());
        }
        let mut new = Vec::new();
        if let Some(endpoint) = pod.primary() {
            let dir = self.places().pod(&pod.id);
            let to = endpoint.address.addr().into();
            podsock::publish(&dir, &container.id, to, Vec::new())
                .await?
                .map_err(|(_, why)| EngineError::new(Kind::System, why))?;
            new = forwards(&ports, endpoint.address);
        }
        let old = std::mem::replace(
            &mut *container.forwards.lock().unwrap_or_else(PoisonError::into_inner),
            new.clone(),
        );
        self.shared.forwards.remove(&old).await?;
        self.shared.forwards.add(&new).await.map_err(EngineError::from)
    }

    /// Docker's words for a port that is not to be had.
    fn why_taken(&self, what: &Published, why: &str) -> String {
        let address = std::net::SocketAddr::new(what.host, what.host_port);
        let same = |port: &Published| (port.transport, port.host_port) == (what.transport, what.host_port);
        let ours = self.shared.registry.containers();
        if ours.iter().any(|container| container.lock().state.ports.iter().any(same)) {
            return format!("Bind for {address} failed: port is already allocated");
        }
        let family = if what.host.is_ipv4() { "4" } else { "6" };
        let reason = why.split(" (os error").next().unwrap_or(why).to_lowercase();
        let transport = what.transport.name();
        format!("Error starting userland proxy: listen {transport}{family} {address}: bind: {reason}")
    }
}

impl Shared {
    /// Takes a container's ports back; the shim has let go of its sockets or is about to.
    pub(crate) async fn unpublish(&self, container: &Container) {
        container.lock().state.ports.clear();
        let forwards =
            std::mem::take(&mut *container.forwards.lock().unwrap_or_else(PoisonError::into_inner));
        if forwards.is_empty() {
            return;
        }
        if let Err(error) = self.forwards.remove(&forwards).await {
            let error = EngineError::from(error);
            tracing::warn!(container = container.id, error = %error.report(), "a published port stays");
        }
    }

    /// After a restart of the daemon: the rules for the ports of containers that run, and no others.
    pub(crate) async fn restore_forwards(self: &Arc<Self>) {
        let mut all = Vec::new();
        for container in self.registry.containers() {
            let (pod, ports) = {
                let record = container.lock();
                (record.pod.clone(), record.state.ports.clone())
            };
            let endpoint = self.registry.pod(&pod).ok().and_then(|pod| pod.lock().primary().cloned());
            let Some(endpoint) = endpoint.filter(|_| !ports.is_empty()) else { continue };
            let forwards = forwards(&ports, endpoint.address);
            container.forwards.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&forwards);
            all.extend(forwards);
        }
        let report = |error| {
            let error = EngineError::from(error);
            tracing::warn!(error = %error.report(), "cannot restore the rules of published ports");
        };
        if !all.is_empty() {
            let _ = self.forwards.replace(&all).await.map_err(report);
        } else if self.network_was_used() {
            // Nobody waits for what is left of an earlier daemon.
            let shared = self.clone();
            tokio::spawn(async move { shared.forwards.clear().await.map_err(report) });
        }
    }
}

/// The rules for ports, of which those of IPv6 have none: the shim carries them.
fn forwards(ports: &[Published], to: Ipv4Net) -> Vec<Forward> {
    let forward = |port: &Published| {
        let IpAddr::V4(host) = port.host else { return None };
        let protocol = match port.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        Some(Forward {
            protocol,
            host,
            host_port: port.host_port,
            to: to.addr(),
            port: port.port,
            subnet: to,
        })
    };
    ports.iter().filter_map(forward).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bindings: &[(&str, &str, &str)]) -> ContainerOptions {
        let mut options = ContainerOptions::default();
        for (port, ip, host_port) in bindings {
            let binding = HostBinding { ip: (*ip).to_owned(), port: (*host_port).to_owned() };
            options.ports.bindings.entry((*port).to_owned()).or_default().push(binding);
        }
        options
    }

    #[test]
    fn bindings_become_requests() {
        let requests = requests(&options(&[
            ("80/tcp", "", "8080"),
            ("53/udp", "127.0.0.1", "5000-5010"),
            ("1", "::1", ""),
        ]));
        let requests = requests.unwrap();
        let shown: Vec<_> =
            requests.iter().map(|r| (r.port, r.transport.name(), r.hosts.len(), r.first, r.last)).collect();
        assert_eq!(shown, [(1, "tcp", 1, 0, 0), (53, "udp", 1, 5000, 5010), (80, "tcp", 2, 8080, 8080)]);
    }

    #[test]
    fn all_exposed_ports_are_published_once() {
        let mut options = options(&[("80/tcp", "", "8080")]);
        options.exposed_ports = vec!["80/tcp".into(), "443/tcp".into()];
        assert_eq!(requests(&options).unwrap().len(), 1);
        options.ports.all = true;
        let requests = requests(&options).unwrap();
        assert_eq!((requests.len(), requests[1].port, requests[1].first), (2, 443, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        for (binding, word) in [
            (("x/tcp", "", "1"), "invalid port"),
            (("0/tcp", "", "1"), "invalid port"),
            (("80/sctp", "", "1"), "sctp"),
            (("80/icmp", "", "1"), "invalid proto"),
            (("80/tcp", "nohost", "1"), "invalid IP address"),
            (("80/tcp", "", "9-8"), "invalid port"),
            (("80/tcp", "", "70000"), "invalid port"),
        ] {
            let error = requests(&options(&[binding])).unwrap_err();
            assert!(error.message.contains(word), "{binding:?}: {}", error.message);
        }
        let mut options = options(&[("80/tcp", "", "")]);
        options.network = NetworkMode::None;
        assert!(requests(&options).unwrap_err().message.contains("none network mode"));
    }
}
