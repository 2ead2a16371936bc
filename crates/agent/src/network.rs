//! The pod's network interfaces.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_protocol::agent::Interface;

use crate::failure::{Attempt, Failed};
use crate::netlink::{Link, Netlink};
use crate::uevent::until;

/// Most interfaces of a pod.
const MAX_INTERFACES: usize = 32;

/// Longest name of an interface (`IFNAMSIZ` less the final NUL).
const MAX_NAME: usize = 15;

/// How long a NIC may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// Device number of a network device on the virtio bus (`linux/virtio_ids.h`).
const VIRTIO_NET: &str = "0x0001";

/// The driver of such devices.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

/// The loopback interface's index, in every network namespace.
const LOOPBACK: u32 = 1;

/// Brings the loopback interface up.
pub(crate) fn bring_up_loopback() -> Result<(), Failed> {
    let failed = || "bring up the loopback interface".to_owned();
    let netlink = Netlink::open().attempt(failed)?;
    netlink.set_link(LOOPBACK, &Link { up: true, ..Link::default() }).attempt(failed)
}

/// Makes the interfaces these; what is already so stays.
pub(crate) async fn configure(interfaces: &[Interface]) -> Result<(), Failed> {
    if interfaces.len() > MAX_INTERFACES {
        return Err(Failed::invalid(format!("{} interfaces, at most {MAX_INTERFACES}", interfaces.len())));
    }
    // Looked for once: every start waits for this.
    let known = nics();
    for (slot, (device, path)) in (0..).zip(&known) {
        if interfaces.iter().all(|interface| interface.slot != slot) && path.join("net").exists() {
            drive(device, false)?;
        }
    }
    if interfaces.is_empty() {
        return Ok(());
    }
    let netlink = Netlink::open().attempt(|| "reach the kernel's network configuration".to_owned())?;
    for interface in interfaces {
        let mac = check(interface)?;
        let mut current = None;
        if let Some((device, path)) = known.get(interface.slot as usize) {
            current = interface_of(path);
            if current.is_none() && !path.join("driver").exists() {
                drive(device, true)?;
            }
        }
        if current.is_none() {
            until(PATIENCE, || {
                let (_, path) = nics().into_iter().nth(interface.slot as usize).unwrap_or_default();
                current = interface_of(&path);
                current.is_some()
            })
            .await;
        }
        let current =
            current.ok_or_else(|| Failed::not_found(format!("no NIC in slot {}", interface.slot)))?;
        apply(&netlink, interface, &current, mac)?;
    }
    Ok(())
}

fn check(interface: &Interface) -> Result<[u8; 6], Failed> {
    let name = &interface.name;
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    let reserved = [".", "..", "lo", "all", "default"].contains(&name.as_str());
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(good) || reserved {
        return Err(Failed::invalid(format!("{name:?} is no name of an interface")));
    }
    for (address, prefix) in &interface.addresses {
        if *prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(Failed::invalid(format!("{address}/{prefix}: the prefix is too long")));
        }
    }
    parse_mac(&interface.mac).ok_or_else(|| Failed::invalid(format!("{:?} is no MAC address", interface.mac)))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// The slots: the virtio network devices in their bus's order, each with its name and where it is described.
fn nics() -> Vec<(String, PathBuf)> {
    let devices = fs::read_dir("/sys/bus/virtio/devices").into_iter().flatten().flatten();
    let mut nics: Vec<(u32, PathBuf)> = devices
        .filter(|device| {
            fs::read_to_string(device.path().join("device")).is_ok_and(|id| id.trim() == VIRTIO_NET)
        })
        .filter_map(|device| {
            let number = device.file_name().to_str()?.strip_prefix("virtio")?.parse().ok()?;
            Some((number, device.path()))
        })
        .collect();
    nics.sort();
    nics.into_iter().map(|(number, path)| (format!("virtio{number}"), path)).collect()
}

/// Name that the interface of a NIC has now.
fn interface_of(device: &Path) -> Option<String> {
    fs::read_dir(device.join("net")).ok()?.flatten().next()?.file_name().into_string().ok()
}

