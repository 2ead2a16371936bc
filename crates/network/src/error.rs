//! Why an operation of the network failed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use hyper_sys::tap::TapError;
use ipnet::Ipv4Net;

use crate::instance::InstanceError;

/// An operation of the network failed; the text says what was attempted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The instance id is malformed.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The configuration cannot work.
    #[error("invalid network configuration: {0}")]
    Configuration(String),
    /// No candidate subnet is free of the host's own addresses and routes.
    #[error("every candidate subnet overlaps an address or route of this host")]
    NoFreeSubnet,
    /// The subnet has no address left.
    #[error("no free address in {0}")]
    Exhausted(Ipv4Net),
    /// Another endpoint holds this address.
    #[error("address {0} is in use by another pod")]
    AddressInUse(Ipv4Addr),
    /// An address that was asked for is not to be had.
    #[error("address {0} is already in use, or is not one of the network for containers")]
    NotFree(IpAddr),
    /// The network cannot be taken down under its pods.
    #[error("{0} pods are still attached to the network")]
    InUse(usize),
    /// An endpoint handed in does not belong to this network.
    #[error("endpoint {tap} with address {address} does not belong to network {subnet}")]
    ForeignEndpoint {
        /// The endpoint's tap.
        tap: String,
        /// The endpoint's address.
        address: Ipv4Net,
        /// This network's subnet.
        subnet: Ipv4Net,
    },
    /// The bridge exists with a link of another kind, or another address.
    #[error("link {link} exists already and is not ours: {reason}")]
    LinkTaken {
        /// Name of the link.
        link: String,
        /// What is different.
        reason: String,
    },
    /// A netlink request failed.
    #[error("cannot {attempt}")]
    Netlink {
        /// What was attempted.
        attempt: String,
        /// The kernel's error number, where it gave one.
        errno: Option<i32>,
        /// The kernel's answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// Opening the netlink socket failed.
    #[error("cannot open a netlink socket")]
    NetlinkSocket(#[source] std::io::Error),
    /// A tap could not be made.
    #[error("cannot create tap {tap}")]
    Tap {
        /// Name of the tap.
        tap: String,
        /// The cause.
        #[source]
        source: TapError,
    },
    /// The program `nft` is not installed.
    #[error("cannot run nft: it is not installed")]
    NftMissing(#[source] std::io::Error),
    /// Starting or talking to `nft` failed.
    #[error("cannot run nft")]
    NftRun(#[source] std::io::Error),
    /// `nft` did not end in time.
    #[error("nft did not answer within {0} s")]
    NftTimeout(u64),
    /// `nft` refused the rules.
    #[error("cannot {attempt}: nft says {stderr:?}")]
    Nft {
        /// What was attempted.
        attempt: String,
        /// First bytes of what nft printed.
        stderr: String,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot {attempt}")]
    Sysctl {
        /// What was attempted.
        attempt: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The host's resolver configuration could not be read.
    #[error("cannot read {path}")]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The name forwarder could not listen on the gateway address.
    #[error("cannot serve names on {address}")]
    Forwarder {
        /// The address, `ip:port`.
        address: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// `EPERM` and `EACCES` of `asm-generic/errno-base.h`.
const DENIED: [i32; 2] = [1, 13];
/// `EOPNOTSUPP` of `asm-generic/errno.h`: the kernel lacks this kind of link.
const UNSUPPORTED: i32 = 95;

impl NetworkError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        if self.is_denied() {
            return Some(
                "the daemon needs CAP_NET_ADMIN for container networks: run it as root, or run with --network none"
                    .to_owned(),
            );
        }
        match self {
            Self::NoFreeSubnet => {
                Some("choose a subnet of your own in the daemon's configuration".to_owned())
            }
            Self::Exhausted(_) => {
                Some("remove pods that are no longer needed, or choose a larger subnet".to_owned())
            }
            Self::LinkTaken { link, .. } => {
                Some(format!("if nothing else uses it, remove it with: ip link delete {link}"))
            }
            Self::NftMissing(_) => Some("install it, on Debian with: apt-get install nftables".to_owned()),
            Self::Nft { .. } => Some(
                "the kernel needs nftables with the families ip and bridge, NAT and connection tracking: \
                 modprobe nf_tables nft_chain_nat nft_masq nft_ct"
                    .to_owned(),
            ),
            Self::Tap { source: TapError::NoDevice(_), .. } => {
                Some("load the module with: modprobe tun".to_owned())
            }
            Self::Netlink { errno: Some(UNSUPPORTED), .. } => {
                Some("the kernel lacks bridges: modprobe bridge".to_owned())
            }
            Self::Sysctl { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("/proc/sys is read-only here: set net.ipv4.ip_forward=1 outside".to_owned())
            }
            Self::Forwarder { address, .. } => Some(format!(
                "another name server listens on {address}; stop it there, or name servers for containers with --dns"
            )),
            _ => None,
        }
    }

    /// Whether a privilege is what was missing.
    fn is_denied(&self) -> bool {
        use std::io::ErrorKind::PermissionDenied;
        match self {
            Self::Netlink { errno: Some(errno), .. } => DENIED.contains(errno),
            Self::Nft { stderr, .. } => stderr.contains("Operation not permitted"),
            Self::Tap { source: TapError::Open(source) | TapError::Permission { source, .. }, .. } => {
                source.kind() == PermissionDenied
            }
            Self::Sysctl { source, .. } | Self::Forwarder { source, .. } => source.kind() == PermissionDenied,
            _ => false,
        }
    }
}
