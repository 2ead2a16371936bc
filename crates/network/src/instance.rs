//! The global names of one instance.

/// Hexadecimal digits in an instance id.
const ID_DIGITS: usize = 6;

/// The instance id is malformed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("instance id {0:?} is not six lower-case hexadecimal digits")]
pub struct InstanceError(String);

/// The names one instance uses for what the whole host sees.
///
/// | | default root | other roots |
/// |---|---|---|
/// | bridge | `hyper0` | `hy<id>` |
/// | taps | `hy<id><host part of the address, hex>` | the same |
/// | nft tables (`ip` and `bridge` family) | `hyper` | `hyper-<id>` |
///
/// A user-defined network has a bridge of the user's or of its id's name, taps `hy<id>n<its number><a number>` of three
/// digits each, and tables `hyper-n<its number>` or `hyper-<id>-n<its number>`, of family `ip6` too.
///
/// Link names stay within 15 bytes (`IFNAMSIZ` in `linux/if.h`, less the NUL):
/// 8 bytes of prefix and at most 6 hexadecimal digits for a /8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: String,
    default_root: bool,
    network: Option<(u16, String)>,
}

/// Most user-defined networks of an instance, and most taps of each: three hexadecimal digits.
pub(crate) const NUMBERS: u16 = 1 << 12;

impl Instance {
    /// The instance with this id: the first six lower-case hexadecimal digits
    /// of the SHA-256 of its absolute root path. `default_root` says that the
    /// root is the default one, whose bridge and table have the short names.
    ///
    /// # Errors
    /// When `id` is anything else than six lower-case hexadecimal digits.
    pub fn new(id: &str, default_root: bool) -> Result<Self, InstanceError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if id.len() == ID_DIGITS && id.bytes().all(digit) {
            Ok(Self { id: id.to_owned(), default_root, network: None })
        } else {
            Err(InstanceError(id.chars().take(32).collect()))
        }
    }

    /// The names of a user-defined network: its number among those of the instance, below 4096, and its bridge.
    pub(crate) fn network(&self, number: u16, bridge: &str) -> Self {
        Self { network: Some((number % NUMBERS, bridge.to_owned())), ..self.clone() }
    }

    /// The instance id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the bridge.
    pub fn bridge(&self) -> String {
        match &self.network {
            Some((_, bridge)) => bridge.clone(),
            None if self.default_root => "hyper0".to_owned(),
            None => format!("hy{}", self.id),
        }
    }

    /// Name of the nft tables, one of family `ip` and one of family `bridge`.
    pub fn table(&self) -> String {
        let base = if self.default_root { "hyper".to_owned() } else { format!("hyper-{}", self.id) };
        match &self.network {
            Some((number, _)) => format!("{base}-n{number:03x}"),
            None => base,
        }
    }

    /// What every tap name of this instance starts with.
    pub fn tap_prefix(&self) -> String {
        match &self.network {
            Some((number, _)) => format!("hy{}n{number:03x}", self.id),
            None => format!("hy{}", self.id),
        }
    }

    /// What taps of user-defined networks start with, and those of the default one do not.
    pub(crate) fn user_tap_prefix(&self) -> String {
        format!("hy{}n", self.id)
    }

    /// Name of the tap of the host numbered `host` within the subnet; in a user-defined network, of that number.
    pub fn tap(&self, host: u32) -> String {
        match self.network {
            Some(_) => format!("{}{host:03x}", self.tap_prefix()),
            None => format!("{}{host:x}", self.tap_prefix()),
        }
    }

    /// Whether `link` is the name of a tap of this instance.
    pub fn owns_tap(&self, link: &str) -> bool {
        link.strip_prefix(&self.tap_prefix()).is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_root_has_short_names_and_others_derive_theirs() {
        let default = Instance::new("3fa9c2", true).unwrap();
        assert_eq!((default.bridge(), default.table()), ("hyper0".into(), "hyper".into()));
        let other = Instance::new("3fa9c2", false).unwrap();
        assert_eq!((other.bridge(), other.table()), ("hy3fa9c2".into(), "hyper-3fa9c2".into()));
    }

    #[test]
    fn tap_names_fit_the_kernels_limit_for_every_subnet_size() {
        let instance = Instance::new("ffffff", false).unwrap();
        assert_eq!(instance.tap(2), "hyffffff2");
        assert!(instance.tap((1 << 24) - 1).len() <= 15);
    }

    #[test]
    fn taps_of_networks_are_told_apart() {
        let default = Instance::new("3fa9c2", false).unwrap();
        let user = default.network(7, "br-0123456789ab");
        assert_eq!((user.tap(2), user.table()), ("hy3fa9c2n007002".into(), "hyper-3fa9c2-n007".into()));
        assert!(user.tap(4095).len() <= 15 && user.owns_tap(&user.tap(4095)));
        assert!(!default.owns_tap(&user.tap(2)) && !default.network(8, "b").owns_tap(&user.tap(2)));
    }

    #[test]
    fn ids_other_than_six_hex_digits_are_refused() {
        for id in ["", "12345", "1234567", "ABCDEF", "12345g", "../../", "äöü"] {
            assert_eq!(Instance::new(id, false), Err(InstanceError(id.into())), "{id:?}");
        }
    }

    #[test]
    fn bridge_and_foreign_links_are_no_taps_of_ours() {
        let instance = Instance::new("3fa9c2", false).unwrap();
        assert!(instance.owns_tap("hy3fa9c22"));
        for link in ["hy3fa9c2", "hy3fa9c3", "hy3fa9c2.1", "hyper0", "eth0", ""] {
            assert!(!instance.owns_tap(link), "{link:?}");
        }
    }
}
