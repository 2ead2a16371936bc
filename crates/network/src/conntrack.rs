//! The kernel's memory of UDP flows (conntrack), where it has become wrong.
//!
//! The first datagram of a flow decides where all go on to, as long as there is one every 30 seconds (two minutes once
//! both sides have spoken). So a client that keeps its port would go on to talk to the pod that had a published port
//! before. TCP needs no such help: a new connection is a new flow.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator, parse_ip};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::forward::{Forward, Protocol};

/// Messages of conntrack, `linux/netfilter/nfnetlink.h` and `nfnetlink_conntrack.h`: subsystem 1, new, get and delete.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = CT_NEW | 1;
const CT_DELETE: u16 = CT_NEW | 2;
/// `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// Attributes of an entry, of a tuple, of its addresses and of its protocol.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const AF_INET: u8 = 2;
const UDP: u8 = 17;
/// More than the kernel puts into one piece of an answer (`NLMSG_GOODSIZE`, 32 KiB).
const ANSWER_MAX: usize = 64 << 10;
/// Header of a message, and netfilter's after it.
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
/// Most entries forgotten at once: what a busy server may have within two minutes.
const ENTRIES_MAX: usize = 1 << 16;

/// One UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    /// What the client talks to.
    asked: SocketAddrV4,
    /// Who answers: somebody else where the packets are sent on.
    answers: SocketAddrV4,
}

/// Which flows are wrong about a port.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    /// Those that lead to this pod, which has the port no longer.
    To(Forward),
    /// Those that lead to another pod than this, which has it now.
    NotTo(Forward),
}

impl Wrong {
    fn concerns(&self, flow: &Flow) -> bool {
        let (Self::To(forward) | Self::NotTo(forward)) = self;
        let through = flow.asked.port() == forward.host_port
            && (forward.host.is_unspecified() || forward.host == *flow.asked.ip())
            && flow.asked != flow.answers;
        let there = flow.answers == SocketAddrV4::new(forward.to, forward.port);
        match self {
            Self::To(_) => through && there,
            // What was never ours leads elsewhere.
            Self::NotTo(_) => through && !there && forward.subnet.contains(flow.answers.ip()),
        }
    }
}

/// Makes the kernel forget flows that are wrong. Costs nothing where no UDP port is concerned; what fails is logged,
/// for such flows end by themselves.
pub(crate) async fn forget(wrong: impl IntoIterator<Item = Wrong>) {
    let udp = |wrong: &Wrong| {
        let (Wrong::To(forward) | Wrong::NotTo(forward)) = wrong;
        forward.protocol == Protocol::Udp
    };
    let wrong: Vec<Wrong> = wrong.into_iter().filter(udp).collect();
    if wrong.is_empty() {
        return;
    }
    let work = move || forget_now(&|flow| wrong.iter().any(|wrong| wrong.concerns(flow)));
    match tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten() {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "UDP flows to published ports are forgotten"),
        Err(error) => {
            tracing::warn!(%error, "UDP clients of published ports may be led to containers of before");
        }
    }
}

fn forget_now(wrong: &dyn Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(CT_GET, REQUEST | DUMP, &[]), 0)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    receive(&socket, &mut |kind, payload| {
        if kind == CT_NEW
            && found.len() < ENTRIES_MAX
            && let Some((flow, name)) = parse(payload)
            && wrong(&flow)
        {
            found.push(name);
        }
    })?;
    let mut count = 0;
    for name in found {
        socket.send(&message(CT_DELETE, REQUEST | ACKNOWLEDGE, &name), 0)?;
        match receive(&socket, &mut |_, _| {}) {
            Ok(()) => count += 1,
            // It has ended by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// A message about IPv4 with these attributes.
fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + NF_HEADER + attributes.len();
    let mut message = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Number and sender: there is one question at a time on a socket.
    message.extend([0; 8]);
    message.extend([AF_INET, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Takes the messages of an answer until its last.
fn receive(socket: &Socket, take: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(ANSWER_MAX);
        socket.recv(&mut bytes, 0)?;
        let mut rest = bytes.as_slice();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            let (kind, payload) = (message.message_type(), message.payload());
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                kind => take(kind, payload),
            }
            // Messages begin at multiples of four.
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length.max(HEADER)..).unwrap_or_default();
        }
    }
}

/// The UDP flow of an entry, and the attributes that name it for its deletion.
fn parse(payload: &[u8]) -> Option<(Flow, Vec<u8>)> {
    let (mut asked, mut answers, mut name) = (None, None, Vec::new());
    for attribute in NlasIterator::new(payload.get(NF_HEADER..)?) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            CTA_TUPLE_ORIG => asked = Some(tuple(attribute.value())?.1),
            CTA_TUPLE_REPLY => answers = Some(tuple(attribute.value())?.0),
            CTA_ID | CTA_ZONE => {}
            _ => continue,
        }
        if attribute.kind() != CTA_TUPLE_REPLY {
            append(&mut name, &attribute);
        }
    }
    Some((Flow { asked: asked?, answers: answers? }, name))
}

