//! Mount options as the runtime specification and `mount(8)` name them.

use hyper_sys::mount::{
    ATIME, Change, NO_ATIME, NO_DEVICES, NO_DIRECTORY_ATIME, NO_EXEC, NO_SUID, NO_SYMLINKS, READ_ONLY,
    STRICT_ATIME,
};
use rustix::mount::MountPropagationFlags;

use crate::failure::Failed;

/// Options of a mount, sorted by what takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Attributes of the mount itself.
    pub(crate) own: Change,
    /// Attributes of it and all mounts below.
    pub(crate) recursive: Change,
    /// A bind mount; with everything below it when true.
    pub(crate) bind: Option<bool>,
    /// Propagation, and whether for all mounts below as well.
    pub(crate) propagation: Option<(u64, bool)>,
    /// Options of the filesystem: names, or names with values.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Attribute bits that an option sets and the ones it clears first.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEVICES, 0),
        "dev" => (0, NO_DEVICES),
        "noexec" => (NO_EXEC, 0),
        "exec" => (0, NO_EXEC),
        "nodiratime" => (NO_DIRECTORY_ATIME, 0),
        "diratime" => (0, NO_DIRECTORY_ATIME),
        "nosymfollow" => (NO_SYMLINKS, 0),
        "symfollow" => (0, NO_SYMLINKS),
        "noatime" => (NO_ATIME, ATIME),
        "strictatime" => (STRICT_ATIME, ATIME),
        // Relative access times are the kernel's default and the value 0 of the field.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let flag = match name {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some((u64::from(flag.bits()), recursive))
}

fn change(change: &mut Change, (set, clear): (u64, u64)) {
    change.set = change.set & !clear | set;
    change.clear = (change.clear | clear) & !(set & !ATIME);
}

impl Options {
    /// Sorts options; a later one overrides an earlier. What is no option of mounts is one of the filesystem.
    pub(crate) fn parse<S: AsRef<str>>(options: &[S]) -> Result<Options, Failed> {
        let mut parsed = Options::default();
        for option in options {
            let option = option.as_ref();
            if let Some(bits) = attribute(option) {
                change(&mut parsed.own, bits);
            } else if let Some(bits) = option.strip_prefix('r').and_then(attribute) {
                change(&mut parsed.recursive, bits);
            } else if let Some(propagation) = propagation(option) {
                parsed.propagation = Some(propagation);
            } else {
                parsed.other(option)?;
            }
        }
        Ok(parsed)
    }

    fn other(&mut self, option: &str) -> Result<(), Failed> {
        match option {
            "" | "defaults" | "loud" | "silent" | "nomand" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" | "mand" | "tmpcopyup" | "idmap" | "ridmap" => {
                return Err(Failed::unsupported(format!(
                    "not supported in a guest: mount option {option:?}"
                )));
            }
            _ if option.contains('\0') => {
                return Err(Failed::invalid("a mount option contains a NUL byte"));
            }
            _ => self.data.push(match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }

    /// The value of a filesystem option.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.data.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_of_dockers_proc_and_tmpfs_mounts_are_sorted() {
        let parsed =
            Options::parse(&["nosuid", "noexec", "nodev", "mode=755", "size=65536k", "strictatime"]).unwrap();
        assert_eq!(parsed.own.set, NO_SUID | NO_EXEC | NO_DEVICES | STRICT_ATIME);
        assert_eq!(parsed.own.clear, ATIME);
        assert_eq!(parsed.value("mode"), Some("755"));
        assert_eq!(parsed.value("size"), Some("65536k"));
    }

    #[test]
    fn later_options_override_earlier() {
        assert_eq!(
            Options::parse(&["ro", "rw"]).unwrap().own,
            Change { set: 0, clear: READ_ONLY, propagation: 0 }
        );
        assert_eq!(Options::parse(&["rw", "ro"]).unwrap().own.set, READ_ONLY);
        assert_eq!(Options::parse(&["noatime", "relatime"]).unwrap().own.set, 0);
    }

    #[test]
    fn recursive_forms_and_propagation_are_told_apart() {
        let parsed = Options::parse(&["rbind", "rro", "rslave"]).unwrap();
        assert_eq!(parsed.bind, Some(true));
        assert_eq!(parsed.recursive.set, READ_ONLY);
        assert_eq!(parsed.propagation, Some((u64::from(MountPropagationFlags::DOWNSTREAM.bits()), true)));
        assert_eq!(Options::parse(&["rw"]).unwrap().recursive, Change::default());
    }

    #[test]
    fn options_that_a_guest_cannot_do_are_refused() {
        for option in ["remount", "idmap", "tmpcopyup"] {
            assert!(Options::parse(&[option]).is_err(), "{option}");
        }
    }

    proptest! {
        #[test]
        fn bits_are_never_both_set_and_cleared_except_in_the_atime_field(
            options in proptest::collection::vec("(r?(ro|rw|suid|nosuid|dev|nodev|noatime|relatime|strictatime|exec|noexec))|[a-z=]{0,8}", 0..12)
        ) {
            if let Ok(parsed) = Options::parse(&options) {
                for change in [parsed.own, parsed.recursive] {
                    prop_assert_eq!(change.set & change.clear & !ATIME, 0);
                    prop_assert!(change.set & ATIME == 0 || change.clear & ATIME == ATIME);
                }
            }
        }
    }
}
