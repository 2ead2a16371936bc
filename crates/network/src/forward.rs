//! Published ports as nftables has them: what comes from other hosts and from containers goes straight to the pod.
//!
//! TCP from the pod's own bridge is left to the shim: where the kernel filters bridges as it does IP (`br_netfilter`), a
//! packet that comes back to the bridge by its new address is bridged, and never to the port that it came from.
//! Programs of the host itself are not concerned: their packets pass no prerouting hook, and the pod's shim carries them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::Mutex;

use crate::conntrack::{self, Wrong};
use crate::error::NetworkError;
use crate::instance::Instance;
use crate::rules;

/// A protocol with ports, as nftables names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// Address of the host; unspecified for each that it has.
    pub host: Ipv4Addr,
    /// Port of the host.
    pub host_port: u16,
    /// Address of the pod.
    pub to: Ipv4Addr,
    /// Port in the pod.
    pub port: u16,
    /// Subnet of the pod.
    pub subnet: Ipv4Net,
}

impl Forward {
    /// Whether packets from elsewhere can be meant: those to a loopback address cannot.
    fn concerns_others(&self) -> bool {
        !self.host.is_loopback()
    }

    fn map(&self) -> &'static str {
        if self.host.is_unspecified() { "published" } else { "published_at" }
    }

    fn key(&self) -> Key {
        (self.protocol, self.host, self.host_port)
    }

    fn element(&self) -> String {
        let address = if self.host.is_unspecified() { String::new() } else { format!("{} . ", self.host) };
        format!("{address}{} . {}", self.protocol.name(), self.host_port)
    }
}

/// The published ports of one instance, in an nftables table of their own. Clones share one state.
#[derive(Clone, Debug)]
pub struct Forwards {
    table: String,
    /// What the table has. Held while it is changed.
    current: Arc<Mutex<BTreeMap<Key, Forward>>>,
}

/// What no two forwards have in common.
type Key = (Protocol, Ipv4Addr, u16);

impl Forwards {
    /// Those of the instance `instance_id`; changes nothing on the host.
    ///
    /// # Errors
    /// Malformed id.
    pub fn new(instance_id: &str, is_default_root: bool) -> Result<Self, NetworkError> {
        let instance = Instance::new(instance_id, is_default_root)?;
        Ok(Self { table: format!("{}-ports", instance.table()), current: Arc::default() })
    }

    /// Adds forwards; one of the same port that outlived its pod gives way.
    ///
    /// # Errors
    /// When nft refuses; none of them is there then.
    pub async fn add(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let forwards: Vec<Forward> = forwards.iter().copied().filter(Forward::concerns_others).collect();
        if forwards.is_empty() {
            return Ok(());
        }
        let mut current = self.current.lock().await;
        let old: Vec<Forward> =
            forwards.iter().filter_map(|forward| current.remove(&forward.key())).collect();
        self.delete(&old).await?;
        let script = self.script(&forwards, current.is_empty());
        rules::apply("publish ports", &script).await?;
        conntrack::forget(forwards.iter().copied().map(Wrong::NotTo)).await;
        current.extend(forwards.into_iter().map(|forward| (forward.key(), forward)));
        Ok(())
    }

    /// Removes forwards; those that are not there, or lead elsewhere by now, are no error. The table goes with the last.
    ///
    /// # Errors
    /// When nft refuses.
    pub async fn remove(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let mut current = self.current.lock().await;
        let mut gone = Vec::new();
        for forward in forwards {
            if current.get(&forward.key()) == Some(forward) {
                current.remove(&forward.key());
                gone.push(*forward);
            }
        }
        match (gone.is_empty(), current.is_empty()) {
            (true, _) => return Ok(()),
            (false, true) => rules::apply("take back published ports", &self.removal()).await?,
            (false, false) => self.delete(&gone).await?,
        }
        conntrack::forget(gone.into_iter().map(Wrong::To)).await;
        Ok(())
    }

    /// Makes these all forwards that there are.
    ///
    /// # Errors
    /// When nft refuses.
    pub async fn replace(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let mut current = self.current.lock().await;
        *current = forwards
            .iter()
            .filter(|forward| forward.concerns_others())
            .map(|forward| (forward.key(), *forward))
            .collect();
        let script = match current.is_empty() {
            true => self.removal(),
            false => self.script(&current.values().copied().collect::<Vec<_>>(), true),
        };
        rules::apply("publish ports", &script).await?;
        conntrack::forget(current.values().copied().map(Wrong::NotTo)).await;
        Ok(())
    }

    /// Removes what an earlier process left, unless there are forwards by now.
    ///
    /// # Errors
    /// When nft refuses.
    pub async fn clear(&self) -> Result<(), NetworkError> {
        let current = self.current.lock().await;
        if !current.is_empty() {
            return Ok(());
        }
        rules::apply("take back published ports", &self.removal()).await
    }

    async fn delete(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let line = |forward: &Forward| {
            format!("delete element ip {} {} {{ {} }}\n", self.table, forward.map(), forward.element())
        };
        let script: String = forwards.iter().map(line).collect();
        if script.is_empty() {
            return Ok(());
        }
        match rules::apply("take back published ports", &script).await {
            // Somebody took the table away.
            Err(NetworkError::Nft { stderr, .. }) if stderr.contains("No such file or directory") => Ok(()),
            other => other,
        }
    }

    /// The script that makes the table, which need not exist, and adds to it; with `anew` to an empty one.
    fn script(&self, forwards: &[Forward], anew: bool) -> String {
        let table = &self.table;
        let mut script = if anew { self.removal() } else { String::new() };
        let _ = write!(
            script,
            r#"add table ip {table}
add map ip {table} published {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map ip {table} published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add set ip {table} own {{ type ipv4_addr; flags interval; }}
add chain ip {table} prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
flush chain ip {table} prerouting
add rule ip {table} prerouting meta l4proto tcp ip saddr @own return
add rule ip {table} prerouting fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @published_at
add rule ip {table} prerouting fib daddr type local dnat ip to meta l4proto . th dport map @published
"#
        );
        let subnets: BTreeSet<Ipv4Net> = forwards.iter().map(|forward| forward.subnet.trunc()).collect();
        for subnet in subnets {
            let _ = writeln!(script, "add element ip {table} own {{ {subnet} }}");
        }
        for forward in forwards {
            let (map, element) = (forward.map(), forward.element());
            let _ = writeln!(
                script,
                "add element ip {table} {map} {{ {element} : {} . {} }}",
                forward.to, forward.port
            );
        }
        script
    }

    /// The script that removes the table, which need not exist.
    fn removal(&self) -> String {
        format!("add table ip {0}\ndelete table ip {0}\n", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host: &str) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host: host.parse().unwrap(),
            host_port: 8080,
            to: "172.30.0.2".parse().unwrap(),
            port: 80,
            subnet: "172.30.0.2/16".parse().unwrap(),
        }
    }

    #[test]
    fn each_port_is_an_element() {
        let forwards = Forwards::new("3fa9c2", true).unwrap();
        let script = forwards.script(&[forward("0.0.0.0"), forward("192.0.2.1")], true);
        let elements: Vec<&str> = script.lines().filter(|line| line.starts_with("add element")).collect();
        assert_eq!(
            elements,
            [
                "add element ip hyper-ports own { 172.30.0.0/16 }",
                "add element ip hyper-ports published { tcp . 8080 : 172.30.0.2 . 80 }",
                "add element ip hyper-ports published_at { 192.0.2.1 . tcp . 8080 : 172.30.0.2 . 80 }",
            ]
        );
        assert!(!forward("127.0.0.1").concerns_others());
    }
}