/// Gives a NIC its driver, or takes it away, and its interface with it.
fn drive(device: &str, driven: bool) -> Result<(), Failed> {
    let verb = if driven { "bind" } else { "unbind" };
    fs::write(format!("{DRIVER}/{verb}"), device).attempt(|| format!("{verb} the driver of the NIC {device}"))
}

fn apply(netlink: &Netlink, wanted: &Interface, current: &str, mac: [u8; 6]) -> Result<(), Failed> {
    let name = &wanted.name;
    let index = index_of(current)?;
    let other_mac = parse_mac(&attribute(current, "address")?) != Some(mac);
    let other_mtu = attribute(current, "mtu")? != wanted.mtu.to_string();
    if current != name {
        if Path::new("/sys/class/net").join(name).exists() {
            rename(netlink, index_of(name)?, &format!("slot{}", index_of(name)?))?;
        }
        rename(netlink, index, name)?;
    }
    let link =
        Link { name: None, mac: other_mac.then_some(mac), mtu: other_mtu.then_some(wanted.mtu), up: true };
    // Without an address of its own the interface shall not speak IPv6 either, as with Docker.
    let version_6 = wanted.addresses.iter().any(|(address, _)| address.is_ipv6());
    let switch = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if Path::new(&switch).exists() {
        fs::write(&switch, if version_6 { "0" } else { "1" })
            .attempt(|| format!("switch IPv6 of {name} on or off"))?;
    }
    netlink.set_link(index, &link).attempt(|| format!("set up the interface {name}"))?;
    set_addresses(netlink, index, wanted).attempt(|| format!("set the addresses of {name}"))?;
    for gateway in &wanted.gateways {
        let onlink = !wanted.addresses.iter().any(|(address, prefix)| contains(address, *prefix, gateway));
        netlink
            .set_default_route(index, gateway, onlink)
            .attempt(|| format!("set the default route by {gateway}"))?;
    }
    Ok(())
}

fn attribute(interface: &str, file: &str) -> Result<String, Failed> {
    fs::read_to_string(format!("/sys/class/net/{interface}/{file}"))
        .map(|text| text.trim().to_owned())
        .attempt(|| format!("look at the interface {interface}"))
}

fn index_of(interface: &str) -> Result<u32, Failed> {
    attribute(interface, "ifindex")?.parse().attempt(|| format!("read the index of {interface}"))
}

/// Gives an interface another name, for which it has to be down.
fn rename(netlink: &Netlink, index: u32, name: &str) -> Result<(), Failed> {
    let failed = || format!("name an interface {name}");
    netlink.set_link(index, &Link::default()).attempt(failed)?;
    netlink.set_link(index, &Link { name: Some(name), ..Link::default() }).attempt(failed)
}

fn set_addresses(netlink: &Netlink, index: u32, wanted: &Interface) -> std::io::Result<()> {
    for (address, prefix) in netlink.addresses(index)? {
        let own = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        if !own(&address) && !wanted.addresses.contains(&(address, prefix)) {
            netlink.remove_address(index, &address, prefix)?;
        }
    }
    wanted.addresses.iter().try_for_each(|(address, prefix)| netlink.add_address(index, address, *prefix))
}

/// Whether a prefix holds an address.
fn contains(network: &IpAddr, prefix: u8, address: &IpAddr) -> bool {
    let bits = |address: &IpAddr| match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    };
    let differing = bits(network) ^ bits(address);
    network.is_ipv4() == address.is_ipv4() && differing.leading_zeros() >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_six_bytes() {
        assert_eq!(parse_mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for bad in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:0:2", "02:42:ac:11:00:+2"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn prefixes_hold_their_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(contains(&ip("172.17.0.2"), 16, &ip("172.17.0.1")));
        assert!(!contains(&ip("172.17.0.2"), 32, &ip("172.17.0.1")));
        assert!(contains(&ip("fd00::2"), 64, &ip("fd00::1")));
        assert!(!contains(&ip("172.17.0.2"), 0, &ip("fd00::1")));
    }
}
