//! Image references, normalised as docker does it.
//!
//! `debian` means `docker.io/library/debian:latest`; the first component is a registry when it
//! holds a dot, a colon or an upper-case letter, or is `localhost`. The *familiar* form leaves
//! out again what normalisation added. Grammar: github.com/distribution/reference, `regexp.go`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry meant when a name has none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of [`DEFAULT_DOMAIN`].
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// Where docker.io keeps names of one component.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag meant when a reference has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository path in bytes (`RepositoryNameTotalLengthMax`).
const MAX_PATH: usize = 255;
/// Longest tag in bytes.
const MAX_TAG: usize = 128;
/// Longest text looked at: a host name of 253, a port, a path, a tag and a digest fit in well.
const MAX_TEXT: usize = 1024;

/// A normalised image reference: repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference. The texts are docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// What was given as a tag is none.
    #[error("invalid tag format")]
    Tag,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    /// 64 hex digits name an image id, so no repository may be called so.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The repository path is longer than 255 bytes.
    #[error("repository name must not be more than {MAX_PATH} characters")]
    TooLong,
    /// The digest is not a SHA-256 one.
    #[error("invalid reference format: unsupported or invalid digest")]
    Digest,
}

impl Reference {
    /// Parses and normalises `text`. The tag becomes `latest` when there is neither tag nor digest.
    ///
    /// # Errors
    /// See [`ParseReferenceError`].
    pub fn parse(text: &str) -> Result<Self, ParseReferenceError> {
        let mut reference = Self::parse_untagged(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// Like [`Reference::parse`], without adding a tag.
    ///
    /// # Errors
    /// See [`ParseReferenceError`].
    pub fn parse_untagged(text: &str) -> Result<Self, ParseReferenceError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(ParseReferenceError::Format);
        }
        if Digest::from_hex(text).is_ok() {
            return Err(ParseReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = split_digest(text)?;
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (remainder, None),
        };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ParseReferenceError::UpperCase(path));
        }
        if path.len() > MAX_PATH {
            return Err(ParseReferenceError::TooLong);
        }
        if !is_domain(domain) || !is_path(&path) || !tag.is_none_or(is_tag) {
            return Err(ParseReferenceError::Format);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry, with its port when it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path in its registry, `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and path: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: `debian`, `localhost:5000/debian`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let name = match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // `docker.io/library/a/b` must not become `a/b`, which would be another repository.
            Some(name) if !name.contains('/') => name,
            _ => &self.path,
        };
        // Nor `docker.io/a.b/c` become `a.b/c`, which would be at another registry. (Docker's does.)
        if split_domain(name) == (DEFAULT_DOMAIN, name) { name.to_owned() } else { self.repository() }
    }

    /// The whole reference with registry and path written out.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.repository())
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// [`ParseReferenceError::Tag`] when `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError::Tag);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Puts tag and digest behind `name`.
    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The familiar form with tag and digest.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.familiar_name()))
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Splits `…@digest`.
fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ParseReferenceError> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| ParseReferenceError::Digest)?;
            Ok((rest, Some(digest)))
        }
    }
}

/// Splits the registry off, as `splitDockerDomain` does.
fn split_domain(name: &str) -> (&str, &str) {
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_DOMAIN, name);
    };
    let is_domain = first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase());
    match first {
        LEGACY_DEFAULT_DOMAIN => (DEFAULT_DOMAIN, rest),
        _ if is_domain => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// `host[:port]`; the host is dotted names or a bracketed IPv6 address.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let address_fits =
                !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            if !address_fits {
                return false;
            }
            match port.strip_prefix(':') {
                None if port.is_empty() => return true,
                None => return false,
                Some(port) => return is_port(port),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

/// A decimal port.
fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Letters, digits and inner hyphens.
fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !component.starts_with('-')
        && !component.ends_with('-')
}

/// Components joined by slashes.
fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| is_word(**byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = match rest {
            [] => return true,
            [b'_', b'_', ..] => 2,
            [b'_' | b'.', ..] => 1,
            [b'-', ..] => rest.iter().take_while(|byte| **byte == b'-').count(),
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

/// `\w[\w.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    (1..=MAX_TAG).contains(&bytes.len())
        && is_word(bytes[0])
        && bytes.iter().all(|byte| is_word(*byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_normalise_as_docker_does() {
        for (text, canonical, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/a/b:x", "docker.io/a/b:x", "a/b:x"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/debian:12", "localhost:5000/debian:12", "localhost:5000/debian:12"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            ("quay.io/a/b__c:V1.0-x", "quay.io/a/b__c:V1.0-x", "quay.io/a/b__c:V1.0-x"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ] {
            let reference = Reference::parse(text).expect(text);
            assert_eq!(reference.canonical(), canonical);
            assert_eq!(reference.to_string(), familiar);
        }
    }

    #[test]
    fn a_digest_keeps_the_tag_absent() {
        let text = format!("debian@sha256:{HEX}");
        let reference = Reference::parse(&text).expect("valid");
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.to_string(), text);
        let both = Reference::parse(&format!("debian:12@sha256:{HEX}")).expect("valid");
        assert_eq!(both.tag(), Some("12"));
    }

    #[test]
    fn bad_names_are_refused() {
        let long = format!("a/{}", "b".repeat(255));
        for bad in [
            "",
            ":x",
            "a:",
            "/a",
            "a/",
            "a//b",
            "a:b:c",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a@sha256:00",
            "a@",
            "ä",
            "a:.x",
            "localhost:/a",
            "localhost:99999/a",
            "h.:5/a",
            "[::1/a",
            "[]/a",
            "a\n",
            HEX,
            "https://x/y",
            long.as_str(),
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Reference::parse("Debian").expect_err("upper case").to_string(),
            "invalid reference format: repository name (library/Debian) must be lowercase"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn both_forms_parse_back_to_the_same(
            domain in prop_oneof![
                Just(String::new()),
                "[a-z0-9]{1,8}\\.[a-z]{2,5}/",
                "localhost(:[1-9][0-9]{0,3})?/",
            ],
            path in "[a-z0-9]{1,8}((_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,8}(\\.[a-z0-9]{1,5})?){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let mut text = format!("{domain}{path}");
            if let Some(tag) = tag { text = format!("{text}:{tag}"); }
            if let Some(digest) = digest { text = format!("{text}@{}", Digest::from_bytes(digest)); }
            let reference = Reference::parse(&text).expect("grammatical");
            prop_assert_eq!(&Reference::parse(&reference.canonical()).expect("canonical"), &reference);
            prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("familiar"), &reference);
        }

        #[test]
        fn what_parses_is_stable(text in "[a-zA-Z0-9./:@_-]{1,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.canonical()).expect("canonical"), &reference);
                prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("familiar"), &reference);
            }
        }
    }
}
