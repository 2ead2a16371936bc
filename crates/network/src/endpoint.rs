//! One pod's place in the network.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;

/// What a pod needs to be in the network: the tap on the host, and what the
/// guest configures on its NIC. The caller keeps it with the pod and hands it
/// back to [`Network::detach`](crate::Network::detach) and
/// [`Network::reconcile`](crate::Network::reconcile).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod this endpoint belongs to.
    pub pod: String,
    /// Name of the persistent tap, at most 15 bytes; open it with
    /// `hyper_sys::tap::open`.
    pub tap: String,
    /// The guest's Ethernet address; frames with another source are dropped.
    pub mac: MacAddr,
    /// The guest's address with the subnet's prefix length.
    pub address: Ipv4Net,
    /// The default gateway: the bridge's own address.
    pub gateway: Ipv4Addr,
    /// MTU of the guest's NIC, bytes.
    pub mtu: u32,
    /// The guest's IPv6 address with the subnet's prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Net>,
    /// The bridge's own IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
}
