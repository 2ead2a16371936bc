//! The resolver configuration that containers get, from the host's.
//!
//! A container cannot reach the host's loopback, and has no IPv6. So of the
//! host's name servers it gets those with an IPv4 address beyond loopback;
//! when there are none but systemd-resolved's stub, that service's own list of
//! upstream servers is read, as docker does; and when that does not help
//! either, the container asks the gateway, where a forwarder asks the host's
//! servers in its place.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::NetworkConfig;
use crate::error::NetworkError;

/// Largest resolver configuration that is read, bytes.
const FILE_MAX: u64 = 64 * 1024;
/// Name servers a resolver asks: `MAXNS` of glibc's `resolv.h`.
const SERVERS_MAX: usize = 3;
/// Most search domains and most options kept.
const WORDS_MAX: usize = 32;
/// Longest search domain or option, bytes: a name's limit in RFC 1035, 2.3.4.
const WORD_LENGTH_MAX: usize = 255;
/// systemd-resolved's stub addresses (`systemd-resolved.service(8)`).
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// A resolver configuration; its `Display` is the text of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvConf {
    /// Name servers, most preferred first; empty when the host has none.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
}

/// Where containers' questions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// To these servers.
    Direct(ResolvConf),
    /// To a forwarder on the gateway; search and options are the host's, the
    /// name servers are those the forwarder asks.
    Forward(ResolvConf),
}

impl ResolvConf {
    /// Reads the text of a `resolv.conf`. Lines that make no sense are left
    /// out, as resolvers do. Bounds: the first 64 KiB, 32 search domains and
    /// options of at most 255 bytes each; all name servers are returned.
    pub fn parse(text: &[u8]) -> Self {
        let text = &text[..text.len().min(FILE_MAX as usize)];
        let mut conf = Self::default();
        for line in text.split(|&b| b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let kept = words.filter(|word| is_plain(word));
            match keyword {
                "nameserver" => {
                    conf.nameservers.extend(kept.take(1).filter_map(|word| word.parse::<IpAddr>().ok()))
                }
                // The last of several lines counts (resolv.conf(5)).
                "search" => conf.search = kept.take(WORDS_MAX).map(str::to_owned).collect(),
                "domain" => conf.search = kept.take(1).map(str::to_owned).collect(),
                "options" => {
                    let room = WORDS_MAX.saturating_sub(conf.options.len());
                    conf.options.extend(kept.take(room).map(str::to_owned));
                }
                _ => {}
            }
        }
        conf
    }

    /// The name servers that containers can reach themselves.
    fn reachable(&self) -> Vec<IpAddr> {
        let usable = |address: &&IpAddr| match address {
            IpAddr::V4(v4) => {
                !v4.is_loopback() && !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast()
            }
            IpAddr::V6(_) => false,
        };
        self.nameservers.iter().filter(usable).take(SERVERS_MAX).copied().collect()
    }

