//! The nftables rules of a user-defined network: tables of its own of the families `ip`, `ip6` and `bridge`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::endpoint::Endpoint;
use crate::instance::Instance;
use crate::names::PORT;

/// What the rules follow from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) subnet: Ipv4Net,
    pub(crate) subnet6: Option<Ipv6Net>,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) internal: bool,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
}

/// The script that makes all tables complete, whatever was there before. It is one transaction, and names nobody else's.
pub(crate) fn script(instance: &Instance, policy: &Policy<'_>, endpoints: &[&Endpoint]) -> String {
    let (table, taps) = (instance.table(), instance.tap_prefix());
    let Policy { bridge, gateway, .. } = policy;
    let mut script = removal(instance);
    let subnet = policy.subnet.to_string();
    family(&mut script, &table, "ip", bridge, &subnet, policy);
    // Names are asked for at the gateway's port 53, which a container may have published.
    let _ = write!(
        script,
        "add chain ip {table} prerouting {{ type nat hook prerouting priority dstnat - 10; policy accept; }}\n\
         add rule ip {table} prerouting iifname \"{bridge}\" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 \
         redirect to :{PORT}\n"
    );
    if let Some(subnet6) = policy.subnet6 {
        family(&mut script, &table, "ip6", bridge, &subnet6.to_string(), policy);
    }
    let _ = write!(
        script,
        r#"add table bridge {table}
add set bridge {table} senders {{ type ifname . ether_addr . ipv4_addr; }}
add set bridge {table} senders6 {{ type ifname . ether_addr . ipv6_addr; }}
add set bridge {table} stations {{ type ifname . ether_addr; }}
add chain bridge {table} from_tap
add chain bridge {table} prerouting {{ type filter hook prerouting priority -300; policy accept; }}
add rule bridge {table} from_tap ether type ip iifname . ether saddr . ip saddr @senders accept
add rule bridge {table} from_tap ether type arp iifname . ether saddr . arp saddr ip @senders accept
"#
    );
    if policy.subnet6.is_some() {
        let _ = write!(
            script,
            r#"add rule bridge {table} from_tap icmpv6 type {{ nd-router-advert, nd-redirect }} drop
add rule bridge {table} from_tap ether type ip6 iifname . ether saddr . ip6 saddr @senders6 accept
add rule bridge {table} from_tap ether type ip6 ip6 saddr {{ ::, fe80::/10 }} iifname . ether saddr @stations accept
"#
        );
    }
    let _ = write!(
        script,
        "add rule bridge {table} from_tap drop\n\
         add rule bridge {table} prerouting iifname \"{taps}*\" jump from_tap\n"
    );
    if !policy.icc {
        let _ = write!(
            script,
            "add chain bridge {table} forward {{ type filter hook forward priority 0; policy accept; }}\n\
             add rule bridge {table} forward iifname \"{taps}*\" oifname \"{taps}*\" drop\n"
        );
    }
    for endpoint in endpoints {
        let (tap, mac) = (&endpoint.tap, endpoint.mac);
        let address = endpoint.address.addr();
        let _ = writeln!(script, "add element bridge {table} senders {{ \"{tap}\" . {mac} . {address} }}");
        let _ = writeln!(script, "add element bridge {table} stations {{ \"{tap}\" . {mac} }}");
        if let Some(address6) = endpoint.address6 {
            let address6 = address6.addr();
            let _ =
                writeln!(script, "add element bridge {table} senders6 {{ \"{tap}\" . {mac} . {address6} }}");
        }
    }
    script
}

/// Forwarding and translation of one family.
fn family(script: &mut String, table: &str, family: &str, bridge: &str, subnet: &str, policy: &Policy<'_>) {
    let _ = write!(
        script,
        "add table {family} {table}\n\
         add chain {family} {table} forward {{ type filter hook forward priority filter; policy accept; }}\n\
         add rule {family} {table} forward iifname \"{bridge}\" {family} saddr != {subnet} drop\n"
    );
    if policy.internal {
        let _ = write!(
            script,
            "add rule {family} {table} forward iifname \"{bridge}\" oifname != \"{bridge}\" drop\n\
             add rule {family} {table} forward oifname \"{bridge}\" iifname != \"{bridge}\" drop\n"
        );
        return;
    }
    let _ = write!(
        script,
        "add rule {family} {table} forward iifname \"{bridge}\" accept\n\
         add rule {family} {table} forward oifname \"{bridge}\" ct state established,related accept\n\
         add rule {family} {table} forward oifname \"{bridge}\" ct status dnat accept\n\
         add rule {family} {table} forward oifname \"{bridge}\" drop\n\
         add chain {family} {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n"
    );
    if policy.masquerade {
        let _ = writeln!(
            script,
            "add rule {family} {table} postrouting {family} saddr {subnet} oifname != \"{bridge}\" masquerade"
        );
    }
    let _ = writeln!(
        script,
        "add rule {family} {table} postrouting {family} saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade"
    );
}

/// The script that removes all tables, which need not exist.
pub(crate) fn removal(instance: &Instance) -> String {
    let table = instance.table();
    let remove = |family: &str| format!("add table {family} {table}\ndelete table {family} {table}\n");
    ["ip", "ip6", "bridge"].map(remove).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(internal: bool, icc: bool, masquerade: bool) -> String {
        let instance = Instance::new("3fa9c2", true).unwrap().network(1, "br-0123456789ab");
        let policy = Policy {
            bridge: "br-0123456789ab",
            subnet: "172.29.0.0/16".parse().unwrap(),
            subnet6: Some("fd00::/64".parse().unwrap()),
            gateway: "172.29.0.1".parse().unwrap(),
            internal,
            icc,
            masquerade,
        };
        script(&instance, &policy, &[])
    }

    #[test]
    fn every_line_is_about_a_table_of_the_network_alone() {
        for line in lines(false, false, true).lines() {
            assert_eq!(line.split(' ').nth(3), Some("hyper-n001"), "{line}");
        }
    }

    #[test]
    fn choices_of_the_user_are_rules() {
        assert!(
            lines(false, true, true)
                .contains("saddr 172.29.0.0/16 oifname != \"br-0123456789ab\" masquerade")
        );
        assert!(!lines(false, true, false).contains("oifname != \"br-0123456789ab\" masquerade"));
        assert!(
            lines(true, true, true)
                .contains("iifname \"br-0123456789ab\" oifname != \"br-0123456789ab\" drop")
        );
        assert!(!lines(false, true, true).contains("hook forward priority 0"));
        assert!(lines(false, false, true).contains("oifname \"hy3fa9c2n001*\" drop"));
    }
}
