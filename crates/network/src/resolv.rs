//! The resolver configuration that containers get.
/// What goes into a container's `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResolvConf {
    /// Name servers, most preferred first; may be empty when the host has none.
    pub nameservers: Vec<std::net::IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
}
