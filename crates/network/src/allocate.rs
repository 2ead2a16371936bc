//! Which subnet and which addresses are free.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::NetworkError;

/// Smallest prefix length of a subnet: that of the largest private block, 10/8 (RFC 1918).
const PREFIX_MIN: u8 = 8;
/// Largest prefix length: a /29 holds the gateway and five pods.
const PREFIX_MAX: u8 = 29;
/// Host number of the gateway, as docker and podman choose it.
const GATEWAY_HOST: u32 = 1;
/// Host number of the first pod.
const FIRST_HOST: u32 = 2;

/// Subnets tried in this order. All are private (RFC 1918); the list starts
/// away from docker's first pools (172.17 upwards) and podman's (10.88).
fn candidates() -> impl Iterator<Item = Ipv4Net> {
    let net = |a, b, c, prefix| {
        Ipv4Net::new(Ipv4Addr::new(a, b, c, 0), prefix).expect("prefix lengths below are at most 32")
    };
    let twelve = (20..=30).rev().map(move |b| net(172, b, 0, 16));
    let eight = (200..=220).map(move |b| net(10, b, 0, 16));
    let sixteen = (1..=14).rev().map(move |c| net(192, 168, c * 16, 20));
    twelve.chain(eight).chain(sixteen)
}

/// The first candidate that overlaps none of `taken`. Default routes
/// (prefix length 0) do not count as taken.
pub(crate) fn choose_subnet(taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    candidates().find(|candidate| {
        !taken.iter().any(|net| net.prefix_len() > 0 && (net.contains(candidate) || candidate.contains(net)))
    })
}

/// Checks a subnet that the user chose.
pub(crate) fn check_subnet(subnet: Ipv4Net) -> Result<Ipv4Net, NetworkError> {
    let refuse = |why: &str| Err(NetworkError::Configuration(format!("subnet {subnet} {why}")));
    let first = subnet.network();
    if !(PREFIX_MIN..=PREFIX_MAX).contains(&subnet.prefix_len()) {
        return refuse("must have a prefix length of 8 to 29");
    }
    if first != subnet.addr() {
        return refuse("has bits set after its prefix");
    }
    let last = subnet.broadcast();
    let unusable = |a: Ipv4Addr| {
        a.is_loopback()
            || a.is_multicast()
            || a.is_unspecified()
            || a.octets()[0] == 0
            || a.octets()[0] >= 240
    };
    if unusable(first) || unusable(last) {
        return refuse("is not usable for hosts");
    }
    Ok(subnet)
}

/// The gateway's address in `subnet`, with the subnet's prefix length.
pub(crate) fn gateway(subnet: Ipv4Net) -> Ipv4Net {
    address(subnet, GATEWAY_HOST)
}

/// Host number of `address` within `subnet`.
pub(crate) fn host_number(subnet: Ipv4Net, address: Ipv4Addr) -> u32 {
    u32::from(address) & u32::from(subnet.hostmask())
}

fn address(subnet: Ipv4Net, host: u32) -> Ipv4Net {
    let address = Ipv4Addr::from(u32::from(subnet.network()) | host);
    Ipv4Net::new(address, subnet.prefix_len()).expect("the prefix length is that of a valid subnet")
}

/// Hands out the addresses of one subnet, each to one pod at a time. The
/// search continues after the address given last, so that an address rests as
/// long as possible before its next use.
#[derive(Debug)]
pub(crate) struct Allocator {
    subnet: Ipv4Net,
    used: BTreeSet<u32>,
    next: u32,
}

impl Allocator {
    /// An allocator of `subnet` with nothing in use but the gateway.
    pub(crate) fn new(subnet: Ipv4Net) -> Self {
        Self { subnet, used: BTreeSet::new(), next: FIRST_HOST }
    }

    /// Highest host number: the one below the broadcast address.
    fn last(&self) -> u32 {
        u32::from(self.subnet.hostmask()) - 1
    }

    /// Takes a free address.
    pub(crate) fn take(&mut self) -> Result<Ipv4Net, NetworkError> {
        let last = self.last();
        let host = (self.next..=last)
            .chain(FIRST_HOST..self.next)
            .find(|host| !self.used.contains(host))
            .ok_or(NetworkError::Exhausted(self.subnet))?;
        self.used.insert(host);
        self.next = if host == last { FIRST_HOST } else { host + 1 };
        Ok(address(self.subnet, host))
    }

