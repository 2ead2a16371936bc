//! What the caller decides about the default network.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// Default MTU of bridge, taps and guests, bytes: Ethernet's (IEEE 802.3).
const ETHERNET_MTU: u32 = 1500;

/// Settings of the default bridge network of one instance.
///
/// There is no IPv6 setting: containers get IPv4 only, and IPv6 is switched
/// off on the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The subnet, prefix length 8 to 29. `None`: the subnet of our bridge
    /// when it exists already, else the first free candidate, to be read back
    /// with [`Network::subnet`](crate::Network::subnet) and given here from
    /// then on.
    pub subnet: Option<Ipv4Net>,
    /// The MTU in bytes, 576 to 65535. `None`: that of the link of the host's
    /// default route, 1500 when there is none.
    pub mtu: Option<u32>,
    /// Name servers for containers instead of the host's.
    pub dns: Vec<Ipv4Addr>,
    /// The host's resolver configuration, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// systemd-resolved's list of the real upstream servers, read when
    /// `resolv_conf` names its stub alone.
    pub resolved_upstreams: PathBuf,
}

impl NetworkConfig {
    /// MTU used when the host has no default route, bytes.
    pub(crate) const FALLBACK_MTU: u32 = ETHERNET_MTU;
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            subnet: None,
            mtu: None,
            dns: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            resolved_upstreams: PathBuf::from("/run/systemd/resolve/resolv.conf"),
        }
    }
}
