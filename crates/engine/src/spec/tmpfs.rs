//! Mounts of memory (`--tmpfs`).

use crate::error::{EngineError, Result};

/// What a tmpfs has unless told otherwise: docker's list.
const DEFAULT: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Options without a value that the kernel's tmpfs and `mount(2)` know.
const FLAGS: [&str; 16] = [
    "rw",
    "ro",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
];

/// Options with a value (`tmpfs(5)`).
const VALUES: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// The mount options of a tmpfs.
///
/// # Errors
/// The destination is no absolute path, or an option is not known.
pub(crate) fn check(destination: &str, options: &str) -> Result<Vec<String>> {
    if !destination.starts_with('/') || destination.split('/').all(|part| part.is_empty() || part == ".") {
        return Err(EngineError::invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute and not the root"
        )));
    }
    let mut merged: Vec<String> = DEFAULT.map(str::to_owned).to_vec();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            Some((name, value)) => VALUES.contains(&name) && !value.is_empty(),
            None => FLAGS.contains(&option),
        };
        if !known {
            return Err(EngineError::invalid(format!("Invalid tmpfs option [\"{option}\"]")));
        }
        let opposite = option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned);
        merged.retain(|held| *held != opposite && held != option);
        merged.push(option.to_owned());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_options_take_the_place_of_their_opposites() {
        assert_eq!(check("/tmp", "").unwrap(), ["noexec", "nosuid", "nodev"]);
        assert_eq!(check("/tmp", "exec,size=64m").unwrap(), ["nosuid", "nodev", "exec", "size=64m"]);
    }

    #[test]
    fn unknown_options_and_bad_destinations_are_refused() {
        for (destination, options) in
            [("tmp", ""), ("/", ""), ("/t", "bogus"), ("/t", "size="), ("/t", "ro=1")]
        {
            assert!(check(destination, options).is_err(), "{destination} {options}");
        }
    }
}
