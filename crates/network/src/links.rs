//! Links, addresses and routes by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::error::NetworkError;
use crate::mac::MacAddr;

/// `ENODEV` and `ENOENT` of `asm-generic/errno-base.h`: the link is gone.
const GONE: [i32; 2] = [19, 2];
/// `EEXIST` of `asm-generic/errno-base.h`.
const EXISTS: i32 = 17;

/// What a link is, as far as we care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bridge.
    Bridge,
    /// A tun or tap device.
    Tun,
    /// Anything else.
    Other,
}

/// One link as the kernel describes it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) up: bool,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Index of the bridge this link is a port of.
    pub(crate) controller: Option<u32>,
}

/// One route of the main IPv4 table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) link: Option<u32>,
}

/// A netlink connection in the network namespace of the thread that made it.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    /// Connects; the connection lives in a task of the current runtime until
    /// the last clone is dropped.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::NetlinkSocket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every link.
    pub(crate) async fn all(&self) -> Result<Vec<Link>, NetworkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list the links"))?;
        Ok(messages.into_iter().filter_map(link).collect())
    }

    /// The link called `name`.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(message) => Ok(message.and_then(link)),
            Err(error) if errno(&error).is_some_and(|e| GONE.contains(&e)) => Ok(None),
            Err(error) => Err(failed(format!("look up link {name}"))(error)),
        }
    }

    /// Adds a bridge that keeps the Ethernet address `mac` whatever its ports are.
    pub(crate) async fn add_bridge(&self, name: &str, mac: MacAddr, mtu: u32) -> Result<(), NetworkError> {
        let message =
            LinkMessageBuilder::<LinkBridge>::new(name).address(mac.octets().to_vec()).mtu(mtu).build();
        self.handle.link().add(message).execute().await.map_err(failed(format!("add bridge {name}")))
    }

    /// Sets `link` up.
    pub(crate) async fn set_up(&self, link: &Link) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::default().index(link.index).up().build();
        let attempt = format!("set link {} up", link.name);
        self.handle.link().change(message).execute().await.map_err(failed(attempt))
    }

    /// Sets the MTU of `link`, bytes.
    pub(crate) async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::default().index(link.index).mtu(mtu).build();
        let attempt = format!("set the MTU of link {} to {mtu}", link.name);
        self.handle.link().change(message).execute().await.map_err(failed(attempt))
    }

    /// Makes `port` a port of `bridge`, with this MTU, and sets it up.
    pub(crate) async fn join(&self, port: &Link, bridge: &Link, mtu: u32) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::default()
            .index(port.index)
            .controller(bridge.index)
            .mtu(mtu)
            .up()
            .build();
        let attempt = format!("make {} a port of bridge {}", port.name, bridge.name);
        self.handle.link().change(message).execute().await.map_err(failed(attempt))
    }

    /// Deletes `link`; one that is gone already is no error.
    pub(crate) async fn delete(&self, link: &Link) -> Result<(), NetworkError> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if errno(&error).is_some_and(|e| GONE.contains(&e)) => Ok(()),
            other => other.map_err(failed(format!("delete link {}", link.name))),
        }
    }

    /// Every IPv4 address with the index of its link.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, NetworkError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let messages: Vec<_> = request.execute().try_collect().await.map_err(failed("list the addresses"))?;
        let address = |message: &rtnetlink::packet_route::address::AddressMessage| {
            let v4 = |wanted: &AddressAttribute| match wanted {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            };
            let address = message.attributes.iter().find_map(v4)?;
            Some((message.header.index, Ipv4Net::new(address, message.header.prefix_len).ok()?))
        };
        Ok(messages.iter().filter_map(address).collect())
    }

    /// Gives `link` an address; one it has already is no error.
    pub(crate) async fn add_address(&self, link: &Link, address: Ipv4Net) -> Result<(), NetworkError> {
        let request = self.handle.address().add(link.index, IpAddr::V4(address.addr()), address.prefix_len());
        match request.execute().await {
            Err(error) if errno(&error) == Some(EXISTS) => Ok(()),
            other => other.map_err(failed(format!("give {} the address {address}", link.name))),
        }
    }

    /// Gives `link` an IPv6 address; one it has already is no error.
    pub(crate) async fn add_address6(
        &self,
        link: &Link,
        address: Ipv6Addr,
        prefix: u8,
    ) -> Result<(), NetworkError> {
        match self.handle.address().add(link.index, IpAddr::V6(address), prefix).execute().await {
            Err(error) if errno(&error) == Some(EXISTS) => Ok(()),
            other => other.map_err(failed(format!("give {} the address {address}/{prefix}", link.name))),
        }
    }

    /// Every IPv4 route that leads to a link.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetworkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(message)
            .execute()
            .try_collect()
            .await
            .map_err(failed("list the routes"))?;
        Ok(messages.iter().filter_map(route).collect())
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: Kind::Other,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
                        LinkInfo::Kind(InfoKind::Tun) => link.kind = Kind::Tun,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, link })
}

fn failed(attempt: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let attempt = attempt.into();
    move |source| NetworkError::Netlink { attempt, errno: errno(&source), source: Box::new(source) }
}

/// The positive error number in a kernel's answer.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}
