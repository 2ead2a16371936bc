//! Where a registry is, and in which ways it may be spoken to.

use std::net::IpAddr;

use crate::reference::{DEFAULT_DOMAIN, Reference};

use super::settings::RegistryConfig;

/// The host behind docker.io.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One base URL to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https` or `http`; none means: find out, TLS first.
    pub scheme: Option<&'static str>,
    /// `host[:port]`.
    pub host: String,
    /// A path before `/v2`, without a trailing slash.
    pub prefix: String,
    /// Plain HTTP and unknown certificates are acceptable.
    pub insecure: bool,
    /// It is the registry itself, so it may see credentials.
    pub origin: bool,
}

/// The endpoints for a reference, in the order to try: mirrors, then the registry itself.
pub fn endpoints(reference: &Reference, config: &RegistryConfig) -> Vec<Endpoint> {
    let mirrors = config.mirrors.get(reference.domain()).into_iter().flatten();
    let mut endpoints: Vec<Endpoint> = mirrors.filter_map(|url| mirror(url, config)).collect();
    let host = match reference.domain() {
        DEFAULT_DOMAIN => DOCKER_HUB,
        domain => domain,
    };
    let insecure = is_insecure(host, &config.insecure);
    let scheme = (!insecure).then_some("https");
    endpoints.push(Endpoint { scheme, host: host.to_owned(), prefix: String::new(), insecure, origin: true });
    endpoints
}

/// A mirror's URL taken apart. A plain HTTP one is meant so.
fn mirror(url: &str, config: &RegistryConfig) -> Option<Endpoint> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Some("https"), rest),
        Some(("http", rest)) => (Some("http"), rest),
        Some(_) => {
            tracing::warn!(url, "registry mirror is neither http nor https");
            return None;
        }
        None => (None, url),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
    let insecure = scheme == Some("http") || is_insecure(host, &config.insecure);
    let scheme = scheme.or((!insecure).then_some("https"));
    Some(Endpoint { scheme, host: host.to_owned(), prefix, insecure, origin: false })
}

/// Whether `host[:port]` is loopback or among those the user named.
pub fn is_insecure(host: &str, insecure: &[String]) -> bool {
    let name = host_name(host);
    let address: Option<IpAddr> = name.parse().ok();
    if name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    insecure.iter().any(|entry| {
        entry == host || entry == name || address.is_some_and(|address| contains(entry, address))
    })
}

/// The host without port and brackets.
fn host_name(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether a CIDR contains an address.
fn contains(cidr: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_named_hosts_are_insecure_and_no_others() {
        let named = ["reg.local:5000".to_owned(), "10.0.0.0/8".to_owned(), "plain.example".to_owned()];
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.3.4.5",
            "[::1]:5000",
            "reg.local:5000",
            "10.1.2.3:80",
            "plain.example:443",
        ] {
            assert!(is_insecure(host, &named), "{host}");
        }
        for host in
            ["docker.io", "reg.local:5001", "11.0.0.1", "localhost.example", "[::2]:5000", "128.0.0.1"]
        {
            assert!(!is_insecure(host, &named), "{host}");
        }
    }

    #[test]
    fn mirrors_come_first_and_get_no_credentials() {
        let mut config = RegistryConfig::default();
        config.mirrors.insert("docker.io".to_owned(), vec!["https://mirror.example/sub/".to_owned()]);
        let reference = Reference::parse("debian").expect("valid");
        let endpoints = endpoints(&reference, &config);
        assert_eq!((endpoints[0].host.as_str(), endpoints[0].prefix.as_str()), ("mirror.example", "/sub"));
        assert!(!endpoints[0].origin && endpoints[1].origin);
        assert_eq!(endpoints[1].host, DOCKER_HUB);
        assert_eq!(endpoints[1].scheme, Some("https"));
    }
}
