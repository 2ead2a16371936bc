//! Kernel settings under `/proc/sys/net`, which show the network namespace of
//! the calling thread.

use std::io::ErrorKind;

use crate::error::NetworkError;

/// IPv4 packets are forwarded between interfaces
/// (`Documentation/networking/ip-sysctl.rst`).
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether IPv4 forwarding is on.
pub(crate) fn forwarding() -> Result<bool, NetworkError> {
    let text = std::fs::read_to_string(IP_FORWARD)
        .map_err(|source| NetworkError::Sysctl { attempt: format!("read {IP_FORWARD}"), source })?;
    Ok(text.trim() != "0")
}

/// Switches IPv4 forwarding on; writes only when it is off, so that a
/// read-only `/proc/sys` with the right setting is no error.
pub(crate) fn enable_forwarding() -> Result<(), NetworkError> {
    if forwarding()? {
        return Ok(());
    }
    tracing::info!("switching on net.ipv4.ip_forward");
    std::fs::write(IP_FORWARD, "1")
        .map_err(|source| NetworkError::Sysctl { attempt: format!("write 1 to {IP_FORWARD}"), source })
}

/// Switches IPv6 off on `link`. A kernel without IPv6 has nothing to switch.
pub(crate) fn disable_ipv6(link: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == "1" => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    std::fs::write(&path, "1")
        .map_err(|source| NetworkError::Sysctl { attempt: format!("write 1 to {path}"), source })
}

/// IPv6 packets are forwarded between interfaces.
const IPV6_FORWARD: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

fn write(path: &str, value: &str) -> Result<(), NetworkError> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == value => return Ok(()),
        _ => {}
    }
    std::fs::write(path, value)
        .map_err(|source| NetworkError::Sysctl { attempt: format!("write {value} to {path}"), source })
}

/// Switches IPv6 on for a bridge of ours, whose address nobody else can have: it is usable at once.
pub(crate) fn prepare_ipv6(link: &str) -> Result<(), NetworkError> {
    for (name, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
        write(&format!("/proc/sys/net/ipv6/conf/{link}/{name}"), value)?;
    }
    Ok(())
}

/// Switches IPv6 forwarding on. A host that forwards takes no routes from router advertisements any more, so interfaces
/// that did are told to go on.
pub(crate) fn enable_forwarding6() -> Result<(), NetworkError> {
    if std::fs::read_to_string(IPV6_FORWARD).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
    tracing::info!("switching on net.ipv6.conf.all.forwarding");
    write(IPV6_FORWARD, "1")
}