/// Copies an attribute as it is, flags and all.
fn append(to: &mut Vec<u8>, attribute: &NlaBuffer<&[u8]>) {
    let length = usize::from(attribute.length());
    to.extend(attribute.into_inner().iter().take(length));
    to.resize(to.len().next_multiple_of(4), 0);
}

/// From where to where a UDP tuple leads.
fn tuple(bytes: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let (mut ip, mut port) = ([Ipv4Addr::UNSPECIFIED; 2], [0; 2]);
    let mut protocol = None;
    for part in NlasIterator::new(bytes) {
        let part = part.ok()?;
        let part_kind = part.kind();
        for field in NlasIterator::new(part.value()) {
            let field = field.ok()?;
            let value = field.value();
            match (part_kind, field.kind()) {
                (CTA_TUPLE_IP, kind @ (CTA_IP_V4_SRC | CTA_IP_V4_DST)) => {
                    let IpAddr::V4(address) = parse_ip(value).ok()? else { return None };
                    ip[usize::from(kind == CTA_IP_V4_DST)] = address;
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, kind @ (CTA_PROTO_SRC_PORT | CTA_PROTO_DST_PORT)) => {
                    port[usize::from(kind == CTA_PROTO_DST_PORT)] = u16::from_be_bytes(*value.first_chunk()?);
                }
                _ => {}
            }
        }
    }
    let [from, to] = [0, 1].map(|side| SocketAddrV4::new(ip[side], port[side]));
    (protocol == Some(UDP)).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(kind: u16, protocol: u8, from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        let ip = [attribute(1, &address(from.0)), attribute(2, &address(to.0))].concat();
        let ports = [attribute(2, &from.1.to_be_bytes()), attribute(3, &to.1.to_be_bytes())].concat();
        let ports = [attribute(1, &[protocol]), ports].concat();
        attribute(kind | 0x8000, &[attribute(0x8001, &ip), attribute(0x8002, &ports)].concat())
    }

    fn forward(to: &str) -> Forward {
        Forward {
            protocol: Protocol::Udp,
            host: Ipv4Addr::UNSPECIFIED,
            host_port: 5005,
            to: to.parse().unwrap(),
            port: 5000,
            subnet: "172.30.0.2/16".parse().unwrap(),
        }
    }

    #[test]
    fn entry_is_read_and_named_by_its_tuple_and_number() {
        let (client, host, pod) = (("192.0.2.9", 4000), ("192.0.2.1", 5005), ("172.30.0.2", 5000));
        let original = tuple_of(CTA_TUPLE_ORIG, UDP, client, host);
        let id = attribute(CTA_ID, &[1, 2, 3, 4]);
        let entry = [&[AF_INET, 0, 0, 0][..], &original, &tuple_of(CTA_TUPLE_REPLY, UDP, pod, client), &id];
        let (flow, name) = parse(&entry.concat()).unwrap();
        assert_eq!(flow.asked.to_string(), "192.0.2.1:5005");
        assert_eq!(flow.answers.to_string(), "172.30.0.2:5000");
        assert_eq!(name, [original.clone(), id.clone()].concat());
        let tcp = [&[AF_INET, 0, 0, 0][..], &tuple_of(CTA_TUPLE_ORIG, 6, client, host)].concat();
        assert_eq!(parse(&tcp), None);
        for end in 0..entry.concat().len() {
            let _ = parse(&entry.concat()[..end]);
        }
    }

    #[test]
    fn only_flows_that_were_led_to_our_pods_are_wrong() {
        let flow = |asked: &str, answers: &str| Flow {
            asked: asked.parse().unwrap(),
            answers: answers.parse().unwrap(),
        };
        let wrong = Wrong::NotTo(forward("172.30.0.3"));
        assert!(wrong.concerns(&flow("192.0.2.1:5005", "172.30.0.2:5000")));
        for right in [
            flow("192.0.2.1:5005", "172.30.0.3:5000"),
            flow("192.0.2.1:5006", "172.30.0.2:5000"),
            // Somebody else's: never led elsewhere, or not to us.
            flow("172.30.0.2:5005", "172.30.0.2:5005"),
            flow("192.0.2.1:5005", "10.9.9.9:53"),
        ] {
            assert!(!wrong.concerns(&right), "{right:?}");
        }
        let gone = Wrong::To(forward("172.30.0.2"));
        assert!(gone.concerns(&flow("192.0.2.1:5005", "172.30.0.2:5000")));
        assert!(!gone.concerns(&flow("192.0.2.1:5005", "172.30.0.3:5000")));
    }

    #[test]
    fn the_kernel_understands_the_question() {
        match forget_now(&|_| false) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => eprintln!("skipped: no conntrack here: {error}"),
        }
    }
}