    fn names_the_resolved_stub(&self) -> bool {
        self.nameservers.iter().any(|address| matches!(address, IpAddr::V4(v4) if STUBS.contains(v4)))
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.nameservers {
            writeln!(f, "nameserver {address}")?;
        }
        if !self.search.is_empty() {
            writeln!(f, "search {}", self.search.join(" "))?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

/// Names as this process resolves them: servers that containers cannot reach are among those.
///
/// # Errors
/// When the host's configuration cannot be read.
pub fn host_names(config: &NetworkConfig) -> Result<ResolvConf, NetworkError> {
    Ok(match plan(config)? {
        Plan::Direct(conf) | Plan::Forward(conf) => conf,
    })
}

/// Decides where containers' questions go, from the files as they are now.
pub(crate) fn plan(config: &NetworkConfig) -> Result<Plan, NetworkError> {
    let host = read(&config.resolv_conf)?;
    if !config.dns.is_empty() {
        let nameservers = config.dns.iter().copied().map(IpAddr::V4).collect();
        return Ok(Plan::Direct(ResolvConf { nameservers, ..host }));
    }
    let direct = host.reachable();
    if !direct.is_empty() || host.nameservers.is_empty() {
        return Ok(Plan::Direct(ResolvConf { nameservers: direct, ..host }));
    }
    if host.names_the_resolved_stub() {
        let upstream = read(&config.resolved_upstreams)?;
        let direct = upstream.reachable();
        if !direct.is_empty() {
            let search = if host.search.is_empty() { upstream.search } else { host.search };
            return Ok(Plan::Direct(ResolvConf { nameservers: direct, search, options: host.options }));
        }
    }
    let nameservers = host.nameservers.iter().take(SERVERS_MAX).copied().collect();
    Ok(Plan::Forward(ResolvConf { nameservers, ..host }))
}

/// Reads at most [`FILE_MAX`] bytes; a missing file is an empty configuration.
fn read(path: &Path) -> Result<ResolvConf, NetworkError> {
    let mut text = Vec::new();
    let result = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
    match result {
        Ok(_) => Ok(ResolvConf::parse(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ResolvConf::default()),
        Err(source) => Err(NetworkError::ResolvConf { path: path.to_owned(), source }),
    }
}

/// Whether `word` may go into a container's file as it is.
fn is_plain(word: &str) -> bool {
    word.len() <= WORD_LENGTH_MAX && word.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plan for a host with these two files (`None`: missing).
    fn plan_for(host: Option<&str>, resolved: Option<&str>) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let config = NetworkConfig {
            resolv_conf: directory.path().join("resolv.conf"),
            resolved_upstreams: directory.path().join("resolved.conf"),
            ..NetworkConfig::default()
        };
        for (path, text) in [(&config.resolv_conf, host), (&config.resolved_upstreams, resolved)] {
            if let Some(text) = text {
                std::fs::write(path, text).unwrap();
            }
        }
        plan(&config).unwrap()
    }

    fn conf(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes())
    }

    #[test]
    fn reachable_servers_search_and_options_are_taken_over() {
        let host = "# made by hand\nnameserver 127.0.0.1\nnameserver 10.0.0.53 # main\nnameserver ::1\nsearch a.example b.example\noptions ndots:2 edns0\n";
        let expected = conf("nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:2 edns0\n");
        assert_eq!(plan_for(Some(host), None), Plan::Direct(expected));
    }

    #[test]
    fn the_resolved_stub_is_replaced_by_its_upstreams() {
        let host = "nameserver 127.0.0.53\noptions edns0\nsearch lan\n";
        let resolved = "nameserver 192.168.1.1\nnameserver 9.9.9.9\nsearch other\n";
        let expected = conf("nameserver 192.168.1.1\nnameserver 9.9.9.9\nsearch lan\noptions edns0\n");
        assert_eq!(plan_for(Some(host), Some(resolved)), Plan::Direct(expected));
    }

    #[test]
    fn loopback_and_ipv6_servers_are_asked_through_a_forwarder() {
        for host in ["nameserver 127.0.0.1\n", "nameserver ::1\n", "nameserver 2001:db8::1\nsearch x\n"] {
            assert_eq!(plan_for(Some(host), None), Plan::Forward(conf(host)), "{host:?}");
        }
        let stub = "nameserver 127.0.0.53\n";
        assert_eq!(plan_for(Some(stub), None), Plan::Forward(conf(stub)));
        assert_eq!(plan_for(Some(stub), Some("nameserver ::1\n")), Plan::Forward(conf(stub)));
    }

    #[test]
    fn a_host_without_servers_gives_none() {
        assert_eq!(plan_for(None, None), Plan::Direct(ResolvConf::default()));
        assert_eq!(plan_for(Some("search lan\n"), None), Plan::Direct(conf("search lan\n")));
    }

    #[test]
    fn words_that_could_forge_lines_or_are_too_long_are_left_out() {
        let long = "x".repeat(256);
        let parsed = conf(&format!("search ok \u{1}bad ä {long}\nnameserver 1.2.3.4.5\nnameserver\noptions"));
        assert_eq!(parsed, conf("search ok\n"));
    }

    #[test]
    fn an_unreadable_configuration_is_named_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let config = NetworkConfig { resolv_conf: directory.path().to_owned(), ..NetworkConfig::default() };
        assert!(
            matches!(plan(&config), Err(NetworkError::ResolvConf { path, .. }) if path == directory.path())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic_and_their_text_parses_to_the_same(bytes: Vec<u8>) {
            let parsed = ResolvConf::parse(&bytes);
            prop_assert_eq!(ResolvConf::parse(parsed.to_string().as_bytes()), parsed);
        }

        #[test]
        fn keyword_lines_survive_a_round_trip(
            lines in proptest::collection::vec("(nameserver|search|domain|options|#|;)[ \t][ -~\t]{0,40}", 0..40),
        ) {
            let parsed = ResolvConf::parse(lines.join("\n").as_bytes());
            prop_assert!(parsed.search.len() <= WORDS_MAX && parsed.options.len() <= WORDS_MAX);
            prop_assert_eq!(ResolvConf::parse(parsed.to_string().as_bytes()), parsed);
        }
    }
}
