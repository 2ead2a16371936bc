//! Addresses of a user-defined network, of either family.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Hands out the addresses of one subnet, each to one holder at a time, resting those given back as long as possible.
#[derive(Debug)]
pub(crate) struct Pool {
    net: IpNet,
    first: u128,
    last: u128,
    next: u128,
    used: BTreeSet<u128>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Pool {
    /// The addresses of `net` except those that are not hosts' and those `taken`; only those of `range` are chosen, the
    /// others can be asked for.
    pub(crate) fn new(net: IpNet, range: Option<IpNet>, taken: impl IntoIterator<Item = IpAddr>) -> Self {
        let (low, high) = (number(net.network()), number(net.broadcast()));
        // Address zero is the subnet's (in IPv6 its routers'), and in IPv4 the last is the broadcast.
        let (low, high) = (low + 1, if net.addr().is_ipv4() { high - 1 } else { high });
        let range = range.unwrap_or(net);
        let first = low.max(number(range.network()));
        let last = high.min(number(range.broadcast()));
        Self { net, first, last, next: first, used: taken.into_iter().map(number).collect() }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.net {
            IpNet::V4(_) => IpAddr::V4((number as u32).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// Takes a free address.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let found = (self.next..=self.last).chain(self.first..self.next).find(|n| !self.used.contains(n))?;
        self.used.insert(found);
        self.next = if found >= self.last { self.first } else { found + 1 };
        Some(self.address(found))
    }

    /// Takes this very address, if it is one of the subnet and free.
    pub(crate) fn reserve(&mut self, address: IpAddr) -> bool {
        let inside = self.net.contains(&address)
            && address != self.net.network()
            && (address.is_ipv6() || address != self.net.broadcast());
        inside && self.used.insert(number(address))
    }

    /// Gives `address` back.
    pub(crate) fn release(&mut self, address: IpAddr) {
        self.used.remove(&number(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(net: &str, range: Option<&str>, taken: &[&str]) -> Pool {
        let taken: Vec<IpAddr> = taken.iter().map(|address| address.parse().unwrap()).collect();
        Pool::new(net.parse().unwrap(), range.map(|range| range.parse().unwrap()), taken)
    }

    #[test]
    fn addresses_are_of_the_range_and_each_is_given_once() {
        let mut pool = pool("10.1.2.0/24", Some("10.1.2.8/30"), &["10.1.2.9"]);
        let given: Vec<String> = std::iter::from_fn(|| pool.take()).map(|a| a.to_string()).collect();
        assert_eq!(given, ["10.1.2.8", "10.1.2.10", "10.1.2.11"]);
        let address = "10.1.2.10".parse().unwrap();
        pool.release(address);
        assert_eq!(pool.take(), Some(address));
        assert!(pool.reserve("10.1.2.200".parse().unwrap()));
        for refused in ["10.1.2.200", "10.1.2.9", "10.1.2.0", "10.1.2.255", "10.1.3.1", "fd00::1"] {
            assert!(!pool.reserve(refused.parse().unwrap()), "{refused}");
        }
    }

    #[test]
    fn subnets_are_used_from_end_to_end() {
        let mut small = pool("10.1.2.0/30", None, &[]);
        let given: Vec<String> = std::iter::from_fn(|| small.take()).map(|a| a.to_string()).collect();
        assert_eq!(given, ["10.1.2.1", "10.1.2.2"]);
        let mut six = pool("fd00:1::/64", None, &["fd00:1::1"]);
        assert_eq!(six.take().unwrap().to_string(), "fd00:1::2");
    }
}
