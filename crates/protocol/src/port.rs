//! Ports of containers that are published on the host.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|transport| transport.name() == name)
    }
}

/// A port of a container to publish on the host: at all of `hosts` with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRequest {
    /// The protocol.
    pub transport: Transport,
    /// Port in the container.
    pub port: u16,
    /// Addresses of the host to listen on; `::` beside `0.0.0.0` may be left out where the host has no IPv6.
    pub hosts: Vec<IpAddr>,
    /// First port of the host to try; 0 for any that is free.
    pub first: u16,
    /// Last port of the host to try.
    pub last: u16,
}

/// A port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Port in the container.
    pub port: u16,
    /// The protocol.
    pub transport: Transport,
    /// Address of the host.
    pub host: IpAddr,
    /// Port of the host.
    pub host_port: u16,
}
