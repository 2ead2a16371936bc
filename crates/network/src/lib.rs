//! Bridges, taps, addresses, NAT and names.
//!
//! One [`Network`] is the default bridge network of one Hyper instance: a
//! bridge with a gateway address, one persistent tap per pod, two nftables
//! tables of our own, and the resolver configuration that containers get.
//! What always holds:
//!
//! - Every global name (bridge, taps, nft tables) derives from the instance
//!   id, see [`Instance`]; links and tables with other names are never touched.
//! - Each operation is idempotent and can be repeated after a crash at any
//!   point; [`Network::reconcile`] brings host and bookkeeping together again.
//! - A tap carries only frames whose source MAC and IPv4 address are the ones
//!   it was given: a guest cannot speak for another.
//! - Only IPv4. IPv6 is switched off on the bridge, and frames of other
//!   protocols than IPv4 and ARP are dropped where they leave the tap.

mod allocate;
mod config;
mod conntrack;
mod endpoint;
mod error;
mod firewall;
mod forward;
mod forwarder;
mod instance;
mod links;
mod mac;
mod names;
mod network;
mod pool;
mod resolv;
mod rules;
mod sysctl;
mod user;
mod user_rules;

pub use config::NetworkConfig;
pub use endpoint::Endpoint;
pub use error::NetworkError;
pub use forward::{Forward, Forwards, Protocol};
pub use instance::{Instance, InstanceError};
pub use ipnet::{Ipv4Net, Ipv6Net};
pub use mac::{MacAddr, MacAddrError};
pub use names::Names;
pub use network::Network;
pub use resolv::{ResolvConf, host_names};
pub use user::{UserConfig, UserNetwork, Wanted, choose_user_subnet};
