//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::{ContainerRecord, PodRecord};

/// First lines of docker's `/etc/hosts`.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::\tip6-localnet\n\
ff00::\tip6-mcastprefix\n\
ff02::1\tip6-allnodes\n\
ff02::2\tip6-allrouters\n";

/// The files, by path.
///
/// # Errors
/// The host's resolver configuration cannot be read; `host-gateway` without a network.
pub(crate) async fn files(
    engine: &Engine,
    record: &ContainerRecord,
    pod: &PodRecord,
) -> Result<BTreeMap<String, String>> {
    let hostname = &pod.options.hostname;
    let mut files = BTreeMap::from([
        ("/etc/hostname".to_owned(), format!("{hostname}\n")),
        ("/etc/hosts".to_owned(), hosts(record, pod)?),
        ("/etc/resolv.conf".to_owned(), resolv_conf(engine, record, pod).await?),
    ]);
    files.extend(pod.options.files.clone());
    // What the caller puts there takes their place.
    for point in &record.options.mounts.points {
        files.remove(&point.target);
    }
    Ok(files)
}

fn hosts(record: &ContainerRecord, pod: &PodRecord) -> Result<String> {
    let mut text = HOSTS.to_owned();
    for line in &record.options.names.hosts {
        let (name, address) = line.split_once([':', '=']).unwrap_or((line, ""));
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = match (address, pod.primary()) {
            ("host-gateway", Some(endpoint)) => endpoint.gateway.to_string(),
            ("host-gateway", None) => {
                return Err(EngineError::invalid("host-gateway needs a network: the container has none"));
            }
            (address, _) => address.to_owned(),
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    let placed = pod.endpoints.iter().map(|placed| &placed.endpoint);
    let addresses = pod.endpoint.iter().chain(placed).flat_map(|endpoint| {
        let six = endpoint.address6.map(|address| address.addr().to_string());
        std::iter::once(endpoint.address.addr().to_string()).chain(six)
    });
    let hostname = &pod.options.hostname;
    let full = match pod.options.domainname.as_str() {
        "" => hostname.clone(),
        domain => format!("{hostname}.{domain} {hostname}"),
    };
    for address in addresses {
        text.push_str(&format!("{address}\t{full}\n"));
    }
    Ok(text)
}

async fn resolv_conf(engine: &Engine, record: &ContainerRecord, pod: &PodRecord) -> Result<String> {
    let given = &record.options.names;
    if !pod.endpoints.is_empty() {
        return own_resolv_conf(engine, record, pod);
    }
    let mut conf = match pod.endpoint {
        Some(_) => engine.network().await?.resolvers().await?,
        None => hyper_network::ResolvConf::default(),
    };
    if !given.servers.is_empty() {
        conf.nameservers = given.servers.iter().filter_map(|server| server.parse::<IpAddr>().ok()).collect();
    }
    if !given.search.is_empty() {
        conf.search = given.search.iter().filter(|domain| *domain != ".").cloned().collect();
    }
    if !given.options.is_empty() {
        conf.options.clone_from(&given.options);
    }
    Ok(conf.to_string())
}

/// Names are asked of the networks' own servers, which ask those that the container is to use.
fn own_resolv_conf(engine: &Engine, record: &ContainerRecord, pod: &PodRecord) -> Result<String> {
    /// Servers that a resolver looks at (`MAXNS` of `resolv.h`).
    const SERVERS_MAX: usize = 3;
    let given = &record.options.names;
    let mut conf = hyper_network::host_names(&engine.shared.config.network)?;
    let mut places: Vec<_> = pod.endpoints.iter().collect();
    places.sort_by_key(|placed| !placed.gateway);
    let gateways = places.into_iter().map(|placed| IpAddr::V4(placed.endpoint.gateway));
    conf.nameservers = gateways.take(SERVERS_MAX).collect();
    if !given.search.is_empty() {
        conf.search = given.search.iter().filter(|domain| *domain != ".").cloned().collect();
    }
    if !given.options.is_empty() {
        conf.options.clone_from(&given.options);
    }
    if !conf.options.iter().any(|option| option.starts_with("ndots:")) {
        conf.options.push("ndots:0".to_owned());
    }
    Ok(conf.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::options::{ContainerOptions, NameOptions, PodOptions, State};

    fn pod() -> PodRecord {
        PodRecord {
            id: "p".into(),
            name: None,
            explicit: false,
            created: Timestamp(0),
            options: PodOptions { hostname: "web".into(), domainname: "lan".into(), ..PodOptions::default() },
            endpoint: Some(hyper_network::Endpoint {
                pod: "p".into(),
                tap: "t".into(),
                mac: "02:42:ac:1e:00:02".parse().unwrap(),
                address: "172.30.0.2/16".parse().unwrap(),
                gateway: "172.30.0.1".parse().unwrap(),
                mtu: 1500,
                address6: None,
                gateway6: None,
            }),
            slot: 0,
            endpoints: Vec::new(),
            started: None,
            up: true,
        }
    }

    fn record(hosts: &[&str]) -> ContainerRecord {
        let hosts = hosts.iter().map(|line| (*line).to_owned()).collect();
        ContainerRecord {
            id: "c".into(),
            name: "c".into(),
            created: Timestamp(0),
            image_id: String::new(),
            pod: "p".into(),
            options: ContainerOptions {
                names: NameOptions { hosts, ..NameOptions::default() },
                ..ContainerOptions::default()
            },
            state: State::default(),
        }
    }

    #[test]
    fn hosts_has_given_names_then_the_containers_own() {
        let text = hosts(&record(&["db:10.0.0.1", "gw:host-gateway", "six=[::2]"]), &pod()).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("10.0.0.1\tdb\n172.30.0.1\tgw\n::2\tsix\n172.30.0.2\tweb.lan web\n"),
            "{text}"
        );
    }

    #[test]
    fn host_gateway_without_a_network_is_refused() {
        let pod = PodRecord { endpoint: None, ..pod() };
        assert!(hosts(&record(&["gw:host-gateway"]), &pod).is_err());
    }
}
