//! The command line as containerd writes it: Go's `flag` syntax, one action at the end.

use std::path::PathBuf;

/// What the shim is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a shim, or find the one that has the pod, and print its address.
    Start,
    /// Clean up behind a shim that died.
    Delete,
    /// Be the shim; how `start` calls itself.
    Serve,
    /// Print what can be said of the hypervisors on this machine.
    Doctor,
    /// Make a template for pods like the one on standard input.
    Template,
    /// Print the version.
    Version,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// The action.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// Container or pod: 1 to 128 bytes of `[a-zA-Z0-9_.-]`; not needed for `doctor`, `template` and `-v`.
    pub id: String,
    /// containerd's own socket.
    pub address: String,
    /// The program to publish events with; events go over `TTRPC_ADDRESS` instead.
    pub publish_binary: String,
    /// The bundle, where it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
    /// Descriptor of the listening socket, for [`Action::Serve`].
    pub socket: Option<i32>,
}

/// The command line makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArgsError {
    /// A flag that is not known.
    #[error("unknown flag {0}")]
    Unknown(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    NoValue(String),
    /// No action, or an unknown one.
    #[error("an action is needed: start, delete, doctor or template")]
    Action,
    /// The name is missing or has bytes that containerd would not use.
    #[error("{0:?} is no name for a container (1 to 128 of a-z, A-Z, 0-9, '_', '.', '-')")]
    Id(String),
    /// A value that makes no sense.
    #[error("flag -{flag} cannot be {value:?}")]
    Value {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
}

/// Parses the arguments behind the program's name.
///
/// # Errors
/// See [`ArgsError`].
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Args, ArgsError> {
    let mut args = Args {
        action: Action::Version,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        publish_binary: String::new(),
        bundle: None,
        debug: false,
        socket: None,
    };
    let mut action = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            action = Some(word);
            break;
        };
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value =
            || given.clone().or_else(|| words.next()).ok_or_else(|| ArgsError::NoValue(name.to_owned()));
        match name {
            "namespace" => args.namespace = value()?,
            "id" => args.id = value()?,
            "address" => args.address = value()?,
            "publish-binary" => args.publish_binary = value()?,
            "bundle" => args.bundle = Some(value()?).filter(|bundle| !bundle.is_empty()).map(PathBuf::from),
            "socket" => {
                let text = value()?;
                let number =
                    text.parse().map_err(|_| ArgsError::Value { flag: name.to_owned(), value: text })?;
                args.socket = Some(number);
            }
            "debug" => args.debug = boolean(name, given)?,
            "v" if boolean(name, given)? => return Ok(args),
            "v" => {}
            _ => return Err(ArgsError::Unknown(word)),
        }
    }
    args.action = match action.as_deref() {
        Some("start") => Action::Start,
        Some("delete") => Action::Delete,
        Some("serve") => Action::Serve,
        Some("doctor") => Action::Doctor,
        Some("template") => Action::Template,
        _ => return Err(ArgsError::Action),
    };
    if matches!(args.action, Action::Doctor | Action::Template) || is_id(&args.id) {
        Ok(args)
    } else {
        Err(ArgsError::Id(args.id))
    }
}

/// Whether a name is one that a container or exec can have, and a safe file name.
pub fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !id.is_empty() && id.len() <= 128 && id.as_bytes()[0].is_ascii_alphanumeric() && id.bytes().all(allowed)
}

fn boolean(flag: &str, given: Option<String>) -> Result<bool, ArgsError> {
    match given.as_deref() {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => Err(ArgsError::Value { flag: flag.to_owned(), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Args, ArgsError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_own_line_is_understood() {
        let args = words(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start",
        );
        let args = args.unwrap();
        assert_eq!(
            (args.action, args.namespace.as_str(), args.id.as_str()),
            (Action::Start, "k8s.io", "abc")
        );
        assert!(args.debug && args.publish_binary == "/usr/bin/containerd");
        let args = words("--id=abc -bundle /b --debug=false delete").unwrap();
        assert_eq!((args.action, args.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(words("doctor").unwrap().action, Action::Doctor);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(words("-id abc -nosuch start"), Err(ArgsError::Unknown("-nosuch".into())));
        assert_eq!(words("-id"), Err(ArgsError::NoValue("id".into())));
        assert_eq!(words("-id abc"), Err(ArgsError::Action));
        assert_eq!(words("-id abc run"), Err(ArgsError::Action));
        assert_eq!(words("start"), Err(ArgsError::Id(String::new())));
        assert_eq!(words("-id ../x start"), Err(ArgsError::Id("../x".into())));
        assert!(words("-id abc -debug=maybe start").is_err());
    }

    #[test]
    fn names_are_safe_as_file_names() {
        assert!(is_id("a") && is_id("a.b-c_d"));
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0"] {
            assert!(!is_id(bad), "{bad:?}");
        }
        assert!(!is_id(&"a".repeat(129)));
    }
}
