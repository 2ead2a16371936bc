//! Which capabilities a container has.

use hyper_protocol::capability::CAPABILITIES;

use crate::error::{EngineError, Result};
use crate::options::Security;

/// What a container has unless told otherwise: docker's list.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The capabilities of a container, by docker's rules: adding all begins from all, dropping all from none, and
/// what is dropped by name goes in any case.
///
/// # Errors
/// A name is no capability's.
pub(crate) fn of(security: &Security) -> Result<Vec<String>> {
    if security.privileged {
        return Ok(all());
    }
    let add = normalize("CapAdd", &security.cap_add)?;
    let drop = normalize("CapDrop", &security.cap_drop)?;
    let wants_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut held: Vec<String> = match (wants_all(&add), wants_all(&drop)) {
        (true, _) => all(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT.map(str::to_owned).to_vec(),
    };
    held.retain(|name| !drop.contains(name));
    for name in add {
        if name != "ALL" && !held.contains(&name) {
            held.push(name);
        }
    }
    Ok(held)
}

/// All capabilities.
pub(crate) fn all() -> Vec<String> {
    CAPABILITIES.map(str::to_owned).to_vec()
}

/// `net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are the same; `ALL` stays.
fn normalize(option: &str, names: &[String]) -> Result<Vec<String>> {
    let one = |name: &String| {
        let upper = name.trim().to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return Ok("ALL".to_owned());
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if CAPABILITIES.contains(&full.as_str()) {
            Ok(full)
        } else {
            Err(EngineError::invalid(format!("invalid {option}: unknown capability: \"{full}\"")))
        }
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_lists(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        of(&Security { cap_add: list(add), cap_drop: list(drop), ..Security::default() }).unwrap()
    }

    #[test]
    fn names_are_taken_in_every_spelling() {
        assert!(of_lists(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(of_lists(&["CAP_SYS_TIME"], &[]).contains(&"CAP_SYS_TIME".to_owned()));
        assert!(of(&Security { cap_add: vec!["nosuch".into()], ..Security::default() }).is_err());
    }

    #[test]
    fn all_and_names_combine_as_dockers() {
        assert_eq!(of_lists(&["ALL"], &["sys_admin"]).len(), CAPABILITIES.len() - 1);
        assert_eq!(of_lists(&["chown"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(of_lists(&[], &["mknod"]).len(), DEFAULT.len() - 1);
        assert!(of_lists(&[], &["all"]).is_empty());
    }
}
