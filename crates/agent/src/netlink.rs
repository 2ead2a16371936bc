//! The few messages of rtnetlink that configure an interface (`linux/rtnetlink.h`).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;

/// `NLMSG_ERROR` and `NLMSG_DONE` of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `NLM_F_*` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

/// Attributes of links, addresses and routes.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// `IFF_UP`.
const UP: u32 = 1;
/// `IFA_F_NODAD`: nobody else can have the address, so it is usable at once.
const NO_DAD: u32 = 2;
/// `RTNH_F_ONLINK`: the gateway is on the link even if no prefix says so.
const ONLINK: u32 = 4;
/// Length of the header of a message and of an attribute.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// What to set of a link; `None` leaves it.
#[derive(Debug, Default)]
pub(crate) struct Link<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: Option<u32>,
    pub(crate) up: bool,
}

/// A socket to the kernel's network configuration.
pub(crate) struct Netlink {
    socket: OwnedFd,
}

fn family(address: &IpAddr) -> u8 {
    // AF_INET and AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// `struct ifinfomsg`.
fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0_u8; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

/// `struct ifaddrmsg`.
fn address_body(index: u32, address: &IpAddr, prefix: u8) -> Vec<u8> {
    [[family(address), prefix, 0, 0], index.to_ne_bytes()].concat()
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Netlink> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Netlink { socket })
    }

    /// Sends a request and gives every message of the answer to `take`: its type and body.
    fn exchange(&self, request: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        send(&self.socket, request, SendFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (received, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..received];
            while let Some((kind, body, after)) = split_message(rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return match code {
                            0 => Ok(()),
                            code => Err(Errno::from_raw_os_error(code.saturating_neg()).into()),
                        };
                    }
                    kind => take(kind, body),
                }
                rest = after;
            }
        }
    }

    fn request(&self, message: Message) -> io::Result<()> {
        self.exchange(&message.finish(), |_, _| {})
    }

    /// Changes a link.
    pub(crate) fn set_link(&self, index: u32, link: &Link<'_>) -> io::Result<()> {
        let flags = if link.up { UP } else { 0 };
        let mut message = Message::new(NEW_LINK, ACKNOWLEDGE, &link_body(index, flags, UP));
        if let Some(mac) = link.mac {
            message = message.attribute(IFLA_ADDRESS, &mac);
        }
        if let Some(name) = link.name {
            let mut name = name.as_bytes().to_vec();
            name.push(0);
            message = message.attribute(IFLA_IFNAME, &name);
        }
        if let Some(mtu) = link.mtu {
            message = message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(message)
    }

    /// Gives an interface an address that it may already have.
    pub(crate) fn add_address(&self, index: u32, address: &IpAddr, prefix: u8) -> io::Result<()> {
        let body = address_body(index, address, prefix);
        let mut message = Message::new(NEW_ADDRESS, ACKNOWLEDGE | CREATE | REPLACE, &body)
            .attribute(IFA_LOCAL, &octets(address))
            .attribute(IFA_ADDRESS, &octets(address));
        if address.is_ipv6() {
            message = message.attribute(IFA_FLAGS, &NO_DAD.to_ne_bytes());
        }
        self.request(message)
    }

    /// Takes an address from an interface.
    pub(crate) fn remove_address(&self, index: u32, address: &IpAddr, prefix: u8) -> io::Result<()> {
        let body = address_body(index, address, prefix);
        self.request(Message::new(DELETE_ADDRESS, ACKNOWLEDGE, &body).attribute(IFA_LOCAL, &octets(address)))
    }

    /// Addresses of an interface with their prefix lengths.
    pub(crate) fn addresses(&self, index: u32) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        let request = Message::new(GET_ADDRESS, DUMP, &[0; 8]).finish();
        self.exchange(&request, |kind, body| {
            if kind == NEW_ADDRESS {
                found.extend(parse_address(index, body));
            }
        })?;
        Ok(found)
    }

    /// Makes `gateway` the default route of its family through an interface, in the place of another.
    pub(crate) fn set_default_route(&self, index: u32, gateway: &IpAddr, onlink: bool) -> io::Result<()> {
        // `struct rtmsg`: table main (254), protocol static (4), scope universe (0), type unicast (1).
        let flags = if onlink { ONLINK } else { 0 };
        let mut body = vec![family(gateway), 0, 0, 0, 254, 4, 0, 1];
        body.extend(flags.to_ne_bytes());
        self.request(
            Message::new(NEW_ROUTE, ACKNOWLEDGE | CREATE | REPLACE, &body)
                .attribute(RTA_GATEWAY, &octets(gateway))
                .attribute(RTA_OIF, &index.to_ne_bytes()),
        )
    }
}

/// Type and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The address in a message about one, if it is of this interface.
fn parse_address(index: u32, body: &[u8]) -> Option<(IpAddr, u8)> {
    let prefix = *body.get(1)?;
    if u32::from_ne_bytes(*body.get(4..)?.first_chunk()?) != index {
        return None;
    }
    let mut rest = body.get(8..)?;
    let mut found = None;
    while rest.len() >= ATTRIBUTE {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(ATTRIBUTE..length)?;
        // The local address is the interface's own; IPv6 has only the other.
        if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
            found = match value.len() {
                4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                _ => None,
            };
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found.map(|address| (address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_taken_apart_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((_, body, after)) = split_message(rest) {
                let _ = parse_address(1, body);
                rest = after;
            }
        }
    }
}