    /// Takes this very address.
    pub(crate) fn reserve(&mut self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let host = host_number(self.subnet, address);
        if !self.subnet.contains(&address) || !(FIRST_HOST..=self.last()).contains(&host) {
            return Err(NetworkError::Configuration(format!(
                "address {address} is not one of subnet {} for pods",
                self.subnet
            )));
        }
        if self.used.insert(host) { Ok(()) } else { Err(NetworkError::AddressInUse(address)) }
    }

    /// Gives `address` back.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&host_number(self.subnet, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn first_candidate_is_taken_when_the_host_is_elsewhere() {
        let taken = [net("0.0.0.0/0"), net("192.168.1.0/24"), net("10.0.0.0/8")];
        assert_eq!(choose_subnet(&taken), Some(net("172.30.0.0/16")));
    }

    #[test]
    fn candidates_that_overlap_the_host_are_skipped() {
        assert_eq!(choose_subnet(&[net("172.30.9.1/32")]), Some(net("172.29.0.0/16")));
        assert_eq!(choose_subnet(&[net("172.16.0.0/12")]), Some(net("10.200.0.0/16")));
        let private = [net("172.16.0.0/12"), net("10.0.0.0/8"), net("192.168.0.0/16")];
        assert_eq!(choose_subnet(&private), None);
    }

    #[test]
    fn subnets_without_room_or_with_special_meaning_are_refused() {
        for text in [
            "10.0.0.0/7",
            "10.0.0.0/30",
            "10.0.0.1/16",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "240.0.0.0/8",
        ] {
            assert!(check_subnet(net(text)).is_err(), "{text}");
        }
        assert!(check_subnet(net("10.1.2.8/29")).is_ok());
    }

    #[test]
    fn a_small_subnet_is_used_up_to_its_last_address_and_no_further() {
        let mut allocator = Allocator::new(net("10.1.2.0/29"));
        let given: Vec<String> = (0..5).map(|_| allocator.take().unwrap().to_string()).collect();
        assert_eq!(given, ["10.1.2.2/29", "10.1.2.3/29", "10.1.2.4/29", "10.1.2.5/29", "10.1.2.6/29"]);
        assert!(matches!(allocator.take(), Err(NetworkError::Exhausted(_))));
        allocator.release(Ipv4Addr::new(10, 1, 2, 4));
        assert_eq!(allocator.take().unwrap(), net("10.1.2.4/29"));
    }

    #[test]
    fn a_released_address_rests_before_its_next_use() {
        let mut allocator = Allocator::new(net("172.30.0.0/16"));
        let first = allocator.take().unwrap();
        allocator.release(first.addr());
        assert_ne!(allocator.take().unwrap(), first);
    }

    #[test]
    fn gateway_broadcast_and_foreign_addresses_cannot_be_reserved() {
        let mut allocator = Allocator::new(net("10.1.2.0/24"));
        for text in ["10.1.2.0", "10.1.2.1", "10.1.2.255", "10.1.3.2"] {
            assert!(allocator.reserve(text.parse().unwrap()).is_err(), "{text}");
        }
        allocator.reserve("10.1.2.2".parse().unwrap()).unwrap();
        assert!(matches!(allocator.reserve("10.1.2.2".parse().unwrap()), Err(NetworkError::AddressInUse(_))));
        assert_eq!(allocator.take().unwrap(), net("10.1.2.3/24"));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 24u8..=29, takes in 1usize..300, drops: Vec<u8>) {
            let mut allocator = Allocator::new(Ipv4Net::new(Ipv4Addr::new(10, 9, 8, 0), prefix).unwrap());
            let mut held = BTreeSet::new();
            let mut drops = drops.into_iter();
            for _ in 0..takes {
                if let Ok(address) = allocator.take() {
                    prop_assert!(held.insert(address.addr()));
                    prop_assert_ne!(address.addr(), gateway(allocator.subnet).addr());
                } else if let Some(&first) = held.first() {
                    held.remove(&first);
                    allocator.release(first);
                }
                if drops.next().is_some_and(|drop| drop % 3 == 0)
                    && let Some(last) = held.pop_last()
                {
                    allocator.release(last);
                }
            }
        }
    }
}
