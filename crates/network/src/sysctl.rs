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
